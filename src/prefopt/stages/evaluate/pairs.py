"""Held-out pairs in stage 08: the policy's log-probs of both answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.evaluate.columns import ADDS
from prefopt.stages.evaluate.figures import pair_correct
from prefopt.tables.context import Context
from prefopt.tables.folder import map_parts
from prefopt.tables.records import Row

if TYPE_CHECKING:
    from prefopt.scoring.logprobs import Pair

PART_ROWS = 256  # pairs lost at a kill; batches are cut within a part, so it also fixes the bytes
NO_LIMIT = 1 << 40


def pair_rows(
    pairs: Sequence[Row], loaded: tuple[Any, Any], config: Any, context: Context, dropped: dict[str, int]
) -> list[Row]:
    """The pairs with the policy's log-probs of both answers, encoded exactly as stage 04 did.

    loaded: model and tokenizer. config: of stage 08 (`max_length`, `batch_tokens`, `pair_metric`).

    Raises:
        PrefoptError: the reference's log-probs are of other tokens.
    """
    from prefopt.scoring.logprobs import check_model, score

    model, tokenizer = loaded
    kept, sequences = _encode_pairs(pairs, model, tokenizer, config, context, dropped)
    if sequences:
        check_model(model, sequences[0][0])

    def measure(chunk: Sequence[Row], start: int) -> list[Row]:
        both = [sequence for two in sequences[start : start + len(chunk)] for sequence in two]
        logps = score(model, both, config.batch_tokens)
        return [
            {**row, "chosen_logps": logps[2 * i], "rejected_logps": logps[2 * i + 1]}
            for i, row in enumerate(chunk)
        ]

    rows = map_parts(kept, measure, folder=context.folder, part_rows=PART_ROWS, label="pairs")
    for row in rows:
        row["pair_correct"] = pair_correct(row, config.pair_metric)
    return rows


def _encode_pairs(
    pairs: Sequence[Row],
    model: Any,
    tokenizer: Any,
    config: Any,
    context: Context,
    dropped: dict[str, int],
) -> tuple[list[Row], list[tuple[Pair, Pair]]]:
    from prefopt.models.load import check_ids
    from prefopt.models.marks import count_of, up_to
    from prefopt.models.template import Unfit, encode_pair

    kept: list[Row] = []
    sequences: list[tuple[Pair, Pair]] = []
    for row in pairs:
        where = f"evaluate: row {row['id']!r}"
        measured = row.get("ref_chosen_logps") is not None and row.get("chosen_tokens") is not None
        try:
            ids = encode_pair(tokenizer, row, max_length=NO_LIMIT if measured else config.max_length)
        except Unfit as error:
            context.drop(dropped, error.reason, where)
            continue
        sides = []
        for name, answer in ((side, ids.marked(side)) for side in ("chosen", "rejected")):
            # stage 04 cut answers at its own max_length; the same tokens count here
            wanted, found = int(row.get(f"{name}_tokens") or 0), count_of(answer)
            cut = up_to(answer, wanted) if measured else answer
            if measured and (found < wanted or (wanted < found and not row.get("truncated"))):
                raise PrefoptError(
                    f"{where}: {name} has {found} tokens here, but {wanted} in the reference's "
                    "log-probs; evaluate with the tokenizer and chat template of the reference model"
                )
            check_ids(model, [*ids.prompt_ids, *cut], where)
            sides.append((ids.prompt_ids, cut))
        kept.append({**{name: row[name] for name in ADDS if name in row}, "kind": "pair", "mode": None})
        sequences.append((sides[0], sides[1]))
    return kept, sequences
