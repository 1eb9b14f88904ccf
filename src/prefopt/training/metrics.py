"""Training metrics under the names people know, the check of the first batch, and plain warnings.

A `Columns` mapping holds one value per row: `chosen`, `rejected` (or `completion`, with `label`) and their `ref_*`, all
summed log-probs in nats, token counts, `weight`, `loss`. reward = beta * (logp - ref_logp), or beta * logp where there
is no reference. r_w = chosen - ref_chosen, the drift; h = r_w - r_l.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prefopt.losses import LossSum, Term

Columns = Mapping[str, Tensor]
Figures = dict[str, float]

LOW = 0.05  # the quantile reported of the drift
FALL = 0.2  # a fall of the chosen log-prob by more than this share of its size is worth a warning
FP32_REWARD = 1e-4  # largest |reward| at step 0 in fp32 (sums of a few thousand nats differ by less)
FP32_RELATIVE = 2e-6  # or this share of the log-prob, for very long answers
# bf16: nats per token by which equal models may differ between two packings. SmolLM2-135M on answers of 40 tokens: 0.003
LOW_PRECISION_NATS = 1e-2
FIRST = ("step", "epoch", "loss", "learning_rate", "grad_norm")
WALL_CLOCK = ("runtime", "per_second", "total_flos", "train_loss")


def budgets(loss: LossSum) -> list[tuple[float, str]]:
    """(delta, unit) of every budget term, outside and inside the sigmoid."""
    terms: list[Term] = [*loss.terms, *(inner for term in loss.terms for inner in term.inside)]
    return [
        (float(term.hyper["delta"]), str(term.hyper["unit"])) for term in terms if term.loss.name == "budget"
    ]


def summarize(columns: Columns, loss: LossSum) -> Figures:
    """Figures of some rows, e.g. all rows since the last log line; names as in TRL, `logps/*` are token sums.

    `loss` is the exact mean of weight * loss over the rows.
    """
    data = {name: column.double() for name, column in columns.items()}
    figures: Figures = {}
    if "loss" in data:
        figures["loss"] = (data["weight"] * data["loss"]).mean().item()
    if "router_loss" in data:
        figures["router_loss"] = data["router_loss"].mean().item()
    if "completion" in data:
        return figures | _unpaired(data, loss.beta)
    rewards = {role: _reward(data, role, loss.beta) for role in ("chosen", "rejected") if role in data}
    for role, reward in rewards.items():
        figures[f"rewards/{role}"] = reward.mean().item()
        figures[f"logps/{role}"] = data[role].mean().item()
    if len(rewards) == 2:
        margin = rewards["chosen"] - rewards["rejected"]
        # a tie counts half: at the first step, where all rewards are 0, the accuracy is that of guessing
        figures["rewards/accuracies"] = (0.5 * (1.0 + margin.sign())).mean().item()
        figures["rewards/margins"] = margin.mean().item()
        figures["logps/h"] = (margin / loss.beta).mean().item()
    figures["logps/chosen_mean"] = (data["chosen"] / data["chosen_tokens"].clamp(min=1)).mean().item()
    if _has_reference(data, "chosen"):
        figures |= _drift(data, budgets(loss))
    return figures


def _has_reference(data: Columns, role: str) -> bool:
    return f"ref_{role}" in data and not bool(data[f"ref_{role}"].isnan().any())


def _reward(data: Columns, role: str, beta: float) -> Tensor:
    return beta * (data[role] - data[f"ref_{role}"] if _has_reference(data, role) else data[role])


def _drift(data: Columns, terms: Sequence[tuple[float, str]]) -> Figures:
    """How far the chosen answers moved: r_w in total and per token, mean and 5th percentile; share over budget."""
    r_w = data["chosen"] - data["ref_chosen"]
    tokens = data["chosen_tokens"].clamp(min=1)
    figures = {
        "logps/chosen_drift": r_w.mean().item(),
        "logps/chosen_drift_p05": torch.quantile(r_w, LOW).item(),
        "logps/chosen_drift_per_token": (r_w / tokens).mean().item(),
        "logps/chosen_drift_per_token_p05": torch.quantile(r_w / tokens, LOW).item(),
    }
    for delta, unit in terms:
        allowed = delta * tokens if unit == "token" else torch.full_like(tokens, delta)
        figures["logps/over_budget"] = (-r_w > allowed).double().mean().item()
    return figures


def _unpaired(data: Columns, beta: float) -> Figures:
    reward = _reward(data, "completion", beta)
    wanted = data["label"] > 0.5
    figures = {}
    for role, rows in (("chosen", wanted), ("rejected", ~wanted)):
        if bool(rows.any()):
            figures[f"rewards/{role}"] = reward[rows].mean().item()
            figures[f"logps/{role}"] = data["completion"][rows].mean().item()
    if len(figures) == 4:
        figures["rewards/margins"] = figures["rewards/chosen"] - figures["rewards/rejected"]
    return figures


def check_step_zero(columns: Columns, loss: LossSum, expected: Tensor, dtype: torch.dtype) -> Figures:
    """The first batch, before any update: policy = reference, so rewards are 0 and the loss is that of zero margin.

    expected: [B] losses with the reference's log-probs in place of the policy's. Losses are shown without weights, so
    that DPO's is ln 2. `step0/passed` is 1 when every
    |reward| is within tolerance: 1e-4 in fp32; in lower precision, where sums differ between packings by some
    tenths of a nat, beta * 1e-2 per token of the batch.
    """
    data = {name: column.double() for name, column in columns.items()}
    roles = [role for role in ("chosen", "rejected", "completion") if role in data and f"ref_{role}" in data]
    worst = worst_per_token = 0.0
    passed = True
    for role in roles:
        off = (data[role] - data[f"ref_{role}"]).abs()
        tokens = data["tokens" if role == "completion" else f"{role}_tokens"].clamp(min=1)
        per_token = (off.sum() / tokens.sum()).item()
        worst = max(worst, loss.beta * off.max().item())
        worst_per_token = max(worst_per_token, loss.beta * per_token)
        if dtype == torch.float32:
            relative = FP32_RELATIVE * data[f"ref_{role}"].abs()
            allowed = torch.maximum(torch.full_like(off, FP32_REWARD / loss.beta), relative)
            passed = passed and bool((off <= allowed).all())
        else:
            passed = passed and per_token <= LOW_PRECISION_NATS
    return {
        "step0/loss": data["loss"].mean().item(),
        "step0/loss_expected": expected.double().mean().item(),
        "step0/reward_max": worst,
        "step0/reward_per_token": worst_per_token,
        "step0/passed": float(passed),
    }


def step_zero_warning(row: Mapping[str, Any]) -> str | None:
    """What to tell the user when the check of the first batch failed."""
    if row.get("step0/passed", 1.0) == 1.0:
        return None
    return (
        f"step 0: the largest reward is {row['step0/reward_max']:.3g} ({row['step0/reward_per_token']:.2g} per "
        "token) instead of 0: the reference log-probs belong to another model, chat template, max_length or dtype; "
        "run `prefopt reference` again with the model that is trained"
    )


def fall_warning(row: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    """What to tell the user when the chosen log-prob has fallen by more than 20% of its size.

    The size is the reference's log-prob of the same rows; without a reference, the first log line's (per token).
    """
    drift = row.get("logps/chosen_drift")
    if drift is not None:
        start, now = row["logps/chosen"] - drift, row["logps/chosen"]
    else:
        start, now = first.get("logps/chosen_mean"), row.get("logps/chosen_mean")
    if start is None or now is None or start == 0 or (start - now) / abs(start) <= FALL:
        return None
    return (
        f"step {row['step']}: the log-prob of the chosen answers has fallen by {(start - now) / abs(start):.0%} of its "
        "size; a `budget` or `nll` term or a lower learning rate prevents that"
    )


def warnings_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The warnings of a training history, each kind once."""
    logged = [row for row in rows if "loss" in row]
    found = [step_zero_warning(row) for row in rows[:1]]
    falls = [fall_warning(row, logged[0]) for row in logged]
    found.append(next((text for text in falls if text), None))
    return [text for text in found if text]


def history_rows(log_history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The Trainer's log as one row per step (training and held-out figures together), without wall-clock figures."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in log_history:
        kept = {name: value for name, value in entry.items() if not name.endswith(WALL_CLOCK)}
        step, epoch = kept.pop("step"), kept.pop("epoch", None)
        if kept:
            row = rows.setdefault(step, {"step": step, "epoch": float(epoch or 0.0)})
            row.update(kept)
    names = sorted({name for row in rows.values() for name in row} - set(FIRST))  # a resumed log comes sorted
    return [
        {name: rows[step][name] for name in (*FIRST, *names) if name in rows[step]} for step in sorted(rows)
    ]


def bad_rows(columns: Columns, ids: Sequence[str]) -> str:
    """Names of the first rows whose weighted loss is not finite."""
    wrong = (~torch.isfinite(columns["loss"] * columns["weight"])).nonzero().flatten().tolist()
    names = [ids[k] for k in wrong[:3]]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return ", ".join(names) + more if names else "none alone (their sum overflows)"
