r"""A judge's answer in words -> its verdict.

The prompt asks for a last line with nothing but A, B or tie, and that line decides where there is one. Models also write
`[[A]]`, JSON, "Verdict: B", "Answer A is better": of all such places the last one decides. What is left is unparsed;
nothing is guessed, least of all from the English article "a".
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Literal

Parsed = Literal["first", "second", "tie"]

LONGEST = 6_000  # characters from the end; a verdict stands there or nowhere
_WORDS: dict[str, Parsed] = {
    **dict.fromkeys(("a", "1", "first"), "first"),
    **dict.fromkeys(("b", "2", "second"), "second"),
    **dict.fromkeys(("c", "tie", "tied", "draw", "equal", "both", "neither", "none", "same"), "tie"),
}  # type: ignore[assignment]
_KEYS = (
    "winner",
    "verdict",
    "final_verdict",
    "choice",
    "preference",
    "preferred",
    "better",
    "answer",
    "judgment",
)

_NOUN = r"(?:(?:the\s+)?(?:answer|response|assistant|option|output|completion|candidate|model)\s+)"
_OPEN, _CLOSE = r"[\"'`*_(\[<]*", r"[\"'`*_)\]>]*"
_SIDE = r"(?P<side>[AB12]|first|second)"
_TIE = r"(?P<tie>(?:a\s+)?(?:tie|draw)|C|equal(?:ly\s+good)?|both|neither|tied|same)"
_BETTER = (
    r"better|best|superior|stronger|preferred|preferable|(?:the\s+)?winner|"
    r"more\s+(?:helpful|accurate|correct|useful|complete|relevant|informative)"
)
_VERDICT = (
    r"verdict|winner|choice|preference|decision|judge?ment|conclusion|final\s+answer|"
    r"(?:better|best|preferred|superior|stronger)\s+(?:answer|response|one|option)"
)
_HEDGE = r"(?:(?:the|a|clearly|slightly|much|marginally|overall|far|also|therefore|thus|definitely|significantly)\s+)*"
# what may stand behind a named side: "verdict: A and B are both fine" names none
_END = r"(?=\s*(?:[.,;:!?\"'`*)\]}]|$|\n|[-–—]|\b(?:is|wins|because|since|as|over)\b))"
# an option list is the instruction said again, and what follows a "not" or "than" is no verdict either
_ONE = r"(?:\[\[\s*\w+\s*\]\]|[\"'`*]*\b(?:A|B|C|[Tt]ie)\b[\"'`*]*)"
_NO_VERDICT = re.compile(
    rf"{_ONE}(?:\s*(?:,\s*(?:or\b|and\b)?|\bor\b|\band\b|/|\|)\s*{_ONE})+|\b(?:not|than|nor|unlike)\s+{_NOUN}?{_ONE}"
)
_LINE = re.compile(
    rf"[\W_]*(?:(?:the\s+)?(?:final\s+)?(?:{_VERDICT}|answer|response|option|assistant)\b[\W_]*(?:is\b[\W_]*)?)?"
    rf"(?:{_NOUN}[\W_]*)?(?:(?P<side>[AB])|{_TIE})[\W_]*",
    re.IGNORECASE,
)
_ANY_CASE = (
    rf"\b(?:{_VERDICT})\b[\s*_\"'`]*(?:\s+is\b\s*:?|[:=]|\s[-–—])\s*{_OPEN}(?:clearly\s+)?"
    rf"{_NOUN}?{_OPEN}(?:{_SIDE}|{_TIE})\b{_CLOSE}{_END}",
    rf"\b{_NOUN}{_OPEN}{_SIDE}{_CLOSE}\s+(?:is|was|seems|appears\s+to\s+be|would\s+be|remains)\s+{_HEDGE}"
    rf"(?:(?P<worse>worse|inferior|weaker|worst)|{_BETTER})\b",
    rf"\b{_NOUN}{_OPEN}{_SIDE}{_CLOSE}\s+wins\b",
    r"\b(?P<tie>(?:it(?:['’]s|\s+is)|this\s+is|call(?:ing)?\s+(?:it|this)|result\s+is)\s+a\s+(?:tie|draw)"
    r"|(?:both|the\s+two|they|these)\b[^.\n]{0,40}?\b(?:are|is)\s+(?:\w+\s+)?(?:equal|equally\s+\w+|tied|"
    r"of\s+(?:equal|the\s+same)\s+quality|equivalent|identical)|both\s+equal(?:ly\s+good)?"
    r"|neither\s+(?:\w+\s+){0,3}is\s+better)\b",
)
# bare letters count in capitals only, at the start of a clause
_CAPITALS = (
    r"\[\[\s*(?:(?P<side>[ABab12])|(?P<tie>[Cc]|[Tt]ie|TIE|draw))\s*\]\]",
    r"\\boxed\{\s*(?:\\text\{)?\s*(?:(?P<side>[AB])|(?P<tie>[Tt]ie|C))\s*\}",
    rf"(?:^|[.!?:;,]\s+|\b(?:so|that|think|believe|therefore|thus|hence|overall)\s+){_OPEN}(?P<side>[AB]){_CLOSE}"
    r"\s+(?:wins|is\s+(?:the\s+)?(?:better|best|winner))\b",
    r"\b(?:[Ii]\s+(?:would\s+)?(?:prefer|choose|pick|select|favou?r|vote\s+for|go\s+with)|[Mm]y\s+vote\s+(?:is|goes\s+to))"
    rf"\s+{_NOUN}?{_OPEN}(?P<side>[AB12])\b",
    r"\b(?:[Ss]o|[Tt]herefore|[Tt]hus|[Hh]ence|[Oo]verall)\b\s*,?\s*(?:it(?:['’]s|\s+is)\s+)?"
    rf"{_NOUN}?{_OPEN}(?:(?P<side>[AB])|(?P<tie>(?:a\s+)?[Tt]ie)){_CLOSE}\s*(?=[.!?]|$)",
)
_MARKED = (
    *(re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in _ANY_CASE),
    *(re.compile(pattern, re.MULTILINE) for pattern in _CAPITALS),
)
_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_JSON = re.compile(r"\{[^{}]{0,4000}\}")


def parse_verdict(text: str) -> Parsed | None:
    """Which answer `text` names as better; None where it names none (refusal, empty, cut off). Never raises."""
    plain = _plain(text)
    lines = [line for line in plain.splitlines() if line.strip()]
    if not lines:
        return None
    last = _last_line(lines[-1])
    if last is not None:
        return last
    cleared = _NO_VERDICT.sub(lambda found: " " * len(found[0]), plain)
    found = [*_in_json(plain), *_in_words(cleared)]
    return max(found, key=lambda place: place[0])[1] if found else None


def _plain(text: str) -> str:
    """The end of the text in one spelling of letters, without invisible characters and closed thoughts."""
    normal = unicodedata.normalize("NFKC", text[-LONGEST:])
    visible = "".join(c for c in normal if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc", "Cs"))
    return _THOUGHT.sub("", visible)


def _last_line(line: str) -> Parsed | None:
    """The verdict of a line that holds nothing else."""
    found = _LINE.fullmatch(line.strip()) if len(line) < 80 else None
    if found is None:
        return None
    return _WORDS[found["side"].lower()] if found["side"] else "tie"


def _in_words(text: str) -> Iterator[tuple[int, Parsed]]:
    """(end, verdict) of every place that states one."""
    for pattern in _MARKED:
        for found in pattern.finditer(text):
            groups = found.groupdict()
            side = groups.get("side")
            if not side:
                yield found.end(), "tie"
                continue
            verdict = _WORDS[side.lower()]
            if groups.get("worse"):
                verdict = "second" if verdict == "first" else "first"
            yield found.end(), verdict


def _in_json(text: str) -> Iterator[tuple[int, Parsed]]:
    """(end, verdict) of every flat JSON object with a key that names the winner."""
    for found in _JSON.finditer(text):
        try:
            value: Any = json.loads(found[0])
        except (ValueError, RecursionError):
            continue
        entries = {str(k).lower(): v for k, v in value.items()} if isinstance(value, dict) else {}
        for key in _KEYS:
            word = " ".join(str(entries.get(key, "")).lower().split())
            word = re.sub(r"^(?:a(?= )|answer|response|assistant|option|model)[ _]", "", word).strip(
                "[]()*. "
            )
            if word in _WORDS:
                yield found.end(), _WORDS[word]
                break
