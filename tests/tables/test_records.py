"""Rows <-> tables <-> Parquet: nothing is lost, nothing is left half-written."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.tables.columns import COLUMNS
from prefopt.tables.records import (
    atomic_file,
    digest,
    file_digest,
    make_table,
    require,
    rows_of,
    to_json,
    write_json,
    write_table,
)
from prefopt.tables.table_rows import read_table

Row = dict[str, Any]
texts = st.text(st.characters(codec="utf-8"), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
more = st.dictionaries(
    st.sampled_from(["name", "tool_calls", "weight"]), plain_json.filter(lambda v: v is not None)
)
message = st.builds(
    lambda role, said, extra: {"role": role, "content": said, **extra},
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.none() | texts,
    more,
)
OF_KIND = {
    "string": texts,
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": finite,
    "bool": st.booleans(),
    "strings": st.lists(texts, max_size=3),
    "json": plain_json,
}


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    content = draw(st.sampled_from([texts, st.lists(message, min_size=1, max_size=3)]))
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), unique=True, min_size=1, max_size=6))
    extras: Row = {
        "my text": texts,
        "my number": finite,
        "my flag": st.booleans(),
        "my list": st.lists(texts),
    }
    kinds = {name: OF_KIND.get(COLUMNS[name].kind, content) for name in names}
    row = st.fixed_dictionaries({n: st.none() | k for n, k in {**kinds, **extras}.items()})
    return draw(st.lists(row, max_size=4))


@settings(deadline=None, max_examples=80)
@given(tables())
def test_rows_come_back(rows: list[Row]) -> None:
    assert rows_of(make_table(rows)) == rows


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_rows_come_back_from_a_file(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / "t.parquet"
    write_table(make_table(rows), path)
    first = path.read_bytes()
    assert rows_of(read_table(path)) == rows
    write_table(make_table(rows_of(read_table(path))), path)
    assert path.read_bytes() == first


def test_tools_keep_the_order_of_their_keys() -> None:
    """A chat template shows tools as they stand, so the order of keys is part of the prompt."""
    tools = [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"b": 1, "a": 2}}}
    ]
    called = {"role": "assistant", "content": None, "tool_calls": [{"z": 1, "a": 2}]}
    back = rows_of(make_table([{"tools": tools, "prompt": [called]}]))[0]
    assert json.dumps(back["tools"]) == json.dumps(tools)
    assert json.dumps(back["prompt"][0]["tool_calls"]) == json.dumps(called["tool_calls"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("prompt", [3]),
        ("prompt", ["a", [{"role": "user", "content": "b"}]]),
        ("prompt", ["half \ud800"]),
        ("weight", ["heavy"]),
        ("seed", [2**70]),
        ("seed", [1.5]),
        ("is_correct", ["yes"]),
        ("tools", [object()]),
    ],
)
def test_values_of_a_wrong_type_name_the_column(name: str, values: list[Any]) -> None:
    with pytest.raises(PrefoptError) as caught:
        make_table([{name: value} for value in values])
    assert f"column {name!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [[1, "a"], [{"a": 1}, {"b": [2]}], [[1], ["a"]], [{}], [[{}]], [2**70, 1], [[], {"a": None}]],
    ids=str,
)
def test_extra_columns_of_mixed_types_are_kept_as_json(values: list[Any]) -> None:
    back = [row["mine"] for row in rows_of(make_table([{"mine": value} for value in values]))]
    assert [json.loads(text) for text in back] == values


def test_column_order_and_empty_tables() -> None:
    table = make_table([{"zeta": 1, "rejected": "r", "id": "1", "alpha": 2}], ["chosen"])
    assert table.column_names == ["chosen", "id", "rejected", "zeta", "alpha"]
    assert make_table([], ["id", "weight"]).column_names == ["id", "weight"]
    assert rows_of(make_table([], ["id"])) == []


def test_require_names_the_stage() -> None:
    with pytest.raises(PrefoptError, match="prefopt reference"):
        require(make_table([{"id": "1"}]), ["id", "ref_chosen_logps"], "select")


def test_equal_values_have_equal_digests() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest("ab", "c") != digest("a", "bc")
    assert to_json({"b": "ü", "a": 1}) == '{"a":1,"b":"ü"}'


def test_parquet_trouble_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(PrefoptError, match="not a readable Parquet file"):
        read_table(path)
    with pytest.raises(PrefoptError, match="not a readable Parquet file"):
        read_table(tmp_path / "none.parquet")


# ---- atomic writing


def leftovers(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    before = file_digest(path)

    def half(what: BaseException) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise what

    with pytest.raises(KeyboardInterrupt):
        half(KeyboardInterrupt())
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PrefoptError, match="No space left on device"):
        half(full)
    assert file_digest(path) == before
    assert leftovers(tmp_path) == ["x.json"]


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_a_disk_that_is_full_at_the_end_is_told(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(PrefoptError, match="No space left on device"):
        write_json(tmp_path / "x.json", {"a": 1})
    assert leftovers(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrefoptError, match="choose another --output"):
        write_json(tmp_path / "file" / "x.json", {})


def test_a_name_with_a_zero_byte_is_refused():
    with pytest.raises(PrefoptError, match=r"column 'a\\x00b': .* zero byte"):
        make_table([{"id": "x", "a\0b": 1}])
