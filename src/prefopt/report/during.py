"""How answers changed during training: the same prompts, greedily, at a few steps (`train.sample_steps`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefopt.report.load import RunData
from prefopt.report.sections import arm_kinds, shown_name
from prefopt.stages.train.samples_file import SAMPLES, read_samples

STEPS = 6  # of each prompt that are shown, first and last among them


def during(run: RunData) -> dict[str, Any] | None:
    """Arm -> prompt -> answers by step; None where no arm wrote any. The main arm comes first."""
    arms = [run.main, *(arm for arm in run.summary["arms"] if arm != run.main)]
    found = [one for arm in arms if (one := _of_arm(run, arm))]
    return {"arms": found, "left_out": any(one["left_out"] for one in found)} if found else None


def _of_arm(run: RunData, arm: str) -> dict[str, Any] | None:
    stage = run.stage(arm, "train")
    lines = read_samples(stage.path / SAMPLES) if stage else []
    prompts: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        prompts.setdefault(str(line.get("prompt_id")), []).append(line)
    if not prompts:
        return None
    return {
        "name": shown_name(run, arm), "kind": arm_kinds(run)[arm],
        "prompts": [_prompt(name, answers) for name, answers in prompts.items()],
        "left_out": any(len(answers) > STEPS for answers in prompts.values()),
    }  # fmt: skip


def _prompt(name: str, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shown = [
        {
            "step": line["step"],
            "text": str(line.get("completion") or ""),
            "cut": line.get("finish_reason") == "length",
        }
        for line in _spread(answers, STEPS)
    ]
    return {"id": name, "prompt": str(answers[0].get("prompt") or ""), "answers": shown}


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]
