"""Held-out unpaired completions in stage 08: does training move desired answers above undesired ones?

The figure is the AUC: the share of (desired, undesired) couples in which the desired completion has the higher reward
(policy minus reference, summed log-probs), ties half; 0.5 before training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.rules.content import text_of
from prefopt.stages.evaluate.figures import TIE_NATS
from prefopt.tables.context import Context
from prefopt.tables.folder import map_parts
from prefopt.tables.records import Row

PART_ROWS = 512  # completions lost at a kill; batches are cut within a part, so it also fixes the bytes
KEPT = ("id", "prompt_id", "prompt", "label", "ref_completion_logps", "completion_tokens")
ADDS = ("label", "completion_logps", "ref_completion_logps")
NO_LIMIT = 1 << 40
Z_95 = 1.959963984540054


def is_unpaired(names: Sequence[str]) -> bool:
    """Whether a table of these columns holds unpaired completions."""
    return {"completion", "label"} <= set(names) and "chosen" not in names


def single_rows(
    rows: Sequence[Row], loaded: tuple[Any, Any], config: Any, context: Context, dropped: dict[str, int]
) -> list[Row]:
    """The rows with the policy's log-prob of the completion, encoded exactly as stage 04 did.

    loaded: model and tokenizer. config: of stage 08 (`max_length`, `batch_tokens`).

    Raises:
        PrefoptError: the reference's log-probs are of another tokenizer or chat template.
    """
    from prefopt.scoring.logprobs import check_model, score

    model, tokenizer = loaded
    kept, sequences = _encode(rows, model, tokenizer, config.max_length, context, dropped)
    if sequences:
        check_model(model, sequences[0])

    def measure(chunk: Sequence[Row], start: int) -> list[Row]:
        logps = score(model, sequences[start : start + len(chunk)], config.batch_tokens)
        return [{**row, "completion_logps": logp} for row, logp in zip(chunk, logps, strict=True)]

    return map_parts(kept, measure, folder=context.folder, part_rows=PART_ROWS, label="completions")


def _encode(
    rows: Sequence[Row],
    model: Any,
    tokenizer: Any,
    max_length: int,
    context: Context,
    dropped: dict[str, int],
) -> tuple[list[Row], list[tuple[list[int], list[int]]]]:
    from prefopt.models.load import check_ids
    from prefopt.models.marks import count_of, up_to
    from prefopt.models.template import Unfit, encode_answer

    kept, sequences = [], []
    for row in rows:
        where, tokens = f"evaluate: row {row['id']!r}", int(row.get("completion_tokens") or 0)
        measured = row.get("ref_completion_logps") is not None and bool(tokens)
        limit = NO_LIMIT if measured else max_length
        try:
            ids = encode_answer(tokenizer, row, row["completion"], max_length=limit)
        except Unfit as error:
            context.drop(dropped, error.reason, where)
            continue
        # stage 04 cut completions at its own max_length; the same tokens count here
        found = count_of(ids.marked)
        cut = up_to(ids.marked, tokens) if measured else ids.marked
        if measured and (found < tokens or (tokens < found and not row.get("truncated"))):
            raise PrefoptError(
                f"{where}: the completion has {found} tokens here, but {tokens} in the reference's "
                "log-probs; evaluate with the tokenizer and chat template of the reference model"
            )
        check_ids(model, [*ids.prompt_ids, *cut], where)
        named = {name: row.get(name) for name in KEPT if name in row}
        kept.append({**named, "kind": "unpaired", "mode": None, "completion": text_of(row["completion"])})
        sequences.append((ids.prompt_ids, cut))
    return kept, sequences


def separation(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """AUC of the reward between desired and undesired completions with a 95% interval, and mean log-ratios, nats.

    Null without rows, without reference log-probs, or with one kind alone.
    """
    singles = [r for r in rows if r["kind"] == "unpaired" and r.get("ref_completion_logps") is not None]
    rewards = {
        label: np.array(
            [r["completion_logps"] - r["ref_completion_logps"] for r in singles if r["label"] is label]
        )
        for label in (True, False)
    }
    desired, undesired = rewards[True], rewards[False]
    if not desired.size or not undesired.size:
        return None
    return {
        **auc(desired, undesired, TIE_NATS),
        "desired": int(desired.size),
        "undesired": int(undesired.size),
        "desired_drift_nats": float(desired.mean()),
        "undesired_drift_nats": float(undesired.mean()),
    }


def auc(desired: np.ndarray, undesired: np.ndarray, tie: float = 0.0) -> dict[str, float | None]:
    """P(desired > undesired) + P(tie)/2 of two samples, its interval by DeLong et al. (1988, eq. 6).

    tie: differences up to this count as equal. low and high are null where a sample has one member.
    """
    above = desired[:, None] - undesired[None, :]
    wins = np.where(np.abs(above) <= tie, 0.5, (above > 0).astype(np.float64))
    mean = float(wins.mean())
    if min(wins.shape) < 2:
        return {"mean": mean, "low": None, "high": None}
    variance = wins.mean(axis=1).var(ddof=1) / len(desired) + wins.mean(axis=0).var(ddof=1) / len(undesired)
    half = Z_95 * math.sqrt(float(variance))
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}
