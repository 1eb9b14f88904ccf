"""Methods of the bench: a loss, and what is done to the data before it. All of it is the pipeline's own code.

`loss` is the same list of terms that a recipe has; `grid` holds the hyperparameters that tuning tries, the same number for
every loss. Log-probs are summed over steps and action dimensions (a Hopper trajectory of 1000 steps has 3000 tokens), so a
beta of 0.003 here stands where 0.1 stands for an answer of a hundred tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError, nearest
from prefopt.rules.selection import choose, gap_mean, gap_sum
from prefopt.rules.weights import find_scheme, finish
from prefopt.suite.data.bank import Bank
from prefopt.suite.data.variants import Pairs

LEARNING_RATES = (6e-5, 2e-4, 6e-4, 2e-3, 6e-3)
SFT_RATES = (  # nothing else to tune, so as many rates as others have candidates
    *(3e-5, 5e-5, 7e-5, 1e-4, 1.2e-4, 1.5e-4, 2e-4, 2.5e-4, 3e-4, 4e-4, 5e-4, 6e-4, 7e-4),
    *(8e-4, 1e-3, 1.2e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3, 4e-3, 5e-3, 6e-3, 8e-3, 1e-2),
)
BETAS = (0.0001, 0.0003, 0.001, 0.003, 0.01)


@dataclass(frozen=True)
class Selection:
    """Keep the pairs that a rule of `prefopt.rules.selection` keeps, by gap_sum or gap_mean of the reference."""

    rule: str = "top"
    fraction: float = 0.4
    score: str = "gap_mean"


@dataclass(frozen=True)
class Method:
    """loss: terms without hyperparameters to tune; grid: one override per candidate, keys `term.name` or `name` (term 0).

    selection, weights: what is done to the rows before (a scheme's name of `prefopt.rules.weights`).
    """

    name: str
    loss: Sequence[Mapping[str, Any]]
    grid: Sequence[Mapping[str, float]] = ()
    selection: Selection | None = None
    weights: str | None = None
    learning_rates: Sequence[float] = field(default=LEARNING_RATES)

    def candidates(self) -> list[dict[str, float]]:
        """Everything that tuning tries: the grid times the learning rates."""
        return [{**row, "learning_rate": rate} for rate in self.learning_rates for row in self.grid]

    def identity(self) -> dict[str, Any]:
        """What the method is apart from its hyperparameters: part of every key under which a result of it is kept."""
        selection = None if self.selection is None else asdict(self.selection)
        return {"loss": [dict(t) for t in self.loss], "selection": selection, "weights": self.weights}

    def terms(self, chosen: Mapping[str, float]) -> list[dict[str, Any]]:
        """The loss with hyperparameters put in; `learning_rate` is not one of the loss."""
        terms = [dict(term) for term in self.loss]
        for key, value in chosen.items():
            if key != "learning_rate":
                position, dot, name = key.rpartition(".")
                terms[int(position) if dot else 0][name] = value
        return terms


def _betas(name: str, **fixed: Any) -> Method:
    return Method(name, [{"name": name, **fixed}], [{"beta": beta} for beta in BETAS])


def _smoothed(name: str, *grid: tuple[float, float]) -> Method:
    return Method(name, [{"name": name}], [{"beta": b, "label_smoothing": e} for b, e in grid])


def _budgeted(
    name: str, grid: Sequence[tuple[float, float]], budget: Mapping[str, float] | None = None, **fixed: Any
) -> Method:
    """The loss plus the budget on the winner's fall; grid: its beta and the budget's delta (nats per token)."""
    rows = [{"0.beta": b, "1.delta": d} for b, d in grid]
    return Method(f"{name}_budget", [{"name": name, **fixed}, {"name": "budget", **(budget or {})}], rows)


def _on_dpo(name: str, **data: Any) -> Method:
    return Method(name, [{"name": "dpo"}], [{"beta": beta} for beta in BETAS], **data)


ORPO_LAMBDAS, SLIC_COSTS = (0.03, 0.1, 0.3, 1.0, 3.0), (0.1, 0.3, 0.9, 2.7, 8.1)
_ALL = (
    _betas("dpo"),
    Method("ipo", [{"name": "ipo"}], [{"beta": beta} for beta in (0.3, 1.0, 3.0, 10.0, 30.0)]),
    Method("simpo", [{"name": "simpo"}], [{"beta": beta} for beta in (3.0, 10.0, 30.0, 100.0, 300.0)]),
    Method("orpo", [{"name": "orpo"}], [{"lam": lam} for lam in ORPO_LAMBDAS]),
    _betas("cpo"),
    Method("slic_hf", [{"name": "slic_hf", "delta": 300.0}], [{"k": k} for k in SLIC_COSTS]),
    _betas("kto"),
    _betas("dpop", lam=5.0),
    _betas("discopop"),
    _smoothed("cdpo", (0.0003, 0.1), (0.001, 0.05), (0.001, 0.1), (0.001, 0.2), (0.003, 0.1)),
    _smoothed("robust", (0.003, 0.1), (0.01, 0.05), (0.01, 0.1), (0.01, 0.2), (0.03, 0.1)),
    _budgeted("dpo", ((0.0001, 0.05), (0.0003, 0.05), (0.0003, 0.2), (0.001, 0.05), (0.003, 0.05))),
    _budgeted(
        "simpo",
        ((10.0, 0.05), (30.0, 0.05), (100.0, 0.01), (100.0, 0.05), (300.0, 0.05)),
        {
            "scale": 2.0
        },  # above SimPO's slope per nat, beta / tokens: at most 1 for trajectories over 100 steps
    ),
    _budgeted(
        "robust", ((0.003, 0.05), (0.01, 0.01), (0.01, 0.05), (0.01, 0.2), (0.03, 0.05)), label_smoothing=0.1
    ),
    Method("sft", [{"name": "nll"}], [{}], learning_rates=SFT_RATES),
    _on_dpo("dpo_select_30", selection=Selection(fraction=0.3)),
    _on_dpo("dpo_select_40", selection=Selection(fraction=0.4)),
    _on_dpo("dpo_select_50", selection=Selection(fraction=0.5)),
    _on_dpo("dpo_bottom_40", selection=Selection(rule="bottom", fraction=0.4)),
    _on_dpo("dpo_random_40", selection=Selection(rule="random", fraction=0.4)),
    _on_dpo("dpo_difficulty", weights="difficulty"),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
LOSSES = (  # the methods that are a loss and nothing else: the small preset's table
    *(
        "dpo",
        "ipo",
        "simpo",
        "orpo",
        "cpo",
        "slic_hf",
        "kto",
        "dpop",
        "discopop",
        "cdpo",
        "robust",
        "dpo_budget",
    ),
    "sft",
)


def find_method(name: str) -> Method:
    """The method of this name; PrefoptError names the nearest known one."""
    if name not in METHODS:
        raise PrefoptError(f"unknown method {name!r}, {nearest(name, METHODS)}")
    return METHODS[name]


def prepare(method: Method, bank: Bank, pairs: Pairs, seed: int) -> tuple[Pairs, np.ndarray]:
    """The rows that the method trains on, and their weights [M] (mean 1)."""
    if method.selection is not None:
        pairs = pairs.take(select(method.selection, bank, pairs, seed))
    if method.weights is None:
        return pairs, np.ones(len(pairs.winner))
    return pairs, weigh(method.weights, bank, pairs)


def select(selection: Selection, bank: Bank, pairs: Pairs, seed: int) -> np.ndarray:
    """Mask [M] of `rules.selection.choose` on the reference's gap of whole trajectories."""
    sums, tokens = bank.ref_sums(), bank.tokens().astype(np.float64)
    chosen, rejected = sums[pairs.winner], sums[pairs.loser]
    if selection.score == "gap_sum":
        scores = gap_sum(chosen, rejected)
    else:
        scores = gap_mean(chosen, rejected, tokens[pairs.winner], tokens[pairs.loser])
    ids = [str(s) for s in pairs.start]
    mask, _ = choose(scores, ids, selection.rule, fraction=selection.fraction, seed=seed)
    return mask


def weigh(scheme: str, bank: Bank, pairs: Pairs, alpha: float = 0.5) -> np.ndarray:
    """Weights [M] by difficulty: of the R reference rollouts from the row's start state, those count as right that reach
    the return of the row's winner.

    A bar per start state would be noise here: two halves of a start state's rollouts agree on it with a rank correlation of
    -0.01 (Hopper), since a start state hardly decides the return. So the difficulty is that of the row.
    """
    reached = bank.reference_returns()[pairs.start] >= bank.returns[pairs.winner][:, None]
    right = reached.sum(axis=1).astype(np.float64)
    n = np.full(len(right), float(bank.references))
    columns = {"row": np.ones_like(n), "n": n, "n_correct": right, "n_error": n - right}
    raw = find_scheme(scheme).weigh(columns, alpha, 0.0)
    return finish(raw, [str(s) for s in pairs.start])
