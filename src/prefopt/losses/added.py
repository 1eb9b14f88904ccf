"""Losses of the user's: registered under a name or made from a function on the spot, held against what ours are held against.

    @prefopt.register_loss("my_dpo")
    def my_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1):
        return -logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected))

A function in the form of `prefopt.losses.pairwise`: positional names say what it reads (`POSITIONAL`), keyword-only ones
are hyperparameters with defaults, arrays [B] in nats -> [B]. Written over the array API it also runs on numpy and jax.
Neither torch nor jax is imported before a loss is checked.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import failure, origin_of
from prefopt.losses.loss import POSITIONAL, Loss, Range, Valid
from prefopt.losses.table import add_loss

Function = TypeVar("Function", bound=Callable[..., Any])
Inputs = dict[str, np.ndarray]

ROWS, SEED = 6, 20
STEP = 1e-5  # central differences in float64
TOLERANCE = (
    1e-5  # of slopes, absolute and relative; STEP^2 of the third derivative and rounding are far below
)
AGREE = 1e-9  # torch against numpy in float64
FREE = ("chosen", "rejected", "completion")  # what the model's weights move
KINDS = ("pairwise", "unpaired", "regularizer")


def register_loss(
    name: str | None = None,
    *,
    kind: str | None = None,
    x: str = "sum",
    couples: str = "none",
    formula: str = "",
    paper: str = "",
    **about: Any,
) -> Callable[[Function], Function]:
    """Decorator: the function is a loss of recipes under `name` (its own name where none is given), once it has passed `check_loss`.

    kind: pairwise, unpaired or regularizer; None: by what it reads. x: "sum", or "mean" where log-probs are to arrive
    per token. couples: "step" where a row's value depends on other rows. about: valid=(low, high), the log-probs in nats
    at which value and slope must be finite (default (-1e6, 0)); ranges={name: (low, high)} of hyperparameters;
    weightable=False where rows of the result are not those of the input; stops_gradient=True where slopes are
    held back on purpose.

    Raises:
        PrefoptError: one line with file and line, where the function is no loss or fails a check.
    """

    def register(fn: Function) -> Function:
        add_loss(loss_of(fn, name, kind=kind, x=x, couples=couples, formula=formula, paper=paper, **about))
        return fn

    return register


def loss_of(fn: Callable[..., Any], name: str | None = None, **about: Any) -> Loss:
    """A checked `Loss` of a function; `about` as in `register_loss`.

    Raises:
        PrefoptError: one line with file and line, where the function is no loss or fails a check.
    """
    origin = origin_of(fn)
    called = str(name or getattr(fn, "__name__", type(fn).__name__))
    where = f"{origin}: loss {called!r}"
    stops_gradient = bool(about.pop("stops_gradient", False))
    loss = _row(fn, called, where, about)
    try:
        check_loss(loss, where, stops_gradient=stops_gradient)
    except PrefoptError:
        raise
    except Exception as error:
        raise failure(f"loss {called!r}", error, origin) from error
    return loss


def _row(fn: Callable[..., Any], name: str, where: str, about: dict[str, Any]) -> Loss:
    reads = _check_signature(fn, where)
    kind = about.pop("kind", None) or ("unpaired" if "completion" in reads else "pairwise")
    low, high = about.pop("valid", (-1e6, 0.0))
    ranges = {key: Range(*bounds) for key, bounds in about.pop("ranges", {}).items()}
    for key, allowed in (("x", ("sum", "mean")), ("couples", ("none", "step"))):
        if about.get(key, allowed[0]) not in allowed:
            raise PrefoptError(f"{where}: {key} = {about[key]!r}; it is {' or '.join(allowed)}")
    if kind not in KINDS:
        raise PrefoptError(f"{where}: kind = {kind!r}, {nearest(str(kind), KINDS)}")
    known = ("x", "couples", "formula", "paper", "weightable")
    for key in about:
        if key not in known:
            more = (*known, "kind", "valid", "ranges", "stops_gradient")
            raise PrefoptError(f"{where}: register_loss has no argument {key!r}; {nearest(key, more)}")
    about["formula"] = about.get("formula") or (inspect.getdoc(fn) or "").partition("\n")[0]
    about.setdefault("paper", "")
    return Loss(
        fn, name, kind=kind, valid=Valid(low, high), ranges=ranges, raises_chosen="not declared", **about
    )


def _check_signature(fn: Callable[..., Any], where: str) -> list[str]:
    """Names that the function reads."""
    if not callable(fn):
        raise PrefoptError(f"{where}: is no function; decorate one that takes arrays [B] and returns [B]")
    reads = []
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is inspect.Parameter.empty:
                raise PrefoptError(f"{where}: hyperparameter {parameter.name!r} has no default; give it one")
        elif parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise PrefoptError(f"{where}: write out what it reads in place of {parameter}")
        elif parameter.name not in POSITIONAL:
            raise PrefoptError(
                f"{where}: reads {parameter.name!r}, which no loss is given, {nearest(parameter.name, POSITIONAL)} "
                "(a hyperparameter stands behind a '*')"
            )
        else:
            reads.append(parameter.name)
    if not set(reads) & set(FREE):
        raise PrefoptError(
            f"{where}: reads no log-prob of the model ({', '.join(FREE)}), so that nothing is trained"
        )
    if "completion" in reads and {"chosen", "rejected"} & set(reads):
        raise PrefoptError(f"{where}: reads both pairs and single completions; take one of them")
    return reads


# ---- checks


def check_loss(loss: Loss, where: str, *, stops_gradient: bool = False) -> None:
    """Hold a loss against what ours are held against; `where` stands in the error.

    One value per row [B]; value and slope finite over its range of log-probs; slopes equal to central differences
    (unless stops_gradient); rows that do not depend on each other (unless it couples them); the same values from numpy
    and from the framework that trains, where the function runs on both.

    Raises:
        PrefoptError: names the check, with numbers.
    """
    slopes_of = _framework()
    inputs = _inputs(loss)
    value, slopes = slopes_of(loss, inputs)
    if value.shape != (ROWS,):
        raise PrefoptError(
            f"{where}: gives shape {list(value.shape)} for {ROWS} rows; return one value per row, [B]"
        )
    _check_range(loss, where, slopes_of)
    if loss.couples == "none":
        _check_rows(loss, where, inputs, value, slopes_of)
    if not stops_gradient:
        _check_slopes(loss, where, inputs, slopes, slopes_of)
    _check_numpy(loss, where, inputs, value)


def _inputs(loss: Loss, low: float = -40.0, high: float = -1.0) -> Inputs:
    """Rows as the function receives them, float64: log-probs between low and high (nats), counts, labels, rates."""
    random = np.random.default_rng(SEED)
    made: Inputs = {}
    for name in loss.needs:
        if name in ("tokens", "chosen_tokens", "rejected_tokens"):
            made[name] = random.integers(1, 30, ROWS).astype(np.float64)
        elif name == "label":
            made[name] = np.arange(ROWS) % 2 == 0
        elif name in ("kl", "progress"):
            made[name] = np.asarray(0.3)
        elif name == "wpo_weight":
            made[name] = random.uniform(0.1, 1.0, ROWS)
        else:
            made[name] = random.uniform(low, high, ROWS) / (10.0 if loss.x == "mean" else 1.0)
    return made


Slopes = Callable[[Loss, Inputs], tuple[np.ndarray, Inputs]]


def _framework() -> Slopes:
    """Value [B] and slopes of its sum: by torch, or by jax where that alone is loaded (the suite never loads torch)."""
    return _by_jax if "jax" in sys.modules and "torch" not in sys.modules else _by_torch


def _by_torch(loss: Loss, inputs: Inputs) -> tuple[np.ndarray, Inputs]:
    torch = importlib.import_module("torch")
    tensors = {name: torch.tensor(value) for name, value in inputs.items()}
    free = [name for name in FREE if name in tensors]
    for name in free:
        tensors[name].requires_grad_(True)
    value = loss(*tensors.values())
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"gives a {type(value).__name__}, not an array [B] like its inputs")
    if not value.requires_grad:
        raise TypeError(
            "its value does not depend on the model's log-probs by torch operations: nothing is trained"
        )
    found = torch.autograd.grad(value.sum(), [tensors[name] for name in free], allow_unused=True)
    slopes = {
        name: np.zeros_like(inputs[name]) if slope is None else slope.numpy()
        for name, slope in zip(free, found, strict=True)
    }
    return value.detach().numpy(), slopes


def _by_jax(loss: Loss, inputs: Inputs) -> tuple[np.ndarray, Inputs]:
    jax = importlib.import_module("jax")
    free = {name: inputs[name] for name in FREE if name in inputs}
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        arrays = {name: jax.numpy.asarray(value) for name, value in inputs.items()}
        value = loss(*arrays.values())
        slopes = jax.grad(lambda moved: loss(*{**arrays, **moved}.values()).sum())(
            {name: arrays[name] for name in free}
        )
        return np.asarray(value), {name: np.asarray(slope) for name, slope in slopes.items()}


def _check_range(loss: Loss, where: str, slopes_of: Slopes) -> None:
    """Value and slope at the ends of the declared range, in every combination of two answers."""
    low, high = loss.valid.low, loss.valid.high
    inputs = _inputs(loss)
    corners = np.array([low, low, high, high, -1.0, (low + high) / 2])
    for turn, name in enumerate(name for name in inputs if _is_logp(name)):
        inputs[name] = np.roll(corners, turn)
    with np.errstate(all="ignore"):
        value, slopes = slopes_of(loss, inputs)
    for what, found in {
        "value": value,
        **{f"slope in {name}": slope for name, slope in slopes.items()},
    }.items():
        if not np.all(np.isfinite(found)):
            row = int(np.argmin(np.isfinite(found)))
            at = ", ".join(f"{name} {inputs[name][row]:g}" for name in inputs if _is_logp(name))
            raise PrefoptError(
                f"{where}: {what} is {found[row]} at {at} nats; clip it, or declare where it holds: valid=(low, high)"
            )


def _is_logp(name: str) -> bool:
    return name.removeprefix("ref_").removesuffix("_prefix") in FREE


def _check_slopes(loss: Loss, where: str, inputs: Inputs, slopes: Inputs, slopes_of: Slopes) -> None:
    """Autograd's slopes of the sum over rows against central differences, row by row (of the sum where rows are coupled)."""
    for name, slope in slopes.items():
        for row in range(ROWS):
            step = np.zeros(ROWS)
            step[row] = STEP
            above, _ = slopes_of(loss, {**inputs, name: inputs[name] + step})
            below, _ = slopes_of(loss, {**inputs, name: inputs[name] - step})
            moved = slice(row, row + 1) if loss.couples == "none" else slice(None)
            measured = float((above[moved].sum() - below[moved].sum()) / (2 * STEP))
            rounding = 8 * np.finfo(np.float64).eps * float(np.abs(above[moved]).sum()) / STEP
            if abs(measured - slope[row]) > TOLERANCE * max(1.0, abs(measured)) + rounding:
                raise PrefoptError(
                    f"{where}: slope in {name} is {slope[row]:.6g}, finite differences say {measured:.6g}; where a "
                    "slope is held back on purpose, say stops_gradient=True"
                )


def _check_rows(loss: Loss, where: str, inputs: Inputs, value: np.ndarray, slopes_of: Slopes) -> None:
    """A row's value is its own: micro-batches and packed rows change nothing."""
    half = ROWS // 2
    part, _ = slopes_of(loss, {name: v[:half] if v.ndim else v for name, v in inputs.items()})
    if part.shape != (half,) or not np.allclose(part, value[:half], rtol=1e-9, atol=1e-12):
        raise PrefoptError(
            f"{where}: a row's value depends on other rows, so that it would change with the micro-batch; say couples='step'"
        )


def _check_numpy(loss: Loss, where: str, inputs: Mapping[str, np.ndarray], value: np.ndarray) -> None:
    """The same from numpy; a function written with torch alone runs with torch alone."""
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(loss(*inputs.values()), dtype=np.float64)
    except Exception:  # another framework's function on numpy arrays may raise anything
        return
    if found.shape != value.shape or not np.allclose(found, value, rtol=AGREE, atol=AGREE):
        raise PrefoptError(
            f"{where}: numpy gives {found.ravel()[:3]}, the framework that trains {value[:3]}; they must agree"
        )
