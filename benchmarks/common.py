"""What the benchmarks share: options, mixes of lengths, models with random weights, notes on the machine, children."""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("prefopt", "torch", "transformers", "trl", "accelerate", "numpy")
# tokens of prompt and of each answer, uniform between the two, both included
MIXES = {
    "1:1": ((64, 256), (64, 256)),
    "4:1": ((256, 768), (64, 192)),
    "1:4": ((16, 112), (64, 448)),
    "warm-up": ((16, 16), (16, 16)),
}
# real lengths: characters / 4, a common rate of tokens in English text
REAL = {"tldr": "tldr/preference.jsonl.gz", "hh_helpful": "hh_helpful/preference.jsonl.gz"}
CHARACTERS_PER_TOKEN = 4
MAX_LENGTH = 1024

TINY = {"vocabulary": 500, "width": 64, "layers": 2}

Pair = dict[str, list[int]]


def parser(about: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    found.add_argument(
        "--json", type=Path, help="file for the figures, written after each table;\nwith --only, added to"
    )
    found.add_argument("--quick", action="store_true", help="the 1:1 mix alone, in less detail")
    found.add_argument("--tiny", action="store_true", help="a tiny model and few pairs: no figures to keep")
    found.add_argument("--only", type=_names, default=(), help="tables to run, comma-separated")
    found.add_argument("--data", type=Path, help="folder of real data, for the tables tldr and hh_helpful")
    found.add_argument("--threads", type=int, default=2, help="threads of each run (default 2)")
    found.add_argument(
        "--repeats", type=int, default=3, help="runs of each arm, the arms in turn (default 3)"
    )
    return found


def chosen_tables(options: argparse.Namespace, tables: Sequence[str]) -> list[str]:
    """The tables that the options ask for, in the order given.

    Raises:
        SystemExit: --only names no table, or a real one without --data.
    """
    unknown = [name for name in options.only if name not in tables]
    if unknown:
        raise SystemExit(f"--only {unknown[0]}: no such table; there are {', '.join(tables)}")
    if options.data is None and (needed := [name for name in options.only if name in REAL]):
        raise SystemExit(f"--only {needed[0]}: give --data, the folder of {REAL[needed[0]]}")
    if options.only:
        return [name for name in tables if name in options.only]
    if options.quick:
        return ["1:1"]
    return [name for name in tables if name not in REAL or options.data is not None]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


# ---- data and models


def mix_lengths(name: str, count: int, seed: int, data: Path | None) -> list[tuple[int, int, int]]:
    """(prompt, chosen, rejected) tokens of `count` pairs of a mix."""
    rng = np.random.default_rng(seed)
    if name in REAL:
        assert data is not None, f"mix {name} needs --data, the folder of {REAL[name]}"
        with gzip.open(data / REAL[name], "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        found = [
            tuple(max(2, len(row[key]) // CHARACTERS_PER_TOKEN) for key in ("prompt", "chosen", "rejected"))
            for row in rows
        ]
        fitting = [sizes for sizes in found if sizes[0] + max(sizes[1:]) <= MAX_LENGTH]
        return [fitting[k] for k in rng.choice(len(fitting), count, replace=False).tolist()]
    prompt, answer = MIXES[name]
    draw = [rng.integers(low, high + 1, count).tolist() for low, high in (prompt, answer, answer)]
    return list(zip(*draw, strict=True))


def make_pairs(name: str, count: int, vocabulary: int, seed: int, data: Path | None) -> list[Pair]:
    """Random token ids in the lengths of a mix."""
    rng = np.random.default_rng([seed, 1])
    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {key: rng.integers(3, vocabulary, size).tolist() for key, size in zip(keys, sizes, strict=True)}
        for sizes in mix_lengths(name, count, seed, data)
    ]


def plain_tokens(pairs: Sequence[Pair]) -> int:
    """Tokens of two plain sequences per pair, padding left out."""
    return sum(2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)


def make_model(shape: dict[str, int], seed: int) -> Any:
    """A Llama with random weights in fp32. shape: vocabulary, width, layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width = shape["width"]
    config = LlamaConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=shape["layers"],
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
        max_position_embeddings=2 * MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


# ---- figures


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest of several runs, and the runs."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "runs": list(values),
    }


def machine() -> dict[str, Any]:
    """What the figures depend on besides the settings."""
    import torch

    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0].split(":", 1)[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
    }


def installed(name: str) -> str | None:
    """Version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def peak_rss_mib() -> float:
    """Most memory that this process has held, MiB."""
    return next(float(line.split()[1]) / 1024 for line in _lines("/proc/self/status") if "VmHWM" in line)


def reset_peak() -> None:
    """Start the peak anew at what is held now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def rss_mib() -> float:
    """Memory that this process holds now, MiB."""
    return next(float(line.split()[1]) / 1024 for line in _lines("/proc/self/status") if "VmRSS" in line)


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Figures for docs/performance.md; a cut-off write leaves the earlier file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


class Results:
    """The file of a benchmark: `settings`, `machine`, `tables`, and a ratio at the top; written after each table.

    keep: add to the tables that the file holds already (a run of a few tables, or one that goes on after a cut).
    first: the table whose ratio stands at the top.
    """

    def __init__(
        self, path: Path | None, settings: dict[str, Any], *, keep: bool, first: str = "1:1"
    ) -> None:
        self.path, self.first = path, first
        known = json.loads(path.read_text(encoding="utf-8")) if keep and path and path.exists() else {}
        self.result = {"settings": settings, "machine": machine(), "tables": known.get("tables", {})}

    def add(self, name: str, table: dict[str, Any]) -> None:
        """Put a table in and write the file."""
        self.result["tables"][name] = table
        ratio = self.result["tables"].get(self.first, {}).get("ratio_pairs_per_s", {}).get("median")
        self.result = {"ratio_pairs_per_s": ratio} | {**self.result, "ratio_pairs_per_s": ratio}
        if self.path:
            write_json(self.path, without_places(self.result))


def without_places(value: Any) -> Any:
    """The same value with the last name in place of every absolute path: where somebody's files lie is not a result."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


# ---- processes


def set_threads(count: int) -> None:
    """Threads of torch in this process and its children; before torch is imported."""
    os.environ.update({
        "OMP_NUM_THREADS": str(count),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    })  # fmt: skip


def in_child(function: Callable[[dict[str, Any]], dict[str, Any]], task: dict[str, Any]) -> dict[str, Any]:
    """`function(task)` in a process of its own, which inherits what this one has imported; `task` gets a `folder`.

    This process must not have computed anything with torch: its threads do not survive the fork.

    Raises:
        SystemExit: the function failed, with its traceback.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        child = context.Process(target=_answer, args=(there, function, task | {"folder": folder}))
        child.start()
        there.close()
        try:
            outcome = here.recv()
        except EOFError:
            outcome = {"failed": "the process was killed (out of memory?)"}
        child.join()
    if "failed" in outcome:
        raise SystemExit(f"{function.__name__} {task}: {outcome['failed']}")
    return outcome["found"]


def in_turn(
    function: Callable[[dict[str, Any]], dict[str, Any]], arms: dict[str, dict[str, Any]], repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Every arm `repeats` times, one after the other in each round, each in a process of its own."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, task in arms.items():
            runs[name].append(in_child(function, task))
    return runs


def _answer(pipe: Any, function: Callable[[dict[str, Any]], dict[str, Any]], task: dict[str, Any]) -> None:
    # settings are given under names that older versions of transformers know too
    warnings.simplefilter("ignore", FutureWarning)
    try:
        outcome = {"found": function(task)}
    except BaseException:
        outcome = {"failed": traceback.format_exc()[-3000:]}
    pipe.send(outcome)
    pipe.close()


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
