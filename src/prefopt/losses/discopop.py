"""The six further losses of DiscoPOP (2406.08414, appendix E), found by language models; its LRML is `discopop` in pairwise.py.

v = beta h, with h the margin of summed log-ratios; s = sigmoid, L(v) = -log s(v) (DPO), H(v) = max(0, 1 - v) (SLiC). Written
from the paper's formulas, in which tau = 0.05 (the beta of the discovery) keeps the shape of a loss whatever beta is.
Means and variances are over the rows of an optimizer step, the variance unbiased and 0 for a single row; gradients flow through.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from prefopt.losses.ops import Rows, Scalar, logsigmoid, relu, safe_exp, sigmoid
from prefopt.losses.pairwise import margin

TAU = 0.05


def variance(x: Rows) -> Any:
    """Unbiased variance [] of x [B]; 0 where B = 1."""
    xp = array_namespace(x)
    return xp.sum((x - xp.mean(x)) ** 2) / max(1, x.shape[0] - 1)


def hinge(v: Rows) -> Rows:
    """max(0, 1 - v)."""
    return relu(1.0 - v)


def dbaql(
    chosen: Rows,
    rejected: Rows,
    ref_chosen: Rows,
    ref_rejected: Rows,
    *,
    beta: Scalar = 0.1,
    tau: Scalar = TAU,
) -> Rows:
    """s(Var[v/tau]) L(v / 0.9) + (1 - s(Var[v/tau])) e^(-0.9 v): Dynamic Blended Adaptive Quantile Loss (eqs. 9-10)."""
    v = beta * margin(chosen, rejected, ref_chosen, ref_rejected)
    spread = variance(v / tau)
    return -sigmoid(spread) * logsigmoid(v / 0.9) + sigmoid(-spread) * safe_exp(-0.9 * v)


def aql(
    chosen: Rows,
    rejected: Rows,
    ref_chosen: Rows,
    ref_rejected: Rows,
    *,
    beta: Scalar = 0.1,
    tau: Scalar = TAU,
) -> Rows:
    """q L(v) + (1-q) H(v), q = s(tau m - v), m = 0.5 + 0.01 (E[s(v/tau)] - 0.5): Adaptive Quantile Loss (eqs. 11-14)."""
    v = beta * margin(chosen, rejected, ref_chosen, ref_rejected)
    m = 0.5 + 0.01 * (array_namespace(v).mean(sigmoid(v / tau)) - 0.5)
    z = tau * m - v
    return -sigmoid(z) * logsigmoid(v) + sigmoid(-z) * hinge(v)


def padll(chosen: Rows, rejected: Rows, ref_chosen: Rows, ref_rejected: Rows, *, beta: Scalar = 0.1) -> Rows:
    """0.9 (1 - 0.5 [h < 0]) L(v): Performance Adaptive Decay Logistic Loss (eqs. 15-19). It jumps up where h passes 0."""
    h = margin(chosen, rejected, ref_chosen, ref_rejected)
    xp = array_namespace(h)
    decay = xp.where(h < 0, xp.full_like(h, 0.45), xp.full_like(h, 0.9))
    return -decay * logsigmoid(beta * h)


def aqfl(
    chosen: Rows,
    rejected: Rows,
    ref_chosen: Rows,
    ref_rejected: Rows,
    *,
    beta: Scalar = 0.1,
    tau: Scalar = TAU,
) -> Rows:
    """r L(v) + (1-r) H(v), r = s(0.1 |v/tau - m2|): Adaptive Quantile Feedback Loss (eqs. 20-25).

    m2 = m1 + 0.05 (s(E[v/tau]) - m1), m1 = E[s(-v/tau)] Var[v/tau], as in the formulas; the code beside them in the paper
    takes the standard deviation in place of the variance.
    """
    v = beta * margin(chosen, rejected, ref_chosen, ref_rejected)
    xp = array_namespace(v)
    w = v / tau
    m1 = xp.mean(sigmoid(-w)) * variance(w)
    m2 = m1 + 0.05 * (sigmoid(xp.mean(w)) - m1)
    z = 0.1 * xp.abs(w - m2)
    return -sigmoid(z) * logsigmoid(v) + sigmoid(-z) * hinge(v)


def cell(chosen: Rows, rejected: Rows, ref_chosen: Rows, ref_rejected: Rows, *, beta: Scalar = 0.1) -> Rows:
    """0.5 L(v) + 0.5 e^-v: Combined Exponential and Logistic Loss (eq. 26)."""
    v = beta * margin(chosen, rejected, ref_chosen, ref_rejected)
    return -0.5 * logsigmoid(v) + 0.5 * safe_exp(-v)


def pfl(
    chosen: Rows,
    rejected: Rows,
    ref_chosen: Rows,
    ref_rejected: Rows,
    *,
    beta: Scalar = 0.1,
    tau: Scalar = TAU,
) -> Rows:
    """L(v/tau) / 2 where pi_w > pi_l, else 2 H(v/tau): Policy Focused Loss (eqs. 29-30); the reference does not enter the case."""
    w = beta * margin(chosen, rejected, ref_chosen, ref_rejected) / tau
    return array_namespace(w).where(chosen > rejected, -0.5 * logsigmoid(w), 2.0 * hinge(w))
