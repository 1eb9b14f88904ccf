"""Label noise and near-equal pairs from reference gaps alone: a mixture of three components, fitted by EM. Pure numpy.

A gap is log ref(chosen) - log ref(rejected). Turning a pair round negates its gap. So where pairs of clear quality have gaps
around +m, those of them whose label is wrong lie around -m with the same spread, and pairs of near-equal quality around 0:

    (1 - q) [(1 - p) f((g - m) / s) + p f((g + m) / s)] / s + q f(g / t) / t

p, the label noise, is at most one half by its meaning, so the sign of m is the larger side's: a reference that prefers the
worse answers gives m < 0. f is the normal density or Student's t with 4 degrees of freedom, whichever is likelier. p and q
can be told only where the sides stand apart; `separation` is |m| / s, and below about 1 the three components are one hill.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINS = 128
REACH = 6.0  # bins reach to this many root mean squares of the middle 98%, what lies beyond counts at the end
DEGREES = (None, 4.0)  # of freedom of f; None: normal
STEPS = 200  # of EM for the estimate
STEPS_AGAIN = 50  # of EM for a redrawn sample, from the estimate's own starts
STARTS = (
    (1.5, 0.5, 0.1, 0.05),
    (1.0, 0.7, 0.3, 0.4),
    (0.6, 0.9, 0.1, 0.1),
    (1.2, 0.5, 0.05, 0.6),
)  # m, s, p, q
ONE_HILL = np.array([[0.0, 1.0, 1.0, 0.5, 0.0]])  # EM keeps m = 0 where p is one half
CHI2_HILL = 9.488  # 95% of four degrees of freedom: m, t, p and q that one hill does without
LEAST = 1e-3  # spreads are at least this much of the gaps' scale
NOISE, EQUAL = 3, 4  # columns of a fit: m, s, t, p, q
GRID = 41  # values of a share in its profile
CHI2_95 = 3.841  # of one degree of freedom
NO_SHARE = 0.01  # a bound below this is 0: EM nears an empty component and never arrives


@dataclass(frozen=True)
class Mixture:
    """noise p, equal q, as {"value", "low", "high"} (95%, bootstrap by prompt); centre m, spread s, middle_spread t in nats.

    separation: |m| / s. one_hill: a single hill around 0 fits as well, so nothing can be told. misfit: the greatest distance
    between fitted and seen distribution function, times sqrt(n).
    """

    noise: dict[str, float]
    equal: dict[str, float]
    centre: float
    spread: float
    middle_spread: float
    separation: float
    one_hill: bool
    misfit: float
    degrees: float | None
    n: int


def fit_gaps(
    gaps: Sequence[float] | Array,
    groups: Sequence[Hashable] | None = None,
    *,
    draws: int = 200,
    seed: int = 0,
) -> Mixture:
    """The mixture of these gaps [N]; groups: the prompt of each (default: each its own), drawn together in the bootstrap.

    Raises:
        ValueError: fewer than 3 gaps, lengths differ, a gap that is no number, or gaps that are all the same.
    """
    x = np.asarray(gaps, dtype=np.float64)
    if len(x) < 3 or not np.isfinite(x).all() or not np.ptp(x):
        raise ValueError("a mixture needs at least 3 gaps, finite and not all the same")
    if groups is not None and len(groups) != len(x):
        raise ValueError(f"one group per gap, got {len(groups)} and {len(x)}")
    middle = x[(x >= np.quantile(x, 0.01)) & (x <= np.quantile(x, 0.99))]
    scale = float(np.sqrt(np.mean(middle**2))) or float(np.abs(x).max())
    edges = np.linspace(-REACH, REACH, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    place = np.clip(np.digitize(x / scale, edges) - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS).astype(np.float64)[None]
    sign = 1.0 if np.median(x) >= 0 else -1.0
    starts = np.array([[side * sign * m, s, s / 2, p, q] for m, s, p, q in STARTS for side in (1, -1)])
    fits = []
    for degrees in DEGREES:
        found, value = _em(starts, np.repeat(counts, len(starts), axis=0), centres, degrees, STEPS)
        order = np.argsort(-value, kind="stable")
        fits.append((float(value[order[0]]), found[order], degrees))
    best_value, found, degrees = max(fits, key=lambda fit: fit[0])
    best = _upright(found[:1])[0]
    redrawn = _redrawn(place, groups, draws, np.random.default_rng([seed, 977]))
    ends = np.stack([found[0], _next(found)])
    again = _again(ends, redrawn, centres, degrees)
    ends = _upright(ends)
    hills = [float(_em(ONE_HILL, counts, centres, each, STEPS_AGAIN)[1][0]) for each in DEGREES]
    one_hill = 2 * len(x) * (best_value - max(hills)) <= CHI2_HILL
    m, s, t, p, q = best
    return Mixture(
        noise=_interval(p, again[:, NOISE], _profile(ends, counts, centres, degrees, NOISE), one_hill, 0.5),
        equal=_interval(q, again[:, EQUAL], _profile(ends, counts, centres, degrees, EQUAL), one_hill, 1.0),
        centre=float(m * scale),
        spread=float(s * scale),
        middle_spread=float(t * scale),
        separation=float(abs(m) / s),
        one_hill=one_hill,
        misfit=_misfit(best, counts[0], centres, degrees),
        degrees=degrees,
        n=len(x),
    )


def _parts(found: Array, centres: Array, degrees: float | None) -> Array:
    """Weighted densities [R, 3, BINS] of right, wrong and near-equal pairs for parameters [R, 5]."""
    m, s, t, p, q = (found[:, k, None, None] for k in range(5))
    middle = np.concatenate([m, -m, np.zeros_like(m)], axis=1)
    spread = np.concatenate([s, s, t], axis=1)
    share = np.concatenate([(1 - q) * (1 - p), (1 - q) * p, q], axis=1)
    z2 = ((centres - middle) / spread) ** 2
    if degrees is None:
        shape = np.exp(-0.5 * z2) / np.sqrt(2 * np.pi)
    else:
        shape = 0.375 * (1 + z2 / degrees) ** (-(degrees + 1) / 2)  # 4 degrees of freedom
    return np.asarray(share * shape / spread)


def _em(
    found: Array, counts: Array, centres: Array, degrees: float | None, steps: int, held: int | None = None
) -> tuple[Array, Array]:
    """EM from R starts [R, 5] on R histograms [R, BINS]: parameters and mean log-likelihoods [R].

    held: the column of `found` that stays as it is.
    """
    total = counts.sum(axis=1)
    fixed = None if held is None else found[:, held]
    for _ in range(steps):
        parts = _parts(found, centres, degrees)
        weight = counts[:, None] * parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
        mass = np.maximum(weight.sum(axis=2), 1e-9)
        pull = weight
        if degrees is not None:
            middle = np.stack([found[:, 0], -found[:, 0], 0 * found[:, 0]], axis=1)[:, :, None]
            spread = np.stack([found[:, 1], found[:, 1], found[:, 2]], axis=1)[:, :, None]
            pull = weight * (degrees + 1) / (degrees + ((centres - middle) / spread) ** 2)
        sides = np.maximum(pull[:, 0].sum(axis=1) + pull[:, 1].sum(axis=1), 1e-9)
        m = ((pull[:, 0] - pull[:, 1]) @ centres) / sides
        right, wrong = (
            (pull[:, k] * (centres - side * m[:, None]) ** 2).sum(axis=1) for k, side in ((0, 1), (1, -1))
        )
        s = np.sqrt((right + wrong) / (mass[:, 0] + mass[:, 1]))
        t = np.sqrt((pull[:, 2] * centres**2).sum(axis=1) / mass[:, 2])
        p, q = mass[:, 1] / (mass[:, 0] + mass[:, 1]), mass[:, 2] / total
        found = np.stack([m, np.maximum(s, LEAST), np.clip(t, LEAST, np.maximum(s, LEAST)), p, q], axis=1)
        if held is not None:
            found[:, held] = fixed
    likelihood = np.log(np.maximum(_parts(found, centres, degrees).sum(axis=1), 1e-300))
    return found, (counts * likelihood).sum(axis=1) / total


def _upright(found: Array) -> Array:
    """The same mixtures with p at most one half."""
    out = found.copy()
    turned = out[:, 3] > 0.5
    out[turned, 0] *= -1
    out[turned, 3] = 1 - out[turned, 3]
    return out


def _next(found: Array) -> Array:
    """Of fits in order of likelihood the next one that says something else than the first."""
    return next((row for row in found[1:] if np.abs(row[NOISE:] - found[0, NOISE:]).max() > 0.02), found[-1])


def _again(found: Array, redrawn: Array, centres: Array, degrees: float | None) -> Array:
    """Estimates [draws, 5] on redrawn histograms, for each the likelier of the ends that these fits lead to."""
    draws = len(redrawn)
    ends, values = zip(
        *(_em(np.repeat(row[None], draws, axis=0), redrawn, centres, degrees, STEPS_AGAIN) for row in found),
        strict=True,
    )
    better = np.argmax(np.stack(values), axis=0)
    return _upright(np.stack(ends)[better, np.arange(draws)])


def _profile(found: Array, counts: Array, centres: Array, degrees: float | None, column: int) -> Array:
    """Values of a share that a likelihood ratio test at 5% does not refuse, each the best fit that has it.

    Near a share of 0 redrawn samples alone say too little: EM finds some pairs for every component.
    """
    values = np.linspace(0.0, 1.0 if column == EQUAL else 0.5, GRID)
    starts = np.concatenate([np.repeat(row[None], GRID, axis=0) for row in found])
    starts[:, column] = np.tile(values, len(found))
    several = np.repeat(counts, len(starts), axis=0)
    _, likely = _em(starts, several, centres, degrees, STEPS_AGAIN, held=column)
    best = likely.reshape(len(found), GRID).max(axis=0)
    return np.asarray(values[2 * counts.sum() * (best.max() - best) <= CHI2_95])


def _redrawn(
    place: NDArray[np.int64], groups: Sequence[Hashable] | None, draws: int, rng: np.random.Generator
) -> Array:
    """Histograms [draws, BINS] of samples of whole prompts, drawn with replacement."""
    numbers: dict[Hashable, int] = {}
    names = range(len(place)) if groups is None else groups
    group = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    out = np.zeros((draws, BINS))
    for row in out:
        taken = np.bincount(rng.integers(len(numbers), size=len(numbers)), minlength=len(numbers))
        row += np.bincount(place, weights=taken[group].astype(np.float64), minlength=BINS)
    return out


def _interval(value: float, draws: Array, likely: Array, one_hill: bool, most: float) -> dict[str, float]:
    """What redrawn samples and the likelihood leave open, taken together; all of it where one hill fits as well."""
    if one_hill:
        return {"value": float(value), "low": 0.0, "high": most}
    low, high = (float(edge) for edge in np.quantile(draws, (0.025, 0.975)))
    low, high = min(low, *likely), max(high, *likely)
    low = 0.0 if low < NO_SHARE else low
    return {
        "value": float(value),
        "low": float(min(low, value)),
        "high": float(max(high, value)),
    }


def _misfit(found: Array, counts: Array, centres: Array, degrees: float | None) -> float:
    """Kolmogorov's distance times sqrt(n), at the edges of the bins."""
    density = _parts(found[None], centres, degrees)[0].sum(axis=0)
    fitted = np.cumsum(density) / max(density.sum(), 1e-300)
    seen = np.cumsum(counts) / counts.sum()
    return float(np.abs(fitted - seen).max() * np.sqrt(counts.sum()))
