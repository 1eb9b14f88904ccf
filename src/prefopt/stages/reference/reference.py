"""Stage 04: log-probs of the answers under the reference model, computed once and kept in a store.

Selection, weights and training read these numbers; no later stage loads a second model. Specification and checks:
"Clear Preferences Leave Traces" (2501.15109) needs nothing beyond this pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process
from prefopt.stages.reference.reference_pass import ADDS, ALL_ADDS, KL_ADDS, ReferencePass
from prefopt.stages.reference.settings import ReferenceConfig
from prefopt.stages.stage import Stage
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput, iter_parts
from prefopt.tables.records import Row, digest, make_table, require
from prefopt.tables.table_rows import TableRows, has_stored_types, joined_tables, part_table, with_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

READS = ("id", "prompt")  # and chosen and rejected, or completion: reference names what is missing
# Rows whose work is lost at a kill. Batches are cut within a part, so it also fixes the bytes of the result.
PART_ROWS = 256


def reference(table: Dataset, config: ReferenceConfig, context: Context) -> StageOutput:
    """Add reference log-probs (sums over answer tokens, nats) and token counts to every pair or unpaired completion.

    Rows that the store knows are taken from it; the others are computed and the store is extended. Dropped with a
    count: prompts longer than max_length, messages that the chat template refuses, pairs whose answers are the same
    tokens (after the cut). The mismatched completions of KTO are drawn from the whole table by content and seed.

    Raises:
        PrefoptError: no model; a store of another model or setting; a sequence longer than the model's positions; no
            row left; mismatched completions of a single prompt.
    """
    sides = _sides(table)
    require(table, (*READS, *sides), "reference")
    if config.prefix_logps and len(sides) < 2:
        raise PrefoptError(
            "reference.prefix_logps: the rows are unpaired, and a prefix is shared by a pair; drop it"
        )
    rows = TableRows(table)
    work = ReferencePass(config, context, sides, rows)
    added, tally = _scored(rows, work, context)
    kept = tally.kept
    if not kept.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.dropped.items()))
        raise PrefoptError(
            f"reference: no {'pair' if len(sides) > 1 else 'row'} left ({reasons or 'the input is empty'}); "
            f"{work.first_unfit or 'see max_length and the data'}"
        )
    if work.directory is not None and is_first_process():
        work.store.save_with(work.directory, lambda: _complete(rows, kept, added))
    if not has_stored_types(table):
        table = make_table(rows[:])
    own = table.select_columns([name for name in table.column_names if name not in ALL_ADDS])
    figures = {"rows_in": len(rows), "reused": tally.reused, **_quality(added, work)}
    return StageOutput(with_columns(own, added, kept), tally.dropped, figures)


@dataclass
class _Tally:
    kept: NDArray[np.bool_]
    dropped: dict[str, int] = field(default_factory=dict)
    reused: int = 0


def _scored(rows: TableRows, work: ReferencePass, context: Context) -> tuple[Dataset, _Tally]:
    """The new columns of the rows that are kept, which these are, and counts; part by part."""
    tally = _Tally(np.zeros(len(rows), dtype=np.bool_))

    def tables() -> Iterator[pa.Table]:
        yield part_table([], work.adds)
        start = 0
        for part in iter_parts(
            rows, work.part, folder=context.folder, part_rows=PART_ROWS, label="reference"
        ):
            for index, result in enumerate(part, start=start):
                tally.kept[index] = result["drop"] is None
                if result["drop"] is not None:
                    context.drop(tally.dropped, result["drop"], f"reference: row {rows[index]['id']!r}")
            tally.reused += sum(bool(result["reused"]) for result in part)
            start += len(part)
            yield part_table([result for result in part if result["drop"] is None], work.adds)

    return joined_tables(tables()), tally


def _complete(rows: TableRows, kept: NDArray[np.bool_], added: Dataset) -> Iterator[list[Row]]:
    """The kept rows with their new columns, in parts, as the store reads them."""
    values = iter(TableRows(added))
    for start in range(0, len(rows), PART_ROWS):
        good = [
            row
            for row, keep in zip(
                rows[start : start + PART_ROWS], kept[start : start + PART_ROWS], strict=True
            )
            if keep
        ]
        yield [_with_kl_digest({**row, **next(values)}) for row in good]


def _sides(table: Dataset) -> tuple[str, ...]:
    """The answer columns: both of a pair, or that of an unpaired completion."""
    names = set(table.column_names)
    return (
        ("completion",)
        if "completion" in names and not names & {"chosen", "rejected"}
        else ("chosen", "rejected")
    )


def _with_kl_digest(row: Row) -> Row:
    """What the store keeps in place of the mismatched completion's tokens."""
    return {**row, "kl_digest": digest(row["kl_ids"])} if row.get("kl_ids") is not None else row


def _quality(added: Dataset, work: ReferencePass) -> dict[str, Any]:
    """Figures of the pass: means over rows; log-probs in nats."""
    columns = {name: added.data.table.column(name) for name in added.column_names}

    def total(name: str) -> float:
        return math.fsum(value.as_py() for value in columns[name])

    sides, count = work.sides, added.num_rows
    tokens = {side: int(total(f"{side}_tokens")) for side in sides}
    found = {
        "pairs" if len(sides) > 1 else "rows": count,
        "truncated": int(total("truncated")),
        **{f"mean_ref_{side}_logps": total(f"ref_{side}_logps") / count for side in sides},
        **{f"nats_per_token_{side}": total(f"ref_{side}_logps") / tokens[side] for side in sides},
        **{f"mean_{side}_tokens": float(tokens[side]) / count for side in sides},
        "max_answer_tokens": max(value.as_py() for side in sides for value in columns[f"{side}_tokens"]),
    }
    if work.draw is not None:
        found["mean_ref_kl_logps"] = total("ref_kl_logps") / count
        found |= {"kl_of_one_prompt": True} if work.draw.is_one_prompt else {}
    key = work.key
    return {**found, "max_length": key.max_length, "dtype": key.dtype, "store_key": key.digest}


STAGE = Stage(
    number=4,
    name="reference",
    config=ReferenceConfig,
    run=reference,
    reads=READS,
    adds=("truncated",),  # and the log-probs of what the rows hold
    about="log-probs of the answers under the reference model, kept in a store",
    needs_model=True,
    shares=lambda config: True,
    files=("store",),
)

__all__ = ["ADDS", "KL_ADDS", "STAGE", "ReferenceConfig", "reference"]
