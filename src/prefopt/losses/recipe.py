"""The algebra of a recipe: `[{name: dpo, beta: .1}, {name: budget, delta: .1, scale: .2}]` -> one weighted sum.

Keys of a term besides the loss's own hyperparameters:
scale     factor of the term (default 1; for budget twice the base loss's largest slope). 0 removes the term.
x         sum | mean, for the losses that leave it free (ipo, mirror).
ld_alpha  LD-DPO (2409.06411): every log-prob becomes prefix + ld_alpha (whole - prefix); prefix = the first
          min(chosen, rejected) tokens of the response. Wants the inputs chosen_prefix, rejected_prefix, ref_*_prefix.
wpo       WPO (2406.11827): the term is multiplied by the input wpo_weight [B], no gradient.
inside    budget, dpop_outside: h - scale * penalty inside the base loss in place of an added term.
file      mirror: a learned loss (mirror_file.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import told
from prefopt.losses.added import loss_of
from prefopt.losses.loss import POSITIONAL, Loss
from prefopt.losses.mirror_file import load_mirror
from prefopt.losses.ops import at_least_one, upcast
from prefopt.losses.pairwise import margin
from prefopt.losses.table import LOSSES

TERM_KEYS = ("name", "scale", "x", "ld_alpha", "wpo", "inside", "file")
SHORTHANDS: dict[str, dict[str, Any]] = {
    "ld_dpo": {"name": "dpo", "ld_alpha": 0.5},
    "wpo": {"name": "dpo", "wpo": True},
}
COUNTS = {"chosen": "chosen_tokens", "rejected": "rejected_tokens", "completion": "tokens"}
ANSWERS = ("chosen", "rejected", "ref_chosen", "ref_rejected")


@dataclass(frozen=True)
class Term:
    """One loss of a sum with bound hyperparameters, its scale and what is done to its inputs."""

    loss: Loss
    hyper: Mapping[str, Any]
    scale: float = 1.0
    ld_alpha: float | None = None
    wpo: bool = False
    inside: tuple[Term, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)  # shown in manifests in place of a file's numbers
    given: bool = True  # whether the scale was given, or is our default

    @property
    def arguments(self) -> tuple[str, ...]:
        """The positional names passed to the function."""
        return self.loss.needs_of(self.hyper) if self.loss.needs_of else self.loss.needs

    @property
    def needs(self) -> tuple[str, ...]:
        """Everything the term reads, unordered: arguments, token counts, prefixes, weight, the inner penalties'."""
        names = list(self.arguments)
        if self.loss.x == "mean":
            names += [COUNTS[name] for name in names if name in COUNTS]
        if self.ld_alpha is not None:
            names += [f"{name}_prefix" for name in self.arguments if name in ANSWERS]
        if self.wpo:
            names.append("wpo_weight")
        for term in self.inside:
            names += term.needs
        return tuple(dict.fromkeys(names))

    def values(self, inputs: Mapping[str, Any]) -> Any:
        """The unscaled term [B] from summed log-probs."""
        data = {name: inputs[name] for name in self.arguments}
        if self.ld_alpha is not None:
            for name in ANSWERS:
                if name in data:
                    prefix = inputs[f"{name}_prefix"]
                    data[name] = prefix + self.ld_alpha * (data[name] - prefix)
        hyper = dict(self.hyper)
        if self.inside:
            data, hyper = self._less_penalties(data, inputs)
        if self.loss.x == "mean":
            for name in data:
                count = COUNTS.get(name.removeprefix("ref_"))
                if count is not None:
                    data[name] = data[name] / at_least_one(inputs[count])
        with told("loss", self.loss.name):
            out = self.loss.fn(**data, **hyper)
        return out * inputs["wpo_weight"] if self.wpo else out

    def _less_penalties(
        self, data: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and hyperparameters under which the loss sees h - sum of scale * penalty in place of its margin h.

        h is linear in the chosen log-prob under the reverse KL alone. Under another link h is taken first, and given to
        the loss as a log-ratio of the chosen answer that nothing changes any more.
        """
        penalty: Any = 0.0
        for term in self.inside:
            penalty = penalty + term.scale * term.values(inputs)
        if self.hyper.get("link", "reverse_kl") == "reverse_kl":
            return {**data, "chosen": data["chosen"] - penalty}, dict(self.hyper)
        h = margin(**{name: data[name] for name in ANSWERS}, link=self.hyper["link"])
        none = dict.fromkeys(ANSWERS, h * 0.0)
        return {**data, **none, "chosen": h - penalty}, {**self.hyper, "link": "reverse_kl"}

    def describe(self) -> dict[str, Any]:
        """The term as plain values, for manifests."""
        hyper = dict(self.source) or {key: plain(value) for key, value in self.hyper.items()}
        shown = {"name": self.loss.name, "x": self.loss.x, "hyperparameters": hyper, "scale": self.scale}
        if self.ld_alpha is not None:
            shown["ld_alpha"] = self.ld_alpha
        if self.wpo:
            shown["wpo"] = True
        if self.inside:
            shown["inside"] = [term.describe() for term in self.inside]
        return {**shown, "paper": self.loss.paper}


@dataclass(frozen=True)
class LossSum:
    """A weighted sum of terms: inputs by name -> [B]. The trainer's loss."""

    terms: tuple[Term, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the inputs, in canonical order."""
        wanted = {name for term in self.terms for name in term.needs}
        return tuple(name for name in POSITIONAL if name in wanted)

    @property
    def needs_reference(self) -> bool:
        """Whether any input comes from the reference model."""
        return any(name.startswith("ref_") for name in self.needs)

    @property
    def couples(self) -> str:
        """`step` when a term wants all rows of an optimizer step at once, else `none`."""
        return "step" if any(term.loss.couples == "step" for term in self.terms) else "none"

    @property
    def kind(self) -> str:
        """`unpaired` or `pairwise` (regularizers alone read the chosen side of pairs)."""
        return "unpaired" if any(term.loss.kind == "unpaired" for term in self.terms) else "pairwise"

    @property
    def weightable(self) -> bool:
        """Whether weights of rows can be applied to the result (not for aot: it sorts)."""
        return all(term.loss.weightable for term in self.terms)

    @property
    def beta(self) -> float:
        """beta of the first term that has one, for the reward metric; else 1."""
        for term in self.terms:
            g = term.hyper.get("g")
            found = term.hyper.get("beta", g.get("beta") if isinstance(g, Mapping) else None)
            if found is not None:
                return float(found)
        return 1.0

    def describe(self) -> list[dict[str, Any]]:
        """Plain dicts: name, x, hyperparameters, scale, paper, and what else is set."""
        return [term.describe() for term in self.terms]

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """The sum [B] from *summed* log-probs (nats) and token counts (floats), both by name.

        bf16 and fp16 inputs are computed in fp32. Raises PrefoptError for a missing input.
        """
        missing = [name for name in self.needs if name not in inputs]
        if missing:
            raise PrefoptError(f"the loss needs {', '.join(missing)}; given: {', '.join(inputs)}")
        data = {name: upcast(inputs[name]) for name in self.needs}
        total = None
        for term in self.terms:
            value = term.values(data)
            value = value if term.scale == 1.0 else term.scale * value
            total = value if total is None else total + value
        return total


def plain(value: Any) -> Any:
    """Arrays as lists, mappings as dicts, functions by name: JSON-able."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    return getattr(value, "__name__", repr(value)) if callable(value) else value


def number(spec: Mapping[str, Any], key: str, high: float = math.inf) -> float | None:
    """spec[key] as a finite number in [0, high], None when absent."""
    value = spec.get(key)
    if value is None:
        return None
    if isinstance(value, (bool, str)) or not math.isfinite(value) or not 0 <= value <= high:
        raise PrefoptError(f"loss {spec['name'].name!r}: {key} = {value!r} must be a number in [0, {high:g}]")
    return float(value)


def flag(spec: Mapping[str, Any], key: str) -> bool:
    """spec[key] as true or false, false when absent."""
    value = spec.get(key, False)
    if not isinstance(value, bool):
        raise PrefoptError(f"loss {spec['name'].name!r}: {key} = {value!r} must be true or false")
    return value


def read_spec(spec: Any) -> dict[str, Any]:
    """One item of the recipe as a mapping whose keys are known; `name` becomes a `Loss`. A function is a loss of its own."""
    spec = {"name": spec} if isinstance(spec, str) or callable(spec) else spec
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise PrefoptError(f"a loss is a name, a function or a mapping with `name`, not {spec!r}")
    full = {**SHORTHANDS.get(str(spec["name"]), {}), **spec}
    full["name"] = SHORTHANDS.get(str(spec["name"]), spec)["name"]
    loss = full["name"] = _named(full["name"])
    known = {*TERM_KEYS, *loss.defaults}
    for key in full:
        if key not in known:
            raise PrefoptError(f"loss {loss.name!r} has no hyperparameter {key!r}; {nearest(key, known)}")
    return full


def _named(name: Any) -> Loss:
    if isinstance(name, Loss):
        return name
    if callable(name):
        return loss_of(name)
    if name not in LOSSES:
        raise PrefoptError(f"unknown loss {name!r}; {nearest(str(name), [*LOSSES, *SHORTHANDS])}")
    return LOSSES[name]


def read_file(loss: Loss, spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Hyperparameters, what manifests show of them, and x, from a mirror file."""
    if loss.name != "mirror":
        raise PrefoptError(f"loss {loss.name!r} takes no file; only mirror does")
    own = sorted(set(spec) - set(TERM_KEYS))
    if own:
        raise PrefoptError(
            f"loss 'mirror': {', '.join(own)} and file exclude each other; the file holds them"
        )
    found = load_mirror(str(spec["file"]))
    source = {key: found[key] for key in ("file", "sha256", "provenance")}
    return {key: found[key] for key in loss.defaults}, source, found["x"]


def build_term(spec: Mapping[str, Any]) -> Term:
    """One term, without the default scale of a budget. Raises PrefoptError for anything unknown or out of range."""
    loss: Loss = spec["name"]
    source: dict[str, Any] = {}
    hyper = {key: value for key, value in spec.items() if key not in TERM_KEYS}
    x = spec.get("x", loss.x)
    if spec.get("file") is not None:
        hyper, source, from_file = read_file(loss, spec)
        x = spec.get("x", from_file)
    if x not in ("sum", "mean") or (x != loss.x and not loss.x_free):
        raise PrefoptError(
            f"loss {loss.name!r}: x = {x!r}; " + ("sum or mean" if loss.x_free else f"it takes {loss.x}")
        )
    loss = dataclasses.replace(loss, x=x)
    ld_alpha, wpo = number(spec, "ld_alpha", 1.0), flag(spec, "wpo")
    if (ld_alpha is not None or wpo) and loss.kind != "pairwise":
        raise PrefoptError(f"loss {loss.name!r}: ld_alpha and wpo are for pairwise losses")
    if wpo and not loss.weightable:
        raise PrefoptError(f"loss {loss.name!r} sorts its rows: weights of pairs cannot be applied; drop wpo")
    scale = number(spec, "scale")
    return Term(loss, loss.bind(hyper), 1.0 if scale is None else scale, ld_alpha, wpo, (), source)


def base_slope(bases: Sequence[Term]) -> float:
    """Sum of the base losses' largest slopes in r_w. Raises PrefoptError where one has none."""
    if not bases:
        raise PrefoptError("loss 'budget' alone has no default scale: give `scale`, or a base loss")
    total = 0.0
    for term in bases:
        if term.loss.slope is None or term.hyper.get("link", "reverse_kl") != "reverse_kl":
            raise PrefoptError(
                f"loss 'budget': no default scale for base loss {term.loss.name!r}; give `scale`, clearly above the"
                " largest slope of the base loss per nat of the chosen answer (SimPO: beta / tokens; IPO: measure it)"
            )
        total += term.scale * term.loss.slope(term.hyper)
    return total


def put_inside(terms: list[Term], penalties: list[Term]) -> list[Term]:
    """The penalties moved into the one base loss of the margin."""
    homes = [k for k, term in enumerate(terms) if term.loss.kind == "pairwise"]
    if len(homes) != 1 or not terms[homes[0]].loss.of_margin or terms[homes[0]].loss.x != "sum":
        raise PrefoptError(
            "`inside: true` needs exactly one base loss of the summed margin h: "
            + ", ".join(sorted({row.name for row in LOSSES.values() if row.of_margin and row.x == "sum"}))
        )
    home = terms[homes[0]]
    link = home.hyper.get("link", "reverse_kl")
    if link not in ("reverse_kl", "js") and any(
        term.loss.name == "budget" and not term.given for term in penalties
    ):
        raise PrefoptError(
            f"loss 'budget': inside {home.loss.name!r} with link {link!r} the margin's slope per nat has no bound, and so "
            "the penalty no default scale; give `scale`"
        )
    return [dataclasses.replace(t, inside=tuple(penalties)) if t is home else t for t in terms]


def check_kinds(terms: Sequence[Term]) -> None:
    """Raises PrefoptError where terms read different kinds of data."""
    kinds = {term.loss.kind for term in terms}
    if "unpaired" in kinds and len(kinds) > 1:
        names = ", ".join(term.loss.name for term in terms)
        raise PrefoptError(
            f"losses {names}: unpaired losses read completions with labels, the others pairs; split them"
        )


def build_loss(specs: Any) -> LossSum:
    """The sum of a recipe: a name, a mapping, a function, or a list of them (keys at the top of this file).

    Raises PrefoptError for unknown names, values out of range, no term left, or terms that do not go together.
    """
    if isinstance(specs, (str, Mapping)) or callable(specs):
        specs = [specs]
    if not isinstance(specs, Sequence) or not specs:
        raise PrefoptError(f"loss: a name, a mapping with `name`, or a list of them, not {specs!r}")
    added: list[Term] = []
    penalties: list[Term] = []
    read = [read_spec(spec) for spec in specs]
    built = [build_term(spec) for spec in read]
    bases = [term for term in built if term.loss.kind == "pairwise" and term.scale != 0]
    for spec, term in zip(read, built, strict=True):
        is_inside = flag(spec, "inside")
        if is_inside and term.loss.name not in ("budget", "dpop_outside"):
            raise PrefoptError(f"loss {term.loss.name!r}: `inside` is for budget and dpop_outside")
        if spec.get("scale") is None and term.loss.name == "budget":
            # regularization spec: twice the slope; inside, h itself has slope 1 in r_w
            term = dataclasses.replace(term, scale=2.0 if is_inside else 2.0 * base_slope(bases), given=False)
        if term.scale != 0:
            (penalties if is_inside else added).append(term)
    if not added:
        raise PrefoptError(
            "loss: no term with a scale above 0" + (" outside the sigmoid" if penalties else "")
        )
    check_kinds(added)
    return LossSum(tuple(put_inside(added, penalties) if penalties else added))
