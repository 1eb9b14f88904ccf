"""Commands one after the other in the processes of one launch (torchrun): python several_worker.py JOBS_JSON.

The file holds {"parts": rows of a part, "jobs": [words, ...]}; a job may be {"words": [...], "fails": rank}: that process raises in its
first part of the reference pass. NAME.out and NAME.err hold what all processes printed, one line a piece, with the exit code at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from prefopt.cli import app
from prefopt.core import processes
from prefopt.stages.evaluate import pairs
from prefopt.stages.reference import reference
from prefopt.stages.reference.reference_pass import ReferencePass


def set_parts(rows: int) -> None:
    """Parts of so few rows that a small table has several."""
    reference.PART_ROWS = pairs.PART_ROWS = rows


def run_job(number: int, job: Any, folder: Path) -> None:
    """One command, what it prints kept by process."""
    words, fails = (job["words"], job["fails"]) if isinstance(job, dict) else (job, None)
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(
        number
    )  # as after a restart: nothing is left of a failure before
    own = ReferencePass.part

    def part(self: ReferencePass, rows: Any, start: int) -> Any:
        if fails == processes.rank():
            raise ValueError("as if a device had fallen off")
        return own(self, rows, start)

    ReferencePass.part = part  # type: ignore[method-assign]
    out, err = io.StringIO(), io.StringIO()
    stdout = sys.stdout
    with contextlib.redirect_stderr(err):
        sys.stdout = out
        try:
            app.main(words)
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout = stdout
            ReferencePass.part = own  # type: ignore[method-assign]
    found = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    (folder / f"{number}-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


def main() -> None:
    """Do the jobs of the file."""
    torch.set_num_threads(1)
    file = Path(sys.argv[1])
    jobs = json.loads(file.read_text())
    set_parts(jobs["parts"])
    for number, job in enumerate(jobs["jobs"]):
        run_job(number, job, file.parent)


if __name__ == "__main__":
    main()
