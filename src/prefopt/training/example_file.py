"""Encoded examples on a mapped Arrow file: training reads them row by row, so memory does not grow with their number.

Columns: id; prompt and each role's answer as lists of int32 (empty: the role is absent); reference log-probs, weight and
label (0 or 1) as float64 (NaN: not known).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from prefopt.core.lazy import Lazy
from prefopt.tables.table_rows import mapped
from prefopt.training.collate import PAIR_ROLES, UNPAIRED_ROLES, Example

ROLES = (*PAIR_ROLES, *UNPAIRED_ROLES)
REFERENCES = (*ROLES, *(f"{role}_prefix" for role in ROLES))
BATCH_ROWS = 4096

_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [("id", pa.string()), ("prompt", _IDS)]
    + [(role, _IDS) for role in ROLES]
    + [(f"ref_{name}", pa.float64()) for name in REFERENCES]
    + [("weight", pa.float64()), ("label", pa.float64())]
)


class ExampleFile(Lazy[Example]):
    """Examples in the order given, on a file without a name that goes with the object."""

    def __init__(self, examples: Iterable[Example]) -> None:
        table = mapped(SCHEMA, partial(_write, examples))
        self._count = int(table.num_rows)
        self._batches = [_views(batch) for batch in table.to_batches() if batch.num_rows]

    def __len__(self) -> int:
        return self._count

    def at(self, place: int) -> Example:
        """The item at `place`."""
        return _example(self._batches[place // BATCH_ROWS], place % BATCH_ROWS)


def _write(examples: Iterable[Example], add: Callable[[pa.RecordBatch], None]) -> None:
    held: list[Example] = []
    for example in examples:
        held.append(example)
        if len(held) == BATCH_ROWS:
            add(_batch(held))
            held = []
    if held:
        add(_batch(held))


def _batch(examples: Sequence[Example]) -> pa.RecordBatch:
    lists = {"prompt": [example.prompt for example in examples]}
    lists |= {role: [example.answers.get(role, ()) for example in examples] for role in ROLES}
    numbers = {
        f"ref_{name}": [example.reference.get(name, math.nan) for example in examples] for name in REFERENCES
    }
    numbers["weight"] = [example.weight for example in examples]
    numbers["label"] = [math.nan if e.label is None else float(e.label) for e in examples]
    arrays = [pa.array([example.id for example in examples], pa.string())]
    arrays += [_list_array(values) for values in lists.values()]
    arrays += [pa.array(values, pa.float64()) for values in numbers.values()]
    return pa.record_batch(arrays, schema=SCHEMA)


def _list_array(values: Sequence[Any]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in values])]).astype(np.int32)
    flat = np.concatenate([np.asarray(ids, dtype=np.int32) for ids in values])
    return pa.ListArray.from_arrays(offsets, flat)


def _views(batch: pa.RecordBatch) -> Mapping[str, Any]:
    """The columns of a batch as arrays on the mapped file; lists as (offsets, values)."""
    found: dict[str, Any] = {"id": batch.column("id")}
    for name in SCHEMA.names[1:]:
        column = batch.column(name)
        if column.type == _IDS:
            found[name] = (column.offsets.to_numpy(), column.values.to_numpy())
        else:
            found[name] = column.to_numpy()
    return found


def _example(batch: Mapping[str, Any], row: int) -> Example:
    def ids(name: str) -> np.ndarray:
        offsets, values = batch[name]
        return values[offsets[row] : offsets[row + 1]]

    answers = {role: found for role in ROLES if len(found := ids(role))}
    reference = {
        name: value for name in REFERENCES if not math.isnan(value := float(batch[f"ref_{name}"][row]))
    }
    label = float(batch["label"][row])
    return Example(
        batch["id"][row].as_py(),
        ids("prompt"),
        answers,
        reference,
        float(batch["weight"][row]),
        None if math.isnan(label) else bool(label),
    )
