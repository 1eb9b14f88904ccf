"""How commands end: one line, exit code 2, whatever is raised; nothing that the terminal would obey."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prefopt.cli.ends import run_to_end
from prefopt.core.errors import PrefoptError


def ended(error, capsys):
    """Exit code and the one line of a command that raises."""

    def command():
        raise error

    code = run_to_end(command, ["run", "x.yaml"])
    out, err = capsys.readouterr()
    assert not out
    assert err.endswith("\n")
    assert err.strip().count("\n") == 0
    assert "Traceback" not in err
    return code, err


class Odd(BaseException):
    """As the panics of Rust libraries are."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PrefoptError("bad\n  \x1b[2J thing; mend it"), r"^error: bad \\x1b\[2J thing; mend it$"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: cannot be written .*free space"),
        (OSError(errno.EFBIG, "File too large"), "the output: cannot be written"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (OSError(errno.EACCES, "Permission denied", "a\x1bb"), r"a\\x1bb: Permission denied"),
        (OSError(errno.EACCES, "Permission denied", b"a\xe9"), r"a\\xe9: Permission denied"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "no space"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out of memory.*2.00 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "out of mem"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(error, words, capsys):
    code, line = ended(error, capsys)
    assert code == 2
    assert re.search(words, line)
    assert "internal" not in line


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division\nby zero"), RecursionError("deep"), KeyError("\x1b[2J"), Odd("panic"),
              OSError("no number"), UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates")],
)  # fmt: skip
def test_a_fault_of_our_own_is_one_line_that_names_the_saved_traceback(error, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, line = ended(error, capsys)
    assert code == 2
    place = re.search(r"the traceback is in (\S+),", line).group(1)
    text = Path(place).read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert type(error).__name__ in text
    assert "prefopt run x.yaml" in text


def test_a_traceback_that_cannot_be_saved_is_no_second_fault(capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    _, line = ended(KeyError("x"), capsys)
    assert "set PREFOPT_TRACEBACK=1" in line


def test_the_traceback_is_printed_when_asked_for(capsys, monkeypatch):
    def command():
        raise PrefoptError("bad")

    monkeypatch.setenv("PREFOPT_TRACEBACK", "1")
    assert run_to_end(command, []) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: bad\nTraceback")


def test_ctrl_c_has_its_own_code(capsys):
    code, line = ended(KeyboardInterrupt(), capsys)
    assert code == 130
    assert line.endswith("the same command continues: prefopt run x.yaml\n")


def test_words_that_are_not_utf_8_are_one_line(capsys):
    assert run_to_end(lambda: None, ["data", "--input", "caf\udce9.jsonl"]) == 2
    assert "word 3 of the command is not UTF-8 text: caf\\xe9.jsonl;" in capsys.readouterr().err


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}], ids=["C", "ascii"]
)
def test_umlauts_are_no_matter_in_any_locale(tmp_path, locale):
    """In a locale without UTF-8 names are one line, and what is printed is escaped."""
    (tmp_path / "fü.jsonl").write_text(
        '{"prompt": "schön?", "chosen": "jä", "rejected": "nö"}\n', encoding="utf-8"
    )
    command = [sys.executable, "-m", "prefopt", "data", "--input", "fü.jsonl", "--output", "aus"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **locale}, capture_output=True)
    assert b"Traceback" not in done.stderr
    if "PYTHONUTF8" in locale:
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
    else:
        assert done.returncode == 0, done.stderr
