"""Columns as arrays: what lists of Python objects would say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.rules.order import hash_order, score_order, settled_order
from prefopt.tables import column_arrays
from prefopt.tables.column_arrays import (
    Coded,
    Texts,
    first_repeat,
    flags,
    floats,
    is_among,
    text_numbers,
    text_order,
)
from prefopt.tables.records import make_table

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), min_size=1, max_size=30)


def table(texts):
    return make_table([{"id": text, "score": k} for k, text in enumerate(texts)], ("id",))


@given(TEXTS)
def test_texts_are_ordered_and_numbered_as_python_does(texts):
    found = table(texts)
    assert text_order(found, "id").tolist() == sorted(range(len(texts)), key=lambda k: texts[k])
    distinct = sorted(set(texts))
    assert text_numbers(found, "id").tolist() == [distinct.index(text) for text in texts]
    repeats = [k for k, text in enumerate(texts) if text in texts[:k]]
    assert first_repeat(found, "id") == (repeats[0] if repeats else None)
    assert list(Texts(found, "id", np.arange(len(texts))[::-1])) == texts[::-1]


@given(TEXTS, TEXTS)
def test_rows_are_found_in_another_table(texts, others):
    wanted = np.arange(0, len(others), 2)
    expected = [text in others[::2] for text in texts]
    assert is_among(table(texts), table(others), "id", wanted).tolist() == expected


def test_equal_marks_of_different_texts_are_seen(monkeypatch):
    monkeypatch.setattr(column_arrays, "_mark", lambda text: 7)
    assert text_numbers(table(["b", "a", "b"]), "id").tolist() == [1, 0, 1]
    assert first_repeat(table(["b", "a", "c"]), "id") is None


def test_numbers_flags_and_values():
    found = make_table([{"id": "a", "x": 1, "t": True}, {"id": "b", "x": None, "t": None}])
    assert floats(found, "x", "here")[0] == 1.0
    assert np.isnan(floats(found, "x", "here")[1])
    assert np.isnan(floats(found, "none", "here")).all()
    assert flags(found, "t", lambda row: bool(row.get("t"))).tolist() == [True, False]
    with pytest.raises(PrefoptError, match="here: column 'id' holds 'a' in row 'a'"):
        floats(found, "id", "here")
    assert Coded(iter(["x", None, "x"]), 3).texts(np.array([2, 1])).tolist() == ["x", "None"]


@given(st.lists(st.integers(0, 3), max_size=20))
def test_ties_are_settled_by_the_key(marks):
    order = settled_order(np.array(marks, dtype=np.uint64), lambda place: -place)
    assert order.tolist() == sorted(range(len(marks)), key=lambda place: (marks[place], -place))


@given(TEXTS, st.integers(0, 3))
def test_orders_of_texts_on_a_file_are_those_of_the_list(texts, seed):
    lazy, scores = Texts(table(texts), "id", np.arange(len(texts))), np.arange(len(texts)) % 3.0
    assert hash_order(lazy, seed).tolist() == hash_order(texts, seed).tolist()
    assert score_order(scores, lazy).tolist() == score_order(scores, texts).tolist()
