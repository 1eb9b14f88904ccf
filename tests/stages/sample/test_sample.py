"""Stage 01: rows, batches by row index, resume, drops."""

from importlib import resources
from pathlib import Path

import pytest

import prefopt.stages.sample.sample as sample_module
from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.engines import batch_seed
from prefopt.engines.fake import FakeEngine
from prefopt.recipes.quickstart.task import prompts as task_prompts
from prefopt.stages.sample.sample import ADDS, STAGE, sample
from prefopt.stages.sample.settings import SampleConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import make_table, rows_of

BASE = Path(str(resources.files("prefopt.recipes"))) / "quickstart" / "base"
FAKE = {"engine": "fake", "n": 4, "batch_size": 6}


def prompt_table(count=5, **columns):
    rows = [
        {
            "id": f"p{i}",
            "prompt_id": f"p{i}",
            "prompt": f"question {i}",
            "split": "train",
            "gold": str(i),
            **columns,
        }
        for i in range(count)
    ]
    return make_table(rows)


def use(monkeypatch, engine):
    monkeypatch.setattr(sample_module, "open_engine", lambda *_: engine)
    return engine


def test_rows_are_prompt_by_prompt_with_the_prompts_columns():
    table = prompt_table(3, topic="sums", tools=[{"name": "add"}])
    output = sample(table, SampleConfig(**FAKE), Context(seed=1))
    rows = rows_of(output.table)
    assert [row["id"] for row in rows] == [f"p{i}-{k}" for i in range(3) for k in range(4)]
    assert [row["completion_index"] for row in rows] == [0, 1, 2, 3] * 3
    assert set(STAGE.reads) | set(ADDS) <= set(output.table.column_names)
    for row in rows:
        assert (row["topic"], row["tools"], row["split"], row["model"]) == (
            "sums",
            [{"name": "add"}],
            "train",
            "fake",
        )
        assert row["completion_tokens"] == len(row["completion"]) + 1
        assert row["finish_reason"] == "stop"
    assert output.quality["completions"] == 12
    assert output.quality["finish_length_share"] == 0
    assert 0 < output.quality["distinct_share"] < 1


def test_batches_are_cut_by_row_index_and_each_has_its_own_seed(monkeypatch):
    engine = use(monkeypatch, FakeEngine())
    rows = rows_of(sample(prompt_table(5), SampleConfig(**FAKE), Context(seed=9)).table)
    expected = [batch_seed(9, "sample", batch) for batch in range(4)]
    assert engine.calls == [(6, expected[0]), (6, expected[1]), (6, expected[2]), (2, expected[3])]
    assert len(set(expected)) == 4
    assert [row["seed"] for row in rows] == [
        seed for seed, size in zip(expected, (6, 6, 6, 2), strict=True) for _ in range(size)
    ]


def test_seed_decides_the_samples():
    texts = [
        [
            row["completion"]
            for row in rows_of(sample(prompt_table(), SampleConfig(**FAKE), Context(seed=s)).table)
        ]
        for s in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("lost", [[0], [2], [1, 3], [0, 1, 2, 3]])
def test_killed_and_continued_is_uninterrupted(tmp_path, monkeypatch, lost):
    config, folder = SampleConfig(**FAKE), StageFolder(tmp_path / "01-sample")
    table = prompt_table(5, note={"nested": [1]})
    whole = sample(table, config, Context(seed=2))
    folder.begin("key")
    sample(table, config, Context(seed=2, folder=folder))
    for part in lost:  # as a kill leaves it
        folder.work_part("sample", part).unlink()
    folder.begin("key")
    engine = use(monkeypatch, FakeEngine())
    again = sample(table, config, Context(seed=2, folder=folder))
    assert [seed for _, seed in engine.calls] == [batch_seed(2, "sample", part) for part in lost]
    assert again.table.data.table.equals(whole.table.data.table)
    assert again.quality == whole.quality


def test_model_resumes_to_the_same_samples(tmp_path):
    table = make_table([{**row, "prompt_id": row["id"]} for row in task_prompts("tuning", 5, 3)])
    config = SampleConfig(n=3, top_p=1.0, max_new_tokens=40, batch_size=4)
    whole = sample(table, config, Context(seed=1, model=BASE))
    folder = StageFolder(tmp_path / "01-sample")
    folder.begin("key")
    sample(table, config, Context(seed=1, model=BASE, folder=folder))
    folder.work_part("sample", 1).unlink()
    folder.work_part("sample", 3).unlink()
    again = sample(table, config, Context(seed=1, model=BASE, folder=folder))
    assert again.table.data.table.equals(whole.table.data.table)
    rows = rows_of(whole.table)
    assert {row["model"] for row in rows} == {"base"}
    assert len({row["completion"] for row in rows}) > 5
    assert all(row["finish_reason"] in ("stop", "length") for row in rows)


def test_rows_that_ask_one_prompt_are_asked_once_without_their_answers():
    pairs = [
        {"id": f"x{i}", "prompt_id": f"p{i // 2}", "prompt": f"q{i // 2}", "split": "eval", "gold": "1",
         "chosen": f"a{i}", "rejected": "b", "margin": 1.0, "mine": i}
        for i in range(4)
    ]  # fmt: skip
    output = sample(make_table(pairs), SampleConfig(engine="fake", n=2), Context())
    assert [row["id"] for row in rows_of(output.table)] == ["p0-0", "p0-1", "p1-0", "p1-1"]
    assert set(output.table.column_names) == {"id", "prompt_id", "prompt", "split", "gold", *ADDS}


def test_prompts_without_room_are_dropped_with_a_count_and_refused_when_strict(monkeypatch):
    use(monkeypatch, FakeEngine(max_tokens=11))
    long = {"id": "long", "prompt_id": "long", "prompt": "a longer question", "split": "train"}
    rows = [*rows_of(prompt_table(2)), long]
    output = sample(make_table(rows), SampleConfig(engine="fake", n=2), Context())
    assert output.dropped == {"prompt fills the model's context": 1}
    assert {row["prompt_id"] for row in rows_of(output.table)} == {"p0", "p1"}
    with pytest.raises(PrefoptError, match=r"'long'.*context.*strict"):
        sample(make_table(rows), SampleConfig(engine="fake", n=2), Context(strict=True))


def test_no_prompt_left_is_an_error_line(monkeypatch):
    use(monkeypatch, FakeEngine(max_tokens=3))
    with pytest.raises(PrefoptError, match=r"no prompt left \(prompt fills the model's context: 5\)"):
        sample(prompt_table(), SampleConfig(engine="fake"), Context())


def test_refused_messages_are_dropped_with_a_count():
    rows = [
        {"id": "good", "prompt_id": "good", "prompt": [{"role": "user", "content": "1+1+1"}]},
        {"id": "bad", "prompt_id": "bad", "prompt": [{"role": "system", "content": "1+1+1"}]},
    ]
    output = sample(make_table(rows), SampleConfig(n=1, max_new_tokens=4), Context(model=BASE))
    assert output.dropped == {"refused by the chat template": 1}
    assert output.table["prompt_id"][:] == ["good"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "vlm"}, "engine: unknown engine"),
        ({"temperature": 0.0}, "temperature 0 gives the same completion"),
        ({"n": 0}, "n: "),
        ({"top_p": 0}, "top_p: "),
        ({"temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_bad_settings_are_error_lines(settings, message):
    with pytest.raises(PrefoptError, match=message):
        parse_config(SampleConfig, settings, "recipe")


def test_greedy_needs_one_completion():
    assert SampleConfig(temperature=0, n=1).n == 1
