"""Rows decoded when they are read, tables on mapped files: the same rows as in memory."""

from __future__ import annotations

import pytest

from prefopt.tables import records, table_rows
from prefopt.tables.records import make_table, rows_of, write_table
from prefopt.tables.table_rows import (
    TableRows,
    has_stored_types,
    joined_tables,
    part_table,
    read_table,
    with_columns,
)


@pytest.fixture(scope="module")
def table():
    return make_table([
        {
            "id": f"r{k}",
            "prompt": [{"role": "user", "content": f"{k}?"}],
            "tools": [{"b": k, "a": 1}] if k % 2 else None,
            "weight": k / 7,
            "own": k,
            "nested": {"x": k},
        }
        for k in range(600)
    ])  # fmt: skip


def test_rows_are_those_of_the_list(table):
    rows, expected = TableRows(table), rows_of(table)
    assert len(rows) == 600
    assert list(rows) == expected
    assert rows[5] == expected[5]
    assert rows[-1] == expected[-1]
    assert rows[250:260] == expected[250:260]
    assert rows[10:2:1] == []
    assert rows[0:10:3] == expected[0:10:3]
    with pytest.raises(IndexError):
        rows[600]


@pytest.mark.parametrize("files", [1, 3])
def test_a_table_read_by_mapping_is_the_table(table, tmp_path, monkeypatch, files):
    paths = [tmp_path / f"{k}.parquet" for k in range(files)]
    for path in paths:
        write_table(table, path)
    read = read_table(paths)
    monkeypatch.setattr(table_rows, "MAPPED_ROWS", 1)
    monkeypatch.setattr(table_rows, "BATCH_ROWS", 64)
    mapped = read_table(paths)
    assert mapped.data.table.schema == read.data.table.schema
    assert rows_of(mapped) == rows_of(read)
    write_table(mapped, tmp_path / "again.parquet")
    write_table(read, tmp_path / "before.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "before.parquet").read_bytes()


def test_groups_of_a_file_do_not_change_its_rows(table, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "GROUP_ROWS", 7)
    write_table(table, tmp_path / "small.parquet")
    assert rows_of(read_table(tmp_path / "small.parquet")) == rows_of(table)
    assert records.is_ours(tmp_path / "small.parquet")
    write_table(make_table([], ("id",)), tmp_path / "none.parquet")
    assert rows_of(read_table(tmp_path / "none.parquet")) == []


def test_columns_are_added_as_make_table_would(table):
    rows = rows_of(table)
    kept = [k % 3 > 0 for k in range(600)]
    values = [
        {"ref_chosen_logps": -float(k), "truncated": False, "weight": 2.0} for k in range(600) if kept[k]
    ]
    names = ("ref_chosen_logps", "truncated", "weight")
    added = joined_tables(
        [part_table(values[:100], names), part_table([], names), part_table(values[100:], names)]
    )
    found = with_columns(table, added, kept)
    good = [row for row, keep in zip(rows, kept, strict=True) if keep]
    expected = make_table([{**row, **value} for row, value in zip(good, values, strict=True)])
    assert found.column_names == expected.column_names
    assert rows_of(found) == rows_of(expected)
    assert has_stored_types(found)


def test_types_that_make_table_would_change_are_seen(table):
    from datasets import Dataset, Value

    assert has_stored_types(table)
    assert not has_stored_types(Dataset.from_list([{"id": 5}]))
    assert not has_stored_types(Dataset.from_list([{"id": "a", "own": {"x": 1}}]))
    assert not has_stored_types(table.select_columns(["weight"]).cast_column("weight", Value("float32")))
