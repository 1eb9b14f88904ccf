"""The journal: what was written is read again, whatever a kill or another process left in the file."""

import json
import os
import signal
import subprocess
import sys

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.tables.journal import Journal

RECORDS = [{"k": 1, "text": "ä\u2028\n"}, {}, {"k": 3}]


def test_cut_at_any_byte_no_whole_line_is_lost_and_the_next_one_is_apart(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"
    with Journal(path) as journal:
        journal.add(*RECORDS, sync=True)
    whole = path.read_bytes()
    ends = [k for k in range(len(whole)) if whole[k : k + 1] == b"\n"]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = RECORDS[: sum(end <= cut for end in ends)]
        with Journal(path) as journal:
            assert journal.read() == kept
            journal.add({"k": "new"})
        assert Journal(path).read() == [*kept, {"k": "new"}]


def test_opening_a_whole_file_changes_no_byte(tmp_path):
    path = tmp_path / "journal.jsonl"
    for _ in range(3):
        with Journal(path) as journal:
            journal.add({"k": 1})
    assert path.read_text() == '{"k": 1}\n' * 3


def test_lines_that_are_not_ours_are_passed_over(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'[1]\n\xff\xfe{\n"text"\n\n\0\0\0\n{"k": 1}\n')
    assert Journal(path).read() == [{"k": 1}]


def test_two_writers_share_a_file(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as one, Journal(path) as two:
        for k in range(5):
            one.add({"one": k})
            two.add({"two": k})
    assert Journal(path).read() == [{name: k} for k in range(5) for name in ("one", "two")]


def test_kill_9_loses_nothing_that_was_added(tmp_path):
    path = tmp_path / "journal.jsonl"
    writer = (
        "import sys; from pathlib import Path; from prefopt.tables.journal import Journal\n"
        "with Journal(Path(sys.argv[1])) as journal:\n"
        "    for k in range(10**9):\n"
        "        journal.add({'k': k}); print(k, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", writer, path], stdout=subprocess.PIPE, text=True) as process:
        told = [int(process.stdout.readline()) for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
    found = [record["k"] for record in Journal(path).read()]
    assert found == list(range(len(found)))
    assert len(found) >= len(told) == 50


def test_without_a_path_or_outside_the_context_nothing_is_kept(tmp_path):
    with Journal(None) as journal:
        journal.add({"k": 1})
    assert journal.read() == []
    Journal(tmp_path / "none.jsonl").add({"k": 1})
    assert not (tmp_path / "none.jsonl").exists()


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(PrefoptError, match="cannot be written"), Journal(tmp_path / "file" / "journal.jsonl"):
        pass
