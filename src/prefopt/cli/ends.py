"""How a command ends: done, stopped, or told in one line with exit code 2; never a traceback on the terminal.

Exit codes: 0 done; 2 the command did not do its work and one line says why (bad input, settings, no space, no memory, and
faults of prefopt itself); 130 stopped by Ctrl-C. The traceback of a fault of prefopt is kept in a file that the line names;
`PREFOPT_TRACEBACK=1` prints tracebacks besides.
"""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

import typer

from prefopt import __version__
from prefopt.core import processes
from prefopt.core.errors import PrefoptError, no_space, out_of_memory
from prefopt.core.terminal import guarded, one_line

SHOW = "PREFOPT_TRACEBACK"
AGAIN = "then run the same command again: finished work is kept"


def run_to_end(command: Callable[[], None], words: Sequence[str]) -> int:
    """Run a command, given in `words`; its exit code. Whatever stops it is one line on stderr."""
    with guarded():
        try:
            _check_words(words)
            command()
        except typer.Exit as end:
            return end.exit_code
        except SystemExit as end:
            if isinstance(end.code, str):
                sys.stderr.write(f"error: {one_line(end.code)}\n")
                return 2
            return int(end.code or 0)
        except KeyboardInterrupt:
            again = shlex.join(["prefopt", *words])
            sys.stderr.write(
                f"\nstopped; nothing that was done is lost, the same command continues: {one_line(again)}\n"
            )
            return 130
        except BaseException as error:
            if isinstance(error, GeneratorExit):
                raise
            if isinstance(error, OSError) and error.errno == errno.EPIPE:  # the reader of our output has left
                sys.stderr.write("error: the output was closed before its end\n")
                return 2
            text = _told(error, words)
            processes.fail(error, text)
            if not processes.speaks():
                return 2
            sys.stderr.write(f"error: {one_line(text)}\n")
            sys.stderr.flush()
            processes.has_spoken()
            if os.environ.get(SHOW) == "1":
                sys.stderr.write("".join(traceback.format_exception(error)))
            return 2
    return 0


def _check_words(words: Sequence[str]) -> None:
    """Words that are no text would fail wherever they are written: in a manifest, in a table, on a page."""
    for number, word in enumerate(words, start=1):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise PrefoptError(
                f"word {number} of the command is not UTF-8 text: {word}; rename the file, or set PYTHONUTF8=1 where the "
                "terminal speaks UTF-8 and the locale does not"
            ) from None


def _told(error: BaseException, words: Sequence[str]) -> str:
    """The line for an error: what, where, how to mend."""
    if isinstance(error, PrefoptError):
        return str(error)
    full = no_space(error)
    if full:
        where = getattr(error, "filename", None) or "the output"
        return f"{_name(where)}: cannot be written ({full}); free space, {AGAIN}"
    if out_of_memory(error):
        reason = one_line(error)[:160] or type(error).__name__
        return (
            f"out of memory ({reason}); lower the settings of batch and length of this stage (`prefopt help VERB`), or "
            f"use a machine with more memory, {AGAIN}"
        )
    if isinstance(error, OSError) and error.filename is not None:
        reason = error.strerror or str(error)
        return f"{_name(error.filename)}: {reason}; check that it exists and can be read and written"
    place = _keep(error, words)
    kept = f"the traceback is in {place}" if place else f"set {SHOW}=1 to see the traceback"
    return f"internal fault, {type(error).__name__}: {one_line(error)[:300]}; {kept}, please report it"


def _name(where: object) -> str:
    return os.fsdecode(where) if isinstance(where, bytes) else str(where)


def _keep(error: BaseException, words: Sequence[str]) -> str | None:
    """Write the traceback to a file of its own; None where there is no place for it."""
    head = [
        f"prefopt {__version__}, Python {platform.python_version()}, {platform.platform()}",
        shlex.join(["prefopt", *words]),
    ]
    text = "\n".join([*head, "".join(traceback.format_exception(error))])
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="prefopt-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        return None
    return file.name
