"""`data.path`: lists, folders, patterns, addresses and saved data sets; and mixtures in exact shares."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.stages.data.data import data, source_digest
from prefopt.stages.data.settings import DataConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.records import rows_of

Row = dict[str, Any]


def pairs(name: str, count: int) -> list[Row]:
    return [
        {"prompt": f"{name} {n}", "chosen": "good", "rejected": "bad", "source": name} for n in range(count)
    ]


def save(path: Path, rows: list[Row]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: Any, seed: int = 0, **options: Any) -> StageOutput:
    return data(
        None, parse_config(DataConfig, {"path": path, "heldout": 0.0, **options}, "test"), Context(seed=seed)
    )


def counts(output: StageOutput) -> Counter[str]:
    return Counter(row["source"] for row in rows_of(output.table))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    save(tmp_path / "d" / "a.jsonl", pairs("a", 40))
    save(tmp_path / "d" / "deep" / "b.jsonl", pairs("b", 10))
    save(tmp_path / "d" / ".hidden" / "c.jsonl", pairs("c", 5))
    (tmp_path / "d" / "notes.txt").write_text("x")
    return tmp_path / "d"


def test_lists_folders_and_patterns(files: Path) -> None:
    a, b = str(files / "a.jsonl"), str(files / "deep" / "b.jsonl")
    assert counts(read([a, b])) == {"a": 40, "b": 10}
    assert counts(read(str(files))) == {"a": 40, "b": 10}
    assert counts(read(str(files / "**" / "*.jsonl"))) == {"a": 40, "b": 10}
    assert counts(read(str(files / "d*" / "*"))) == {"b": 10}
    assert counts(read([a, b], limit=3)) == {"a": 3, "b": 3}
    assert read(a).quality["digest"] != read([a, b]).quality["digest"]
    assert "mixture" not in read(str(files)).quality


def test_sources_have_columns_and_splits_of_their_own(tmp_path: Path) -> None:
    first = save(tmp_path / "a.jsonl", pairs("a", 2))
    second = tmp_path / "b.json"
    second.write_text(json.dumps({"part": [{"q": "x", "good": "y", "bad": "z"}]}))
    more = {
        "path": str(second),
        "split": "part",
        "columns": {"q": "prompt", "good": "chosen", "bad": "rejected"},
    }
    assert [row["chosen"] for row in rows_of(read([first, more]).table)] == ["good", "good", "y"]


def test_weights_give_exact_shares_by_content_and_seed(files: Path) -> None:
    a, b = str(files / "a.jsonl"), str(files / "deep" / "b.jsonl")
    mix = [{"path": a, "weight": 0.6}, {"path": b, "weight": 0.4}]
    output = read(mix)
    assert counts(output) == {"a": 15, "b": 10}
    assert output.quality["mixture"] == [
        {"source": a, "rows": 40, "used": 15},
        {"source": b, "rows": 10, "used": 10},
    ]
    assert rows_of(read(mix).table) == rows_of(output.table)
    assert {r["prompt"] for r in rows_of(read(mix, seed=1).table)} != {
        r["prompt"] for r in rows_of(output.table)
    }
    assert counts(read([{"path": a, "weight": 1}, {"path": b, "weight": 2}])) == {"a": 5, "b": 10}


def test_what_cannot_be_mixed_is_told(files: Path) -> None:
    a = str(files / "a.jsonl")
    prompts = save(files / "p.jsonl", [{"prompt": "x"}])
    with pytest.raises(PrefoptError, match=r"has no weight, but others have"):
        read([a, {"path": str(files / "deep" / "b.jsonl"), "weight": 1}])
    with pytest.raises(
        PrefoptError, match=r"holds pairs, but .*p\.jsonl holds prompts; give sources of one kind"
    ):
        read([a, prompts])
    with pytest.raises(PrefoptError, match="comes to no row of 40"):
        read([{"path": a, "weight": 1e-6}, {"path": str(files / "deep" / "b.jsonl"), "weight": 1}])
    with pytest.raises(PrefoptError, match=r"unknown key .*wieght"):
        read([{"path": a, "wieght": 1}])


@pytest.mark.parametrize(
    ("path", "problem"),
    [("no*.jsonl", "no file has such a name"), ("empty", "is a folder without a data file"), ("memory://no/*.jsonl", "no file has such"),
     ("memory://no/x.jsonl", "cannot be read"), ("nofs://x/y", "nofs")],
)  # fmt: skip
def test_what_is_not_there_is_told(path: str, problem: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrefoptError) as caught:
        read(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_elsewhere_by_fsspec(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PREFOPT_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    for name, count in (("a", 3), ("b", 2)):
        system.pipe_file(
            f"/bucket/{name}.jsonl", "".join(json.dumps(r) + "\n" for r in pairs(name, count)).encode()
        )
    assert counts(read("memory://bucket/*.jsonl")) == {"a": 3, "b": 2}
    config = DataConfig(path="memory://bucket/a.jsonl")
    before = source_digest(config)
    assert before == source_digest(config)
    system.pipe_file(
        "/bucket/a.jsonl", b'{"prompt": "changed", "chosen": "a", "rejected": "b", "source": "x"}\nno json\n'
    )
    assert source_digest(config) != before
    with pytest.raises(PrefoptError, match=r"^memory:///?bucket/a\.jsonl: row 2: not valid JSON"):
        read("memory://bucket/a.jsonl")


def test_saved_data_sets(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(pairs("a", 4))
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table, "test": table.select(range(2))}).save_to_disk(str(tmp_path / "two"))
    assert counts(read(str(tmp_path / "one"))) == {"a": 4}
    assert counts(read(str(tmp_path / "two"))) == {"a": 4}  # train, where no split is named
    assert counts(read(str(tmp_path / "two"), split="test")) == {"a": 2}
    with pytest.raises(PrefoptError, match=r"has no split 'dev'; set data\.split to one of train, test"):
        read(str(tmp_path / "two"), split="dev")
