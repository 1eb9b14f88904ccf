"""Files -> raw rows: every kind reads the same rows, and every way to be broken is one line that names the place."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.readers import locate, read_rows, source_digest
from prefopt.stages.data.reading.strict_json import MAX_DEPTH, parse_json
from prefopt.tables.records import digest

ROWS = [
    {"prompt": "Why?", "chosen": "Because.\nReally.", "rejected": 'No "idea", sorry'},
    {"prompt": "Grüße 你好 \u2028", "chosen": "a", "rejected": "b"},
]


def read(path: Path | str, **options: Any) -> list[dict[str, Any]]:
    return [row for row, _ in read_rows(str(path), **options)]


def fails(path: Path | str, **options: Any) -> str:
    with pytest.raises(PrefoptError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message, message
    return message


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_text(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    import csv
    import io

    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def make(path: Path) -> Path:
    """ROWS in the form that the file's name says."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    if name.endswith((".jsonl", ".ndjson")):
        text = lines(ROWS)
    elif name.endswith(".json"):
        text = json.dumps(ROWS, indent=1)
    else:
        text = csv_text(ROWS, "\t" if name.endswith(".tsv") else ",")
    return write(path, gzip.compress(text.encode()) if path.name.endswith(".gz") else text)


KINDS = [
    *("x.jsonl", "x.jsonl.gz", "x.ndjson", "x.json", "x.json.gz"),
    *("x.csv", "x.csv.gz", "x.tsv", "x.parquet", "X.JSONL"),
]


@pytest.mark.parametrize("name", KINDS[:-1])
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = make(tmp_path / name)
    assert read(path) == ROWS
    assert read(path, limit=1) == ROWS[:1]


def test_suffix_case_does_not_matter(tmp_path: Path) -> None:
    assert read(write(tmp_path / "X.JSONL", lines(ROWS))) == ROWS


def test_rows_say_where_they_stood(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"a":1}\n\n{"a":2}\n')
    assert [where for _, where in read_rows(str(path))] == [f"{path}: row 1", f"{path}: row 3"]


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    """The third line is broken, and nobody notices before it is reached."""
    path = write(tmp_path / "x.jsonl", '{"a":1}\n{"a":2}\n{"a":\n')
    assert len(read(path, limit=2)) == 2
    assert "row 3" in fails(path)


def test_json_object_of_arrays(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", json.dumps({"data": ROWS, "test": ROWS[:1], "version": 2}))
    assert read(path) == ROWS
    assert read(path, split="test") == ROWS[:1]
    assert "no array 'dev'" in fails(path, split="dev")
    assert "data, test" in fails(path, split="dev")


def test_json_lines_under_the_name_json(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.json", lines(ROWS))) == ROWS


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    for name in ("x.jsonl", "x.json", "x.csv"):
        plain = make(tmp_path / name)
        assert read(write(plain, mark + plain.read_bytes())) == ROWS


def test_windows_line_ends(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.jsonl", lines(ROWS).replace("\n", "\r\n"))) == ROWS


BROKEN_LINES = {
    '{"prompt": "a"': "row 2: not valid JSON",
    "hello": "row 2: not valid JSON",
    '{"a": "x\ty"}': "row 2: not valid JSON",
    '{"a": NaN}': "row 2: holds NaN",
    '{"a": -Infinity}': "row 2: holds -Infinity",
    '{"a": 1e999}': "row 2: holds a number too large",
    '{"a": 1, "b": {"c": 1, "c": 2}}': "row 2: key 'c' stands twice",
    '{"a": "\\ud83d"}': "row 2: holds half of a surrogate pair",
    '{"\\udc00": 1}': "row 2: holds half of a surrogate pair",
    "[1, 2]": "row 2: is an array, expected an object",
    '"text"': "row 2: is text",
    "17": "row 2: is a number",
    "true": "row 2: is true or false",
    "null": "row 2: is null",
    '{"a": ' + "9" * 5000 + "}": "row 2: Exceeds the limit",
    '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}": f"row 2: nested deeper than {MAX_DEPTH}",
    '{"a": ' + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + "}": f"row 2: nested deeper than {MAX_DEPTH}",
}


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: line[:24])
def test_broken_line_names_file_row_and_problem(line: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"a": 1}\n' + line + "\n")
    message = fails(path)
    assert message.startswith(f"{path}: {BROKEN_LINES[line]}"), message


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: line[:24])
def test_broken_element_of_an_array_names_the_row(line: str, tmp_path: Path) -> None:
    message = fails(write(tmp_path / "x.json", '[{"a": 1},\n' + line + "\n]"))
    assert ": row 2: " in message, message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[{}, {}", "',' or ']' expected"),
        ("[{} {}]", "row 1: not valid JSON (',' or ']' expected"),
        ("[{},]", "row 2: not valid JSON"),
        ("[{}] x", "text after the end of the array"),
        ("[", "row 1: not valid JSON"),
        ("17", "no array of rows"),
        ('{"rows": []}', "no array 'data'"),
        ('{"rows": [], "a": 1', "not valid JSON"),
    ],
)
def test_broken_array(text: str, problem: str, tmp_path: Path) -> None:
    assert problem in fails(write(tmp_path / "x.json", text))


def test_empty_array_and_blank_lines_hold_no_rows(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.json", " [ ] \n")) == []
    assert read(write(tmp_path / "x.jsonl", "\n  \n")) == []


def test_whole_surrogate_pairs_are_text(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.jsonl", '{"a": "\\ud83d\\ude00"}')) == [{"a": "😀"}]


def test_not_utf8_names_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n')
    assert fails(path).startswith(f"{path}: row 2: not UTF-8 (byte 8 of it)")
    assert "not UTF-8" in fails(write(tmp_path / "x.json", '[{"a": 1}]'.encode("utf-16")))
    assert "row 2: not UTF-8" in fails(write(tmp_path / "x.csv", b"prompt\n\xff\n"))


def test_gzip_trouble(tmp_path: Path) -> None:
    packed = gzip.compress(lines(ROWS * 200).encode())
    cut = write(tmp_path / "cut.jsonl.gz", packed[: len(packed) // 2])
    assert fails(cut) == f"{cut}: the gzip file is cut off; copy or download it again"
    damaged = write(tmp_path / "bad.jsonl.gz", packed[:20] + bytes(8) + packed[28:])
    assert "damaged" in fails(damaged)
    assert "is not gzip" in fails(write(tmp_path / "plain.jsonl.gz", lines(ROWS)))
    assert "rename it to packed.jsonl.gz" in fails(write(tmp_path / "packed.jsonl", packed))
    assert fails(write(tmp_path / "head.csv.gz", packed[:9])).endswith("copy or download it again")


def test_what_is_no_file(tmp_path: Path) -> None:
    make(tmp_path / "pairs.jsonl")
    assert "is a folder; give a data file in it, e.g. pairs.jsonl" in fails(tmp_path)
    assert "is empty (0 bytes)" in fails(write(tmp_path / "none.jsonl", ""))
    assert "no such file; did you mean 'pairs.jsonl'?" in fails(tmp_path / "pair.jsonl")
    assert "no such file" in fails(tmp_path / "a" / "b.jsonl")
    assert "unknown kind of file; known: .jsonl" in fails(write(tmp_path / "notes.txt", "hi"))
    assert "unknown kind of file" in fails(write(tmp_path / "x.parquet.gz", "hi"))
    assert "no such file" in fails("a\0b.jsonl")
    assert "cannot be read" in fails("x" * 5000 + ".jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "not an ordinary file" in fails(tmp_path / "pipe.jsonl")


def test_no_permission(tmp_path: Path) -> None:
    path = make(tmp_path / "x.jsonl")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "Permission denied" in fails(path)


def test_system_errors_while_reading_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "x.jsonl")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "cannot be read (Permission denied)" in fails(path)
    with pytest.raises(PrefoptError, match="Permission denied"):
        source_digest(str(path))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prompt,chosen\na,b,c\n", "row 2: 3 cells, but the header has 2"),
        ("prompt,chosen\na\n", "row 2: 1 cells"),
        ('prompt,chosen\na,"b\n', "row 2: not valid csv"),
        ("prompt,prompt\na,b\n", "row 1 is no header"),
        (",chosen\na,b\n", "row 1 is no header"),
        ("x" * 80 + ",chosen\na,b\n", "row 1 is no header"),
    ],
)
def test_broken_csv(text: str, problem: str, tmp_path: Path) -> None:
    assert problem in fails(write(tmp_path / "x.csv", text))


def test_csv_cells(tmp_path: Path) -> None:
    """Cells beyond the csv module's default limit, messages as JSON, and JSON that is only text."""
    message = [{"role": "user", "content": "hi"}]
    row = {"prompt": json.dumps(message), "chosen": '[{"a": 1}]', "rejected": "long " * 60_000}
    assert read(write(tmp_path / "x.csv", csv_text([row]))) == [{**row, "prompt": message}]
    import csv

    assert csv.field_size_limit() == 131_072


def test_parquet_values_become_plain(tmp_path: Path) -> None:
    stored = [
        {
            "prompt": [{"role": "user", "content": "a", "name": None}],
            "raw": b"text",
            "image": b"\xff\xfe",
            "when": __import__("datetime").datetime(2026, 1, 2),
        },
        {
            "prompt": [{"role": "user", "content": "b", "name": "Al"}],
            "raw": None,
            "image": None,
            "when": None,
        },
    ]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(stored), path)
    first, second = read(path)
    assert first["prompt"] == [{"role": "user", "content": "a"}]
    assert (first["raw"], first["image"], first["when"]) == ("text", "//4=", "2026-01-02 00:00:00")
    assert second["prompt"][0]["name"] == "Al"
    assert second["raw"] is None


def test_parquet_trouble(tmp_path: Path) -> None:
    assert "not a readable Parquet file" in fails(write(tmp_path / "x.parquet", b"PAR1 and then nothing"))
    whole = make(tmp_path / "y.parquet").read_bytes()
    assert "not a readable Parquet file" in fails(write(tmp_path / "z.parquet", whole[:-20]))
    assert "a .parquet file has none" in fails(tmp_path / "y.parquet", split="train")


def test_builtin_files() -> None:
    rows = read("builtin:quickstart/tuning.jsonl", limit=3)
    assert all({"id", "prompt", "answer"} <= set(row) for row in rows)
    assert "did you mean 'quickstart/train.jsonl'" in fails("builtin:quickstart/trian.jsonl")
    assert "no such file" in fails("builtin:../../pyproject.toml")


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(name: str, subset: str | None, split: str) -> datasets.Dataset:
        asked.append((name, subset, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read("owner/some-set") == ROWS
    assert read("owner/some-set:part", split="test", limit=1) == ROWS[:1]
    assert asked == [("owner/some-set", None, "train"), ("owner/some-set", "part", "test")]
    assert source_digest("owner/some-set") == source_digest("owner/some-set")


def test_hub_offline_is_one_line() -> None:
    message = fails("no-such-owner/no-such-set")
    assert "not to be had from the hub as split 'train'" in message
    assert "give a file" in message


def test_source_digest_is_the_content(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a.jsonl"), make(tmp_path / "b.jsonl")
    assert source_digest(str(a)) == source_digest(str(b)) != digest("x")
    write(b, lines(ROWS[:1]))
    assert source_digest(str(a)) != source_digest(str(b))


def test_locate_says_file_or_hub(tmp_path: Path) -> None:
    path = make(tmp_path / "a.jsonl")
    assert locate(str(path)) == path
    assert locate("owner/name") == "owner/name"
    with pytest.raises(PrefoptError, match="no such file"):
        locate("owner/name.jsonl")  # reads as a file that is missing, not as a hub name


# ---- properties

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(st.lists(st.dictionaries(st.text(), json_values, max_size=4), max_size=4))
def test_any_json_objects_come_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert read(write(tmp_path / "x.json", json.dumps(rows))) == rows
    path = write(tmp_path / "x.jsonl", lines(rows) or "\n")
    assert read(path) == rows


@quick
@given(st.binary(min_size=1, max_size=200), st.sampled_from([k for k in KINDS if k != "X.JSONL"]))
def test_random_bytes_give_rows_or_one_line(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    for content in (data, make(path).read_bytes()[:60] + data, b"PAR1" + data + b"\x10\0\0\0PAR1"):
        write(path, content)
        try:
            assert all(isinstance(row, dict) for row in read(path))
        except PrefoptError as error:
            assert "\n" not in str(error)  # noqa: PT017


@quick
@given(st.text(max_size=60))
def test_strict_json_is_json(text: str) -> None:
    """What strict JSON accepts, Python's reader gives the same value for."""
    try:
        value = parse_json(text, "here")
    except PrefoptError as error:
        assert str(error).startswith("here: ")  # noqa: PT017
    else:
        assert value == json.loads(text)
