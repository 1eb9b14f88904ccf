"""The learning rate over the steps of a training, as a share of its peak. Pure: the plan of a dry run reads it too."""

from __future__ import annotations

import math

# names of transformers' schedules that are made here; others are transformers' own
SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")


def warm_steps(warmup: float | int, steps: int) -> int:
    """Steps of the linear warmup: `warmup` below 1 is a share of all `steps`, else it counts optimizer steps.

    It never covers the training: at most half of the steps, one where there is but one.
    """
    wanted = math.ceil(steps * warmup) if warmup < 1 else int(warmup)
    return min(wanted, max(1, steps // 2))


def rate(schedule: str, step: int, steps: int, warm: int) -> float:
    """Share of the peak rate that step `step` (from 0) of `steps` trains with.

    (step + 1) / warm in the warmup, so that the first step trains; then constant, or falling to 0 after the last step by
    a line or half a cosine, as transformers has it.
    """
    if step < warm:
        return (step + 1) / warm
    if schedule.startswith("constant"):
        return 1.0
    done = (step - warm) / max(1, steps - warm)
    return max(0.0, 1.0 - done) if schedule == "linear" else max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
