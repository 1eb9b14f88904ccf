"""Plans of packed rows: groups [prompt | answer 1 | answer 2 | ...] put side by side up to a token budget.

An answer sees its prompt and itself, so a prompt is computed once for all its answers; `masks` keeps the rest apart.
Position ids restart at the end of the prompt for every answer. The last token of an answer predicts nothing that is
wanted, so it is a target but never an input.

Shapes: T tokens of a row, N answer tokens of a row. Nothing here is random: the same input gives the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefopt.models.marks import count_of, counting, plain_ids

# token ids, a list or an array of integers
Ids = Sequence[int] | np.ndarray
# columns of a row that the mask is made of
NO_GROUP = -1


@dataclass(frozen=True)
class Group:
    """A prompt with the answers that share it. places: where each answer's result belongs in the caller's order."""

    prompt: Any
    answers: tuple[Any, ...]
    places: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return group_tokens(len(self.prompt), [len(answer) for answer in self.answers])


@dataclass(frozen=True)
class Row:
    """One packed row. input_ids, position_ids, groups, segments: [T] int64.

    groups: which group a token belongs to (-1: padding). segments: 0 for the prompt, k for the k-th answer.
    columns [N]: the token whose hidden state predicts each target. targets [N]: the answer tokens, answer by answer.
    lengths: answer tokens per answer. places: of each answer in the caller's order.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    groups: np.ndarray
    segments: np.ndarray
    columns: np.ndarray
    targets: np.ndarray
    lengths: tuple[int, ...]
    places: tuple[int, ...]


def group_tokens(prompt: int, answers: Sequence[int]) -> int:
    """Tokens of a group in a row, from the lengths of its prompt and answers; last tokens are not read."""
    return prompt + sum(length - 1 for length in answers)


def first_fit_decreasing(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `sizes` put into rows of at most `budget`; an item above the budget gets a row of its own.

    Largest first (ties by index), each into the first row with room: at most 11/9 of the fewest rows possible, plus
    one (Johnson 1973). Rows come in the order in which they were opened, so the fullest work comes first.

    Raises:
        ValueError: `budget` below 1.
    """
    if budget < 1:
        raise ValueError(f"a row holds at least one token, not {budget}")
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = next((k for k, left in enumerate(room) if left >= sizes[index]), None)
        if place is None:
            rows.append([index])
            room.append(budget - sizes[index])
        else:
            rows[place].append(index)
            room[place] -= sizes[index]
    return rows


def make_groups(sequences: Sequence[tuple[Ids, Ids]], budget: int) -> list[Group]:
    """Sequences (prompt ids, answer ids) with equal prompts joined, in order of first appearance.

    A prompt with more answers than fit into `budget` tokens becomes several groups, each with at least one answer.

    Raises:
        ValueError: an empty prompt or answer.
    """
    found: dict[tuple[int, bytes], list[int]] = {}
    for place, (prompt, answer) in enumerate(sequences):
        if len(prompt) == 0 or len(answer) == 0:
            raise ValueError("packing needs sequences with at least one prompt token and one answer token")
        ids = np.asarray(prompt, dtype=np.int64)
        found.setdefault((len(ids), ids.tobytes()), []).append(place)
    groups = []
    for places in found.values():
        prompt = sequences[places[0]][0]
        for part in _split(places, sequences, budget - len(prompt)):
            groups.append(Group(prompt, tuple(sequences[place][1] for place in part), tuple(part)))
    return groups


def _split(places: list[int], sequences: Sequence[tuple[Ids, Ids]], room: int) -> list[list[int]]:
    """Consecutive answers while they fit into `room` tokens."""
    parts: list[list[int]] = []
    left = 0
    for place in places:
        size = len(sequences[place][1]) - 1
        if not parts or size > left:
            parts.append([])
            left = room
        parts[-1].append(place)
        left -= size
    return parts


def make_row(groups: Sequence[Group], *, pad_to: int = 1, pad_id: int = 0) -> Row:
    """Groups side by side. pad_to: the row's length is made a multiple of this (kernels on GPUs like 128)."""
    parts: list[list[Any]] = [[] for _ in range(6)]
    ids, positions, owners, segments, columns, targets = parts
    start = 0
    for owner, group in enumerate(groups):
        size = len(group.prompt)
        ids.append(group.prompt)
        positions.append(np.arange(size))
        segments.append(np.zeros(size, dtype=np.int64))
        offset = start + size
        for segment, answer in enumerate(group.answers, 1):
            read = len(answer) - 1
            plain, counts = plain_ids(answer), counting(answer)
            ids.append(plain[:read])
            positions.append(np.arange(size, size + read))
            segments.append(np.full(read, segment))
            columns.append(np.concatenate([[start + size - 1], np.arange(offset, offset + read)])[counts])
            targets.append(plain[counts])
            offset += read
        owners.append(np.full(offset - start, owner))
        start = offset
    padding = -start % pad_to
    return Row(
        input_ids=_joined([*ids, np.full(padding, pad_id)]),
        position_ids=_joined([*positions, np.zeros(padding)]),
        groups=_joined([*owners, np.full(padding, NO_GROUP)]),
        segments=_joined([*segments, np.zeros(padding)]),
        columns=_joined(columns),
        targets=_joined(targets),
        lengths=tuple(count_of(answer) for group in groups for answer in group.answers),
        places=tuple(place for group in groups for place in group.places),
    )


def pack_sequences(
    sequences: Sequence[tuple[Ids, Ids]], max_tokens_per_row: int, *, pad_to: int = 1
) -> list[Row]:
    """Rows that hold every sequence (prompt ids, answer ids) once; only a sequence alone may exceed the budget."""
    groups = make_groups(sequences, max_tokens_per_row)
    plan = first_fit_decreasing([group.tokens for group in groups], max_tokens_per_row)
    return [make_row([groups[index] for index in row], pad_to=pad_to) for row in plan]


def _joined(parts: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])
