"""Training speed, MFU and memory on one CUDA device in bf16: prefopt, with dense and block masks, and TRL where installed.

    python benchmarks/gpu.py --json gpu.json                          every table
    python benchmarks/gpu.py --quick --json gpu.json                  the first table alone
    python benchmarks/gpu.py --only qwen-1.5b --json gpu.json         single tables, added to the file
    python benchmarks/gpu.py --cpu-smoke                              tiny shapes on the CPU, to see that it runs

Shapes of known models, weights random, built on the device; pure bf16 with AdamW, no gradient checkpointing, DPO with
the same reference log-probs for all. The arms run in turn in one process; an arm that fails (out of memory, a kernel
that does not compile) says why in the JSON and the others go on. The first steps warm up and are not timed.

MFU is useful FLOPs per second over the rate of a large bf16 matrix product measured here. Useful is what the packed
computation needs, for every arm alike: each prompt once, the head on answer positions, attention pairs that are seen,
backward twice the forward; not what is padded, masked or computed anew.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
import warnings
from typing import Any

import common

SEED = 0
# head dimension = width / heads; vocabularies and layers as published
SHAPES: dict[str, dict[str, Any]] = {
    "qwen-0.5b": {"type": "qwen2", "width": 896, "inner": 4864, "layers": 24, "heads": 14, "kv_heads": 2, "vocabulary": 151_936},
    "qwen-1.5b": {"type": "qwen2", "width": 1536, "inner": 8960, "layers": 28, "heads": 12, "kv_heads": 2, "vocabulary": 151_936},
    "llama-1.2b": {"type": "llama", "width": 2048, "inner": 8192, "layers": 16, "heads": 32, "kv_heads": 8, "vocabulary": 128_256},
    "tiny": {"type": "qwen2", "width": 64, "inner": 128, "layers": 2, "heads": 2, "kv_heads": 1, "vocabulary": 500},
}  # fmt: skip
TABLES = {
    **{name: {"shape": SHAPES[name], "mix": "1:1"} for name in ("qwen-0.5b", "qwen-1.5b", "llama-1.2b")},
    **{f"qwen-0.5b {mix}": {"shape": SHAPES["qwen-0.5b"], "mix": mix} for mix in ("4:1", "1:4")},
}
SMOKE = {f"tiny {dtype}": {"shape": SHAPES["tiny"], "dtype": dtype, "mix": "1:1"} for dtype in ("float32", "bfloat16")}  # fmt: skip
MATMUL, SMOKE_MATMUL = 8192, 256


def main(arguments: list[str] | None = None) -> None:
    """Run the tables and write the figures."""
    options = read_options(arguments)
    tables = SMOKE if options.cpu_smoke else TABLES
    names = list(tables)[:1] if options.quick else common.chosen_tables(options, list(tables))
    warnings.simplefilter("ignore", FutureWarning)
    import torch

    if not options.cpu_smoke and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --cpu-smoke shows that the script runs")
    device = "cpu" if options.cpu_smoke else "cuda"
    small = {"pairs_per_step": 2, "steps": 1, "warm_up_steps": 1, "micro_batches": (1,), "repeats": 1}
    settings: dict[str, Any] = {
        "device": device,
        "dtype": "bfloat16",
        "pairs_per_step": 64,
        "steps": 5,
        "warm_up_steps": 2,
        "micro_batches": (4, 8, 16),
        "repeats": options.repeats,
        "learning_rate": 1e-6,
        "max_tokens_per_row": options.row_tokens,
        **(small if options.cpu_smoke else {}),
    }
    results = common.Results(options.json, settings, keep=bool(options.only), first=next(iter(tables)))
    results.result["trl"] = trl = trl_state(options)
    for name in names:
        table = settings | tables[name]
        peak = matmul_rate(SMOKE_MATMUL if options.cpu_smoke else MATMUL, table["dtype"], device)
        found = measure(table, peak, has_trl=trl == "installed")
        results.add(name, {"settings": table, "matmul_tflops": peak / 1e12, **found})
        report(name, found)


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """The shared options and those of this benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument("--cpu-smoke", action="store_true", help="tiny shapes on the CPU: no figures to keep")
    parser.add_argument("--no-trl", action="store_true", help="prefopt's arms alone")
    parser.add_argument("--row-tokens", type=int, help="tokens of a packed row (default: prefopt's)")
    return parser.parse_args(arguments)


def trl_state(options: argparse.Namespace) -> str:
    """ "installed", or why TRL is not compared."""
    if options.no_trl:
        return "left out by --no-trl"
    missing = [name for name in ("trl", "datasets") if common.installed(name) is None]
    return f"not compared: {' and '.join(missing)} not installed" if missing else "installed"


# ---- figures


def measure(table: dict[str, Any], peak: float, *, has_trl: bool) -> dict[str, Any]:
    """All arms in rounds; ratios of the fastest of ours to TRL's best. peak: FLOPs per second of a matrix product."""
    pairs = common.make_pairs(
        table["mix"],
        (table["warm_up_steps"] + table["steps"]) * table["pairs_per_step"],
        table["shape"]["vocabulary"],
        SEED,
        None,
    )
    reference = references(table, pairs)
    arms = {"prefopt/sdpa": {"tool": "prefopt", "attention": "sdpa"}}
    skipped = {}
    if table["device"] == "cuda":
        arms["prefopt/flex"] = {"tool": "prefopt", "attention": "flex_attention"}
    else:
        skipped["prefopt/flex"] = "flex_attention trains on CUDA alone"
    if has_trl:
        arms |= {f"trl/{size}": {"tool": "trl", "micro_batch": size} for size in table["micro_batches"]}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for number in range(table["repeats"]):
        for name, arm in arms.items():
            if name.startswith("trl") and number > 0 and name != fastest(runs, "trl"):
                continue  # after the first round TRL's fastest alone
            runs[name].append(attempt(table | arm, pairs, reference))
    flops = useful_flops(table["shape"], pairs[table["warm_up_steps"] * table["pairs_per_step"] :])
    found: dict[str, Any] = {"arms": {name: summary(several, flops, peak) for name, several in runs.items()}}
    found["arms"] |= {name: {"skipped": why} for name, why in skipped.items()}
    return found | compare(runs)


def fastest(runs: dict[str, list[dict[str, Any]]], tool: str) -> str | None:
    """The arm of a tool with the highest rate in its first run, None if none ran."""
    rates = {
        name: several[0]["pairs_per_s"]
        for name, several in runs.items()
        if name.startswith(tool) and several and "error" not in several[0]
    }
    return max(rates, key=lambda name: rates[name], default=None)


def summary(several: list[dict[str, Any]], flops: float, peak: float) -> dict[str, Any]:
    """An arm's figures over its runs, or why it failed."""
    failed = [run["error"] for run in several if "error" in run]
    if failed:
        return {"error": failed[0]}
    keys = ("pairs_per_s", "tokens_per_s", "peak_memory_mib")
    figures = {key: common.interval([run[key] for run in several]) for key in keys}
    return {**figures, "mfu": common.interval([flops / run["seconds"] / peak for run in several])}


def compare(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Ratios of our fastest arm to TRL's, round by round, and how far their losses are apart (bf16)."""
    ours, theirs = fastest(runs, "prefopt"), fastest(runs, "trl")
    if ours is None or theirs is None:
        return {}
    rounds = [
        (a, b) for a, b in zip(runs[ours], runs[theirs], strict=True) if "error" not in a and "error" not in b
    ]
    losses = zip(rounds[0][0]["losses"], rounds[0][1]["losses"], strict=True)
    return {
        "best_prefopt": ours,
        "best_trl": theirs,
        "ratio_pairs_per_s": common.interval([a["pairs_per_s"] / b["pairs_per_s"] for a, b in rounds]),
        "ratio_peak_memory": common.interval([_ratio(a, b, "peak_memory_mib") for a, b in rounds]),
        "largest_loss_difference": max(abs(a - b) for a, b in losses),
    }


def _ratio(ours: dict[str, Any], theirs: dict[str, Any], key: str) -> float:
    return ours[key] / theirs[key] if theirs[key] else 0.0


def useful_flops(shape: dict[str, Any], pairs: list[common.Pair]) -> float:
    """FLOPs of one training pass over the pairs that cannot be left out (see the top of the file)."""
    width, inner, layers = shape["width"], shape["inner"], shape["layers"]
    head_width = width // shape["heads"]
    attention = 2 * width * width + 2 * width * head_width * shape["kv_heads"]
    weights = layers * (attention + 3 * width * inner)
    tokens = answers = seen = 0
    for pair in pairs:
        prompt = len(pair["prompt_ids"])
        tokens, seen = tokens + prompt, seen + prompt * (prompt + 1) // 2
        for role in ("chosen_ids", "rejected_ids"):
            answer = len(pair[role])
            read = answer - 1  # the last token is a target only
            tokens, answers = tokens + read, answers + answer
            seen += read * prompt + read * (read + 1) // 2
    # 2 FLOPs per multiply-add, times 3 for forward and backward; attention has two products per seen pair and layer
    return 6.0 * (weights * tokens + width * shape["vocabulary"] * answers + 2 * layers * width * seen)


def report(name: str, found: dict[str, Any]) -> None:
    """A table in lines."""
    for arm, figures in found["arms"].items():
        if "pairs_per_s" not in figures:
            print(f"{name:16} {arm:13} {figures.get('error') or figures['skipped']}", flush=True)
            continue
        rate, mfu, memory = (figures[key]["median"] for key in ("pairs_per_s", "mfu", "peak_memory_mib"))
        print(f"{name:16} {arm:13} {rate:9.2f} pairs/s, MFU {mfu:.3f}, {memory:8.0f} MiB", flush=True)
    if "ratio_pairs_per_s" in found:
        ratio, memory = found["ratio_pairs_per_s"], found["ratio_peak_memory"]
        print(f"{name:16} speed {ratio['median']:.2f}, memory {memory['median']:.2f}", flush=True)


# ---- runs


def build(shape: dict[str, Any], dtype: str, device: str, attention: str) -> Any:
    """A model of a shape with random weights, made where it will run."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    config = (LlamaConfig if shape["type"] == "llama" else Qwen2Config)(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["width"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(SEED)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )


def references(table: dict[str, Any], pairs: list[common.Pair]) -> list[dict[str, float]]:
    """Log-probs of the answers under the model before training, for all arms."""
    from prefopt.scoring.logprobs import score

    roles = ("chosen", "rejected")
    sequences = [(pair["prompt_ids"], pair[f"{role}_ids"]) for pair in pairs for role in roles]
    model = build(table["shape"], table["dtype"], table["device"], "sdpa")
    logps = score(model, sequences, 16384 if table["device"] == "cuda" else 1024)
    del model
    _free()
    return [dict(zip(roles, logps[2 * k : 2 * k + 2], strict=True)) for k in range(len(pairs))]


def attempt(
    table: dict[str, Any], pairs: list[common.Pair], reference: list[dict[str, float]]
) -> dict[str, Any]:
    """One run of one arm, or why it failed."""
    try:
        return run(table, pairs, reference)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        _free()


def run(table: dict[str, Any], pairs: list[common.Pair], reference: list[dict[str, float]]) -> dict[str, Any]:
    """Train one arm; speed, memory and losses."""
    import arms
    import torch

    on_gpu = table["device"] == "cuda"
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    model = build(table["shape"], table["dtype"], table["device"], table.get("attention", "sdpa"))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        task = table | {
            "loss": "dpo",
            "folder": folder,
            "use_cpu": not on_gpu,
            "optimizer": "adamw_torch_fused" if on_gpu else "adamw_torch",
        }
        notes = arms.train(task, model, pairs, reference, wait=wait)
    seconds = notes.seconds(table["warm_up_steps"])
    timed = pairs[table["warm_up_steps"] * table["pairs_per_step"] :]
    return {
        "seconds": seconds,
        "pairs_per_s": len(timed) / seconds,
        "tokens_per_s": common.plain_tokens(timed) / seconds,
        "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0,
        "losses": notes.losses,
    }


def matmul_rate(size: int, dtype: str, device: str, repeats: int = 10) -> float:
    """FLOPs per second of a product of two [size, size] matrices of random numbers, median of `repeats`."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times = []
    for _ in range(3 + repeats):
        wait()
        start = time.perf_counter()
        left @ right
        wait()
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / sorted(times[3:])[repeats // 2]


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
