r"""A judge's answer in words -> its verdict.

The prompt asks for a last line with nothing but A, B or tie. Models also write `[[A]]`, JSON, `<verdict>A</verdict>`,
"Verdict: B", "I choose B", "Answer A is better", before their remarks or after them. What is marked as the verdict outranks
a choice in words, and that outranks a remark; of verdicts of one rank the last one counts, and remarks that contradict each
other count for nothing. Thoughts, closed or not, quotations and the instruction said again are no verdict. What is left
is unparsed; nothing is guessed, least of all from the English article "a".
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

Parsed = Literal["first", "second", "tie"]

FIRST, LAST = 1_500, 6_000  # characters from either end; a verdict stands there or nowhere
SHORT = 80  # characters of a line that may be nothing but a verdict
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
_OPEN, _CLOSE = r"[\"'`*_(\[<]{0,6}", r"[\"'`*_)\]>]{0,6}"
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
_QUOTES = r"[\"'`*]{0,4}"
_ONE = r"(?:[\"'`*]{0,4}\[\[\s*\w+\s*\]\][\"'`*]{0,4}|[\"'`*]{0,4}\b(?:A|B|C|[Tt]ie)\b[\"'`*]{0,4})"
_DENIED = r"(?:n['’]t|\bnot|\bnever|\bcannot|\bhard(?:ly)?|\bhesitate)\s+(?:to\s+)?(?:think|believe|say|claim|conclude|argue|agree|find|see)"
_NO_VERDICT = re.compile(
    rf"{_ONE}(?:\s*(?:,\s*(?:or\b|and\b)?|\bor\b|\band\b|/|\|)\s*{_ONE})+|\b(?:not|than|nor|unlike)\s+{_NOUN}?{_ONE}"
    # "output [[A]] if the first is better, and [[C]] for a tie", to the end of the sentence
    rf"|{_ONE}\s*(?:if|when|where|whenever|in\s+case|should|unless|for\s+(?:a\s+)?(?:tie|draw)|means)\b[^.\n]*"
    rf"|\b(?:if|when|whether|unless|had|were)\s+{_NOUN}?{_QUOTES}(?:[AB12]|first|second)\b[^.\n]*"
    rf"|\b(?:would|could|might)\s+(?:\w+\s+)?be\s+(?:\w+\s+)?(?:better|best|superior|stronger)\s+(?:if|had|with|were|when|without)\b[^.\n]*"
    rf"|{_DENIED}\b[^.\n]*",
    re.IGNORECASE,
)
# what the judge quotes: long quotations, quoted lines, code that is not JSON
_QUOTED = re.compile(
    r"^[ \t]*>[^\n]*|\"(?=\S)[^\"\n]{12,600}(?<=\S)\"|“[^”\n]{12,600}”|`(?=\S)[^`\n]{12,600}(?<=\S)`|```(?!json|[ \t]*\n[ \t]*\{)[^`]{40,3000}```",
    re.MULTILINE,
)
_LINE = re.compile(
    rf"[\W_]*(?:(?:the\s+)?(?:final\s+)?(?:{_VERDICT}|answer|response|option|assistant)\b[\W_]*(?:is\b[\W_]*)?)?"
    rf"(?:{_NOUN}[\W_]*)?(?:(?P<side>[AB])|{_TIE})[\W_]*",
    re.IGNORECASE,
)
# the words of a verdict by rank: marked as one; chosen; remarked
_MARKED = (
    rf"(?i:\b(?:{_VERDICT})\b[\s*_\"'`]*(?:\s+is\b\s*:?|[:=]|\s[-–—])\s*{_OPEN}(?:clearly\s+)?"
    rf"{_NOUN}?{_OPEN}(?:{_SIDE}|{_TIE})\b{_CLOSE}{_END})",
    r"\[\[\s*(?:(?P<side>[ABab12])|(?P<tie>[Cc]|[Tt]ie|TIE|draw))\s*\]\]",
    r"\\boxed\{\s*(?:\\text\{)?\s*(?:(?P<side>[AB])|(?P<tie>[Tt]ie|C))\s*\}",
    rf"(?i:<(?P<tag>verdict|final_verdict|winner|answer|choice|preference|decision|result|output|judge?ment)>[\s*\[\"'`]*{_NOUN}?"
    rf"{_OPEN}(?:{_SIDE}|{_TIE})[\s*\]\"'`.]*</(?P=tag)>)",
)
# bare letters count in capitals only, at the start of a clause
_CHOSEN = (
    rf"(?i:\b{_NOUN}{_OPEN}{_SIDE}{_CLOSE}\s+(?:wins\b|(?:is|was|remains)\s+{_HEDGE}winner\b))",
    rf"(?:^|[.!?:;,]\s+|\b(?:so|that|think|believe|therefore|thus|hence|overall)\s+){_OPEN}(?P<side>[AB]){_CLOSE}"
    r"\s+(?:wins|is\s+the\s+winner)\b",
    r"\b(?:[Ii]\s+(?:would\s+|['’]d\s+|will\s+)?(?:prefer|choose|pick|select|favou?r|vote\s+for|go\s+with)|[Mm]y\s+vote\s+(?:is|goes\s+to))"
    rf"\s+{_NOUN}?{_OPEN}(?P<side>[AB12])\b",
    r"\b(?:[Ss]o|[Tt]herefore|[Tt]hus|[Hh]ence|[Oo]verall|[Ii]n (?:conclusion|sum|summary))\b\s*,?\s*(?:it(?:['’]s|\s+is)\s+)?"
    rf"{_NOUN}?{_OPEN}(?:(?P<side>[AB])|(?P<tie>(?:a\s+)?[Tt]ie)){_CLOSE}\s*(?=[.!?]|$)",
    r"\b(?:[Ss]o|[Tt]herefore|[Tt]hus|[Hh]ence|[Oo]verall|[Aa]ltogether|[Oo]n (?:reflection|second thoughts?)|[Aa]ctually|[Oo]n balance|[Ii]n (?:conclusion|sum|summary|the end|total))\b"
    rf"[^.\n]{{0,40}}?\b{_NOUN}?{_OPEN}(?P<side>[AB]){_CLOSE}\s+(?:is|was|seems|remains)\s+{_HEDGE}"
    rf"(?:(?P<worse>worse|inferior|weaker|worst)|{_BETTER})\b",
)
_REMARKED = (
    rf"(?i:\b{_NOUN}{_OPEN}{_SIDE}{_CLOSE}\s+(?:is|was|seems|appears\s+to\s+be|would\s+be|remains)\s+{_HEDGE}"
    rf"(?:(?P<worse>worse|inferior|weaker|worst)|{_BETTER})\b)",
    rf"(?:^|[.!?:;,]\s+|\b(?:so|that|think|believe|therefore|thus|hence|overall)\s+){_OPEN}(?P<side>[AB]){_CLOSE}"
    r"\s+is\s+(?:the\s+)?(?:better|best)\b",
    r"(?i:\b(?P<tie>(?:it(?:['’]s|\s+is)|this\s+is|call(?:ing)?\s+(?:it|this)|result\s+is)\s+a\s+(?:tie|draw)"
    r"|(?:both|the\s+two|they|these)\b[^.\n]{0,40}?\b(?:are|is)\s+(?:\w+\s+)?(?:equal|equally\s+\w+|tied|"
    r"of\s+(?:equal|the\s+same)\s+quality|equivalent|identical)|both\s+equal(?:ly\s+good)?"
    r"|neither\s+(?:\w+\s+){0,3}is\s+better)\b)",
)
_RANKS = tuple(
    tuple(re.compile(pattern, re.MULTILINE) for pattern in rank) for rank in (_MARKED, _CHOSEN, _REMARKED)
)
_TITLE = re.compile(rf"[\W_]*(?:(?:my|the)\s+)?(?:final\s+)?(?:{_VERDICT})[\W_]*", re.IGNORECASE)
_THOUGHT = re.compile(
    r"<(?P<close>/?)(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think)>|(?P<begin>\[THINK\]|◁think▷|"
    r"<\|begin_of_thought\|>)|(?P<end>\[/THINK\]|◁/think▷|<\|end_of_thought\|>)",
    re.IGNORECASE,
)
MOST_OBJECTS = 200  # braces tried as the beginning of a JSON object


def parse_verdict(text: str) -> Parsed | None:
    """Which answer `text` names as better; None where it names none (refusal, empty, cut off, doubt). Never raises."""
    plain = _plain(text)
    own = _QUOTED.sub(_blank, plain)
    cleared = _NO_VERDICT.sub(_blank, own)
    marked = [*_alone(own), *_in_json(plain), *_in_words(cleared, _RANKS[0])]
    if marked:
        return _last(marked)
    chosen = list(_in_words(cleared, _RANKS[1]))
    if chosen:
        return _last(chosen)
    remarked = {verdict for _, verdict in _in_words(cleared, _RANKS[2])}
    return remarked.pop() if len(remarked) == 1 else None


def _last(found: list[tuple[int, Parsed]]) -> Parsed:
    return max(found, key=lambda place: place[0])[1]


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _plain(text: str) -> str:
    """What the judge says in one spelling of letters, without thoughts and invisible characters; both ends of it."""
    normal = unicodedata.normalize("NFKC", _spoken(text))
    if len(normal) > FIRST + LAST:
        normal = f"{normal[:FIRST]}\n{normal[-LAST:]}"
    return "".join(c for c in normal if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc", "Cs"))


def _spoken(text: str) -> str:
    """The text without thoughts: what follows an unclosed mark, or stands before a closing one alone, is one too."""
    kept: list[str] = []
    start, thinking = 0, False
    for mark in _THOUGHT.finditer(text):
        closes = bool(mark["close"] or mark["end"])
        if not closes and not thinking:
            kept.append(text[start : mark.start()])
        elif closes and not thinking:
            kept.clear()
        thinking = not closes
        start = mark.end()
    if not thinking:
        kept.append(text[start:])
    return "".join(kept)


def _alone(text: str) -> Iterator[tuple[int, Parsed]]:
    """(end, verdict) of lines that hold nothing else: the last one, the first one, and those below a title that says so.

    "A:" is the title of a paragraph, no verdict.
    """
    lines = list(re.finditer(r"[^\n]*\S[^\n]*", text))
    for place, line in enumerate(lines):
        titled = place > 0 and _TITLE.fullmatch(lines[place - 1][0].strip()) is not None
        if not (place in (0, len(lines) - 1) or titled) or len(line[0]) >= SHORT:
            continue
        stripped = line[0].strip()
        found = _LINE.fullmatch(stripped)
        if found is None or (re.search(r":\W*$", stripped) and not titled):
            continue
        yield line.end(), _WORDS[found["side"].lower()] if found["side"] else "tie"


def _in_words(text: str, patterns: Sequence[re.Pattern[str]]) -> Iterator[tuple[int, Parsed]]:
    """(end, verdict) of every place that states one."""
    for pattern in patterns:
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
    """(end, verdict) of every JSON object with a key that names the winner, at its top or in objects within."""
    decoder = json.JSONDecoder()
    place, tried = text.find("{"), 0
    while place >= 0 and tried < MOST_OBJECTS:
        tried += 1
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place = text.find("{", place + 1)
            continue
        verdict = _winner(value)
        if verdict is not None:
            yield end, verdict
        place = text.find("{", end)


def _winner(value: Any) -> Parsed | None:
    if not isinstance(value, dict):
        return None
    entries = {str(k).lower(): v for k, v in value.items()}
    for key in _KEYS:
        word = " ".join(str(entries.get(key, "")).lower().split())
        word = re.sub(r"^(?:a(?= )|the )?(?:answer|response|assistant|option|model)[ _]", "", word).strip(
            "[]()*. "
        )
        word = re.sub(r"^a (?=tie|draw)", "", word)
        if word in _WORDS:
            return _WORDS[word]
    return next((found for inner in value.values() if (found := _winner(inner)) is not None), None)
