"""Malformed data: values, keys, bytes, cells, columns of Parquet, names of files."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chaos.malformed import Case
from chaos.worlds import pair_rows

DATA = ["data", "--output", "out", "--heldout", "0", "--input"]
# JSON texts: what may stand where a text, a number or a list is expected
VALUES = {
    "null": "null", "empty": '""', "blank": '"  "', "zero": "0", "minus one": "-1", "true": "true", "big int": "1" + "0" * 400,
    "2**63": "9223372036854775808", "1e308": "1e308", "1e999": "1e999", "NaN": "NaN", "-Infinity": "-Infinity",
    "tiny": "5e-324", "list": "[]", "object": "{}", "list of lists": "[[]]", "list of objects": "[{}]", "mixed": '[1, "a", null]',
    "message without content": '[{"role": "user"}]', "message of null": '[{"role": "user", "content": null}]',
    "message of parts": '[{"role": "user", "content": [{"type": "text", "text": "a"}]}]',
    "role of nothing": '[{"role": "", "content": "a"}]', "role of a number": '[{"role": 1, "content": "a"}]',
    "role with an escape": '[{"role": "\\u001b[31muser", "content": "a"}]', "two systems":
    '[{"role": "system", "content": "a"}, {"role": "system", "content": "b"}]', "assistant first":
    '[{"role": "assistant", "content": "a"}]', "NUL": '"a\\u0000b"', "escape": '"\\u001b[2J\\u001b]0;x\\u0007"',
    "half a pair": '"\\ud800"', "bidi": '"\\u202eabc"', "umlaut": '"Ärger"', "emoji": '"\U0001f469\u200d\U0001f52c"',
    "deep 70": "[" * 70 + "]" * 70, "deep 100000": "[" * 100_000 + "]" * 100_000, "deep objects":
    '{"a":' * 3000 + "1" + "}" * 3000, "long": json.dumps("x" * 300_000), "lines": '"a\\r\\n\\u2028b"',
    "not JSON": "undefined", "cut": '"abc', "single quotes": "'a'", "date": '"2024-01-01T00:00:00Z"', "number text": '"1e5"',
    "superscript": '"²"', "bool text": '"True"', "nan text": '"nan"',
}  # fmt: skip
FORMS: dict[str, dict[str, str]] = {
    "pairs": {"prompt": '"p"', "chosen": '"c"', "rejected": '"r"'},
    "unpaired": {"prompt": '"p"', "completion": '"c"', "label": "true"},
    "prompts": {"prompt": '"p"', "answer": '"4"'},
    "completions": {"prompt": '"p"', "completions": '["a", "b"]'},
}
MORE = {"pairs": ("id", "weight", "margin", "split", "tools", "kept", "mine"), "unpaired": ("weight", "score"),
        "prompts": ("gold", "system"), "completions": ()}  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _values()
    yield from _keys()
    yield from _bytes()
    yield from _csv()
    yield from _parquet()
    yield from _names()


def _written(name: str, data: bytes, more: tuple[str, ...] = ()) -> Callable[[Path], list[str]]:
    def lay(home: Path) -> list[str]:
        (home / name).write_bytes(data)
        return [*DATA, name, *more]

    return lay


def _object(fields: dict[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in fields.items()) + "}"


def _values() -> Iterator[Case]:
    for form, fields in FORMS.items():
        good = [
            {k: v.replace("p", f"p{i}") if k == "prompt" else v for k, v in fields.items()} for i in range(3)
        ]
        for key in (*fields, *MORE[form]):
            for what, value in VALUES.items():
                bad = {**fields, key: value}
                lines = [*map(_object, good[:2]), _object(bad), _object(good[2])]
                data = "\n".join(lines).encode("utf-8", "surrogatepass")
                rows = None if form == "completions" else 4
                yield Case(f"{form}: {key} {what}", _written("f.jsonl", data), rows)


def _keys() -> Iterator[Case]:
    good = _object(FORMS["pairs"])
    extra = {
        "twice": '{"prompt": "p", "prompt": "q", "chosen": "c", "rejected": "r"}',
        "NUL": _object({**FORMS["pairs"], "a\0b": "1"}), "escape": _object({**FORMS["pairs"], "\x1b[31m": "1"}),
        "empty": _object({**FORMS["pairs"], "": "1"}), "long": _object({**FORMS["pairs"], "k" * 100_000: "1"}),
        "many": _object({**FORMS["pairs"], **{f"k{i}": "1" for i in range(3000)}}), "blank": _object({**FORMS["pairs"], " ": "1"}),
        "half a pair": '{"prompt": "p", "chosen": "c", "rejected": "r", "\\ud800": 1}',
        "newline": _object({**FORMS["pairs"], "a\nb": "1"}), "other case": _object({"Prompt": '"p"', "CHOSEN": '"c"', "x": "1"}),
        "none": "{}", "of stages": _object({**FORMS["pairs"], "ref_chosen_logps": '"x"', "gap_mean": "[]", "kept": "3"}),
        "array": "[1, 2]", "text": '"abc"', "number": "3", "null": "null",
    }  # fmt: skip
    for what, line in extra.items():
        yield Case(f"key {what}", _written("f.jsonl", f"{good}\n{line}\n".encode("utf-8", "surrogatepass")))
        yield Case(
            f"key {what}, first", _written("f.jsonl", f"{line}\n{good}\n".encode("utf-8", "surrogatepass"))
        )
    rows = [_object({**FORMS["pairs"], "prompt": f'"p{i}"'}) for i in range(300)]
    weighted = "\n".join([*rows, _object({**FORMS["pairs"], "prompt": '"q"', "weight": "2"})]).encode()
    yield Case("a weight in one row of 301", _written("f.jsonl", weighted), 301)
    for columns in (
        '{"no": "prompt"}',
        '{"prompt": "no"}',
        '{"prompt": "chosen"}',
        "{}",
        "[]",
        "1",
        '{"\\u0000": "x"}',
    ):
        yield Case(f"columns {columns}", _written("f.jsonl", rows[0].encode(), ("--columns", columns)))


def _bytes() -> Iterator[Case]:
    good = "".join(json.dumps(row) + "\n" for row in pair_rows(6)).encode()
    whole = json.dumps(pair_rows(6)).encode()
    packed = gzip.compress(good)
    named = {
        "UTF-16": ("f.jsonl", good.decode().encode("utf-16")), "Latin-1": ("f.jsonl", '{"prompt": "Ä"}'.encode("latin-1")),
        "BOM": ("f.jsonl", b"\xef\xbb\xbf" + good), "two BOMs": ("f.jsonl", b"\xef\xbb\xbf\xef\xbb\xbf" + good),
        "NULs": ("f.jsonl", b"\0" * 100), "NUL at the end": ("f.jsonl", good + b"\0"), "CRLF": ("f.jsonl", good.replace(b"\n", b"\r\n")),
        "CR": ("f.jsonl", good.replace(b"\n", b"\r")), "blank lines": ("f.jsonl", good.replace(b"\n", b"\n\n \n")),
        "only blank lines": ("f.jsonl", b"\n \n"), "empty": ("f.jsonl", b""), "empty array": ("f.json", b"[]"),
        "an object": ("f.json", b'{"train": []}'), "cut": ("f.json", whole[:-20]), "more behind": ("f.json", whole + b"]"),
        "gzip cut": ("f.jsonl.gz", packed[:-9]), "gzip junk behind": ("f.jsonl.gz", packed + b"junk"), "gzip twice":
        ("f.jsonl.gz", gzip.compress(packed)), "gzip unnamed": ("f.jsonl", packed), "named gzip": ("f.jsonl.gz", good),
        "zip": ("f.jsonl", b"PK\x03\x04" + good), "Parquet named JSON": ("f.json", b"PAR1" + good), "pickle": ("f.jsonl", b"\x80\x04K\x01."),
        "not Parquet": ("f.parquet", good), "Parquet head": ("f.parquet", b"PAR1" + b"\0" * 50 + b"PAR1"), "kind unknown": ("f.xyz", good),
    }  # fmt: skip
    for what, (name, data) in named.items():
        yield Case(f"bytes: {what}", _written(name, data))
    rng = random.Random(5)
    for source, name in ((good, "f.jsonl"), (whole, "f.json"), (packed, "f.jsonl.gz")):
        for number in range(20):
            data = bytearray(source)
            for _ in range(rng.choice((1, 2, 8))):
                data[rng.randrange(len(data))] = rng.choice(
                    (0, 10, 34, 44, 92, 123, 125, 128, 255, rng.randrange(256))
                )
            yield Case(f"bytes: {name} spoiled {number}", _written(name, bytes(data)))


def _csv() -> Iterator[Case]:
    head = "prompt,chosen,rejected\n"
    texts = {
        "no header": "a,b,c\nd,e,f\n", "a column twice": "prompt,chosen,chosen\na,b,c\n", "empty name": "prompt,chosen,\na,b,c\n",
        "short row": head + "a,b\n", "long row": head + "a,b,c,d\n", "open quote": head + '"a,b,c\n', "quote inside": head + 'a"b,c,d\n',
        "NUL": head + "a\0,b,c\n", "semicolons": head.replace(",", ";") + "a;b;c\n", "newlines in cells": head + '"a\nb",c,d\n',
        "header alone": head, "escape in a name": "prompt,chosen,rejected,\x1b[31m\na,b,c,d\n", "umlauts": head + "ä,ö,ü\n",
        "NUL in a name": "prompt,chosen,rejected,a\0b\na,b,c,d\n", "label words": "prompt,completion,label\na,b,good\nc,d,bad\n",
        "label yes": "prompt,completion,label\na,b,yes\nc,d,no\n", "label mixed": "prompt,completion,label\na,b,1\nc,d,maybe\n",
        "label empty": "prompt,completion,label\na,b,\nc,d,\n",
    }  # fmt: skip
    for what, text in texts.items():
        yield Case(f"csv: {what}", _written("f.csv", text.encode()))
        yield Case(f"tsv: {what}", _written("f.tsv", text.replace(",", "\t").encode()))


def _parquet() -> Iterator[Case]:
    for what in PARQUET:

        def lay(home: Path, what: str = what) -> list[str]:
            import pyarrow as pa
            import pyarrow.parquet as pq

            text = pa.array(["a", "b", "c"])
            columns = [
                ("prompt", text),
                ("chosen", pa.array(["x", "y", "z"])),
                ("rejected", pa.array(["u", "v", "w"])),
            ]
            names, arrays = zip(*(columns + PARQUET[what](pa)), strict=True)
            pq.write_table(pa.Table.from_arrays(list(arrays), names=list(names)), home / "f.parquet")
            return [*DATA, "f.parquet"]

        yield Case(f"Parquet: {what}", lay, 3)


def _column(name: str, make: Callable[[Any], Any]) -> Callable[[Any], list[tuple[str, Any]]]:
    return lambda pa: [(name, make(pa))]


PARQUET: dict[str, Callable[[Any], list[tuple[str, Any]]]] = {
    "a column twice": _column("chosen", lambda pa: pa.array(["1", "2", "3"])),
    "a column of the user's twice": lambda pa: [("mine", pa.array([1, 2, 3])), ("mine", pa.array([4, 5, 6]))],
    "NUL in a name": _column("a\0b", lambda pa: pa.array([1, 2, 3])),
    "an escape in a name": _column("\x1b[31mred", lambda pa: pa.array([1, 2, 3])),
    "an empty name": _column("", lambda pa: pa.array([1, 2, 3])),
    "weights as text": _column("weight", lambda pa: pa.array(["1", "2", "x"])),
    "weights NaN": _column("weight", lambda pa: pa.array([1.0, float("nan"), float("inf")])),
    "weights as bool": _column("weight", lambda pa: pa.array([True, False, True])),
    "null column": _column("mine", lambda pa: pa.nulls(3)),
    "null weights": _column("weight", lambda pa: pa.nulls(3)),
    "bytes": _column("mine", lambda pa: pa.array([b"\xff", b"\x00", b"a"])),
    "dictionary": _column("mine", lambda pa: pa.array(["a", "b", "a"]).dictionary_encode()),
    "struct": _column("mine", lambda pa: pa.array([{"a": 1}, {"a": None}, None])),
    "map": _column(
        "mine", lambda pa: pa.array([[("a", 1)], [], None], type=pa.map_(pa.string(), pa.int64()))
    ),
    "far dates": _column("mine", lambda pa: pa.array([2**40, 0, -(2**40)], type=pa.timestamp("s"))),
    "durations": _column("mine", lambda pa: pa.array([1, 2, 3], type=pa.duration("ns"))),
    "decimals": _column("mine", lambda pa: pa.array([1, 2, 3]).cast(pa.decimal128(20))),
    "unsigned": _column("mine", lambda pa: pa.array([2**64 - 1, 1, 2], type=pa.uint64())),
    "halves": _column("mine", lambda pa: pa.array([1.0, 2.0, 3.0]).cast(pa.float32()).cast(pa.float16())),
    "kept as text": _column("kept", lambda pa: pa.array(["yes", "no", "?"])),
    "split of numbers": _column("split", lambda pa: pa.array([1, 2, 3])),
    "id twice": _column("id", lambda pa: pa.array(["a", "a", "b"])),
    "prompt_id of nulls": _column("prompt_id", lambda pa: pa.nulls(3)),
    "log-probs of lists": _column("ref_chosen_logps", lambda pa: pa.array([[1.0], [], None])),
    "large text": _column("mine", lambda pa: pa.array(["a", "b", "c"], type=pa.large_string())),
}


def _names() -> Iterator[Case]:
    good = "".join(json.dumps(row) + "\n" for row in pair_rows(3))
    for what, name in {
        "umlaut": "Grüße.jsonl", "escape": "a\x1b[31m.jsonl", "newline": "a\nb.jsonl", "not UTF-8": "a\udcff.jsonl", "blank": " .jsonl",
        "dash": "-a.jsonl", "brackets": "[bold]a[red].jsonl", "hash": "a#b?c.jsonl", "upper": "A.JSONL", "long": "a" * 240 + ".jsonl",
        "percent": "%s%n.jsonl", "bidi": "a\u202eb.jsonl",
    }.items():  # fmt: skip

        def lay(home: Path, name: str = name) -> list[str]:
            (home / name).write_text(good)
            return [*DATA, name]

        def missing(home: Path, name: str = name) -> list[str]:
            return [*DATA, name]

        def broken(home: Path, name: str = name) -> list[str]:
            (home / name).write_text(good + "{")
            return [*DATA, name]

        def into(home: Path, name: str = name) -> list[str]:
            (home / "f.jsonl").write_text(good)
            return ["data", "--input", "f.jsonl", "--output", name]

        for word, way in (("read", lay), ("missing", missing), ("broken", broken), ("written to", into)):
            yield Case(f"file name {what}, {word}", way)
            if what in ("umlaut", "not UTF-8"):
                yield Case(f"file name {what}, {word}, ASCII terminal", way, plan={"encoding": "ascii"})
