"""What reaches a terminal: nothing that moves its cursor, in any way of printing that the package has."""

from __future__ import annotations

import ast
import io
import logging
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefopt
from prefopt.core.terminal import GuardedStream, console, guarded, one_line, printable

HOSTILE = "a\x1b]0;title\x07b\x1b[2J\x9b31m\u202ec\x08\r\udce9"
PACKAGE = Path(prefopt.__file__).parent


@given(st.text(st.characters(codec=None)))
def test_no_control_character_is_left_and_other_text_is_as_it_was(text):
    shown = printable(text)
    left = {c for c in shown if unicodedata.category(c) in ("Cc", "Cs")} - {"\n", "\t", "\r"}
    assert not left
    assert all(shown[place : place + 2] == "\r\n" for place, c in enumerate(shown) if c == "\r")
    assert printable(shown) == shown
    plain = "".join(c for c in text if unicodedata.category(c)[0] not in "CZ")
    assert all(c in shown for c in plain)


def test_words_of_any_script_and_emoji_stay():
    text = "schön 日本語 עברית \U0001f469\u200d\U0001f4bb\ttab\nline"
    assert printable(text) == text


def test_one_line_is_one():
    assert one_line("a\n b\x1b\r\n\u2028c") == "a b\\x1b c"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_way_of_printing_is_escaped(monkeypatch, encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    import typer
    from rich.table import Table

    table = Table("head" + HOSTILE)
    table.add_row(HOSTILE)
    early = logging.getLogger("made.early")
    # the runner's own record of logs cannot send half a surrogate pair to its other processes
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    early.addHandler(logging.StreamHandler(stream))
    with guarded():
        early.error(HOSTILE)
        print(HOSTILE)
        typer.echo(HOSTILE)
        sys.stderr.write(HOSTILE)
        logging.lastResort.handle(logging.LogRecord("x", 30, "", 0, HOSTILE, (), None))
        console().print(table)
        console(stderr=True).print(HOSTILE, "schön")
    assert sys.stdout is stream
    assert early.handlers.pop().stream is stream
    written = raw.getvalue().decode(encoding)
    assert written.count("\\x1b]0;title") == 8
    assert not {c for c in written if unicodedata.category(c) == "Cc"} - {"\n"}
    assert "\u202e" not in written


def test_bars_of_other_libraries_still_move():
    raw = io.StringIO()
    stream = GuardedStream(raw)
    for text in ("\r 10%|# |", "\n", "\x1b[A", "\r       \r"):
        stream.write(text)
    assert raw.getvalue() == "\r 10%|# |\n\x1b[A\r       \r"


def test_a_styled_console_keeps_its_colours_and_escapes_its_text():
    rich_console = console()
    rich_console.file, rich_console._force_terminal, rich_console._color_system = io.StringIO(), True, 1
    rich_console.print("x\x1b[2Jy", style="bold", highlight=False)
    assert rich_console.file.getvalue() == "\x1b[1mx\\x1b[2Jy\x1b[0m\n"


def test_there_is_no_other_console_than_the_one_that_escapes():
    for path in PACKAGE.rglob("*.py"):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            name = getattr(called, "id", getattr(called, "attr", ""))
            assert name != "Console", f"{path}: use prefopt.core.terminal.console"
