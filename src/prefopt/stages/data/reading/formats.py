"""The forms in which preference data comes, and how each becomes ours.

`FORMATS` is the table: name, kind, by which columns a file is recognised, and the function that turns one raw row into
one row of the kind. First match wins. A new format is one function and one entry.

    kind pairs        {prompt, chosen, rejected, ...}
    kind unpaired     {prompt, completion, label, ...}
    kind completions  {prompt, completions: [{completion, model, is_correct, score, ...}], ...}
    kind prompts      {prompt, gold, gold_completion, ...}

Columns that a format does not use travel along under their own name.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import add_part, digests, origin_of, told
from prefopt.stages.data.reading.converters import (
    CONVERSATIONS,
    LABELLED,
    PROMPTS,
    SCORES,
    SOLUTIONS,
    alpaca_eval,
    implicit,
    pandalm,
    preference,
    questions,
    solutions,
    tournament,
    transcripts,
    unpaired,
)
from prefopt.stages.data.reading.dialogue import BadRow
from prefopt.tables.columns import COLUMNS
from prefopt.tables.records import Row

KINDS = ("prompts", "completions", "pairs", "unpaired")
Convert = TypeVar("Convert", bound=Callable[[Row], Row])
Sample = Mapping[str, Any]  # column -> its first value that is not null, over the first rows of a file


@dataclass(frozen=True)
class Format:
    """One form of a file. `fits(sample)` recognises it; `convert(row)` turns a row, raising `BadRow` for a bad one."""

    name: str
    kind: str
    fits: Callable[[Sample], bool]
    convert: Callable[[Row], Row]
    about: str


# ---- recognition


def _has(*names: str) -> Callable[[Sample], bool]:
    return lambda sample: all(name in sample for name in names)


def _has_prompt(sample: Sample) -> bool:
    return any(name in sample for name in (*PROMPTS, *CONVERSATIONS)) or isinstance(sample.get("turns"), list)


def _is_solutions(sample: Sample) -> bool:
    found = [v for v in sample.values() if isinstance(v, dict) and {"solution", "is_correct"} <= set(v)]
    return _has_prompt(sample) and len(found) > 1


def _is_unpaired(sample: Sample) -> bool:
    """An answer with a label that is true or false; a class (0, 1, 2 ...) beside a question is none."""
    label, has_answer = sample.get("label"), any(name in sample for name in LABELLED)
    is_talk = any(isinstance(sample.get(name), list) for name in CONVERSATIONS)
    flags = (0, 1, -1, "true", "false", "True", "False")
    return _has_prompt(sample) and (
        (isinstance(label, bool) and (has_answer or is_talk)) or ("completion" in sample and label in flags)
    )


FORMATS: tuple[Format, ...] = (
    Format(
        "preference", "pairs", lambda s: _has("chosen", "rejected")(s) and _has_prompt(s), preference,
        "prompt (or question, instruction + input, conversations), chosen, rejected: text, messages or ShareGPT",
    ),
    Format(
        "implicit", "pairs", _has("chosen", "rejected"), implicit,
        "chosen and rejected without a prompt: it is what both begin with",
    ),
    Format(
        "transcripts", "pairs",
        lambda s: _has("text", "score")(s) and isinstance(s["text"], list) and isinstance(s["score"], list), transcripts,
        "text: two dialogues, score: two numbers (HH-RLHF as published)",
    ),
    Format(
        "alpaca_eval", "pairs", _has("output_1", "output_2", "preference"), alpaca_eval,
        "output_1, output_2, preference from 1 to 2 (AlpacaEval annotations)",
    ),
    Format(
        "pandalm", "pairs", _has("response1", "response2", "annotator1"), pandalm,
        "response1, response2, annotator1.. (PandaLM test set)",
    ),
    Format(
        "tournament", "completions", lambda s: "completions" in s and _has_prompt(s), tournament,
        "prompt and completions: a list of {text, model, is_correct, score, rank} (also UltraFeedback)",
    ),
    Format(
        "solutions", "completions", _is_solutions, solutions,
        "question, ground_truth, and one column {is_correct, solution} per model (GSM8K example solutions)",
    ),
    Format(
        "unpaired", "unpaired", _is_unpaired, unpaired,
        "prompt and completion (or a conversation that ends with it), label: true where it is desired (KTO)",
    ),
    Format(
        "prompts", "prompts", _has_prompt, questions,
        "prompt, question, problem, instruction (+ input), messages or turns; answer or gold; a gold solution",
    ),
)  # fmt: skip


_ADDED: dict[str, Format] = {}  # of plug-ins, tried before ours
_READS: dict[str, tuple[str, ...]] = {}
KIND = "format"


def register_format(
    name: str, kind: str, fits: Callable[[Sample], bool] | Sequence[str], about: str = ""
) -> Callable[[Convert], Convert]:
    """Decorator: `convert(row)` turns a raw row of a form of your own into a row of `kind` (see the top of this file).

    fits: the columns that tell the form, or a function of `Sample`. It goes before the library's own forms. A row that
    cannot be converted raises `ValueError` with the reason, and is dropped and counted.

    Raises:
        PrefoptError: the name is taken, or there is no such kind.
    """

    def register(convert: Convert) -> Convert:
        origin = origin_of(convert)
        if kind not in KINDS:
            raise PrefoptError(f"{origin}: format {name!r}: kind {kind!r}, {nearest(kind, KINDS)}")
        if any(name == form.name for form in FORMATS):
            raise PrefoptError(f"{origin}: format {name!r} is built in; choose another name")
        recognise = fits if callable(fits) else _has(*fits)
        shown = about or (convert.__doc__ or "").partition("\n")[0]
        form = Format(name, kind, _guarded(name, recognise), _converting(name, convert), shown)
        add_part(KIND, name, convert, form, _ADDED)
        _READS[name] = () if callable(fits) else tuple(fits)
        return convert

    return register


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(given: Any) -> Any:
        with told(KIND, name):
            return function(given)

    return call


def _converting(name: str, convert: Callable[[Row], Row]) -> Callable[[Row], Row]:
    def call(row: Row) -> Row:
        refused = None
        with told(KIND, name):
            try:
                found = convert(row)
            except ValueError as error:  # what the author says of a bad row
                found, refused = {}, str(error) or type(error).__name__
            if not isinstance(found, dict):
                raise TypeError(f"gave {found!r}; return a dict with the columns of its kind")
        if refused is not None:
            raise BadRow(f"refused by format {name}", refused)
        return found

    return call


def format_digests() -> list[str]:
    """Digests of the plug-ins that add formats: each has a say in what a file is taken for. For the key of a stage."""
    return digests(KIND, _ADDED)


def all_formats() -> tuple[Format, ...]:
    """Every format in the order in which they are tried."""
    return (*_ADDED.values(), *FORMATS)


def detect(sample: Sample, kind: str, where: str) -> Format:
    """The format of a file from its columns; `kind` auto takes the first that fits.

    Raises:
        PrefoptError: no format fits (columns found and nearest wanted one are named).
    """
    fitting = [f for f in all_formats() if kind in ("auto", f.kind) and f.fits(sample)]
    if not fitting:
        raise _no_format(sample, kind, where)
    if kind == "auto" and fitting[0].kind == "prompts":
        for name in ("chosen", "rejected", "completions"):
            misspelt = _misspelt(name, sample)
            if misspelt or name in sample:
                raise _no_format(sample, "completions" if name == "completions" else "pairs", where)
    return fitting[0]


def _misspelt(name: str, sample: Sample) -> str | None:
    if name in sample:
        return None
    lowered = {
        found.lower(): found for found in sample if found not in known_names() and found not in COLUMNS
    }
    close = difflib.get_close_matches(name, lowered, n=1, cutoff=0.75)
    return lowered[close[0]] if close else None


def _no_format(sample: Sample, kind: str, where: str) -> PrefoptError:
    wanted = {
        "pairs": ("chosen", "rejected"),
        "completions": ("prompt", "completions"),
        "prompts": ("prompt",),
        "unpaired": ("prompt", "completion", "label"),
        "auto": ("prompt", "chosen", "rejected"),
    }[kind]
    missing = [name for name in wanted if name not in sample] or list(wanted)
    near = next(((name, found) for name in missing if (found := _misspelt(name, sample))), None)
    name, found = near or (missing[0], f"YOUR_{missing[0].upper()}")
    hint = f"name it with data.columns: {{{found}: {name}}}"
    found_names = ", ".join(n if n.isprintable() else repr(n) for n in sorted(sample)[:12]) or "none"
    lacking = "no known format" if kind == "auto" else f"no {kind}"
    return PrefoptError(
        f"{where}: {lacking}, column {missing[0]!r} is missing (found: {found_names}); {hint}"
    )


def known_names() -> frozenset[str]:
    """Every column name that some format reads, for `data.columns`."""
    return _our_names().union(*_READS.values())


@functools.cache
def _our_names() -> frozenset[str]:
    more = ("system", "input", "answer", "label", "text", "chosen", "rejected", "completions", "ground_truth")
    pairs = ("output_1", "output_2", "preference", "response1", "response2", "rank_chosen", "rank_rejected")
    return frozenset((*PROMPTS, *CONVERSATIONS, *SOLUTIONS, *SCORES, "turns", *more, *pairs))
