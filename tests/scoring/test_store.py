"""The reference store: saved, loaded elsewhere, extended, refused where anything it depends on differs."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.scoring.store import SINGLE_VALUES, VALUES, ReferenceStore, StoreKey, row_key, value_names
from prefopt.tables.records import file_digest, make_table, rows_of, write_table
from prefopt.tables.table_rows import read_table

KEY = StoreKey(model="a" * 64, tokenizer="b" * 64, chat_template="c" * 64, max_length=128, dtype="float32")


def scored(name: str, chosen: str = "yes", logp: float = -1.5) -> dict:
    return {
        "id": name, "prompt": f"question {name}", "chosen": chosen, "rejected": "no", "source": "extra",
        "ref_chosen_logps": logp, "ref_rejected_logps": -2.25, "chosen_tokens": 2, "rejected_tokens": 3,
        "truncated": False,
    }  # fmt: skip


ROWS = [scored(name, logp=-i / 7) for i, name in enumerate("abcd")]


def only_values(row: dict) -> dict:
    return {name: row[name] for name in VALUES}


def test_saved_and_loaded_elsewhere(tmp_path):
    ReferenceStore(KEY, {}).extend(ROWS).save(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    store = ReferenceStore.load(tmp_path / "there", KEY)
    assert store.lookup(ROWS[::-1]) == [only_values(row) for row in ROWS[::-1]]
    assert ReferenceStore.load(tmp_path / "there").key == KEY


def test_single_answers_keep_their_own_values(tmp_path):
    rows = [
        {"id": name, "prompt": f"question {name}", "completion": "yes", "label": True, "ref_completion_logps": -1.0 - k,
         "completion_tokens": 2 + k, "truncated": False}
        for k, name in enumerate("ab")
    ]  # fmt: skip
    stored = [{name: row[name] for name in SINGLE_VALUES} for row in rows]
    assert [value_names(row) for row in (*rows, *stored, ROWS[0], only_values(ROWS[0]))] == [
        *[SINGLE_VALUES] * 4,
        *[VALUES] * 2,
    ]
    ReferenceStore(KEY, {}).extend(rows[:1]).save(tmp_path)
    ReferenceStore.open(tmp_path, KEY).extend(rows).save(tmp_path)
    assert ReferenceStore.load(tmp_path, KEY).lookup(rows) == stored


def test_columns_on_disk_are_those_of_the_specification(tmp_path):
    ReferenceStore(KEY, {}).extend(ROWS).save(tmp_path)
    (path,) = tmp_path.glob("*.parquet")
    assert set(read_table(path).column_names) == {
        "row", "id", "ref_chosen_logps", "ref_rejected_logps", "chosen_tokens", "rejected_tokens", "truncated",
    }  # fmt: skip
    assert json.loads((tmp_path / "store.json").read_text())["max_length"] == 128


def test_extended_with_new_rows_only(tmp_path):
    first = ReferenceStore(KEY, {}).extend(ROWS[:2])
    first.save(tmp_path)
    assert first.missing(ROWS) == ROWS[2:]
    known = scored("a", logp=-99.0)  # what the store knows stays as it is
    more = ReferenceStore.open(tmp_path, KEY).extend([known, *ROWS[2:]])
    more.save(tmp_path)
    assert ReferenceStore.load(tmp_path, KEY).lookup(ROWS) == [only_values(row) for row in ROWS]
    assert len(first.rows) == 2  # the former store did not change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "d" * 64}, "another model weights .*d{12}"),
        ({"tokenizer": "d" * 64}, "another tokenizer"),
        ({"chat_template": "d" * 64}, "another chat template"),
        ({"max_length": 256}, r"another max_length \(128, now 256\)"),
        ({"dtype": "bfloat16"}, r"another dtype \(float32, now bfloat16\)"),
        ({"max_length": 64, "dtype": "bfloat16"}, "another max_length .* and another dtype"),
    ],
)
def test_refused_where_a_key_differs(tmp_path, change, named):
    store = ReferenceStore(KEY, {}).extend(ROWS)
    store.save(tmp_path)
    before = {path.name: file_digest(path) for path in tmp_path.iterdir()}
    other = dataclasses.replace(KEY, **change)
    for attempt in (
        lambda: ReferenceStore.load(tmp_path, other),
        lambda: ReferenceStore.open(tmp_path, other),
        lambda: ReferenceStore(other, {}).extend(ROWS).save(tmp_path),
    ):
        with pytest.raises(PrefoptError, match=named):
            attempt()
    assert {path.name: file_digest(path) for path in tmp_path.iterdir()} == before


def test_refused_where_a_row_differs():
    store = ReferenceStore(KEY, {}).extend(ROWS)
    with pytest.raises(PrefoptError, match="row 'b': prompt or answers differ"):
        store.lookup([ROWS[0], scored("b", chosen="perhaps")])
    with pytest.raises(PrefoptError, match="row 'z': not in the reference store"):
        store.lookup([scored("z")])
    # the content counts, the name does not
    assert store.lookup([{**ROWS[1], "id": "renamed", "source": "other"}]) == [only_values(ROWS[1])]


@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected", "tools", "chat_template_kwargs"])
def test_the_row_key_is_the_content(name):
    assert row_key({**ROWS[0], name: ["other"]}) != row_key(ROWS[0])
    assert row_key({**ROWS[0], "tools": None}) == row_key(ROWS[0])


def test_row_keys_survive_the_table():
    row = {**ROWS[0], "prompt": [{"role": "user", "content": "q"}], "tools": [{"a": 1}]}
    row |= {
        "chosen": [{"role": "assistant", "content": "x"}],
        "rejected": [{"role": "assistant", "content": "y"}],
    }
    assert row_key(rows_of(make_table([row]))[0]) == row_key(row)


@pytest.mark.parametrize("known", [0, 1, 3])
@pytest.mark.parametrize("names", ["abcd", "abab", "dcbaab"])
def test_saved_in_parts_is_extended_and_saved(tmp_path, known, names):
    extra = [{"ref_kl_logps": -1.0}, {}, {"kl_digest": "x"}, {"ref_kl_logps": -2.0}, {}, {"kl_digest": "y"}]
    rows = [
        {**scored(name, logp=-float(k)), **more}
        for k, (name, more) in enumerate(zip(names, extra, strict=False))
    ]
    files = []
    for folder in (tmp_path / "at once", tmp_path / "in parts"):
        ReferenceStore(KEY, {}).extend(ROWS[:known]).save(folder)
        store = ReferenceStore.open(folder, KEY)
        if folder.name == "at once":
            store.extend(rows).save(folder)
        else:
            store.save_with(folder, lambda: (rows[:2], [], rows[2:]))
        files.append(next(folder.glob("*.parquet")))
    assert rows_of(read_table(files[0])) == rows_of(read_table(files[1]))
    assert file_digest(files[0]) == file_digest(files[1])


def test_equal_content_equal_bytes(tmp_path):
    for name in ("one", "two"):
        ReferenceStore(KEY, {}).extend(ROWS).save(tmp_path / name)
    one, two = ({p.name: file_digest(p) for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two


def test_no_store_an_empty_one_and_somebodys_folder(tmp_path):
    with pytest.raises(PrefoptError, match="no reference store"):
        ReferenceStore.load(tmp_path / "nowhere")
    assert ReferenceStore.open(tmp_path / "nowhere", KEY).rows == {}
    write_table(make_table([{"id": "x"}]), tmp_path / "pairs" / "train.parquet")
    with pytest.raises(PrefoptError, match=r"store.json is missing"):
        ReferenceStore.open(tmp_path / "pairs", KEY)


def test_a_kill_between_header_and_rows_is_an_empty_store(tmp_path):
    ReferenceStore(KEY, {}).extend(ROWS).save(tmp_path)
    next(tmp_path.glob("*.parquet")).unlink()
    assert ReferenceStore.open(tmp_path, KEY).missing(ROWS) == ROWS


@pytest.mark.parametrize("header", ["{", "[]", "{}", '{"format": 99}'])
def test_damaged_headers_are_told(tmp_path, header):
    (tmp_path / "store.json").write_text(header)
    with pytest.raises(PrefoptError, match=r"damaged|store format 99"):
        ReferenceStore.load(tmp_path)


@pytest.mark.parametrize("logp", [float("nan"), float("inf"), None])
def test_rows_without_a_number_are_told(tmp_path, logp):
    ReferenceStore(KEY, {}).extend([scored("a", logp=logp)]).save(tmp_path)
    with pytest.raises(PrefoptError, match="row 'a' has no finite log-prob"):
        ReferenceStore.load(tmp_path)


def test_damaged_rows_are_told(tmp_path):
    ReferenceStore(KEY, {}).extend(ROWS).save(tmp_path)
    (path,) = tmp_path.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PrefoptError, match="not a readable Parquet file"):
        ReferenceStore.load(tmp_path)
    write_table(make_table([{"id": "a"}]), path)
    with pytest.raises(PrefoptError, match="columns are missing"):
        ReferenceStore.load(tmp_path)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.integers(0, 12))
def test_extending_in_steps_is_extending_at_once(names, cut):
    rows = [scored(name, logp=-float(ord(name))) for name in names]
    at_once = ReferenceStore(KEY, {}).extend(rows)
    in_steps = ReferenceStore(KEY, {}).extend(rows[:cut]).extend(rows[cut:])
    assert at_once == in_steps
    assert at_once.missing(rows) == []
