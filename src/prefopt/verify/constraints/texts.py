"""What the constraints count: words, capital words, sentences, paragraphs, bullets, and the language of a text."""

from __future__ import annotations

import re
from functools import lru_cache

from prefopt.core.errors import PrefoptError

# titles, initials and abbreviations whose full stop ends no sentence
ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "mt", "rev", "gen", "col", "capt", "sgt", "lt", "hon", "gov", "sen", "rep",
    "vs", "etc", "eg", "e.g", "ie", "i.e", "cf", "al", "approx", "dept", "est", "fig", "no", "vol", "pp", "inc", "ltd", "co",
    "corp", "ave", "blvd", "rd", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "a.m", "p.m",
    "u.s", "u.k", "ph.d", "d.c",
})  # fmt: skip
# a mark or several, closing quotes and brackets, then a blank or the end
_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\u0964]+[\"'\u201d\u2019)\]*_]*(?=\s|$)")
_LAST_WORD = re.compile(r"[\w.]*\Z")
_WORD = re.compile(r"\w+")
_JOINED = re.compile(r"[^\W_]+(?:[-'\u2019./&][^\W_]+)*")
_BULLET = re.compile(r"^\s*(?:\*[^*\n]|-).*$", re.MULTILINE)


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores; "don't" is two, as the paper's counter has it."""
    return _WORD.findall(text)


def capital_words(text: str) -> int:
    """Words whose letters are all capital; "WELL-KNOWN", "U.S." and "I" are one each."""
    return sum(word.isupper() for word in _JOINED.findall(text))


def sentences(text: str) -> list[str]:
    """The sentences of a text: pieces that end with . ! ? (also of other scripts) and hold a letter or digit.

    No end: the full stop of an abbreviation, of a single initial ("J. Smith") and of the number of a list item ("2. Milk").
    What stands after the last mark is a sentence too. A line break alone ends none.
    """
    found, start = [], 0
    for mark in _END.finditer(text):
        if _is_end(text, start, mark):
            found.append(text[start : mark.end()].strip())
            start = mark.end()
    found.append(text[start:].strip())
    return [piece for piece in found if _WORD.search(piece)]


def _is_end(text: str, start: int, mark: re.Match[str]) -> bool:
    if not mark.group().startswith(".") or mark.group().startswith(".."):
        return True
    before = _LAST_WORD.search(text[start : mark.start()])
    word = before.group() if before else ""
    if word.lower() in ABBREVIATIONS:
        return mark.end() >= len(text.rstrip())
    if len(word) == 1 and word.isupper() and word != "I":
        return mark.end() >= len(text.rstrip())
    return not (word.isdigit() and _opens_line(text[: mark.start() - len(word)]))


def _opens_line(before: str) -> bool:
    """Whether nothing but blanks and marks of lists stands in front on the line."""
    return not before.rpartition("\n")[2].strip(" \t#*_>-")


def divided(text: str, divider: str) -> list[str] | None:
    """The parts between dividers; an empty first or last one is none, an empty one within makes the whole void (None)."""
    parts = [part.strip() for part in text.split(divider)]
    if any(not part for part in parts[1:-1]):
        return None
    return [part for part in parts if part]


def bullets(text: str) -> int:
    """Lines that begin with "* " or "-"; "**bold**" begins none."""
    return len(_BULLET.findall(text))


def highlights(text: str) -> int:
    """Parts between single or double asterisks on one line, with something in them."""
    single = [part for part in re.findall(r"\*([^\n*]*)\*", text) if part.strip()]
    double = [part for part in re.findall(r"\*\*([^\n*]*)\*\*", text) if part.strip()]
    return len(single) + len(double)


@lru_cache(maxsize=4096)
def language(text: str) -> str | None:
    """ISO 639-1 code of a text's language by langdetect with a fixed seed; None where it holds no word.

    Raises:
        PrefoptError: langdetect is not installed.
    """
    try:
        from langdetect import DetectorFactory, LangDetectException, detect
    except ModuleNotFoundError:
        raise PrefoptError(MISSING) from None
    DetectorFactory.seed = 0
    try:
        return str(detect(text))
    except LangDetectException:
        return None


MISSING = (
    "constraints on language and case need the package langdetect; pip install 'prefopt[checks]', "
    "or leave those prompts out"
)
