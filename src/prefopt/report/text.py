"""Numbers and foreign text for the page. Model output is data: it is escaped, and what cannot be seen is shown."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

LONGEST = 1500  # characters of an answer shown before the cut; the tables hold the rest
# spaces that a reader would miss: at a line's end, at its start, or several together
_HIDDEN_SPACES = re.compile(r"(?m) +$|^ +| {2,}")
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode categories without a glyph of their own
_MARKS = {"\n": "↵", "\t": "→"}
_NOT_HTML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
MINUS = "\u2212"


def visible(text: str, longest: int = LONGEST) -> Markup:
    """Escaped text in which line ends, tabs, hidden spaces and control characters can be seen.

    Of a text over `longest` characters the middle is left out: prompts and answers end with what matters most.
    """
    if len(text) <= longest:
        return _shown(text)
    head, tail = text[: 2 * longest // 3], text[len(text) - longest // 3 :]
    left_out = f"{len(text) - len(head) - len(tail):,} characters left out"
    return _shown(head) + Markup('<span class="cut"> … {} … </span>').format(left_out) + _shown(tail)


def _shown(text: str) -> Markup:
    pieces = []
    start = 0
    for match in _HIDDEN_SPACES.finditer(text):
        pieces += [_letters(text[start : match.start()]), _mark("·" * len(match.group()))]
        start = match.end()
    return Markup("").join([*pieces, _letters(text[start:])])


def _letters(text: str) -> Markup:
    return Markup("").join(_letter(letter) for letter in text)


def _letter(letter: str) -> Markup:
    if letter in _MARKS:
        return _mark(_MARKS[letter]) + Markup(letter)
    if unicodedata.category(letter) in _UNSEEN:
        return Markup('<span class="ctl">U+{:04X}</span>').format(ord(letter))
    return escape(letter)


def _mark(sign: str) -> Markup:
    return Markup('<span class="ws" aria-hidden="true">{}</span>').format(sign)


def printable(html: str) -> str:
    """The page without characters that HTML or UTF-8 cannot hold (NUL, controls, lone surrogates)."""
    return _NOT_HTML.sub("\ufffd", html.replace("\r\n", "\n").replace("\r", "\n"))


def plain(content: Any) -> str:
    """A prompt or an answer as one text: a conversation as `role: content` lines, one user message as its content."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    messages = [message for message in content if isinstance(message, Mapping)]
    if len(messages) == 1:
        return str(messages[0].get("content") or "")
    return "\n".join(f"{message.get('role')}: {message.get('content') or ''}" for message in messages)


def number(value: Any, digits: int = 3) -> str:
    """A number for reading: thousands separated, `digits` significant digits, a true minus sign."""
    if value is None or isinstance(value, bool):
        return "–" if value is None else ("yes" if value else "no")
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
        text = f"{value:,.{min(places, 8)}f}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"
        return text.replace("-", MINUS)
    return str(value)


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign in front."""
    text = number(None if value is None else float(value), digits)
    return f"+{text}" if value is not None and value > 0 else text


def hundredths(value: float | None) -> str:
    """A signed number with two decimals: a change of log-prob in nats, a correlation."""
    return "–" if value is None else f"{value:+,.2f}".replace("-", MINUS)


def percent_interval(entry: Mapping[str, Any]) -> str:
    """`[43.1, 50.0]` from the shares `low` and `high`; empty where there is no interval (one prompt)."""
    if entry["low"] is None:
        return ""
    return f"[{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


def percent(value: float | None, places: int = 1) -> str:
    """A share as a percentage, e.g. `71.2%`."""
    return "–" if value is None else f"{100 * value:.{places}f}%".replace("-", MINUS)


def points(value: float | None) -> str:
    """A difference of shares in percentage points, signed, e.g. `+5.2`."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}".replace("-", MINUS)
    return "0.0" if text in ("+0.0", f"{MINUS}0.0") else text


def duration(seconds: float | None) -> str:
    """Seconds as `48 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def p_value(value: float | None) -> str:
    """A p-value to follow other figures: `, p = 0.012` or `, p < 0.001`; nothing for None."""
    if value is None:
        return ""
    return ", p < 0.001" if value < 0.001 else f", p = {value:.3f}" if value < 0.1 else f", p = {value:.2f}"
