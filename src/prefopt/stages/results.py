"""What came of a finished stage, in one or two plain lines; read from its folder, for terminal and log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefopt.rules.selection import find_rule
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import rows_of
from prefopt.tables.table_rows import read_table

Figures = Mapping[str, Any]


def result_lines(folder: StageFolder) -> list[str]:
    """The result of the stage in `folder`; empty where its manifest says nothing that is known here."""
    manifest = folder.manifest or {}
    told = LINES.get(str(manifest.get("stage")))
    if told is None:
        return []
    try:
        return told(manifest.get("quality") or {}, folder)
    except (KeyError, TypeError, IndexError):  # figures of another version: the table is there all the same
        return []


def share(value: Figures | None) -> str:
    """`46.5% [43.1, 50.0] of 800`: a share with its 95% interval, if it has one; a dash where there is no share."""
    if not value or value.get("mean") is None:
        return "-"
    if value["low"] is None:  # of one prompt
        return f"{100 * value['mean']:.1f}% (n {value['n']:,})"
    low, high = 100 * value["low"], 100 * value["high"]
    return f"{100 * value['mean']:.1f}% [{low:.1f}, {high:.1f}] (n {value['n']:,})"


def _data(q: Figures, folder: StageFolder) -> list[str]:
    held = f", {q['heldout_rows']:,} of them held out" if q.get("heldout_rows") else ""
    return [f"{q['rows']:,} rows of {q['prompts']:,} prompts ({q['kind']}){held}"]


def _sample(q: Figures, folder: StageFolder) -> list[str]:
    tokens, cut = q.get("completion_tokens_mean"), q.get("finish_length_share")
    more = [f"{100 * q['distinct_share']:.0f}% distinct"]
    more += [f"{tokens:.1f} tokens each"] if tokens is not None else []
    more += [f"{100 * cut:.1f}% cut at max_new_tokens"] if cut is not None else []
    return [f"{q['completions']:,} completions of {q['prompts']:,} prompts: {', '.join(more)}"]


def _judge(q: Figures, folder: StageFolder) -> list[str]:
    lines = []
    if (q.get("accuracy") or {}).get("mean") is not None:
        lines.append(
            f"accuracy {share(q['accuracy'])}; prompts all wrong {q['unsolved']:,}, all right {q['all_right']:,}"
        )
    reward = q.get("reward")
    if reward and reward["mean"] is not None:
        lines.append(
            f"reward {reward['mean']:.3g}, sd {reward['sd']:.3g}; without a score {reward['unscored']:,}"
        )
    by = ", ".join(f"{name} {count:,}" for name, count in q["judged_by"].items())
    return [*lines, f"{q['completions']:,} completions of {q['prompts']:,} prompts, judged by: {by}"]


def _rank(q: Figures, folder: StageFolder) -> list[str]:
    prompts = {name: count for name, count in q["prompts"].items() if count}
    total, paired = prompts.pop("total", 0), prompts.pop("paired", 0)
    without = "; without a pair: " + ", ".join(f"{why} {count:,}" for why, count in prompts.items())
    lines = [f"{q['pairs']:,} pairs of {paired:,} prompts of {total:,}{without if prompts else ''}"]
    if q.get("comparisons") is not None:
        asked = [f"{q['comparisons']:,} comparisons in {q['calls']:,} calls"]
        for name in ("swap_consistency", "tie_rate", "agreement"):
            if q.get(name) is not None:
                asked.append(f"{name.replace('_', ' ')} {100 * q[name]:.1f}%")
        lines.append(f"judge: {', '.join(asked)}")
    return lines


def _reference(q: Figures, folder: StageFolder) -> list[str]:
    sides = [
        f"{side} {q[f'mean_ref_{side}_logps']:.2f}"
        for side in ("chosen", "rejected")
        if q.get(f"mean_ref_{side}_logps") is not None
    ]
    mean = f"; mean log-prob, nats: {', '.join(sides)}" if sides else ""
    return [f"{q['rows_in']:,} rows scored, {q['reused']:,} of them known to the store{mean}"]


def _select(q: Figures, folder: StageFolder) -> list[str]:
    counts, rule = q["counts"], q["settings"]["rule"]
    lost = {"truncated": counts["truncated"], "without a score": counts["unscored"]}
    if not find_rule(rule).needs_score:
        lost = {}
    lost[f"by rule {rule}"] = counts["dropped"] - sum(lost.values())
    why = ", ".join(f"{reason} {count:,}" for reason, count in lost.items() if count)
    kept = f"kept {counts['kept']:,} of {counts['train']:,} train pairs"
    return [
        f"{kept} ({100 * counts['kept'] / counts['train']:.1f}%); dropped {counts['dropped']:,}{f': {why}' if why else ''}"
    ]


def _weight(q: Figures, folder: StageFolder) -> list[str]:
    final = q.get("final") or {}
    if final.get("mean") is None:
        return [f"{q['pairs']:,} pairs weighted"]
    return [
        f"{q['pairs']:,} pairs weigh {final['min']:.3g} to {final['max']:.3g}, mean {final['mean']:.3g}; "
        f"they count as {final['effective_pairs']:.1f} equal ones"
    ]


def _train(q: Figures, folder: StageFolder) -> list[str]:
    history = [row for row in rows_of(folder.table()) if row.get("loss") is not None]
    final = q["final"]
    figures = [
        f"loss {history[0]['loss']:.4f} at step {history[0]['step']}, {history[-1]['loss']:.4f} at the last"
    ]
    for name, text in (
        ("eval_rewards/accuracies", "held-out accuracy {:.1%}"),
        ("eval_logps/chosen_drift", "held-out chosen drift {:+.2f} nats"),
    ):
        if final.get(name) is not None:
            figures.append(text.format(final[name]))
    if q.get("kept_step") not in (None, q["steps"]):
        figures.append(f"kept the weights of step {q['kept_step']:,}, the best held out")
    return [f"{q['steps']:,} steps on {q['pairs']:,} pairs: {', '.join(figures)}", *_speed(folder)]


def _speed(folder: StageFolder) -> list[str]:
    """Seconds and pairs per second of the process that trained last."""
    path = folder.path / "timings.parquet"
    size = ((folder.manifest or {}).get("config") or {}).get("pairs_per_step")
    for row in rows_of(read_table(path)) if path.is_file() else ():
        if size and row["what"].startswith("training, steps "):
            first, last = (int(word) for word in row["what"].removeprefix("training, steps ").split(" to "))
            if last >= first:
                rate = (last - first + 1) * size / max(row["seconds"], 1e-9)
                return [f"{row['seconds']:.1f} s for steps {first} to {last}: {rate:.2f} pairs/s"]
    return []


def _train_reward(q: Figures, folder: StageFolder) -> list[str]:
    history = [row for row in q["history"] if row.get("loss") is not None]
    loss = f"loss {history[0]['loss']:.4f} to {history[-1]['loss']:.4f}; " if history else ""
    return [
        f"{q['steps']:,} steps on {q['pairs']:,} pairs: {loss}held-out accuracy {share(q.get('heldout_accuracy'))}",
        *_speed(folder),
    ]


def _evaluate(q: Figures, folder: StageFolder) -> list[str]:
    lines = []
    for name, said in (("accuracy", "sampled accuracy"), ("greedy", "greedy accuracy")):
        if (q.get(name) or {}).get("mean") is not None:
            lines.append(f"{said} {share(q[name])}")
    pairs = q.get("pairs") or {}
    for name, said in (("logp", "held-out pairs by log-prob"), ("reward", "held-out pairs by reward")):
        if (pairs.get(name) or {}).get("mean") is not None:
            lines.append(f"{said} {share(pairs[name])}")
    if pairs.get("chosen_drift_nats") is not None:
        lines.append(f"chosen drift {pairs['chosen_drift_nats']:+.2f} nats")
    return ["; ".join(lines)] if lines else []


LINES: dict[str, Callable[[Figures, StageFolder], list[str]]] = {
    "data": _data,
    "sample": _sample,
    "judge": _judge,
    "rank": _rank,
    "reference": _reference,
    "select": _select,
    "weight": _weight,
    "train": _train,
    "train-reward": _train_reward,
    "evaluate": _evaluate,
}
