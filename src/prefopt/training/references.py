"""Reference log-probs of encoded examples, computed before training by the model that it starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prefopt.losses import LossSum
from prefopt.scoring.logprobs import score, score_cuts
from prefopt.training.collate import Example
from prefopt.training.examples import Mismatched
from prefopt.training.forward import PREFIXES

BATCH_TOKENS = 8192  # tokens of a batch, padding included


def with_references(
    examples: Sequence[Example], model: nn.Module, loss: LossSum, *, batch_tokens: int = BATCH_TOKENS
) -> list[Example]:
    """The examples with every reference log-prob that the loss reads: those that they hold, else those of `model`, nats."""
    wanted = [name.removeprefix("ref_") for name in loss.needs if name.startswith("ref_")]
    lacking = [
        i for i, example in enumerate(examples) if any(name not in example.reference for name in wanted)
    ]
    found = list(examples)
    roles = [role for role in ("chosen", "rejected", "completion") if {role, f"{role}_prefix"} & set(wanted)]
    has_prefix = bool({*PREFIXES} & set(wanted))
    for role in roles:
        rows = [found[i] for i in lacking]
        sequences = [(row.prompt, row.answers[role]) for row in rows]
        cuts = [
            (len(row.answers[role]), row.shared_tokens) if has_prefix else (len(row.answers[role]),)
            for row in rows
        ]
        for i, sums in zip(lacking, score_cuts(model, sequences, cuts, batch_tokens), strict=True):
            names = (role, f"{role}_prefix")[: len(sums)]
            own = dict(zip(names, sums, strict=True))
            found[i] = replace(found[i], reference={**own, **found[i].reference})
    return found


def with_mismatched(
    examples: Sequence[Example],
    model: nn.Module,
    *,
    seed: int,
    max_length: int,
    spare: Sequence[Example] = (),
) -> Iterator[Example]:
    """KTO's mismatched completions, drawn by seed, with their log-probs under `model`, which is the reference.

    spare: rows for an example that stands alone (a single held-out row).
    """
    rows = Mismatched(examples, seed=seed, max_length=max_length, spare=spare)
    return _with_kl(rows, _kl_logps(rows, model, 8 * max_length))


def _kl_logps(rows: Sequence[Any], model: nn.Module, batch_tokens: int) -> NDArray[np.float64]:
    """Log-probs [N] of the mismatched answers, nats; the batches are those of `score` on all rows at once."""
    sizes = np.fromiter((len(row.prompt) + len(row.answers["kl"]) for row in rows), np.int64, count=len(rows))
    order, start = np.argsort(-sizes, kind="stable"), 0
    logps = np.empty(len(rows))
    while start < len(order):
        places = order[start : start + max(1, batch_tokens // int(sizes[order[start]]))]
        batch = [rows[place] for place in places.tolist()]
        logps[places] = score(model, [(row.prompt, row.answers["kl"]) for row in batch], batch_tokens)
        start += len(places)
    return logps


def _with_kl(rows: Iterable[Example], logps: NDArray[np.float64]) -> Iterator[Example]:
    for row, logp in zip(rows, logps, strict=True):
        yield replace(row, reference={**row.reference, "kl": float(logp)})
