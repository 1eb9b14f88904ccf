"""What the study of discovered losses on language models is made of: candidates of every loss, and bad pairs made from good ones.

noisy   chosen and rejected of a share of the pairs exchanged
mixed   a share of the pairs with the old rejected as chosen, and another weak answer of the same prompt as rejected
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefopt.losses.table import LOSSES
from prefopt.tables.records import Row

KINDS = {"noisy": 0.3, "mixed": 0.5}  # share of the training pairs that is spoiled
MEASURES = ("accuracy", "greedy", "pair_accuracy", "chosen_drift", "rejected_drift")
FOUND = ("quiet", "sorting")
BASELINES = ("dpo", "orpo", "slic_hf", "nll")
SCALES = (0.1, 0.5, 2.0)  # 20 s x at the mean x of the chosen answers; the bench's own goes from 0.1 to 2


@dataclass(frozen=True)
class Candidate:
    """One setting of a loss: its term in a recipe, learning rate, and what of it was drawn from the grid."""

    term: Mapping[str, Any]
    learning_rate: float
    shown: Mapping[str, Any]


def candidates(loss: str, mean_x: float, rate_factor: float = 1.0) -> list[Candidate]:
    """The settings among which a loss is tuned, the same number for every loss.

    mean_x: mean over answers of the geometric mean of their tokens' probabilities under the reference, in (0, 1].

    Raises:
        KeyError: a loss that has no grid.
    """
    strengths: dict[str, tuple[tuple[float, ...], list[dict[str, Any]]]] = {
        "nll": ((1e-4, 3e-4, 1e-3), [{"reduction": "sum"}, {"reduction": "mean"}]),
        "dpo": ((5e-5, 2e-4), [{"beta": beta} for beta in (0.03, 0.1, 0.5)]),
        "orpo": ((1e-4, 4e-4), [{"lam": lam} for lam in (0.1, 0.5, 2.0)]),
        "slic_hf": ((5e-5, 2e-4), [{"delta": 1.0, "k": k} for k in (0.1, 0.5, 2.0)]),
        **{name: ((1e-4, 4e-4), [{"scale_of_x": scale} for scale in SCALES]) for name in FOUND},
    }
    rates, settings = strengths[loss]
    found = []
    for rate in rates:
        for setting in settings:
            term = {"name": loss, **setting}
            if loss in FOUND:
                term = rescaled(loss, setting["scale_of_x"] / (20.0 * mean_x))
            found.append(
                Candidate(term, rate * rate_factor, {"learning_rate": rate * rate_factor, **setting})
            )
    return found


def rescaled(loss: str, factor: float) -> dict[str, Any]:
    """A discovered loss as a term of the mirror class that takes factor * x wherever it takes x.

    Only for maps of x and its powers and roots (no log x, no shift), where that is exact. The slope of a root begins at
    x > eps^2 / (20 factor), far below any probability.
    """
    hyper = copy.deepcopy(dict(LOSSES[loss].defaults))
    for slot in ("phi_inv", "psi"):
        part = hyper[slot]
        if part.get("c") or part.get("d"):
            raise ValueError(f"{loss}: {slot} has a logarithm, which does not scale with x")
        part["a"] *= factor
        part["units"]["w"] = [[number * factor for number in row] for row in part["units"]["w"]]
    return {"name": "mirror", "x": "mean", **hyper}


def spoiled(
    rows: Sequence[Row], kind: str, weak: Mapping[str, Sequence[Any]], seed: int
) -> tuple[list[Row], float]:
    """The pairs, those of split train spoiled, and the share of these that was; others are left as they are.

    weak: prompt_id -> answers known to be weak, for `mixed`. Where a prompt has none beside the pair's own rejected,
    its pairs stay good, so the share may be below that of KINDS.
    """
    draw = random.Random(f"{seed} {kind}")
    train = [k for k, row in enumerate(rows) if row["split"] == "train"]
    others = {k: [a for a in weak.get(rows[k]["prompt_id"], ()) if a != rows[k]["rejected"]] for k in train}
    able = train if kind == "noisy" else [k for k in train if others[k]]
    wanted = min(round(KINDS[kind] * len(train)), len(able))
    found = list(rows)
    for k in sorted(draw.sample(able, wanted)):
        row = rows[k]
        chosen = row["rejected"]
        rejected = row["chosen"] if kind == "noisy" else draw.choice(others[k])
        found[k] = {**row, "chosen": chosen, "rejected": rejected}
    return found, wanted / len(train) if train else 0.0


def weak_of(rows: Sequence[Row], column: str) -> dict[str, list[Any]]:
    """prompt_id -> distinct values of `column`, in order."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        known = found.setdefault(row["prompt_id"], [])
        if row[column] not in known:
            known.append(row[column])
    return found


# ---- the page


def tables(kinds: Mapping[str, Any], statements: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of the figures: mean and half width of the 95% interval over seeds, and the differences of the found losses."""
    out = []
    for kind, body in kinds.items():
        arms = body["arms"]
        names = [name for name in MEASURES if name in arms["base"]]
        out += [f"| {kind} | {' | '.join(names)} | tuned |", "|---" * (len(names) + 2) + "|"]
        for arm, figures in arms.items():
            tuned = ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                              for key, value in figures.get("tuned", {}).items())  # fmt: skip
            out.append(f"| {arm} | {' | '.join(_cell(name, figures[name]) for name in names)} | {tuned} |")
        out.append("")
    out += ["| difference | pairs | measure | mean | Holm's p |", "|---|---|---|---|---|"]
    for row in statements:
        p = "" if row.get("p_holm") is None else f"{row['p_holm']:.2g}"
        value = _cell(row["measure"], row, "+")
        out.append(f"| {row['loss']} - {row['against']} | {row['kind']} | {row['measure']} | {value} | {p} |")
    return "\n".join(out)


def _cell(measure: str, figure: Mapping[str, Any], sign: str = "") -> str:
    """Shares in percent, drifts in nats."""
    factor, digits = (1.0, 2) if measure.endswith("drift") else (100.0, 1)
    mean = format(factor * figure["mean"], f"{sign}.{digits}f")
    if figure["high"] is None:
        return mean
    return f"{mean} ± {factor * (figure['high'] - figure['mean']):.{digits}f}"
