"""`Loss`: one row of the table, and the check of hyperparameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.losses.links import LINKS

# Canonical order of everything a loss may ask for. Log-probs and *_prefix are sums over response tokens, nats;
# *_tokens are counts as floats; kl and progress are [] arrays, all others [B].
POSITIONAL = (
    *("chosen", "rejected", "ref_chosen", "ref_rejected", "chosen_tokens", "rejected_tokens"),
    *("chosen_prefix", "rejected_prefix", "ref_chosen_prefix", "ref_rejected_prefix"),  # LD-DPO
    *("completion", "ref_completion", "label", "tokens", "kl"),
    *("wpo_weight", "progress"),
)


@dataclass(frozen=True)
class Valid:
    """Log-probs (as the function receives them, nats) at which value and slope are exact and finite."""

    low: float = -1e6
    high: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Range:
    """What a hyperparameter may be: a number between bounds, or one of some words."""

    low: float | int = -math.inf
    high: float | int = math.inf
    open_low: bool = False
    open_high: bool = False
    words: tuple[str, ...] = ()
    not_zero: bool = False
    pair: bool = False  # also [p0, p1], checked by the loss itself

    def allows(self, value: Any) -> bool:
        """Whether the value may be used. Arrays (traced or stacked hyperparameters) pass unseen."""
        if self.words:
            return isinstance(value, str) and value in self.words
        if hasattr(value, "dtype"):
            return True
        if isinstance(value, (list, tuple)):
            return self.pair
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        low = value > self.low if self.open_low else value >= self.low
        high = value < self.high if self.open_high else value <= self.high
        return low and high and not (self.not_zero and value == 0)

    def __str__(self) -> str:
        if self.words:
            return "one of " + ", ".join(self.words)
        text = f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"
        return text + (" without 0" if self.not_zero else "")


POSITIVE = Range(0, math.inf, open_low=True, open_high=True)
NOT_NEGATIVE = Range(0, math.inf, open_high=True)
RANGES: dict[str, Range] = {
    "beta": POSITIVE,
    "tau": Range(0, 1, open_low=True, open_high=True),
    "gamma": NOT_NEGATIVE,
    "lam": NOT_NEGATIVE,
    "k": NOT_NEGATIVE,
    "delta": Range(0, math.inf),
    "alpha": NOT_NEGATIVE,
    "label_smoothing": Range(0, 0.5),
    "desirable_weight": NOT_NEGATIVE,
    "undesirable_weight": NOT_NEGATIVE,
    "reduction": Range(words=("mean", "sum")),
    "unit": Range(words=("token", "response")),
    "focus": Range(words=("correct", "hard")),
}


def check_link(link: Any, where: str) -> None:
    """Raises PrefoptError unless `link` is a name of LINKS or {name: alpha, alpha: number}."""
    name = link.get("name") if isinstance(link, Mapping) else link
    if name not in LINKS:
        raise PrefoptError(f"{where}: unknown link {name!r}; {nearest(str(name), LINKS)}")
    extra = dict(link) if isinstance(link, Mapping) else {}
    extra.pop("name", None)
    known = {"alpha"} if name == "alpha" else set()
    for key, value in extra.items():
        if key not in known:
            raise PrefoptError(
                f"{where}: link {name!r} has no parameter {key!r}; only alpha has one, `alpha`"
            )
        if isinstance(value, (str, bool)) or not math.isfinite(value):
            raise PrefoptError(f"{where}: link alpha needs a finite number, not {value!r}")


def keyword_defaults(fn: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters of a loss function with their defaults."""
    kinds = inspect.signature(fn).parameters.values()
    return {p.name: p.default for p in kinds if p.kind is inspect.Parameter.KEYWORD_ONLY}


@dataclass(frozen=True)
class Loss:
    """A loss function with what a caller must know of it. Callable like the function, hyperparameters checked.

    x: whether log-probs arrive summed or divided by token counts. couples: "step" needs all rows of an optimizer
    step. raises_chosen: "monotone" (raising the chosen answer never raises the loss) or the exception.
    of_margin: a function of h alone. slope: largest |d loss / d r_w|, for the default scale of a budget.
    weightable: rows of the result belong to rows of the input. check: a further test of hyperparameters and x.
    """

    fn: Callable[..., Any]
    name: str
    paper: str
    formula: str
    x: str = "sum"
    couples: str = "none"
    kind: str = "pairwise"
    defaults: Mapping[str, Any] = field(default_factory=dict)  # completed from the function's own
    valid: Valid = Valid()
    raises_chosen: str = "monotone"
    of_margin: bool = False
    slope: Callable[[Mapping[str, Any]], float] | None = None
    weightable: bool = True
    ranges: Mapping[str, Range] = field(default_factory=dict)
    x_free: bool = False
    needs_of: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None
    check: Callable[[Mapping[str, Any], str], None] | None = None

    def __post_init__(self) -> None:
        merged = MappingProxyType({**keyword_defaults(self.fn), **self.defaults})
        object.__setattr__(self, "defaults", merged)

    @property
    def needs(self) -> tuple[str, ...]:
        """The positional names, in order."""
        kinds = inspect.signature(self.fn).parameters.values()
        return tuple(p.name for p in kinds if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)

    @property
    def needs_reference(self) -> bool:
        """Whether any input comes from the reference model."""
        return any(name.startswith("ref_") for name in self.needs)

    def bind(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults overridden by `hyper`. Raises PrefoptError for an unknown name or a value out of range."""
        for name, value in hyper.items():
            if name not in self.defaults:
                hint = nearest(name, self.defaults) if self.defaults else "it has none"
                raise PrefoptError(f"loss {self.name!r} has no hyperparameter {name!r}; {hint}")
            self._check_value(name, value)
        full = {**self.defaults, **hyper}
        if self.check is not None:
            self.check(full, self.x)
        return full

    def _check_value(self, name: str, value: Any) -> None:
        where = f"loss {self.name!r}"
        if name == "link":
            check_link(value, where)
        elif isinstance(self.defaults[name], bool):
            if not isinstance(value, bool):
                raise PrefoptError(f"{where}: {name} = {value!r} must be true or false")
        else:
            allowed = self.ranges.get(name) or RANGES.get(name)
            if allowed is not None and not allowed.allows(value):
                raise PrefoptError(f"{where}: {name} = {value!r} is outside {allowed}")

    def __call__(self, *arrays: Any, **hyper: Any) -> Any:
        """The loss [B] of arrays in the order of `needs`, hyperparameters by keyword."""
        return self.fn(*arrays, **self.bind(hyper))
