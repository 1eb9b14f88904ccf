"""Rows of a table -> encoded examples, with every bad row dropped by a named reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefopt.core.errors import PrefoptError
from prefopt.core.lazy import Lazy
from prefopt.models.marks import count_of
from prefopt.models.template import Unfit, encode_answer, encode_pair
from prefopt.training.collate import PAIR_ROLES, Example, compact

Row = Mapping[str, Any]
# drop(reason, where): counts a dropped row, or raises when the run is strict
Drop = Callable[[str, str], None]

BAD_WEIGHT = "weight is not a finite number of at least 0"
NOT_KEPT = "not selected"


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row], *, max_length: int, drop: Drop
) -> tuple[list[Example], int]:
    """Encode pairs (prompt, chosen, rejected) or unpaired rows (prompt, completion, label).

    max_length: tokens of prompt and answer together. Returns the examples and how many of them were truncated.

    Raises:
        PrefoptError: the row's `*_tokens` differ from its encoding, so its reference log-probs are of other texts.
    """
    found = list(iter_encoded(tokenizer, rows, max_length=max_length, drop=drop))
    return [example for example, _ in found], sum(is_cut for _, is_cut in found)


def iter_encoded(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row], *, max_length: int, drop: Drop
) -> Iterator[tuple[Example, bool]]:
    """`encode_rows`, one by one: the example and whether it was truncated."""
    for row in rows:
        where = f"row {row.get('id')!r}"
        weight = row.get("weight", 1.0)
        if row.get("kept") is False:
            drop(NOT_KEPT, where)
            continue
        if weight is None or not math.isfinite(weight) or weight < 0:
            drop(BAD_WEIGHT, where)
            continue
        try:
            example, is_cut = _encode(tokenizer, row, max_length)
        except Unfit as error:
            drop(error.reason, where)
        else:
            yield example, is_cut


def _encode(tokenizer: PreTrainedTokenizerBase, row: Row, max_length: int) -> tuple[Example, bool]:
    weight = float(row.get("weight", 1.0))
    if "completion" in row and "chosen" not in row:
        single = encode_answer(tokenizer, row, row["completion"], max_length=max_length)
        answers = {"completion": compact(single.marked)}
        label = row.get("label")
        label = None if label is None else bool(label)
        prompt, is_cut = single.prompt_ids, single.truncated
    else:
        pair = encode_pair(tokenizer, row, max_length=max_length)
        answers = {role: compact(pair.marked(role)) for role in PAIR_ROLES}
        prompt, is_cut, label = pair.prompt_ids, pair.truncated, None
    _check_counts(row, answers)
    if row.get("kl_ids") and row.get("ref_kl_logps") is not None:
        answers["kl"] = compact(row["kl_ids"])
    reference = {role: float(row[name]) for role, name in _reference_columns(row, answers)}
    return Example(str(row["id"]), compact(prompt), answers, reference, weight, label), is_cut


def _reference_columns(row: Row, answers: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(role, column) of every reference log-prob that the row holds, prefixes of its answers included."""
    for role in (*answers, *(f"{role}_prefix" for role in answers)):
        name = f"ref_{role}_logps"
        value = row.get(name)
        if value is not None and math.isfinite(value):
            yield role, name


def _check_counts(row: Row, answers: Mapping[str, Any]) -> None:
    for role, ids in answers.items():
        counted = row.get(f"{role}_tokens")
        if counted is not None and row.get(f"ref_{role}_logps") is not None and counted != count_of(ids):
            raise PrefoptError(
                f"train: row {row['id']!r}: {role} has {count_of(ids)} tokens here, but its reference log-prob is of "
                f"{counted}; use the same model, chat template and max_length as `prefopt reference`"
            )


def unpair(examples: Sequence[Example]) -> list[Example]:
    """Each pair as two rows, chosen desired and rejected not; rows that are unpaired already stay as they are."""
    singles: list[Example] = []
    for example in examples:
        if "completion" in example.answers:
            singles.append(example)
            continue
        for role in PAIR_ROLES:
            source = {
                "completion": role,
                "kl": "kl",
            }  # both answers of a pair stand against the same other one
            reference = {own: example.reference[r] for own, r in source.items() if r in example.reference}
            answers = {own: example.answers[r] for own, r in source.items() if r in example.answers}
            singles.append(
                replace(
                    example,
                    id=f"{example.id}-{role}",
                    answers=answers,
                    reference=reference,
                    label=role == "chosen",
                )
            )
    return singles


def add_mismatched(examples: Sequence[Example], *, seed: int, max_length: int) -> list[Example]:
    """Give every unpaired row a `kl` answer: the completion of another row, drawn once by `seed` (KTO's KL estimate).

    For tables whose reference pass drew none (`reference.mismatched`). The other row is the next one in a random cycle,
    so that each completion is used once (2402.01306, section 4.1).

    Raises:
        PrefoptError: fewer than two rows.
    """
    return list(Mismatched(examples, seed=seed, max_length=max_length))


class Mismatched(Lazy[Example]):
    """`add_mismatched` without the list: a row is given its answer when it is asked for.

    spare: rows one of which a row that stands alone is set against.
    """

    def __init__(
        self, examples: Sequence[Example], *, seed: int, max_length: int, spare: Sequence[Example] = ()
    ) -> None:
        self._spare = spare[0] if len(examples) == 1 and spare else None
        if len(examples) < 2 and self._spare is None:
            raise PrefoptError(
                "train: the loss compares completions of different rows and needs at least two"
            )
        self._examples, self._max_length = examples, max_length
        cycle = np.random.default_rng(seed).permutation(len(examples))
        self._other = np.empty_like(cycle)
        self._other[cycle] = np.roll(cycle, -1)

    def __len__(self) -> int:
        return len(self._examples)

    def at(self, place: int) -> Example:
        """The item at `place`."""
        example = self._examples[place]
        other = self._spare or self._examples[int(self._other[place])]
        answer = other.answers["completion"][: self._max_length - len(example.prompt)]
        return replace(example, answers={**example.answers, "kl": answer})
