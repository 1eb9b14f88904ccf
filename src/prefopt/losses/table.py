"""LOSSES: name -> Loss, one row each. A new loss is one function, one row here and one hand value in the tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import add_part, added
from prefopt.losses import discopop, discovered, mirror, pairwise, regularizers, unpaired
from prefopt.losses.loss import POSITIVE, Loss, Range, Valid

HALF_OPEN = {"label_smoothing": Range(0, 0.5, open_high=True)}  # 1 - 2e divides
TAU = {"tau": POSITIVE}
NOT_ZERO = {"label_smoothing": Range(0, 0.5, open_low=True)}  # log e is taken

LINKED = Valid(
    note="with link forward_kl, or alpha < 1, clipped where e^-ratio would overflow (below -39 nats, fp32)"
)


def beta_slope(hyper: Mapping[str, Any]) -> float:
    """beta: the largest slope in r_w of a loss whose g has slope at most 1."""
    return float(hyper["beta"])


def robust_slope(hyper: Mapping[str, Any]) -> float:
    """beta (1-e)/(1-2e): the robust loss is steeper than DPO by its correction."""
    e = float(hyper["label_smoothing"])
    return float(hyper["beta"]) * (1.0 - e) / (1.0 - 2.0 * e)


MARGIN_ROWS = (
    Loss(
        pairwise.dpo,
        name="dpo",
        valid=LINKED,
        paper="2305.18290",
        formula="-log s(beta h)",
        of_margin=True,
        slope=beta_slope,
    ),
    Loss(
        pairwise.cdpo,
        name="cdpo",
        valid=LINKED,
        paper="Mitchell 2023, cDPO note",
        formula="-(1-e) log s(beta h) - e log s(-beta h)",
        of_margin=True,
        slope=beta_slope,
        raises_chosen="rises once s(beta h) > 1 - e (label smoothing)",
    ),
    Loss(
        pairwise.robust,
        name="robust",
        valid=LINKED,
        paper="2403.00409",
        formula="[-(1-e) log s(beta h) + e log s(-beta h)] / (1-2e)",
        of_margin=True,
        slope=robust_slope,
        ranges=HALF_OPEN,
    ),
    Loss(
        pairwise.ipo,
        name="ipo",
        valid=LINKED,
        paper="2310.12036",
        formula="(h - 1/(2 beta))^2, log-probs per token",
        x="mean",
        x_free=True,
        of_margin=True,
        raises_chosen="rises once h > 1/(2 beta) (a square)",
    ),
    Loss(
        pairwise.ipo,
        name="ipo_sum",
        valid=LINKED,
        paper="2310.12036",
        formula="(h - 1/(2 beta))^2, summed log-probs",
        of_margin=True,
        raises_chosen="rises once h > 1/(2 beta) (a square)",
    ),
    Loss(
        pairwise.hinge,
        name="hinge",
        valid=LINKED,
        paper="2309.06657",
        formula="max(0, 1 - beta h)",
        of_margin=True,
        slope=beta_slope,
    ),
    Loss(
        pairwise.dpo,
        name="sigmoid_norm",
        valid=LINKED,
        paper="2305.18290; per token as in TRL 1.16 (2411.15124)",
        formula="-log s(beta h), log-probs per token",
        x="mean",
        defaults={"beta": 5.0},
    ),
    Loss(
        pairwise.discopop,
        name="discopop",
        valid=LINKED,
        paper="2406.08414",
        formula="(1-s')(-log s(v)) + s' e^-v, v = beta h, s' = s(v/tau)",
        of_margin=True,
        raises_chosen="rises where |beta h| is a few tau (the blend switches between two curves)",
    ),
    Loss(
        pairwise.exo_pair,
        name="exo_pair",
        valid=LINKED,
        paper="2402.00856",
        formula="KL((q, 1-q) || (1-e, e)), q = s(beta h)",
        of_margin=True,
        ranges=NOT_ZERO,
        raises_chosen="rises once q > 1 - e",
    ),
    Loss(
        pairwise.focal,
        name="focal",
        paper="2501.06645",
        formula="-p^gamma log p, p = s(beta h); focus hard: -(1-p)^gamma log p",
        of_margin=True,
        raises_chosen="focus correct: rises while p < e^(-1/gamma); focus hard: monotone",
    ),
    Loss(
        pairwise.dpop,
        name="dpop",
        paper="2402.13228",
        formula="-log s(beta (h - lam max(0, -r_w)))",
    ),
    Loss(
        pairwise.chipo,
        name="chipo",
        paper="2407.13399",
        formula="-log s(v), v = beta (f(r_w) - f(r_l)) held in [-clip, clip], f(r) = e^r + r",
        ranges={"clip": POSITIVE},
    ),
    Loss(
        pairwise.nca_pair,
        name="nca_pair",
        paper="2402.05369",
        formula="-log s(beta r_w) - .5 log s(-beta r_w) - .5 log s(-beta r_l)",
        raises_chosen="rises once s(beta r_w) > 2/3 (an absolute target)",
    ),
    Loss(
        pairwise.sppo_hard,
        name="sppo_hard",
        paper="2405.00675",
        formula="(r_w - 1/(2 beta))^2 + (r_l + 1/(2 beta))^2",
        raises_chosen="rises once r_w > 1/(2 beta) (a square)",
    ),
    Loss(
        pairwise.apo_zero,
        name="apo_zero",
        paper="2408.06266",
        formula="1 - s(beta r_w) + s(beta r_l)",
        slope=lambda hyper: 0.25 * float(hyper["beta"]),
    ),
    Loss(
        pairwise.apo_down,
        name="apo_down",
        paper="2408.06266",
        formula="s(beta r_w) + 1 - s(beta h)",
        raises_chosen="rises where s(beta r_w) is the steeper term: lowering the chosen answer is its aim",
    ),
    Loss(
        pairwise.aot,
        name="aot",
        paper="2406.05882",
        formula="-log s(beta (sort(pi_w - pi_l) - sort(ref_w - ref_l)))",
        couples="step",
        weightable=False,
        raises_chosen="monotone for label_smoothing 0 (in the sum over the step), else as cdpo",
    ),
    Loss(
        pairwise.aot_unpaired,
        name="aot_unpaired",
        paper="2406.05882",
        formula="-log s(beta (sort(r_w) - sort(r_l)))",
        couples="step",
        weightable=False,
        raises_chosen="monotone for label_smoothing 0 (in the sum over the step), else as cdpo",
    ),
)

FREE_ROWS = (
    Loss(
        pairwise.simpo,
        name="simpo",
        paper="2405.14734",
        formula="-log s(beta u - gamma), u of means per token",
        x="mean",
    ),
    Loss(
        pairwise.alphapo,
        name="alphapo",
        paper="2501.03884",
        formula="-log s(beta u - gamma), u = difference of (1 - x^-alpha)/alpha, x = e^mean",
        x="mean",
        ranges={"alpha": Range(not_zero=True)},
        valid=Valid(
            -39.0, 0.0, "|alpha| * |log x| <= 39 in float32 (319 in float64); beyond it x^-alpha is clipped"
        ),
    ),
    Loss(
        pairwise.orpo,
        name="orpo",
        paper="2403.07691",
        formula="-log x_w - lam log s(log-odds x_w - log-odds x_l), x = e^mean",
        x="mean",
        valid=Valid(-1e6, 0.0, "log-odds are clipped at log(1 - eps): no odds slope at x = 1"),
    ),
    Loss(
        pairwise.cpo,
        name="cpo",
        paper="2401.08417",
        formula="-log s(beta (log pi_w - log pi_l)) - alpha log pi_w / tokens",
    ),
    Loss(
        pairwise.slic_hf,
        name="slic_hf",
        paper="2305.10425",
        formula="max(0, delta - (log pi_w - log pi_l)) - k log pi_w",
    ),
)

DISCOPOP_ROWS = (
    Loss(
        discopop.dbaql,
        name="dbaql",
        ranges=TAU,
        paper="2406.08414, E.1",
        formula="s(Var[v/tau]) L(v/.9) + (1 - s(Var[v/tau])) e^(-.9 v), v = beta h, L = -log s, Var over the step",
        couples="step",
        of_margin=True,
        raises_chosen="rises where the margins of a step draw together (the exponential gains weight)",
    ),
    Loss(
        discopop.aql,
        name="aql",
        ranges=TAU,
        paper="2406.08414, E.2",
        formula="q L(v) + (1-q) max(0, 1 - v), q = s(tau m - v), m = .5 + .01 (E[s(v/tau)] - .5), E over the step",
        couples="step",
        of_margin=True,
    ),
    Loss(
        discopop.padll,
        name="padll",
        paper="2406.08414, E.3",
        formula="(.45 where h < 0, else .9) L(v)",
        of_margin=True,
        raises_chosen="jumps up where h passes 0 (the decay doubles)",
    ),
    Loss(
        discopop.aqfl,
        name="aqfl",
        ranges=TAU,
        paper="2406.08414, E.4",
        formula="r L(v) + (1-r) max(0, 1 - v), r = s(.1 |v/tau - m2|), m2 = m1 + .05 (s(E[v/tau]) - m1),"
        " m1 = E[s(-v/tau)] Var[v/tau], over the step",
        couples="step",
        of_margin=True,
        raises_chosen="rises where the blend turns towards the larger of its two curves",
    ),
    Loss(
        discopop.cell,
        name="cell",
        paper="2406.08414, E.5",
        formula=".5 L(v) + .5 e^-v",
        of_margin=True,
    ),
    Loss(
        discopop.pfl,
        name="pfl",
        ranges=TAU,
        paper="2406.08414, E.7",
        formula=".5 L(v/tau) where pi_w > pi_l, else 2 max(0, 1 - v/tau)",
        raises_chosen="rises where pi_w passes pi_l and v > tau (the hinge is 0 there, the logistic is not)",
    ),
)

UNPAIRED_ROWS = (
    Loss(
        unpaired.kto,
        name="kto",
        paper="2402.01306",
        formula="w (1 - s(+-beta (r - kl))), + where desired, - otherwise; kl = max(0, mean of mismatched r)",
        kind="unpaired",
        couples="step",
    ),
    Loss(
        unpaired.apo_zero_unpaired,
        name="apo_zero_unpaired",
        paper="2408.06266",
        formula="w (1 - s(beta r)) where desired, w s(beta r) otherwise",
        kind="unpaired",
    ),
    Loss(
        unpaired.bco,
        name="bco",
        paper="2404.04656",
        formula="-log s(+-(beta r - D)), D = half the mean reward of both kinds in the step",
        kind="unpaired",
        couples="step",
    ),
    Loss(
        unpaired.bco_pair,
        name="bco_pair",
        paper="2404.04656",
        formula="-log s(beta r_w - D) - log s(D - beta r_l), D = half the step's mean of beta (r_w + r_l)",
        couples="step",
    ),
)

REGULARIZER_ROWS = (
    Loss(
        regularizers.nll,
        name="nll",
        paper="2404.19733 (mean), 2405.16436 (sum)",
        formula="-log pi_w / tokens, or -log pi_w",
        kind="regularizer",
    ),
    Loss(
        regularizers.budget,
        name="budget",
        paper="2411.05875",
        formula="max(0, -r_w - delta * tokens), or max(0, -r_w - delta)",
        kind="regularizer",
    ),
    Loss(
        regularizers.dpop_outside,
        name="dpop_outside",
        paper="2402.13228, outside the sigmoid",
        formula="max(0, -r_w)",
        kind="regularizer",
    ),
)

B_DPO = dataclasses.replace(
    mirror.ROW,
    name="b_dpo",
    paper="2411.06568 (as its authors trained Pythia-2.8B on HH)",
    formula="-log s(beta [phi_inv(x_w) - phi_inv(x_l) - phi_inv(ref_w) + phi_inv(ref_l)]), phi_inv(x) = -x^-.5 (Tsallis q = .5)",
    defaults={"phi_inv": {"name": "tsallis", "q": 0.5}, "g": {"name": "logistic", "beta": 0.1}},
    valid=Valid(-78.0, 0.0, "x^-.5 is clipped below log x = -78 (float32)"),
    raises_chosen="monotone",
)
MIRROR_ROWS = (mirror.ROW, B_DPO, *discovered.rows())
ROWS = MARGIN_ROWS + DISCOPOP_ROWS + FREE_ROWS + UNPAIRED_ROWS + REGULARIZER_ROWS + MIRROR_ROWS
ALIASES = {"sigmoid": "dpo", "rdpo": "robust", "slic": "hinge", "sft": "nll"}

_BY_NAME = {row.name: row for row in ROWS}
_BY_NAME |= {alias: _BY_NAME[name] for alias, name in ALIASES.items()}
LOSSES: Mapping[str, Loss] = MappingProxyType(_BY_NAME)


def add_loss(row: Loss) -> None:
    """Put a loss of the user's into LOSSES under its name; `prefopt.losses.added` checks it first.

    Raises:
        PrefoptError: the name is taken.
    """
    add_part("loss", row.name, row.fn, row, _BY_NAME)


def all_rows() -> list[Loss]:
    """Every loss once: ours, then those of plug-ins."""
    return [*ROWS, *(LOSSES[name] for name in added("loss"))]


def find_loss(name: str) -> Loss:
    """The row of a name or alias. Raises PrefoptError naming the nearest known one."""
    if name not in LOSSES:
        raise PrefoptError(f"unknown loss {name!r}; {nearest(name, LOSSES)}")
    return LOSSES[name]


def list_losses() -> list[dict[str, Any]]:
    """Every loss as a plain dict, for listings: name, aliases, formula, paper, needs, hyperparameters, ..."""
    return [
        {
            "name": row.name,
            "aliases": [alias for alias, name in ALIASES.items() if name == row.name],
            "kind": row.kind,
            "formula": row.formula,
            "paper": row.paper,
            "x": row.x,
            "couples": row.couples,
            "needs": list(row.needs),
            "hyperparameters": dict(row.defaults),
            "valid": f"log-probs in [{row.valid.low:g}, {row.valid.high:g}] nats"
            + (f"; {row.valid.note}" if row.valid.note else ""),
            "raises_chosen": row.raises_chosen,
        }
        for row in all_rows()
    ]
