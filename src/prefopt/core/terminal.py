"""The one place between text and terminal: whatever is printed passes here, and control characters become visible.

File names, column names, model names, templates and servers are written by others. A raw escape sequence among them could
clear the screen, rename the window or hide an error, and a text direction mark could turn a line around. Within `guarded()`
all that goes to stdout and stderr is escaped, lines of logging and warnings included; `console()` gives the one kind of rich console
that escapes what it draws and still has colours. What the terminal's encoding cannot show is escaped too, never an error.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 controls but tab and newline, line separators, direction marks (CVE-2021-42574), halves of surrogate pairs
_CONTROL = re.compile(
    r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# what progress bars of other libraries write besides their text: back to the start of the line, up, and clear
_MOVES = re.compile(r"(?:\r|\n|\x1b\[A|\x1b\[K)*")


def printable(text: str) -> str:
    """The text with every control character as `\\x1b` or `\\u202e`; bytes of a name that are not UTF-8 as `\\xe9`."""
    return _CONTROL.sub(_escaped, text)


def one_line(text: object) -> str:
    """Any text as one printable line: blanks and line ends become single blanks."""
    return printable(" ".join(str(text).split()))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group()[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python names it (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class EncodedStream:
    """A text stream that escapes what its encoding cannot show; all else is the stream's own."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write text; the number of characters given."""
        if not isinstance(text, str):
            raise TypeError(f"a text stream is given text, not {type(text).__name__}")
        encoding = getattr(self.inner, "encoding", None) or "utf-8"
        self.inner.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class GuardedStream(EncodedStream):
    """A text stream that escapes control characters."""

    encoding = (
        "utf-8"  # as far as others see, since all text can be written; click would go round an ASCII stream
    )

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.rich_proxied_file = EncodedStream(inner)  # where a rich console draws

    def write(self, text: str) -> int:
        """Write text, escaped; the number of characters given."""
        super().write(_guard(text) if isinstance(text, str) else text)
        return len(text)


def _guard(text: str) -> str:
    body = text.lstrip("\r")
    if _MOVES.fullmatch(text):
        return text
    return (
        text[: len(text) - len(body)]
        + printable(body.rstrip("\r"))
        + "\r" * (len(body) - len(body.rstrip("\r")))
    )


@contextmanager
def guarded() -> Iterator[None]:
    """Within: stdout and stderr escape control characters, also for handlers of logging that hold them already."""
    before = sys.stdout, sys.stderr
    after = tuple(GuardedStream(stream) for stream in before)
    _exchange(dict(zip(map(id, before), after, strict=True)))
    sys.stdout, sys.stderr = after
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        _exchange(dict(zip(map(id, after), before, strict=True)))


def _exchange(streams: dict[int, Any]) -> None:
    """Give every handler of logging that writes to one of the streams (by id) the other one."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    for handler in handlers:
        held = vars(handler).get("stream")  # one that is looked up at every line needs nothing
        if isinstance(handler, logging.StreamHandler) and id(held) in streams:
            handler.setStream(streams[id(held)])


def console(*, stderr: bool = False) -> Console:
    """A rich console, the only kind that this project draws on: styled, and its text escaped."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    return SafeConsole(stderr=stderr)
