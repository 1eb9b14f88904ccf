"""The column vocabulary, and tables <-> rows <-> Parquet.

A table is a `datasets.Dataset`; inside a stage it is a list of plain dicts (rows). Every column that a stage reads or
adds stands in `COLUMNS`; other columns of the user's data travel along untouched. A text column that may hold a
conversation (`prompt`, `chosen`, `rejected`) is a string in every row of a table, or a message list in every row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.errors import PrefoptError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Row = dict[str, Any]
MARK = {b"prefopt": b"table 1"}
GROUP_ROWS = 2**13  # rows of a group of a Parquet file
MAPPED_ROWS = 2**13  # from here on a table that is read lies on a mapped file


@dataclass(frozen=True)
class Column:
    """One name of the vocabulary: how it is stored (`kind`), which stage makes it, what it means."""

    kind: str  # string, int, float, bool, strings, json (any JSON value, kept as text), content (text or messages)
    stage: str
    meaning: str


COLUMNS: dict[str, Column] = {
    "id": Column("string", "data", "unique name of the row"),
    "prompt_id": Column("string", "data", "name of the prompt; rows of one prompt share it"),
    "prompt": Column("content", "data", "what the model is asked: text or messages"),
    "split": Column("string", "data", "train or eval (held out, decided by a hash of the prompt)"),
    "gold": Column("string", "data", "the gold final answer"),
    "gold_completion": Column("string", "data", "a gold solution, never counted as a sample"),
    "tools": Column("json", "data", "tool definitions for the chat template"),
    "judgments": Column("json", "data", "recorded verdicts on the prompt's completions, as in the file"),
    "chat_template_kwargs": Column("json", "data", "extra arguments for the chat template"),
    "completion": Column(
        "content", "sample", "the sampled answer, without template or EOS; unpaired data: text or messages"
    ),
    "label": Column("bool", "data", "unpaired data: the completion is desired"),
    "completion_index": Column("int", "sample", "which of the prompt's samples, from 0"),
    "model": Column("string", "sample", "who wrote the completion"),
    "finish_reason": Column("string", "sample", "stop (EOS) or length (cut at max_new_tokens)"),
    "completion_tokens": Column("int", "sample", "length of the completion in tokens, EOS included"),
    "seed": Column(
        "int", "sample", "seed of the batch (of the call, where a server wrote) that made the completion"
    ),
    "sampled_logps": Column(
        "float", "sample", "the sampler's own log-prob of the completion, sum over its tokens, nats"
    ),
    "answer": Column("string", "judge", "final answer extracted from the completion; null = unparsed"),
    "answer_class": Column("int", "judge", "class of equal answers within the prompt; -1 = unparsed"),
    "is_correct": Column("bool", "judge", "equal to the gold answer"),
    "score": Column("float", "judge", "scalar score of the completion"),
    "recorded_is_correct": Column("bool", "judge", "the file's own verdict, where the verifier decides"),
    "recorded_score": Column("float", "judge", "the file's own score, where the verifier decides"),
    "n": Column("int", "judge", "samples of the prompt"),
    "n_correct": Column("int", "judge", "P_c, right samples of the prompt"),
    "n_incorrect": Column("int", "judge", "P_e, wrong samples of the prompt, unparsed included"),
    "n_unparsed": Column("int", "judge", "samples without a readable final answer"),
    "n_distinct": Column("int", "judge", "distinct answer classes"),
    "answer_entropy": Column("float", "judge", "entropy of the answer classes, nats"),
    "majority_share": Column("float", "judge", "share of the largest answer class"),
    "chosen": Column("content", "rank", "the preferred answer"),
    "rejected": Column("content", "rank", "the other answer"),
    "chosen_id": Column("string", "rank", "row id of the chosen completion"),
    "rejected_id": Column("string", "rank", "row id of the rejected completion"),
    "score_chosen": Column("float", "rank", "score of the chosen answer"),
    "score_rejected": Column("float", "rank", "score of the rejected answer"),
    "margin": Column("float", "rank", "score_chosen - score_rejected"),
    "n_rejected_class": Column("int", "rank", "samples of the prompt in the rejected answer's class"),
    "n_pairs": Column("int", "rank", "pairs made from this prompt"),
    "ref_chosen_logps": Column(
        "float", "reference", "log ref(chosen | prompt), sum over answer tokens, nats"
    ),
    "ref_rejected_logps": Column("float", "reference", "log ref(rejected | prompt), nats"),
    "chosen_tokens": Column("int", "reference", "answer tokens of chosen, EOS included"),
    "rejected_tokens": Column("int", "reference", "answer tokens of rejected, EOS included"),
    "ref_completion_logps": Column("float", "reference", "unpaired data: log ref(completion | prompt), nats"),
    "truncated": Column("bool", "reference", "an answer was cut at max_length"),
    "ref_chosen_prefix_logps": Column(
        "float",
        "reference",
        "log ref of the first min(chosen, rejected) answer tokens of chosen, nats (LD-DPO)",
    ),
    "ref_rejected_prefix_logps": Column("float", "reference", "the same of rejected, nats (LD-DPO)"),
    "kl_id": Column("string", "reference", "row whose completion is this row's mismatched one (KTO)"),
    "kl_ids": Column("json", "reference", "token ids of the mismatched completion (KTO)"),
    "ref_kl_logps": Column("float", "reference", "log ref(mismatched completion | prompt), nats (KTO)"),
    "gap_sum": Column("float", "select", "ref_chosen_logps - ref_rejected_logps, nats"),
    "gap_mean": Column("float", "select", "difference of the per-token log-probs, nats per token"),
    "kept": Column("bool", "select", "used for training"),
    "weight": Column("float", "weight", "multiplies the pair's loss"),
    "kind": Column(
        "string", "evaluate", "sample (a completion of a test prompt), pair or unpaired (both held out)"
    ),
    "mode": Column("string", "evaluate", "sampled or greedy; null for pairs"),
    "chosen_logps": Column("float", "evaluate", "log policy(chosen | prompt), sum over answer tokens, nats"),
    "rejected_logps": Column("float", "evaluate", "log policy(rejected | prompt), nats"),
    "completion_logps": Column("float", "evaluate", "unpaired data: log policy(completion | prompt), nats"),
    "pair_correct": Column(
        "bool", "evaluate", "chosen ranks above rejected by evaluate.pair_metric; null = tie"
    ),
}


def arrow_type(kind: str, content_is_text: bool) -> pa.DataType:
    """How a kind of column is stored; `content` as text or as messages."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("more", pa.string())])
    types = {
        "string": pa.string(),
        "json": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "strings": pa.list_(pa.string()),
        "content": pa.string() if content_is_text else pa.list_(message),
    }
    return types[kind]


def to_json(value: Any) -> str:
    """Compact JSON with sorted keys: one text for equal values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _stored_json(value: Any) -> str:
    """JSON text in the user's own key order: a chat template shows tools in the order in which they were written."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _store_message(message: Mapping[str, Any]) -> Row:
    more = {k: v for k, v in message.items() if k not in {"role", "content"} and v is not None}
    return {
        "role": message["role"],
        "content": message.get("content"),
        "more": _stored_json(more) if more else None,
    }


def _load_message(stored: Mapping[str, Any]) -> Row:
    message: Row = {"role": stored["role"], "content": stored["content"]}
    if stored.get("more"):
        message.update(json.loads(stored["more"]))
    return message


def _known_array(name: str, column: Column, values: list[Any]) -> pa.Array:
    import pyarrow as pa

    is_text = not any(isinstance(v, list) for v in values)
    if column.kind == "content" and not is_text and any(isinstance(v, str) for v in values):
        raise PrefoptError(
            f"column {name!r}: text and message rows are mixed; make all rows the one or the other"
        )
    if column.kind == "int" and any(isinstance(v, float) and not v.is_integer() for v in values):
        raise PrefoptError(
            f"column {name!r}: expected int values, found a fraction"
        )  # Arrow would cut it off
    try:
        if column.kind == "json":
            values = [None if v is None else _stored_json(v) for v in values]
        elif column.kind == "content" and not is_text:
            values = [None if v is None else [_store_message(m) for m in v] for v in values]
        return pa.array(values, type=arrow_type(column.kind, is_text))
    except (
        pa.ArrowException,
        TypeError,
        ValueError,
        OverflowError,
    ) as error:  # ValueError: half a surrogate pair too
        raise PrefoptError(f"column {name!r}: expected {column.kind} values ({error})") from None


def _extra_array(values: list[Any]) -> pa.Array:
    """A user's own column: Arrow's inferred type where there is one, else JSON text."""
    import pyarrow as pa

    try:
        array = pa.array(values, from_pandas=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        array = None
    if array is None or (pa.types.is_nested(array.type) and "struct" in str(array.type)):
        return pa.array([None if v is None else _stored_json(v) for v in values], type=pa.string())
    return array


def make_table(rows: Sequence[Row], names: Sequence[str] = ()) -> Dataset:
    """Rows -> table. Column order: `names`, then the vocabulary's order, then the user's own, by first appearance.

    `names` must be in the vocabulary; they exist in the result even when there is no row.
    """
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    present: dict[str, None] = {}
    for row in rows:
        present.update(dict.fromkeys(row))
    order = [*names, *(c for c in COLUMNS if c in present and c not in names)]
    order += [c for c in present if c not in COLUMNS and c not in names]
    arrays = []
    for name in order:
        values = [row.get(name) for row in rows]
        known = COLUMNS.get(name)
        arrays.append(_known_array(name, known, values) if known else _extra_array(values))
    return Dataset(InMemoryTable(pa.Table.from_arrays(arrays, names=list(order))))


def rows_of(table: Dataset) -> list[Row]:
    """Table -> rows: messages as `{role, content, ...}`, JSON columns decoded."""
    return decode_rows(table.data.table)


def decode_rows(table: pa.Table) -> list[Row]:
    """`rows_of` for an Arrow table."""
    columns: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in table.column_names}
    for name, values in columns.items():
        kind = COLUMNS[name].kind if name in COLUMNS else ""
        if kind == "json":
            columns[name] = [None if v is None else json.loads(v) for v in values]
        elif kind == "content":
            columns[name] = [[_load_message(m) for m in v] if isinstance(v, list) else v for v in values]
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def require(table: Dataset, names: Iterable[str], where: str) -> None:
    """Raise `PrefoptError` naming the first missing column and the stage that makes it."""
    for name in names:
        if name not in table.column_names:
            maker = COLUMNS[name].stage
            raise PrefoptError(f"{where}: column {name!r} is missing; run `prefopt {maker}` first")


def write_table(table: Dataset, path: Path) -> None:
    """Write Parquet so that a kill, a full or a read-only disk leaves the old file or none, never half of one."""
    whole = table.data.table
    groups = (whole.slice(start, GROUP_ROWS) for start in range(0, max(whole.num_rows, 1), GROUP_ROWS))
    write_groups(groups, whole.schema, path)


def write_groups(groups: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    """`write_table` for rows that come in groups, one in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    marked = schema.with_metadata(MARK)
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, marked, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group.combine_chunks().replace_schema_metadata(MARK))
            if group.num_rows >= GROUP_ROWS:  # of a large table
                pa.default_memory_pool().release_unused()


def is_ours(path: Path) -> bool:
    """Whether a Parquet file was written by `write_table`, so that its columns are of the vocabulary's types.

    Raises:
        PrefoptError: not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise PrefoptError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    return MARK.items() <= found.items()


def read_table(paths: Path | Sequence[Path]) -> Dataset:
    """Read one or several Parquet files written by `write_table` (or any Parquet with these columns)."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.table import InMemoryTable

    files = [paths] if isinstance(paths, Path) else list(paths)
    try:
        if sum(pq.read_metadata(path).num_rows for path in files) >= MAPPED_ROWS:
            from prefopt.table_rows import mapped_files

            return Dataset(InMemoryTable(mapped_files(files)))
        tables = [pq.read_table(path) for path in files]
    except (pa.ArrowInvalid, OSError) as error:
        raise PrefoptError(
            f"{files[0]}: not a readable Parquet file ({str(error).splitlines()[0]})"
        ) from None
    return Dataset(InMemoryTable(pa.concat_tables(tables, promote_options="permissive").combine_chunks()))


class atomic_file:
    """Context: gives a temporary path beside `path`, moved over it on success, removed on failure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> Path:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrefoptError(
                f"{self.path.parent}: cannot be made ({error.strerror}); choose another --output"
            ) from None
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                with open(self.temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.path)
            except OSError as late:
                error = late
            else:
                return
        self.temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise PrefoptError(
                f"{self.path}: cannot be written ({reason}); nothing was left half-written"
            ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def digest(*values: Any) -> str:
    """SHA-256 (hex) of any JSON-like values; equal values give equal digests on every machine."""
    return hashlib.sha256("\0".join(to_json(v) for v in values).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
