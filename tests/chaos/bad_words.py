"""Malformed recipes and options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from chaos.malformed import Case
from chaos.worlds import World, pair_rows

VALUES = (
    "nan", "inf", "-inf", "-1", "0", "1e999", "-0.0", "9" * 400, "²", "", " ", "null", "true", "[]", "{}", "[1, 2", "{a: 1", "\udcff",
    "\x1b[31m", "ä", "../..", "*", "&a [*a]", "!!python/object/apply:os.system ['true']", "!!binary x", "x" * 5000, "1_000", "0x10",
    "a\nb", "- a", "2024-01-01", "no",
)  # fmt: skip
OPTIONS = {
    "data": ("heldout", "limit", "kind", "columns", "system", "chat"),
    "select": ("fraction", "rule", "threshold", "score"),
    "weigh": ("scheme", "alpha", "clip", "column"),
    "train": ("loss", "beta", "steps", "betas", "lora", "learning_rate"),
}
RECIPES = {
    "empty": "", "null": "null", "a list": "- a", "a text": "abc", "a number": "3", "a tab": "name: a\n\tmodel: b", "NUL": "name: a\0b",
    "a key twice": "name: a\nname: b", "unknown key": "nmae: a", "unknown below": "train: {stpes: 3}", "a null key": "null: 1",
    "a number key": "1: 2", "a list key": "? [1, 2]\n: 3", "not UTF-8": "name: \udcff", "alias to itself": "train: &a {x: *a}",
    "many aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(12)),
    "deep": "train: " + "[" * 5000 + "]" * 5000, "deep lines": "\n".join(" " * i + "a:" for i in range(400)), "object":
    "name: !!python/object:os.x {}", "a tag": "name: !x y", "two documents": "name: a\n---\nname: b", "open quote": 'name: "a',
    "anchor unknown": "name: *x", "merge": "<<: {name: a}\nmodel: tiny", "merge of a text": "<<: a", "an escape": 'name: "\\e[31m"',
    "an umlaut": "name: ä\nmodel: tiny", "name with a slash": "name: a/b", "name long": f"name: {'a' * 400}", "name of dots": "name: ..",
    "name of a dot": "name: .", "name of a number": "name: 3", "name of null": "name: null", "name empty": 'name: ""',
    "seed negative": "seed: -1", "seed huge": f"seed: {'9' * 30}", "seed of NaN": "seed: .nan", "seed of text": "seed: a", "seed of bool":
    "seed: true", "rounds 0": "rounds: 0", "rounds huge": "rounds: 100000", "data of text": "data: abc", "data of list": "data: [a]",
    "data twice": "data: {path: a}\ndata: {path: b}", "path of NUL": 'data: {path: "a\\0b"}', "path of list": "data: {path: [a, b]}",
    "path empty": 'data: {path: ""}', "path of a folder": "data: {path: .}", "path of a device": "data: {path: /dev/null}",
    "path of nothing": "data: {path: nothing.jsonl}", "path of the recipe": "data: {path: r.yaml}", "arms of list": "arms: [a]",
    "arms empty": "arms: {}", "arm named base": "arms: {base: {}}", "arm named ..": "arms: {'..': {}}", "arm of text": "arms: {a: b}",
    "arm of an escape": 'arms: {"\\e[31m": {}}', "arm with unknown key": "arms: {a: {nmae: b}}", "arm with a name": "arms: {a: {name: b}}",
    "arm of null": "arms: {a: null}", "arms of digits": "arms: {1: {}}", "model of number": "model: 3", "model of NUL": 'model: "a\\0"',
    "model of nothing": "model: nothing/here", "model empty": 'model: ""', "model of a file": "model: r.yaml", "model of dots": "model: ..",
    "sample n 0": "sample: {n: 0}", "sample n huge": "sample: {n: 1e30}", "temperature NaN": "sample: {temperature: .nan}",
    "temperature inf": "sample: {temperature: .inf}", "top_p 2": "sample: {top_p: 2}", "engine unknown": "sample: {engine: vlm}",
    "server without address": "sample: {engine: server}", "server of text": "sample: {engine: server, server: abc}",
    "address odd": "sample: {engine: server, server: {base_url: 'x://y', model: m}}", "address of an escape":
    'sample: {engine: server, server: {base_url: "http://\\e[31m", model: m}}', "port odd":
    "sample: {engine: server, server: {base_url: 'http://127.0.0.1:99999/v1', model: m}}", "loss unknown": "train: {loss: dpoo}",
    "loss of number": "train: {loss: 3}", "loss empty": "train: {loss: []}", "loss of null": "train: {loss: [null]}", "loss nested":
    "train: {loss: [[dpo]]}", "loss argument": "train: {loss: [{name: dpo, betta: 1}]}", "loss beta NaN":
    "train: {loss: [{name: dpo, beta: .nan}]}", "loss beta text": "train: {loss: [{name: dpo, beta: a}]}", "loss scale inf":
    "train: {loss: [{name: dpo, scale: .inf}]}", "rate negative": "train: {learning_rate: -1}", "rate of inf": "train: {learning_rate: .inf}",
    "steps half": "train: {steps: 1.5}", "steps of text": "train: {steps: many}", "pairs 0": "train: {pairs_per_step: 0}",
    "lora r 0": "train: {lora: {r: 0}}", "lora modules odd": "train: {lora: {target_modules: [nothing]}}", "optimizer odd":
    "train: {optimizer: sgdd}", "deepspeed of nothing": "train: {deepspeed: nothing.json}", "trackers odd": "train: {report_to: [x]}",
    "fraction 2": "select: {fraction: 2}", "fraction NaN": "select: {fraction: .nan}", "scheme unknown": "weight: {scheme: x}",
    "all null": "sample: null\njudge: null\nrank: null\nreference: null\nselect: null\nweight: null\ntrain: null\nevaluate: null",
    "evaluate of text": "evaluate: yes", "evaluate data odd": "evaluate: {data: {path: nothing.jsonl}}", "tiny odd": "tiny: {vocab_size: 1}",
    "verifier pattern odd": "judge: {verifier: {pattern: '('}}", "verifier pattern slow": "judge: {verifier: {pattern: '(a+)+$'}}",
}  # fmt: skip


def cases(world: World) -> Iterator[Case]:
    """All of them."""
    yield from _recipes()
    yield from _options(world)
    yield from _words(world)


def _recipes() -> Iterator[Case]:
    for what, text in RECIPES.items():

        def lay(home: Path, text: str = text) -> list[str]:
            (home / "r.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
            (home / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair_rows(4)))
            more = [] if "data" in text else ["--data", "p.jsonl"]
            # what is right after all should not train for long
            return [
                "run",
                "r.yaml",
                *more,
                "--output",
                "out",
                "--weight.scheme",
                "uniform",
                "--train.max_length",
                "64",
            ]

        yield Case(f"recipe: {what}", lay)


def _options(world: World) -> Iterator[Case]:
    for verb, names in OPTIONS.items():
        for name in names:
            for value in VALUES:
                if verb == "train" and name == "steps" and value in ("1_000", "0x10"):
                    continue  # they are numbers, and so many steps take long
                argv = [
                    *world.argv("data pairs" if verb == "data" else verb),
                    "--output",
                    "out",
                    f"--{name}={value}",
                ]
                yield Case(f"{verb} --{name} {value[:30]!r}", lambda home, argv=argv: argv)


def _words(world: World) -> Iterator[Case]:
    def words(*argv: str) -> Callable[[Path], list[str]]:
        return lambda home: list(argv)

    pairs = str(world.root / "pairs.jsonl")
    data = ["data", "--input", pairs, "--output", "out"]
    base = "builtin:quickstart/base"
    for row in ("²", "-1", "999", "1e3", "", "\x1b[31m", "\udcff", "٣", "९", "9" * 500, "x"):
        argv = ["inspect", "--input", pairs, "--model", base, f"--row={row}"]
        yield Case(f"inspect --row {row[:20]!r}", words(*argv))
    for length in ("0", "-1", "9" * 30, "1", "²"):
        yield Case(
            f"inspect --max_length {length[:9]}",
            words("inspect", "--input", pairs, "--model", base, "--max-length", length),
        )
    lines = (
        [*data, "--limit"], [*data, "--"], [*data, "stray"], [*data, "--limit", "1", "--limit", "2"], [*data, "--limit.x", "1"],
        [*data, "--.x", "1"], [*data, "--x.", "1"], [*data, "--..", "1"], [*data, "--\x1b[31m", "1"], [*data, "--ä", "1"],
        [*data, "--\udcff", "1"], [*data, "--seed", "x"], [*data, "--seed", "9" * 40], [*data, "--seed", "-1"], [*data, "--config", "no.yaml"],
        [*data, "--config", "."], [*data, "--config", pairs], [*data, "--columns.a.b", "c"], ["dta"], ["data"], ["data", "--input", pairs],
        ["data", "--input", "", "--output", "out"], ["data", "--input", pairs, "--output", ""], ["help"], ["help", "x\x1b[31m"], ["help", ""],
        ["run"], ["run", "."], ["run", "no.yaml"], ["run", pairs], ["report"], ["report", "no"], ["report", pairs], ["report", "\udcff"],
        ["inspect"], ["losses", "plot", "nothing"], ["losses", "plot", "--file", pairs], ["losses", "plot", "--output", "no/such/x.svg"],
        ["losses", "nothing"], ["merge-adapter", "--adapter", "no", "--output", "out"], ["merge-adapter", "--adapter", ".", "--output", "out"],
        ["judge-check", "--input", pairs, "--judge", "nobody"], ["judge-check", "--input", pairs], ["check", "no"], ["check", "."],
        ["check", pairs, "--test", "no"], ["check", pairs, "--threshold", "nan"], ["check", pairs, "--ngram", "0"],
        ["weigh", "--input", pairs, "--output", "out"], ["weigh", "--input", pairs, "--output", "out", "--scheme", "column"],
        ["rank", "--input", pairs, "--output", "out"], ["judge", "--input", pairs, "--output", "out"], ["sample", "--input", pairs, "--output", "out"],
        ["reference", "--input", pairs, "--output", "out"], ["reference", "--input", pairs, "--output", "out", "--model", "no/such"],
        ["reference", "--input", pairs, "--output", "out", "--model", "\x1b[31m"], ["train", "--input", pairs, "--output", "out", "--model", base],
        ["evaluate", "--input", pairs, "--output", "out", "--model", "."], ["select", "--input", pairs, "--output", "out", "--rule", "top"],
    )  # fmt: skip
    for line in lines:
        yield Case(f"words: {' '.join(line)[-60:]!r}", words(*line))
