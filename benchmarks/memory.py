"""Memory of the stages 04 to 07 against the number of pairs: it must not grow with them.

    python benchmarks/memory.py --json benchmarks/results/memory.json

Synthetic short pairs and a tiny model, so that data and not weights decides. Each figure is of a process of its own that runs
`prefopt reference`, `select`, `weigh` or `train` (5 steps) on a Parquet file, as the command line does: the peak of its
resident memory above what it holds after the same work on 64 pairs (libraries, model, allocators). `anonymous_mib`
leaves out pages of files, which the system takes back when it needs them; it is sampled every 20 ms. Pass `given_store` is
`reference` with a store that knows every row; `kto` is `train` with that loss, which draws mismatched completions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

ROWS = (1_000, 10_000, 100_000)
WARM_UP_ROWS = 64
STEPS = 5
PASSES = ("reference", "given_store", "select", "weight", "train", "kto")
MAX_LENGTH = 64
TRAINING = {"steps": STEPS, "pairs_per_step": 32, "logging_steps": 1, "learning_rate": 1e-4}
# pass -> stage and settings
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "reference": ("reference", {"max_length": MAX_LENGTH}),
    "given_store": ("reference", {"max_length": MAX_LENGTH}),
    "select": ("select", {"score": "gap_sum"}),
    "weight": ("weight", {}),
    "train": ("train", {"max_length": MAX_LENGTH, **TRAINING}),
    "kto": ("train", {"max_length": MAX_LENGTH, "loss": "kto", **TRAINING}),
}


def main() -> None:
    """Measure every pass at every number of rows, or (child) one of them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--json", type=Path, help="file for the figures")
    options.add_argument("--rows", type=int, nargs="+", default=ROWS)
    options.add_argument("--passes", nargs="+", default=PASSES, choices=PASSES)
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child is not None:
        print(json.dumps(measure(given.child, given.passes[0], given.rows[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = [measured(Path(folder), kind, rows) for kind in given.passes for rows in given.rows]
    result = {"benchmark": "memory", **about(), "steps": STEPS, "figures": figures}
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def about() -> dict[str, Any]:
    """Machine and versions."""
    from common import machine

    return machine()


def measured(folder: Path, kind: str, rows: int) -> dict[str, Any]:
    """The figures of one pass, from a process of its own."""
    if not (folder / "model").exists():
        write_model(folder / "model")
    for count in (WARM_UP_ROWS, rows):
        write_pairs(source(folder, kind, count), count, selected=kind == "weight")
        if kind == "given_store":
            write_store(folder, count)
    command = [sys.executable, __file__, "--child", str(folder), "--passes", kind, "--rows", str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def source(folder: Path, kind: str, rows: int) -> Path:
    """The file that a pass reads."""
    return folder / ("selected" if kind == "weight" else "pairs") / f"{rows}.parquet"


def write_pairs(path: Path, count: int, *, selected: bool = False) -> None:
    """Pairs of short sums, with made-up reference log-probs (the reference pass replaces them) and statistics.

    selected: with half of them kept.
    """
    from prefopt.tables.records import make_table, write_table

    if path.exists():
        return
    rng, other = random.Random(0), random.Random(1)
    rows = []
    for index in range(count):
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        rows.append({
            "id": f"p{index}",
            "prompt_id": f"p{index}",
            "prompt": [{"role": "user", "content": f"{a}+{b}"}],
            "split": "train",
            "chosen": [{"role": "assistant", "content": f"{a}+{b}={a + b} {index}"}],
            "rejected": [{"role": "assistant", "content": f"{a + b + rng.randint(1, 9)}"}],
            "ref_chosen_logps": -10.0,
            "ref_rejected_logps": -9.0 - 2 * other.random(),
            "n": 8,
            "n_correct": other.randint(0, 8),
            "weight": 1.0,
            **({"kept": other.random() < 0.5} if selected else {}),
        })  # fmt: skip
    write_table(make_table(rows), path)


def write_model(path: Path) -> None:
    """One layer of width 16 with the quickstart's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from prefopt.recipes.quickstart.build import make_tokenizer

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=96, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)


def write_store(folder: Path, rows: int) -> None:
    """A reference store with made-up values of every row."""
    from prefopt.models.load import (
        checkpoint_dtype,
        load_tokenizer,
        model_digest,
        template_digest,
        tokenizer_digest,
    )
    from prefopt.scoring.store import ReferenceStore, StoreKey
    from prefopt.tables.table_rows import TableRows, read_table

    model = folder / "model"
    tokenizer = load_tokenizer(model)
    key = StoreKey(
        model=model_digest(model), tokenizer=tokenizer_digest(tokenizer), chat_template=template_digest(tokenizer),
        max_length=MAX_LENGTH, dtype=checkpoint_dtype(model),
    )  # fmt: skip
    made_up = {"chosen_tokens": 9, "rejected_tokens": 5, "truncated": False}
    pairs = TableRows(read_table(source(folder, "given_store", rows)))
    parts = [({**row, **made_up} for row in pairs)]
    if not (folder / f"store-{rows}").exists():
        ReferenceStore(key, {}).save_with(folder / f"store-{rows}", lambda: parts)


def measure(folder: Path, kind: str, rows: int) -> dict[str, Any]:
    """Run the pass on few rows, then on `rows`; MiB above the former."""
    import torch

    torch.set_num_threads(1)
    run_pass(folder, kind, WARM_UP_ROWS)
    before = status()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.perf_counter()
    anonymous = sampled_peak(lambda: run_pass(folder, kind, rows))
    return {
        "pass": kind,
        "rows": rows,
        "peak_mib": round((status()["VmHWM"] - before["VmRSS"]) / 1024, 1),
        "anonymous_mib": round((anonymous - before["RssAnon"]) / 1024, 1),
        "libraries_mib": round(before["VmRSS"] / 1024, 1),
        "input_mib": round(source(folder, kind, rows).stat().st_size / 2**20, 1),
        "seconds_rough": round(time.perf_counter() - start),
    }


def run_pass(folder: Path, kind: str, rows: int) -> None:
    """The stage as its verb runs it."""
    from prefopt.pipeline.run import BY_NAME
    from prefopt.stages.alone import run_alone
    from prefopt.tables.context import Context

    name, settings = RUNS[kind]
    if kind == "given_store":
        settings = {**settings, "store": str(folder / f"store-{rows}")}
    stage = BY_NAME[name]
    output = Path(tempfile.mkdtemp(dir=folder))
    context = Context(seed=0, model=folder / "model")
    run_alone(stage, stage.config(**settings), str(source(folder, kind, rows)), output, context)


def status() -> dict[str, int]:
    """VmRSS, VmHWM, RssAnon of this process, KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM", "RssAnon")}


def sampled_peak(work: Callable[[], None]) -> int:
    """Largest RssAnon while `work` runs, KiB."""
    done = threading.Event()
    peak = [0]

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], status()["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak[0]


if __name__ == "__main__":
    main()
