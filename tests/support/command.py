"""The command line called in this process."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from prefopt.cli import app


@dataclass
class Result:
    """How a command ended, and what it wrote. output: both streams."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self):
        return self.stdout + self.stderr


def command(*words):
    """`prefopt WORDS...`: exit code and texts."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        app.main([str(word) for word in words])
    return Result(int(stop.value.code or 0), out.getvalue(), err.getvalue())
