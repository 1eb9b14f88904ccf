"""The final answer of a completion as text: where it stands, and one spelling for equal answers.

Every rule takes time linear in the text, whatever a model wrote (a test feeds them 100 000 characters).
"""

from __future__ import annotations

import re
from fractions import Fraction

MOST_LAYERS = 20  # of marks around an answer

# ---- finding the answer

_ANNOTATION = re.compile(r"<<[^<>\n]{0,300}>>")  # GSM8K's calculator marks
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
# the answer may stand on the next line if that is the last one
_ANSWER_IS = re.compile(
    # the rest of the line is looked at, not taken: it may say "answer is" again
    r"\banswer\b[^\n.:=]{0,60}?(?:\b(?:is|are|was|equals)\b|[:=])[ \t:*]*(?:\n\s*(?=[^\n]*\s*\Z))?(?!not\b)(?=([^\n]*))",
    re.IGNORECASE,
)
_A_LINE = re.compile(r"^[ \t*]*A:[ \t*]*([^\n]*)", re.MULTILINE)
_SENTENCE_END = re.compile(r"\.(?=\s+[A-Z\"'(]|\s*$)")
_NUMBER_INSIDE = re.compile(r"(?<![\w.])[-+]?[$€£]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?")
_LETTER = re.compile(r"(?<![A-Za-z\\'])\(?([A-J])\)?(?![A-Za-z'])")


def without_annotations(text: str) -> str:
    """The text without GSM8K's calculator marks `<<3*4=12>>`."""
    return _ANNOTATION.sub("", text)


def marked_answer(text: str) -> str | None:
    """What stands behind the last mark: \\boxed{}, ####, "answer is", "A:", in this order; None without one."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    for rule in (_HASHES, _ANSWER_IS, _A_LINE):
        found = _last(rule, text)
        if found is not None:
            # in a sentence a closing "!" is joy, elsewhere a factorial
            return _SENTENCE_END.split(found[1], maxsplit=1)[0].rstrip(" \t*!")
    return None


def _last(rule: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in rule.finditer(text):
        found = match
    return found


def by_pattern(text: str, pattern: str) -> str | None:
    """Last match of the pattern: its group `answer`, else group 1, else all of it."""
    found = _last(re.compile(pattern, re.MULTILINE), text)
    if found is None:
        return None
    if "answer" in found.groupdict():
        return found["answer"]
    return found[1] if found.re.groups else found[0]


def _boxed(text: str) -> str | None:
    """Content of the last complete \\boxed{...}, braces matched."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None


def last_number(text: str) -> str | None:
    """The last number in the text as it is written there."""
    found = _last(_NUMBER_INSIDE, text)
    return found[0] if found else None


def choice(text: str) -> str | None:
    """The last option letter that stands alone ("I" and "A" as words need brackets, or to be all there is)."""
    bare = normalize_answer(text)
    if re.fullmatch(r"[A-Ja-j]", bare):
        return bare.upper()
    opening = re.match(r"\s*\(?([A-J])[).:]", text)
    if opening:
        return opening[1]
    found = [
        m
        for m in _LETTER.finditer(text)
        if m[1] not in "AI" or m[0] != m[1] or m.end() == len(text.rstrip(" .\n"))
    ]
    return found[-1][1] if found else None


# ---- one form

_SAME = str.maketrans({"−": "-", "–": "-", "’": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "°": ""})
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|operatorname)\s*\{([^{}]*)\}")
_INLINE = re.compile(r"\$([^$]*)\$")
_SPACING = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[!,;: ]|\^\s*(?:\\circ|\{\s*\\circ\s*\})"
)
_FRACTION = re.compile(r"(-?)\s*(?:([0-9]+)\s*)?\\frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}\s*(.*)")
_MIXED = re.compile(r"(-?)([0-9]{1,50}) ([0-9]{1,50})/([0-9]{1,50})")
_TEX_THOUSANDS = re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{3}(?![0-9]))")
# marks of thousands count in a bare number alone: in (1,200) or {100,200} the comma parts two
_GROUPED = re.compile(
    r"([-+]?\s*(?:[$€£¥₹]|USD|EUR|GBP)?\s*[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]))((?:\.[0-9]+)?[^0-9,()\[\]{}]*)"
)
# "x = 5" says 5; an equation in variables is more than its right side
_ASSIGNED = re.compile(r"\\?[A-Za-z][\w ]{0,30}(?:\([^()=]{0,20}\))?\s*=\s*([^=<>]+)")
_COMPUTED = re.compile(r"([^=<>]*[^=<>!:])=\s*(-?[0-9.,/]+)")
_VARIABLE = re.compile(
    r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|\\(?:theta|alpha|beta|gamma|lambda|mu|phi|omega|varphi)(?![A-Za-z])"
)
_CONSTANTS = {"i", "e"}
_QUANTITY = re.compile(
    r"([-+]?)\s*(?:[$€£¥₹]|USD|EUR|GBP)?\s*([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2})?)(\s*/\s*[0-9]+)?\s*(.*)",
    re.DOTALL,
)
_ONE_UNIT = r"(?:%|[A-Za-zµ$€£]{2,}|[mgshlL])(?:\^?-?[23]|[²³])?"
_UNIT = re.compile(rf"{_ONE_UNIT}(?:/{_ONE_UNIT})?|[$€£]")
_POWER = re.compile(r"(?<=[A-Za-zµ])\s*\^\s*(?:\{\s*(-?[123])\s*\}|(-?[123])(?![0-9]))")
_BASE = re.compile(r"([0-9A-Za-z]*[0-9][0-9A-Za-z]*)_\{?\s*(?:\\text\s*)?\{?([0-9]{1,2})\}?\}?")
NO_UNIT = re.compile(
    r"(?:sqrt|sin|cos|tan|log|ln|exp|pi|mod|and|or|to|dozen|hundred|thousand|million|billion|trillion)\b",
    re.IGNORECASE,
)
_OPTION = re.compile(r"\(([A-Ja-j])\)(?:\s.*)?|([A-J])(?:[.):](?:\s.*)?)?", re.DOTALL)


def normalize_answer(raw: str) -> str:
    """One spelling for equal answers: no marks, delimiters, thousands commas, currency or units; numbers shortest.

    `"$1,800.00"`, `"1800 dollars"`, `"x = 1800"` and `"**1800**"` give `"1800"`; `"(B) pears"` gives `"B"`.
    """
    for _ in range(MOST_LAYERS):  # one layer may hide another
        before, raw = raw, _peel(raw)
        if raw == before:
            break
    return raw


def _peel(raw: str) -> str:
    text = _ANNOTATION.sub("", raw).translate(_SAME)
    text = _strip_delimiters(text)
    text = _SPACING.sub("", text).replace("\\%", "%").replace("\\$", "$")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _INLINE.sub(r"\1", _WRAPPED.sub(r" \1 ", text))
    text = _strip_delimiters(" ".join(text.split()))
    text = _TEX_THOUSANDS.sub("", text)
    option = _OPTION.fullmatch(text)
    if option:
        return (option[1] or option[2]).upper()
    grouped = _GROUPED.fullmatch(text)
    if grouped:
        text = grouped[1].replace(",", "") + grouped[2]
    text = _right_side(text)
    based = _BASE.fullmatch(text)
    if based:
        return f"{based[1].lstrip('0') or '0'}_{int(based[2])}"
    fraction = _FRACTION.fullmatch(text)
    if fraction and (not fraction[5] or _is_unit(fraction[5])):
        text = f"{fraction[1]}{fraction[2] + ' ' if fraction[2] else ''}{fraction[3]}/{fraction[4]}"
    mixed = _MIXED.fullmatch(text)
    if mixed and int(mixed[4]):
        return f"{mixed[1]}{int(mixed[2]) * int(mixed[4]) + int(mixed[3])}/{int(mixed[4])}"
    return _plain_quantity(text)


_JOY = re.compile(
    r"(?<![0-9)\]}!])(?<!\b[A-Za-z])!+$"
)  # no factorial: that stands behind a number, bracket or letter


def _right_side(text: str) -> str:
    """What an assignment ("x = 5") or a computation ("3 + 4 = 7") comes to; an equation in variables stays whole."""
    assigned = _ASSIGNED.fullmatch(text)
    if assigned and not _has_variable(assigned[1]):
        return assigned[1].strip()
    computed = _COMPUTED.fullmatch(text)
    return computed[2].strip() if computed and not _has_variable(computed[1]) else text


def _has_variable(text: str) -> bool:
    number = _plain_quantity(text.strip())  # "5 m" has a unit, no variable
    return not re.fullmatch(r"-?[0-9./]+", number) and any(
        found[0] not in _CONSTANTS for found in _VARIABLE.finditer(text)
    )


def _strip_delimiters(text: str) -> str:
    """Without Markdown, quotes, closing punctuation and TeX's math delimiters around the whole."""
    before = None
    while text != before:
        before = text
        text = _JOY.sub("", text.strip().strip("*`\"'").rstrip(".,;:")).strip()
        for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$")):
            if len(text) > len(opening) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)]
    return text


def _plain_quantity(text: str) -> str:
    """A number with a unit or currency around it -> the number; anything else as it is."""
    found = _QUANTITY.fullmatch(text)
    if not found:
        return text
    sign, number, below, rest = found[1], found[2], found[3] or "", _POWER.sub(r"^\1\2", found[4]).strip()
    if rest and not _is_unit(rest):
        return text
    return _shortest(sign + number) + "".join(below.split())


def _is_unit(rest: str) -> bool:
    words = re.sub(r"\ba (?=[A-Za-z]{2})", "", rest.rstrip(".")).split()  # "meters a week"
    return len(words) <= 6 and all(_UNIT.fullmatch(word) and not NO_UNIT.match(word) for word in words)


def _shortest(number: str) -> str:
    """Sign only if negative, no leading or trailing zeros: `"+007.50"` -> `"7.5"`. Pure text, whatever the length."""
    if "e" in number.lower():
        value = Fraction(number)
        return str(value.numerator) if value.denominator == 1 else number.lower()
    negative = number.count("-") % 2 == 1
    whole, _, part = number.lstrip("+-").partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    short = whole + (f".{part}" if part else "")
    return f"-{short}" if negative and short != "0" else short
