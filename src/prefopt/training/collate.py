"""From encoded rows to the share of one optimizer step that one process trains on.

A step is a number of rows ("pairs"), the same whatever the processes and micro-batches. Its rows are dealt to the
processes by length, and every process gets the same number of places: where the rows do not go round, the shortest
row stands in a second time with `valid` false, so that collective operations stay in step and sums do not change.

Shapes: B rows of a micro-batch or step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from prefopt.models.marks import count_of

PAIR_ROLES = ("chosen", "rejected")
UNPAIRED_ROLES = ("completion", "kl")


@dataclass(frozen=True)
class Example:
    """One row as the trainer reads it: token ids of the prompt and of each answer by role.

    answers: "chosen" and "rejected" of a pair, or "completion" (and "kl", the mismatched one) of an unpaired row;
    the end-of-sequence token is among them; tokens that do not count are marked (models.marks). reference: log ref(answer | prompt) by role, summed, nats; ROLE_prefix
    is that of the first `shared_tokens`.
    label: unpaired rows only, whether the completion is desired.
    """

    id: str
    prompt: Any
    answers: Mapping[str, Any]
    reference: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    label: bool | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and all answers: the cost of the row."""
        return len(self.prompt) + sum(len(answer) for answer in self.answers.values())

    @property
    def shared_tokens(self) -> int:
        """min(chosen, rejected) answer tokens of a pair: the part that LD-DPO (2409.06411) counts in full."""
        return min(count_of(self.answers[role]) for role in PAIR_ROLES)


@dataclass(frozen=True)
class Slot:
    """A place in a micro-batch. position: of the row within its step. valid: false for a stand-in."""

    example: Example
    position: int
    valid: bool


@dataclass(frozen=True)
class Share:
    """One process's part of a step, cut into micro-batches. ids: of all rows of the step, in its order."""

    micro_batches: tuple[tuple[Slot, ...], ...]
    ids: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows of the step over all processes: the loss's normaliser."""
        return len(self.ids)


def compact(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Token ids [T] at four bytes each (a list of Python integers takes about nine times that)."""
    return np.asarray(ids, dtype=np.int32)


def cut_share(examples: Sequence[Example], *, processes: int, rank: int, micro_batch: int) -> Share:
    """The share of process `rank` in the step made of `examples`.

    Rows go to processes in order of length, longest first (memory runs out at once or never; ties by position),
    so micro-batches hold rows of like length.
    """
    order = sorted(range(len(examples)), key=lambda i: (-examples[i].tokens, i))
    places = math.ceil(len(order) / processes)
    mine = [Slot(examples[i], i, True) for i in order[rank::processes]]
    mine += [Slot(examples[order[-1]], order[-1], False)] * (places - len(mine))
    cuts = range(0, places, micro_batch)
    batches = tuple(tuple(mine[start : start + micro_batch]) for start in cuts)
    return Share(batches, tuple(example.id for example in examples))


class StepSampler:
    """Row indices of each optimizer step of an epoch; rows are shuffled anew by (seed, epoch)."""

    def __init__(self, rows: int, rows_per_step: int, seed: int) -> None:
        self.rows = rows
        self.rows_per_step = rows_per_step
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given out."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.rows / self.rows_per_step)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        for start in range(0, self.rows, self.rows_per_step):
            yield order[start : start + self.rows_per_step].tolist()


class Examples(Dataset[Example]):
    """Examples as a torch data set."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


@dataclass(frozen=True)
class ShareCollator:
    """Rows of a step -> the share of this process."""

    processes: int
    rank: int
    micro_batch: int

    def __call__(self, examples: list[Example]) -> Share:
        """The share of this process in the step made of `examples`."""
        return cut_share(examples, processes=self.processes, rank=self.rank, micro_batch=self.micro_batch)


class StepLoader(DataLoader[Share]):
    """One item per optimizer step; knows its epoch."""

    def __init__(
        self, examples: Sequence[Example], sampler: StepSampler, collator: Callable[[list[Example]], Share]
    ) -> None:
        # DataLoader draws a seed for workers from this generator; the global one is left alone
        generator = torch.Generator()
        super().__init__(
            Examples(examples),
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=collator,
            generator=generator,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given out."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def constants(
    slots: Sequence[Slot], roles: Sequence[str], device: torch.device, prefixes: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """What a loss reads besides log-probs, each [B] fp32: weight, ref_ROLE, token counts, label (0 or 1); also
    `valid` and `position`, and ref_NAME of `prefixes`. A reference value that is not known is NaN.
    """
    columns: dict[str, list[float]] = {
        "valid": [float(slot.valid) for slot in slots],
        "position": [float(slot.position) for slot in slots],
        "weight": [slot.example.weight for slot in slots],
    }
    if any(slot.example.label is not None for slot in slots):
        columns["label"] = [float(bool(slot.example.label)) for slot in slots]
    for role in roles:
        columns[f"ref_{role}"] = [slot.example.reference.get(role, math.nan) for slot in slots]
        columns[count_name(role)] = [float(count_of(slot.example.answers[role])) for slot in slots]
    for name in prefixes:
        columns[f"ref_{name}"] = [slot.example.reference.get(name, math.nan) for slot in slots]
    return {
        name: torch.tensor(values, dtype=torch.float32, device=device) for name, values in columns.items()
    }


def count_name(role: str) -> str:
    """The name losses use for the token count of a role."""
    return "tokens" if role == "completion" else f"{role}_tokens"
