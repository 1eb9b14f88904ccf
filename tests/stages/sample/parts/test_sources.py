"""Several models answer each prompt: names, seeds, order, resume, and what is refused."""

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
from fake_server import FakeServer

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.engines import batch_seed
from prefopt.stages.alone import run_alone
from prefopt.stages.sample.sample import STAGE, sample
from prefopt.stages.sample.settings import SampleConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import make_table, rows_of
from prefopt.tables.table_rows import read_table

BASE = Path(str(resources.files("prefopt.recipes"))) / "quickstart" / "base"


@pytest.fixture(autouse=True)
def _loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def table(count=3):
    rows = [{"id": f"p{i}", "prompt_id": f"p{i}", "prompt": f"{i}+1+1"} for i in range(count)]
    return make_table(rows)


def mixed(url, **more):
    server = {"base_url": url, "model": "org/big", "backoff_s": 0.0, "retries": 0}
    models = [
        {"engine": "fake", "name": "one"},
        {"server": server, "n": 1},
        {"engine": "fake", "name": "two"},
    ]
    return parse_config(SampleConfig, {"n": 2, "batch_size": 3, "models": models, **more}, "recipe")


def test_every_model_answers_every_prompt_under_its_name_and_seeds():
    with FakeServer() as server:
        output = sample(table(), mixed(server.url), Context(seed=5))
        sent = sorted(call.body["seed"] for call in server.calls)
    rows = rows_of(output.table)
    assert [row["id"] for row in rows] == [f"p{i}-{k}" for i in range(3) for k in range(5)]
    assert [row["completion_index"] for row in rows] == [0, 1, 2, 3, 4] * 3
    assert [row["model"] for row in rows] == ["one", "one", "org/big", "two", "two"] * 3
    assert sent == sorted(batch_seed(5, "sample org-big", index) for index in range(3))
    assert sent == sorted(row["seed"] for row in rows if row["model"] == "org/big")
    # 3 prompts x 2 in batches of 3
    for name in ("one", "two"):
        seeds = [row["seed"] for row in rows if row["model"] == name]
        assert seeds == [batch_seed(5, f"sample {name}", index // 3) for index in range(6)]
    texts = {n: [r["completion"] for r in rows if r["model"] == n] for n in ("one", "two")}
    assert texts["one"] != texts["two"]
    assert output.quality["model"] == "one, org/big, two"
    assert {name: found["completions"] for name, found in output.quality["models"].items()} == {
        "one": 6, "org/big": 3, "two": 6,
    }  # fmt: skip


def test_one_model_alone_is_as_before():
    plain = sample(table(), SampleConfig(engine="fake", n=2), Context(seed=1))
    assert {row["model"] for row in rows_of(plain.table)} == {"fake"}
    assert "models" not in plain.quality


def test_a_killed_run_asks_no_model_again_for_what_is_stored(tmp_path):
    folder = StageFolder(tmp_path / "01-sample")
    folder.begin("key")
    with FakeServer() as server:
        given = mixed(server.url)
        whole = sample(table(), given, Context(seed=1, folder=folder))
        folder.work_part("sample two", 1).unlink()
        server.calls.clear()
        folder.begin("key")
        again = sample(table(), given, Context(seed=1, folder=folder))
        assert server.calls == []
    assert again.table.data.table.equals(whole.table.data.table)


def test_drops_of_one_model_leave_the_others():
    with FakeServer(refusals={"1+1+1": (500, "busy")}) as server:
        output = sample(table(), mixed(server.url), Context())
    assert output.dropped == {"server gave up": 1}
    ids = [row["id"] for row in rows_of(output.table)]
    assert "p1-2" not in ids
    assert len(ids) == 14


def test_directories_beside_the_runs_own_model(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    models = [None, str(other), {"model": str(other), "name": "again", "n": 1}]
    given = {"n": 2, "models": models, "max_new_tokens": 8}
    output = sample(table(1), parse_config(SampleConfig, given, "recipe"), Context(seed=2, model=BASE))
    rows = rows_of(output.table)
    assert [row["model"] for row in rows] == ["base", "base", "other", "other", "again"]
    assert len({row["seed"] for row in rows}) == 3


def test_a_changed_model_directory_is_sampled_anew(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "1+1"}\n')
    given = parse_config(SampleConfig, {"n": 1, "models": [str(other)], "max_new_tokens": 4}, "recipe")
    assert not given.needs_model
    key = []
    for mark in (0, 0, 1):
        settings = json.loads((BASE / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**settings, "a_mark": mark}))
        run_alone(STAGE, given, str(prompts), tmp_path / "out", Context())
        key.append(StageFolder(tmp_path / "out").manifest["key"])
    assert key[0] == key[1] != key[2]
    assert read_table(tmp_path / "out" / "part-00000.parquet")["model"][:] == ["other"]


SERVER = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": []}, "models: "),
        ({"models": [{"modle": "x"}]}, "did you mean 'model'"),
        ({"models": [{"engine": "vlm"}]}, "unknown engine"),
        ({"models": [{"engine": "server"}]}, "needs server.base_url"),
        ({"models": [{"engine": "fake", "server": SERVER}]}, "server is for engine 'server'"),
        ({"models": [{"model": "x", "server": SERVER}]}, "model is for engines that load"),
        ({"models": [{"engine": "fake", "name": "a"}, {"engine": "fake", "name": "a"}]}, "two models are named 'a'"),
        ({"models": [{"engine": "fake", "name": "a b"}, {"engine": "fake", "name": "a/b"}]}, "'a b' and 'a/b'"),
        ({"temperature": 0, "n": 1, "models": [{"engine": "fake", "n": 2}]}, "temperature 0"),
        ({"logprobs": True, "engine": "vllm", "models": [{"engine": "fake"}]}, "logprobs is for engine 'vllm'"),
        ({"server": SERVER, "models": [{"engine": "fake"}]}, "server is for engine 'server'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_error_lines(settings, message):
    with pytest.raises(PrefoptError, match=message):
        parse_config(SampleConfig, settings, "recipe")


def test_directories_of_one_name_need_names(tmp_path):
    for place in ("a", "b"):
        shutil.copytree(BASE, tmp_path / place / "model")
    models = [str(tmp_path / place / "model") for place in ("a", "b")]
    given = {"models": models, "n": 1, "max_new_tokens": 4}
    with pytest.raises(PrefoptError, match=r"two models are named 'model'.*give one a name"):
        parse_config(SampleConfig, given, "recipe")


def test_the_runs_model_may_not_share_a_name_either():
    given = parse_config(SampleConfig, {"models": [None, {"engine": "fake", "name": "base"}]}, "recipe")
    with pytest.raises(PrefoptError, match="two models are named 'base'"):
        sample(table(1), given, Context(model=BASE))


def test_default_temperature_is_the_designs():
    assert SampleConfig().temperature == 0.8
