"""Sampling from a server: rows, counts, faults, a killed run, and a real server on loopback."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path

import pytest
from fake_server import FakeServer, FaultProxy

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.engines import Chat, EngineOptions, Sampling, batch_seed, open_engine
from prefopt.engines.server_settings import ServerSettings
from prefopt.stages.sample.sample import STAGE, sample
from prefopt.stages.sample.settings import SampleConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.journal import Journal
from prefopt.tables.records import make_table, rows_of
from prefopt.tables.table_rows import read_table

BASE = Path(str(resources.files("prefopt.recipes"))) / "quickstart" / "base"
KEY = "sk-test-0123456789abcdefSECRET"


def table(count=5):
    rows = [{"id": f"p{i}", "prompt_id": f"p{i}", "prompt": f"question {i}"} for i in range(count)]
    return make_table(rows)


def config(url, n=2, **more):
    server = {"base_url": url, "model": "m", "backoff_s": 0.01, "timeout_s": 5, **more}
    return SampleConfig(engine="server", n=n, server=ServerSettings(**server))


def test_rows_have_their_own_seeds_and_the_servers_figures():
    with FakeServer() as server:
        output = sample(table(3), config(server.url), Context(seed=4))
        asked = {call.body["seed"]: call.body for call in server.calls}
    rows = rows_of(output.table)
    assert [row["id"] for row in rows] == [f"p{i}-{k}" for i in range(3) for k in range(2)]
    assert [row["seed"] for row in rows] == [batch_seed(4, "sample", index) for index in range(6)]
    assert [asked[row["seed"]]["messages"] for row in rows] == [
        [{"role": "user", "content": row["prompt"]}] for row in rows
    ]
    assert {(row["model"], row["finish_reason"], row["completion_tokens"]) for row in rows} == {
        ("m", "stop", 3)
    }
    assert (output.dropped, output.quality["completions"]) == ({}, 6)


def test_messages_tools_and_template_options_are_sent_as_they_are():
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    row = {
        "id": "a", "prompt_id": "a", "prompt": messages, "tools": [{"type": "function"}],
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    with FakeServer() as server:
        given = config(server.url, n=1).model_copy(update={"top_k": 7, "max_new_tokens": 9})
        sample(make_table([row]), given, Context())
        body = server.calls[0].body
    assert (body["messages"], body["tools"]) == (messages, [{"type": "function"}])
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["top_k"], body["max_tokens"]) == (7, 9)


def test_rows_without_an_answer_are_counted_by_reason():
    long = {"error": {"message": "maximum context length is 4"}}
    refusals = {"question 1": (503, "busy"), "question 2": (400, long)}
    with FakeServer(refusals=refusals) as server:
        output = sample(table(5), config(server.url, retries=1), Context())
        assert output.dropped == {"server gave up": 2, "prompt fills the model's context": 2}
        assert output.table.num_rows == 10 - 4
        with pytest.raises(PrefoptError, match=r"'p[12]-[01]'.*strict"):
            sample(table(5), config(server.url, retries=1), Context(strict=True))


def test_no_answer_at_all_is_an_error_line():
    with (
        FakeServer(refusals={"question 0": (500, "no")}) as server,
        pytest.raises(PrefoptError, match=r"no completion \(server gave up: 2\)"),
    ):
        sample(table(1), config(server.url, retries=0), Context())


def test_nothing_is_lost_or_doubled_behind_faults(tmp_path):
    folder = StageFolder(tmp_path / "01-sample")
    folder.begin("key")
    with FakeServer() as server:
        expected = sample(table(60), config(server.url), Context(seed=1)).table
        with FaultProxy(server.url, rate=0.3, seed=3, hold_s=0.9) as proxy:
            given = config(proxy.url, timeout_s=0.7, retries=12)
            output = sample(table(60), given, Context(seed=1, folder=folder))
            faults = sum(proxy.counts.values()) - proxy.counts["ok"]
            assert proxy.counts["ok"] >= 120  # more where a slow machine times out by itself
    assert faults > 20
    assert output.table.data.table.equals(expected.data.table)
    assert output.dropped == {}
    journal = Journal(folder.work_part("sample", 0).with_name("answers.jsonl"))
    assert sorted(record["row"] for record in journal.read()) == list(range(120))


def test_every_row_is_accounted_for_where_retries_do_not_suffice():
    with FakeServer() as server, FaultProxy(server.url, rate=0.5, faults=("500",)) as proxy:
        output = sample(table(40), config(proxy.url, retries=0, give_up_after=1000), Context())
    assert 10 < output.dropped["server gave up"] < 70
    assert output.table.num_rows + output.dropped["server gave up"] == 80


def test_given_up_and_lost_rows_alone_are_asked_again(tmp_path):
    folder = StageFolder(tmp_path / "01-sample")
    folder.begin("key")
    with FakeServer(refusals={"question 3": (500, "no")}) as server:
        given = config(server.url, retries=0)
        first = sample(table(6), given, Context(folder=folder))
        assert first.dropped == {"server gave up": 2}
        path = folder.work_part("sample", 0).with_name("answers.jsonl")
        content = path.read_bytes()
        path.write_bytes(content[:-5])  # a line cut by a kill
        lost = json.loads(content.splitlines()[-1])["id"]
        server.calls.clear()
        server.refusals.clear()
        folder.begin("key")
        again = sample(table(6), given, Context(folder=folder))
        questions = sorted(call.question for call in server.calls)
    assert questions == sorted(["question 3", "question 3", f"question {lost[1]}"])
    assert again.table.num_rows == 12


def test_a_row_that_the_server_refuses_is_named_counted_and_not_asked_again(tmp_path, capsys):
    folder = StageFolder(tmp_path / "01-sample")
    folder.begin("key")
    with FakeServer(refusals={"question 3": (400, {"error": {"message": "odd words"}})}) as server:
        output = sample(table(6), config(server.url), Context(folder=folder))
        assert output.dropped == {"refused by the server": 2}
        assert output.table.num_rows == 10
        assert "sample: row p3-0: refused by the server: odd words" in capsys.readouterr().err
        server.calls.clear()
        again = sample(table(6), config(server.url), Context(folder=folder))
        assert again.dropped == output.dropped
        assert server.calls == []


def test_where_every_row_was_refused_all_are_asked_again(tmp_path):
    # as likely as the rows it was the server, for example started with too small a context, and is mended since
    long = {"error": {"message": "maximum context length is 4"}}
    folder = StageFolder(tmp_path)
    folder.begin("k")
    with FakeServer(refusals={f"question {k}": (400, long) for k in range(3)}) as server:
        with pytest.raises(PrefoptError, match="no completion"):
            sample(table(3), config(server.url), Context(folder=folder))
        server.refusals.clear()
        output = sample(table(3), config(server.url), Context(folder=folder))
    assert (output.dropped, output.table.num_rows) == ({}, 6)


def test_a_refused_row_alone_does_not_stop_a_run_that_is_started_again(tmp_path):
    folder = StageFolder(tmp_path / "01-sample")
    folder.begin("key")
    with FakeServer(refusals={"question 3": (400, "no")}) as server:
        sample(table(6), config(server.url), Context(folder=folder))
        path = folder.work_part("sample", 0).with_name("answers.jsonl")
        # as if it had been killed before it knew of the others
        lines = [line for line in path.read_text().splitlines(keepends=True) if "refused" not in line]
        path.write_text("".join(lines))
        again = sample(table(6), config(server.url), Context(folder=folder))
    assert again.dropped == {"refused by the server": 2}


def test_lines_of_the_journal_that_cannot_be_used_are_counted_and_asked_again(tmp_path, capsys):
    folder = StageFolder(tmp_path / "01-sample")
    folder.begin("key")
    with FakeServer() as server:
        first = sample(table(4), config(server.url), Context(folder=folder))
        path = folder.work_part("sample", 0).with_name("answers.jsonl")
        records = [json.loads(line) for line in path.read_text().splitlines()]
        spoiled = [
            {**records[0], "tokens": 10**30}, {**records[1], "end": "maybe"}, {**records[2], "text": None},
            {"row": records[3]["row"], "id": records[3]["id"]}, {**records[4], "row": -1}, *records[5:],
        ]  # fmt: skip
        path.write_text("".join(json.dumps(record) + "\n" for record in spoiled) + "\x00\x00\n" + "[" * 5000)
        server.calls.clear()
        again = sample(table(4), config(server.url), Context(folder=folder))
        assert len(server.calls) == 5
    assert again.table.data.table.equals(first.table.data.table)
    assert "answers.jsonl: 7 lines cannot be used; asked again" in capsys.readouterr().err


def test_killed_run_repeats_no_stored_call(tmp_path):
    script = [sys.executable, str(Path(__file__).parents[1] / "support" / "kill_server_run.py")]
    with FakeServer(latency_s=0.05) as server:
        arguments = [server.url, str(tmp_path / "run"), "30"]
        process = subprocess.Popen([*script, *arguments], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while len(server.calls) < 25 and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.2)
        before = len(server.calls)
        assert 25 <= before < 60
        subprocess.run([*script, *arguments], check=True, stderr=subprocess.DEVNULL, timeout=60)
        calls = len(server.calls)
    rows = rows_of(read_table(tmp_path / "run" / "whole.parquet"))
    assert [row["id"] for row in rows] == [f"p{i}-{k}" for i in range(30) for k in range(2)]
    assert 60 <= calls <= 60 + 4  # at most the four calls in flight are asked twice


def test_key_is_in_no_file_and_no_output(tmp_path, monkeypatch, capfd):
    from prefopt.stages.alone import run_alone

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(4)))
    with FakeServer(key=KEY) as server, FaultProxy(server.url, rate=0.3) as proxy:
        given = config(proxy.url, retries=10, timeout_s=0.5)
        output = run_alone(STAGE, given, str(prompts), tmp_path / "out", Context(seed=2))
        assert output.table.num_rows == 8
        monkeypatch.setenv("OPENAI_API_KEY", KEY[::-1])
        with pytest.raises(PrefoptError) as wrong:
            run_alone(STAGE, given, str(prompts), tmp_path / "other", Context(seed=2))
    shown = capfd.readouterr()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for text in [*(path.read_bytes() for path in files), (shown.out + shown.err + str(wrong.value)).encode()]:
        assert KEY[:12].encode() not in text
        assert KEY[::-1].encode() not in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "server"}, "needs server.base_url"),
        ({"server": {"base_url": "http://h/v1", "model": "m"}}, "server is for engine 'server'"),
        ({"engine": "server", "server": {"base_url": "http://h/v1"}}, "'server.model' is missing"),
        ({"engine": "fake", "continuous_batching": True}, "continuous_batching is for engine 'transformers'"),
        ({"logprobs": True}, "logprobs is for engine 'vllm'"),
        (
            {"engine": "vllm", "vllm": {"extra": {"trust_remote_code": True}}},
            "trust_remote_code cannot be set",
        ),
    ],
)
def test_settings_that_do_not_fit_are_error_lines(settings, message):
    with pytest.raises(PrefoptError, match=message):
        parse_config(SampleConfig, settings, "recipe")


def test_engine_by_its_batch_protocol():
    with FakeServer(refusals={"bad": (400, {"error": {"message": "maximum context length"}})}) as server:
        settings = ServerSettings(base_url=server.url, model="m")
        engine = open_engine("server", None, "auto", EngineOptions(server=settings))
        good, bad = (engine.encode({"prompt": text}) for text in ("good", "bad"))
        assert good == Chat(({"role": "user", "content": "good"},), {})
        first = engine.generate([good] * 8, Sampling(), 3)
        assert first == engine.generate([good] * 8, Sampling(), 3)
        assert len({answer.text for answer in first}) > 1
        with pytest.raises(PrefoptError, match="prompt 1: prompt fills"):
            engine.generate([good, bad], Sampling(), 0)
    with pytest.raises(PrefoptError, match=r"server\.base_url"):
        open_engine("server", None)


# ---- a real server


@pytest.fixture(scope="module")
def served():
    """`transformers serve` with the quickstart's model; skips only where its packages are missing."""
    for package in ("fastapi", "uvicorn", "openai"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}: pip install 'transformers[serving]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-c", "from transformers.cli.transformers import main; main()",
        "serve", str(BASE), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--default-seed", "0",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait(url, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "transformers serve ended at its start"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail("transformers serve does not answer")


def test_real_server_samples_the_quickstart_model(served):
    rows = [
        {"id": f"p{i}", "prompt_id": f"p{i}", "prompt": [{"role": "user", "content": f"{i}+{i}+1"}]}
        for i in range(3)
    ]
    server = ServerSettings(base_url=served, model=str(BASE), concurrency=2)
    given = SampleConfig(engine="server", n=2, max_new_tokens=40, server=server)
    output = sample(make_table(rows), given, Context())
    found = rows_of(output.table)
    assert len(found) == 6
    assert output.dropped == {}
    assert all(re.search(r"A: \d+$", row["completion"]) for row in found if row["finish_reason"] == "stop")
    assert all(1 <= row["completion_tokens"] <= 40 for row in found)


def test_real_server_says_what_the_engine_here_says(served):
    sampling = Sampling(temperature=0.0, max_new_tokens=40)
    rows = [{"prompt": [{"role": "user", "content": f"{i}+2+{i}"}]} for i in range(3)]
    settings = ServerSettings(base_url=served, model=str(BASE), concurrency=1)
    engines = [
        open_engine("server", None, "auto", EngineOptions(server=settings)),
        open_engine("transformers", BASE),
    ]
    answers = [engine.generate([engine.encode(row) for row in rows], sampling, 0) for engine in engines]
    assert [a.text for a in answers[0]] == [a.text for a in answers[1]]


def test_real_servers_refusal_is_one_line(served):
    server = ServerSettings(base_url=served, model=str(BASE), extra={"no_such_field": 1})
    given = SampleConfig(engine="server", n=1, server=server)
    with pytest.raises(PrefoptError, match=r"refused \(HTTP 422\).*no_such_field"):
        sample(table(1), given, Context())
