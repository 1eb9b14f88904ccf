"""Figures and model card of a trained reward model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.rules.intervals import share_interval
from prefopt.tables.records import Row, atomic_file, write_json
from prefopt.tables.versions import versions
from prefopt.tools.reward.calibration import calibration, draw_reliability

if TYPE_CHECKING:
    from prefopt.tools.reward.settings import RewardConfig


def held_out_figures(rows: Sequence[Row], bins: int) -> dict[str, Any]:
    """Accuracy with a 95% interval (pairs of one prompt are not independent), calibration, and what length alone gets.

    swap_consistency (pairwise): share of pairs where both orders name the same answer. rows: the table of `train_reward`.
    """
    groups = [row["prompt_id"] for row in rows]
    p = [row["probability"] for row in rows]
    longer = [row["chars_chosen"] - row["chars_rejected"] for row in rows]
    figures: dict[str, Any] = {
        "heldout_accuracy": share_interval([_half(v - 0.5) for v in p], groups),
        "longer_accuracy": share_interval([_half(d) for d in longer], groups),
        "prefers_longer": share_interval(
            [_half((v - 0.5) * d) for v, d in zip(p, longer, strict=True) if d],
            [g for g, d in zip(groups, longer, strict=True) if d],
        ),
        "calibration": calibration(p, bins),
    }
    if rows and "logit_forward" in rows[0]:
        same = [float((row["logit_forward"] > 0) == (row["logit_backward"] < 0)) for row in rows]
        figures["swap_consistency"] = share_interval(same, groups)
    return figures


def _half(value: float) -> float:
    return 0.5 if value == 0 else float(value > 0)


def reward_quality(
    config: RewardConfig, pairs: int, steps: int, rows: Sequence[Row], history: Sequence[Row]
) -> dict[str, Any]:
    """Figures of a training: counts, `held_out_figures`, history; JSON."""
    figures = held_out_figures(rows, config.bins)
    return {
        "kind": config.kind,
        "pairs": pairs,
        "heldout_pairs": len(rows),
        "steps": steps,
        "ece": figures["calibration"]["ece"],
        **figures,
        "history": list(history),
    }


def write_figures(quality: Mapping[str, Any], path: Path) -> None:
    """`figures.json` and `calibration.svg` into the folder `path`."""
    write_json(path / "figures.json", dict(quality))
    with atomic_file(path / "calibration.svg") as temporary:
        drawn = draw_reliability(quality["calibration"], f"{quality['kind']} reward model, held-out pairs")
        temporary.write_text(drawn, encoding="utf-8")


def reward_card(config: RewardConfig, base: Path, quality: dict[str, Any]) -> str:
    """README.md of the reward model."""
    from prefopt.models.card import base_licence, base_name

    accuracy, figures = quality["heldout_accuracy"], quality["calibration"]
    told = "no pair was held out"
    if accuracy["mean"] is not None:
        low, high = accuracy["low"], accuracy["high"]
        interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        told = (
            f"held-out accuracy {accuracy['mean']:.3f}{interval} on "
            f"{pairs_text(quality['heldout_pairs'])}, expected calibration error {figures['ece']:.3f}; the longer answer "
            f"is the chosen one in {quality['longer_accuracy']['mean']:.3f}"
        )
    used = "\n".join(f"- {name} {version}" for name, version in versions().items())
    settings = json.dumps(config.model_dump(mode="json", exclude_defaults=True), indent=2)
    return (
        f"---\nlicense: {base_licence(base)}\nlibrary_name: transformers\npipeline_tag: text-classification\n"
        f"tags: [prefopt, reward-model, {config.kind}]\n---\n\n# Reward model ({config.kind}) from {base_name(base)}\n\n"
        f"Trained with prefopt on {pairs_text(quality['pairs'])}; {told}.\n\n## Settings\n\n```json\n{settings}\n```\n\n"
        f"## Versions\n\n{used}\n"
    )


def pairs_text(pairs: int) -> str:
    """`1 pair`, `12 pairs`."""
    return f"{pairs} pair" + ("" if pairs == 1 else "s")
