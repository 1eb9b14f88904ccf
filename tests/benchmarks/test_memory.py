"""What a stage holds of its rows: a few bytes of each, never an object (9000 pairs, kilobytes of each in Python)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from prefopt.scoring.mismatch import Mismatch
from prefopt.scoring.store import ReferenceStore, StoreKey
from prefopt.stages.select.select import select
from prefopt.stages.select.settings import SelectConfig
from prefopt.stages.weight.settings import WeightConfig
from prefopt.stages.weight.weight import weight
from prefopt.tables.context import Context
from prefopt.tables.records import as_dataset, write_table
from prefopt.tables.table_rows import TableRows, read_table

ROWS = 9_000  # enough for a mapped file
MIB = 2**20
KEY = StoreKey(model="a" * 64, tokenizer="b" * 64, chat_template="c" * 64, max_length=64, dtype="float32")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of pairs."""
    numbers = range(ROWS)
    table = pa.table({
        "id": [f"pair {k}" for k in numbers],
        "prompt_id": [f"prompt {k // 2}" for k in numbers],
        "prompt": [f"question {k // 2}" * 3 for k in numbers],
        "split": ["eval" if k % 10 == 0 else "train" for k in numbers],
        "n": pa.array([8] * ROWS),
        "n_correct": pa.array([k % 9 for k in numbers]),
        "chosen": [f"answer {k}" * 3 for k in numbers],
        "rejected": [f"no answer {k}" * 3 for k in numbers],
        "margin": [k % 13 / 7 for k in numbers],
        "ref_chosen_logps": [-float(k % 31) for k in numbers],
        "ref_rejected_logps": [-float(k % 29) for k in numbers],
        "chosen_tokens": pa.array([9] * ROWS),
        "rejected_tokens": pa.array([8] * ROWS),
        "truncated": pa.array([False] * ROWS),
        "kept": pa.array([k % 3 > 0 for k in numbers]),
    })  # fmt: skip
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    write_table(as_dataset(table), path)
    return path


@contextmanager
def peak_below(mib: float) -> Iterator[None]:
    """Fail where Python, NumPy and Arrow take more than `mib` at once in the block."""
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = pool.bytes_allocated() - before
    assert peak + held < mib * MIB, f"{peak / MIB:.1f} MiB and {held / MIB:.1f} MiB of Arrow"


def test_a_large_table_is_read_without_its_rows(path):
    with peak_below(0.5):
        table = read_table(path)
    assert table.num_rows == ROWS


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        (select, SelectConfig()),
        (select, SelectConfig(rule="random", stratify_by="split")),
        (weight, WeightConfig()),
        (weight, WeightConfig(scheme="shuffled", per_prompt=True)),
    ],
)
def test_a_stage_on_arrays_holds_no_rows(path: Any, stage: Callable[..., Any], config: Any):
    table = read_table(path)
    with peak_below(3):  # rows as Python objects: 20 and more
        output = stage(table, config, Context(seed=1))
    assert output.table.num_rows == (ROWS if stage is select else sum(k % 3 > 0 for k in range(ROWS)))


def test_a_store_is_read_and_extended_without_its_rows(path, tmp_path):
    rows, known = TableRows(read_table(path)), ROWS - 300
    ReferenceStore(KEY, {}).save_with(tmp_path, lambda: [rows[:known]])
    with peak_below(2):
        ReferenceStore.open(tmp_path, KEY).save_with(tmp_path, lambda: [rows[known - 100 :]])
    store = ReferenceStore.load(tmp_path, KEY)
    assert len(store.rows) == ROWS
    assert [store.get(rows[k]) is not None for k in (0, known - 1, known, ROWS - 1)] == [True] * 4


def test_mismatched_completions_are_drawn_without_an_object_per_row(path):
    rows = TableRows(read_table(path))
    with peak_below(1.2):
        draw = Mismatch(rows, 0)
        other, _ = next(draw.candidates(5))
    assert other["prompt"] != rows[5]["prompt"]
