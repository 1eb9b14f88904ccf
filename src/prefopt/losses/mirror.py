"""The mirror class (after 2411.06568): J = E[psi(x_w) + lam g(u)], u = phi_inv(x_w) - phi_inv(x_l) - [reference].

x is the probability of an answer or its geometric mean per token; everything takes log x, since x itself underflows.
A part (phi_inv, psi, g) is a name, a mapping {name, **parameters}, or a function (value, t). t = steps done / steps.
A coefficient is a number, or a pair [p0, p1] for max(0, p0 + p1 t) (temporal awareness).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from array_api_compat import array_namespace

from prefopt.core.errors import PrefoptError, nearest
from prefopt.losses import ops, shapes
from prefopt.losses.loss import Loss, Range, Valid
from prefopt.losses.ops import Rows, Scalar

Part = str | Mapping[str, Any] | Callable[..., Any]
Coefficient = Any  # number, [] array, or a pair [p0, p1]
Time = Any  # number or [] array in [0, 1]


def is_pair(value: Any) -> bool:
    """Whether a coefficient is [p0, p1]."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def coefficient(value: Coefficient, t: Time, x: Rows) -> Any:
    """The coefficient at time t: the number, or max(0, p0 + p1 t)."""
    if not is_pair(value):
        return value
    pair = ops.like(value, x)
    return ops.relu(pair[0] + pair[1] * t)


def negative_entropy(log_x: Rows, t: Time) -> Rows:
    """log x (the constant of 1 + log x cancels): DPO, SimPO, IPO, CPO, SLiC."""
    return log_x


def euclidean(log_x: Rows, t: Time) -> Rows:
    """x."""
    return ops.safe_exp(log_x)


def tsallis(log_x: Rows, t: Time, *, q: Scalar = 2.0) -> Rows:
    """q x^(q-1) / (q-1), less a constant that cancels; q -> 1 is log x, q = 2 is 2 x. Clipped for q < 1."""
    return q * ops.power_log(log_x, q - 1.0)


def odds(log_x: Rows, t: Time) -> Rows:
    """log x - log(1 - x): ORPO. Clipped at x = 1 - eps."""
    return ops.log_odds(log_x)


def power(log_x: Rows, t: Time, *, alpha: Scalar = 0.25) -> Rows:
    """(1 - x^-alpha) / alpha: AlphaPO; alpha -> 0 is log x. Clipped as x -> 0."""
    return ops.power_log(log_x, -alpha)


def no_psi(log_x: Rows, t: Time) -> Rows:
    """0."""
    return array_namespace(log_x).zeros_like(log_x)


def log_psi(log_x: Rows, t: Time, *, k: Coefficient = 1.0) -> Rows:
    """k log x: likelihood of the chosen answer."""
    return coefficient(k, t, log_x) * log_x


def root(z: Rows, power: float) -> Rows:
    """(z)+^power for power < 1, started at z = eps^2, below which it is 0: the slope at 0 would be infinite."""
    xp = array_namespace(z)
    floor = float(xp.finfo(z.dtype).eps) ** 2
    above = z > floor
    return xp.where(above, xp.where(above, z, xp.ones_like(z)) ** power - floor**power, xp.zeros_like(z))


def log_unit(z: Rows) -> Rows:
    """log((z)+ + 1e-3)."""
    return array_namespace(z).log(ops.relu(z) + 1e-3)


# The six unit functions of the learned map, in the order of the first axis of v, w, b, q.
UNITS: tuple[Callable[[Any], Any], ...] = (
    lambda z: z**3,
    lambda z: ops.relu(z) ** 2,
    lambda z: root(z, 1 / 2),
    lambda z: root(z, 1 / 3),
    log_unit,
    ops.safe_exp,
)


def unit_sum(log_x: Rows, t: Time, *, v: Any, w: Any, b: Any, q: Any = None) -> Rows:
    """sum_j v_j f_j(w_j x + b_j + q_j t); v, w, b, q [6, n], v, w, b rectified at use (raw values may be < 0)."""
    xp = array_namespace(log_x)
    v, w, b = (ops.relu(ops.like(p, log_x)) for p in (v, w, b))
    shift = b if q is None else b + ops.like(q, log_x) * t
    z = w * ops.safe_exp(log_x)[..., None, None] + shift
    total = xp.zeros_like(log_x)
    for j, unit in enumerate(UNITS):
        total = total + xp.sum(v[j] * unit(z[..., j, :]), axis=-1)
    return total


def learned(
    log_x: Rows,
    t: Time,
    *,
    units: Mapping[str, Any] | None = None,
    a: Coefficient = 0.0,
    c: Coefficient = 1.0,
    d: Coefficient = 0.0,
) -> Rows:
    """units(x) + a x + c log x - d log(1 - x), increasing for a, c, d >= 0.

    c alone is the negative entropy, a alone Euclidean, c = d ORPO's log-odds. Serves as phi_inv and as psi.
    """
    a, c, d = (coefficient(value, t, log_x) for value in (a, c, d))
    log_x = ops.below_one(log_x)  # one clip for all terms: c = d is then the log-odds to the last digit
    out = a * ops.safe_exp(log_x) + c * log_x - d * ops.log1mexp(log_x)
    return out if units is None else out + unit_sum(log_x, t, **units)


def learned_g(u: Rows, *, beta: Scalar = 1.0, k0: Scalar = 1.0, k1: Scalar = 0.0, k2: Scalar = 0.0) -> Rows:
    """k0 log sigmoid(v) + k1 v + k2 (1 - e^-v), v = beta u, k >= 0; it need not saturate."""
    v = beta * u
    return k0 * ops.logsigmoid(v) + k1 * v + k2 * (1.0 - ops.safe_exp(-v))


MAPS: dict[str, Callable[..., Any]] = {
    "negative_entropy": negative_entropy,
    "euclidean": euclidean,
    "tsallis": tsallis,
    "log_odds": odds,
    "power": power,
    "learned": learned,
}
PSIS: dict[str, Callable[..., Any]] = {"none": no_psi, "log": log_psi, "learned": learned}
SHAPES: dict[str, Callable[..., Any]] = {
    "logistic": shapes.logistic,
    "robust": shapes.robust,
    "square": shapes.square,
    "hinge": shapes.hinge,
    "discopop": shapes.discopop,
    "learned": learned_g,
}
TABLES = {"phi_inv": MAPS, "psi": PSIS, "g": SHAPES}


def split(part: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a part."""
    if isinstance(part, str):
        return part, {}
    return str(part.get("name")), {key: value for key, value in part.items() if key != "name"}


def apply(table: Mapping[str, Callable[..., Any]], part: Part, *arguments: Any) -> Any:
    """The part evaluated: its own function, or the table's with the part's parameters."""
    if callable(part):
        return part(*arguments)
    name, parameters = split(part)
    return table[name](*arguments, **parameters)


def mirror(
    chosen: Rows,
    rejected: Rows,
    ref_chosen: Rows | None = None,
    ref_rejected: Rows | None = None,
    progress: Scalar | None = None,
    *,
    phi_inv: Part = "negative_entropy",
    psi: Part = "none",
    g: Part = "logistic",
    lam: Coefficient = 1.0,
    reference: bool = True,
) -> Rows:
    """-(psi(x_w) + lam g(u)) [B]; u without the bracket where `reference` is false (2411.06568).

    progress: t [] in [0, 1], wanted only where a parameter depends on it. beta stands inside g.
    """
    t = 0.0 if progress is None else progress
    u = apply(MAPS, phi_inv, chosen, t) - apply(MAPS, phi_inv, rejected, t)
    if reference:
        u = u - (apply(MAPS, phi_inv, ref_chosen, t) - apply(MAPS, phi_inv, ref_rejected, t))
    value = apply(PSIS, psi, chosen, t)
    return -(value + coefficient(lam, t, chosen) * (g(u) if callable(g) else apply(SHAPES, g, u)))


def is_temporal(hyper: Mapping[str, Any]) -> bool:
    """Whether any parameter depends on t."""
    if is_pair(hyper["lam"]):
        return True
    for name in ("phi_inv", "psi"):
        part = hyper[name]
        if isinstance(part, Mapping):
            units = part.get("units") or {}
            if units.get("q") is not None or any(is_pair(part.get(key)) for key in ("a", "c", "d", "k")):
                return True
    return False


def needs_of(hyper: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs that these hyperparameters want."""
    reference = ("ref_chosen", "ref_rejected") if hyper["reference"] else ()
    return ("chosen", "rejected", *reference, *(("progress",) if is_temporal(hyper) else ()))


def check(hyper: Mapping[str, Any], x: str) -> None:
    """Raises PrefoptError for an unknown part or parameter, a bad number, or a learned map of summed log-probs."""
    for slot, table in TABLES.items():
        part = hyper[slot]
        if callable(part):
            continue
        name, parameters = split(part) if isinstance(part, (str, Mapping)) else (repr(part), {})
        if name not in table:
            raise PrefoptError(f"loss 'mirror': unknown {slot} {name!r}; {nearest(name, table)}")
        known = [
            p.name for p in inspect.signature(table[name]).parameters.values() if p.kind is p.KEYWORD_ONLY
        ]
        for key, value in parameters.items():
            where = f"loss 'mirror': {slot} {name!r}"
            if key not in known:
                raise PrefoptError(
                    f"{where} has no parameter {key!r}; {nearest(key, known) if known else 'it has none'}"
                )
            if key == "units":
                check_units(value, where)
            else:
                check_coefficient(key, value, where)
        if name == "learned" and slot != "g" and x != "mean":
            raise PrefoptError("loss 'mirror': a learned map takes log-probs per token; set `x: mean`")
    check_coefficient("lam", hyper["lam"], "loss 'mirror'")


def check_coefficient(key: str, value: Any, where: str) -> None:
    """Raises PrefoptError unless a finite number >= 0 (alpha may be below 0), or a pair of finite numbers."""
    if hasattr(value, "dtype"):  # stacked or traced: the search checks its own
        return
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    fine = all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
    if not fine or (isinstance(value, (list, tuple)) and len(value) != 2):
        raise PrefoptError(f"{where}: {key} = {value!r} must be a finite number or a pair [p0, p1]")
    if not isinstance(value, (list, tuple)):
        positive = key in ("beta", "q", "tau")
        if (value < 0 and key != "alpha") or (positive and value == 0):
            raise PrefoptError(f"{where}: {key} = {value!r} must be {'above' if positive else 'at least'} 0")
    elif key not in ("a", "c", "d", "k", "lam"):
        raise PrefoptError(f"{where}: {key} may not depend on time; give one number")


def check_units(units: Any, where: str) -> None:
    """Raises PrefoptError unless v, w, b (and q) are [6, n] tables of finite numbers."""
    if units is None:
        return
    if not isinstance(units, Mapping) or not {"v", "w", "b"} <= set(units) <= {"v", "w", "b", "q"}:
        raise PrefoptError(f"{where}: units must hold v, w, b and, for temporal awareness, q")
    shapes_seen = set()
    for key, value in units.items():
        if hasattr(value, "dtype"):
            shapes_seen.add(tuple(value.shape)[-2:])
            continue
        rows = value if isinstance(value, list) and all(isinstance(row, list) for row in value) else [[None]]
        numbers = [n for row in rows for n in row]
        if (
            not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)
            or len({len(r) for r in rows}) != 1
        ):
            raise PrefoptError(
                f"{where}: units.{key} must be {len(UNITS)} rows of equally many finite numbers"
            )
        shapes_seen.add((len(rows), len(rows[0])))
    if len(shapes_seen) != 1 or next(iter(shapes_seen))[0] != len(UNITS):
        raise PrefoptError(f"{where}: v, w, b, q must all be [{len(UNITS)}, n], not {sorted(shapes_seen)}")


ROW = Loss(
    mirror,
    name="mirror",
    paper="2411.06568",
    formula="-(psi(x_w) + lam g(phi_inv(x_w) - phi_inv(x_l) - [phi_inv(ref_w) - phi_inv(ref_l)]))",
    x="mean",
    x_free=True,
    ranges={"lam": Range(0, math.inf, open_high=True, pair=True)},
    needs_of=needs_of,
    check=check,
    valid=Valid(
        -1e6, 0.0, "tsallis q < 1 and power are clipped as x -> 0, log_odds and learned at x = 1 - eps"
    ),
    raises_chosen="monotone for increasing phi_inv, psi and g; g square and discopop as ipo and discopop",
)
