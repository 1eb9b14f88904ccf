"""Rows that a server gave up on are asked again on demand, and no others."""

import json
import sys

import pytest
from fake_server import FakeServer

from prefopt.cli import app as cli
from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.pipeline.recipe import Recipe
from prefopt.pipeline.run import run
from prefopt.stages.alone import run_alone
from prefopt.stages.evaluate.evaluate import STAGE as EVALUATE
from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.stages.sample.sample import STAGE
from prefopt.stages.sample.settings import SampleConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import file_digest, rows_of
from prefopt.tables.table_rows import read_table

LONG = (400, {"error": {"message": "maximum context length is 4"}})
BUSY = (503, "busy")


@pytest.fixture(autouse=True)
def _loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def settings(url, **more):
    server = {"base_url": url, "model": "m", "retries": 0, "backoff_s": 0.0, **more}
    return {"engine": "server", "n": 2, "server": server}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": str(i)}) + "\n" for i in range(5)))
    return str(path)


def rows(folder):
    return {row["id"]: row for row in rows_of(read_table(folder / "part-00000.parquet"))}


def given(url, **more):
    return parse_config(SampleConfig, settings(url, **more), "test")


def test_only_the_failed_rows_are_asked_and_the_others_stay(prompts, tmp_path):
    out = tmp_path / "out"
    with FakeServer(refusals={"q1": BUSY, "q2": LONG, "q3": BUSY}) as server:
        first = run_alone(STAGE, given(server.url), prompts, out, Context(seed=1))
        assert (first.failed, first.dropped["server gave up"]) == (4, 4)
        assert StageFolder(out).manifest["failed"] == 4
        before = rows(out)
        server.calls.clear()
        again = run_alone(STAGE, given(server.url), prompts, out, Context(seed=1))
        assert (again.failed, server.calls) == (4, [])  # without the flag a finished stage is finished
        del server.refusals["q1"]
        # how calls are made may be changed
        retried = run_alone(
            STAGE, given(server.url, retries=1), prompts, out, Context(seed=1), retry_failed=True
        )
        assert sorted(call.question for call in server.calls) == ["q1"] * 2 + ["q3"] * 4
        assert (retried.failed, retried.dropped) == (
            2,
            {"prompt fills the model's context": 2, "server gave up": 2},
        )
        after = rows(out)
        assert {name: after[name] for name in before} == before
        assert len(after) == len(before) + 2
        del server.refusals["q3"]
        run_alone(STAGE, given(server.url), prompts, out, Context(seed=1), retry_failed=True)
        fresh = tmp_path / "fresh"
        run_alone(STAGE, given(server.url), prompts, fresh, Context(seed=1))
    assert file_digest(fresh / "part-00000.parquet") == file_digest(out / "part-00000.parquet")
    assert not (out / ".work").exists()
    assert "failed" not in StageFolder(out).manifest


def test_a_retry_that_fails_leaves_the_finished_stage(prompts, tmp_path):
    out = tmp_path / "out"
    with FakeServer(refusals={"q1": BUSY}) as server:
        run_alone(STAGE, given(server.url), prompts, out, Context())
        files = {path.name: file_digest(path) for path in out.glob("*.parquet")}
        manifest = StageFolder(out).manifest
        with pytest.raises(PrefoptError, match="calls in a row failed"):
            run_alone(STAGE, given(server.url, give_up_after=1), prompts, out, Context(), retry_failed=True)
        assert StageFolder(out).manifest == manifest
        assert {path.name: file_digest(path) for path in out.glob("*.parquet")} == files
        server.refusals.clear()
        server.calls.clear()
        assert run_alone(STAGE, given(server.url), prompts, out, Context()).failed == 2
        assert run_alone(STAGE, given(server.url), prompts, out, Context(), retry_failed=True).failed == 0
        assert [call.question for call in server.calls] == ["q1", "q1"]


def test_other_settings_are_refused_and_nothing_is_lost(prompts, tmp_path):
    out = tmp_path / "out"
    with FakeServer(refusals={"q1": BUSY}) as server:
        run_alone(STAGE, given(server.url), prompts, out, Context())
        with pytest.raises(PrefoptError, match=r"other settings.*--retry-failed"):
            run_alone(STAGE, given(server.url), prompts, out, Context(seed=7), retry_failed=True)
        assert StageFolder(out).manifest["failed"] == 2
        (out / ".work" / "sample" / "answers.jsonl").unlink()
        (out / ".work" / "sample").rmdir()
        (out / ".work").rmdir()
        with pytest.raises(PrefoptError, match=r"answers kept .* are gone"):
            run_alone(STAGE, given(server.url), prompts, out, Context(), retry_failed=True)


def test_nothing_failed_is_said(prompts, tmp_path, capsys):
    with FakeServer() as server:
        for _ in range(2):
            run_alone(STAGE, given(server.url), prompts, tmp_path / "out", Context(), retry_failed=True)
        assert len(server.calls) == 10
    assert "no failed rows" in capsys.readouterr().err


def test_evaluation_too(prompts, tmp_path):
    with FakeServer(refusals={"q1": BUSY}) as server:
        config = parse_config(EvaluateConfig, {**settings(server.url), "n": 1}, "test")
        assert run_alone(EVALUATE, config, prompts, tmp_path / "e", Context()).failed == 2
        server.refusals.clear()
        server.calls.clear()
        found = run_alone(EVALUATE, config, prompts, tmp_path / "e", Context(), retry_failed=True)
    assert found.failed == 0
    assert found.quality["accuracy"]["n"] == 5
    assert [call.question for call in server.calls] == ["q1", "q1"]


NOTHING_ELSE = dict.fromkeys(("rank", "reference", "select", "weight", "train", "evaluate"))


def test_in_a_run_what_follows_is_done_anew(prompts, tmp_path):
    out = tmp_path / "run"
    with FakeServer(refusals={"q1": BUSY}) as server:
        plain = {"model": "builtin:quickstart/base", "data": {"path": prompts, "heldout": 0.0}}
        recipe = parse_config(Recipe, {**plain, "sample": settings(server.url), **NOTHING_ELSE}, "recipe")
        summary = run(recipe, out)
        assert summary["failed"] == {"01-sample": 2}
        keys = [StageFolder(out / name).manifest["key"] for name in ("01-sample", "02-judge")]
        server.refusals.clear()
        assert run(recipe, out)["failed"] == {"01-sample": 2}
        assert run(recipe, out, retry_failed=True)["failed"] == {}
        assert len(server.calls) == 12
        later = [StageFolder(out / name).manifest["key"] for name in ("01-sample", "02-judge")]
        assert later[0] == keys[0]
        assert later[1] != keys[1]
        assert len(rows(out / "02-judge")) == 10
        stamp = (out / "02-judge" / "manifest.json").stat().st_mtime_ns
        run(recipe, out)
        run(recipe, out, retry_failed=True)
        assert (out / "02-judge" / "manifest.json").stat().st_mtime_ns == stamp
        assert len(server.calls) == 12


def _main(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["prefopt", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0, capsys.readouterr()


def test_the_command_line_says_how_many_and_how_to_ask_again(prompts, tmp_path, monkeypatch, capsys):
    with FakeServer(refusals={"q1": BUSY}) as server:
        words = [
            "sample", "--input", prompts, "--output", tmp_path / "my out", "--engine", "server", "--n", "2",
            "--server.base_url", server.url, "--server.model", "m", "--server.retries", "0",
        ]  # fmt: skip
        code, shown = _main(monkeypatch, capsys, *words)
        assert code == 0, shown.err
        line = next(line for line in shown.out.splitlines() if "failed" in line)
        assert line.startswith("2 rows failed (server gave up); ask them again: prefopt sample --input")
        assert f"'{tmp_path / 'my out'}'" in line
        assert line.endswith("--retry-failed")
        server.refusals.clear()
        code, shown = _main(monkeypatch, capsys, *words, "--retry-failed")
        assert (code, "rows failed" in shown.out) == (0, False), shown.err
        assert "10 rows" in shown.out
