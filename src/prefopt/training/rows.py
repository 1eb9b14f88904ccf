"""Packed rows in the trainer: micro-batches are rows of a token budget, and a row is one forward pass.

The rows of a step are packed by length within the step, which is a random sample of the data; a pair is never cut in two,
so its loss is known after its row. Every process gets equally many rows: where they do not go round, the shortest
example stands in with `valid` false.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prefopt.core.errors import PrefoptError
from prefopt.scoring.logprobs import Pair
from prefopt.scoring.masks import MaskForm
from prefopt.scoring.packing import first_fit_decreasing, group_tokens
from prefopt.scoring.router import RouterTap
from prefopt.scoring.shared import Sharing, check_sharing, packed_token_logps, sharing_by_config
from prefopt.scoring.workspace import Workspace
from prefopt.training.collate import Example, Share, Slot
from prefopt.training.settings import PreferenceConfig

# Tokens of a row by default. On a CPU matrix products are as fast at 500 rows as at 5000, and longer rows hold more
# activations: 1024 was the fastest of 512 to 2048 by 5%, within the noise, and took 80 MiB more than 768 (23 M
# Llama, 1:1 mix). A GPU wants many tokens at once, and its block mask skips what is empty.
CPU_TOKENS, GPU_TOKENS = 768, 16384
# where a GPU reads a dense mask after all, its cost is the square of a row
GPU_DENSE_TOKENS = 2048


def default_tokens_per_row(device: torch.device, form: MaskForm | None = None) -> int:
    """Token budget of a row where none is set. form: of its mask, where it is known."""
    if device.type != "cuda":
        return CPU_TOKENS
    return GPU_TOKENS if form is None or form.kind == "block" else GPU_DENSE_TOKENS


def shares_prefixes(model: nn.Module, args: PreferenceConfig) -> bool:
    """Whether rows are packed: as it is set, and where nothing is set, wherever the model may share prefixes.

    Setting a micro-batch asks for padded ones; ZeRO-3 gathers weights by pass, which rows do not make equally many of.
    """
    if args.shared_prefix is not None:
        return args.shared_prefix
    if args.pairs_per_micro_batch is not None or args.chosen_strategy == "deepspeed":
        return False
    return sharing_by_config(model).form is not None


def example_tokens(example: Example) -> int:
    """Tokens that the model reads for an example, its prompt once."""
    return group_tokens(len(example.prompt), [len(answer) for answer in example.answers.values()])


def cut_rows(examples: Sequence[Example], *, processes: int, rank: int, max_tokens_per_row: int) -> Share:
    """The share of process `rank` in the step made of `examples`: packed rows, longest first."""
    sizes = [example_tokens(example) for example in examples]
    rows = first_fit_decreasing(sizes, max_tokens_per_row)
    rows.sort(key=lambda row: (-sum(sizes[index] for index in row), row[0]))
    mine = [tuple(Slot(examples[index], index, True) for index in row) for row in rows[rank::processes]]
    shortest = min(range(len(sizes)), key=lambda index: (sizes[index], index))
    missing = math.ceil(len(rows) / processes) - len(mine)
    mine += [(Slot(examples[shortest], shortest, False),)] * missing
    return Share(tuple(mine), tuple(example.id for example in examples))


@dataclass(frozen=True)
class RowCollator:
    """Rows of a step -> the share of this process, in packed rows."""

    processes: int
    rank: int
    max_tokens_per_row: int

    def __call__(self, examples: list[Example]) -> Share:
        """The share of this process in the step made of `examples`."""
        return cut_rows(
            examples,
            processes=self.processes,
            rank=self.rank,
            max_tokens_per_row=self.max_tokens_per_row,
        )


def _extremes(examples: Iterable[Example]) -> tuple[Example, Example]:
    """The first of the longest and the first of the shortest."""
    walk = iter(examples)
    longest = shortest = next(walk)
    most = least = example_tokens(longest)
    for example in walk:
        size = example_tokens(example)
        if size > most:
            longest, most = example, size
        if size < least:
            shortest, least = example, size
    return longest, shortest


class SharedTokens:
    """Per-token log-probs on packed rows, for a model that is checked when the first row is run.

    examples: what will be run; the longest and the shortest of them are the check. sharing: None before it.
    lockstep: every call makes one forward pass, which sharded models need (their weights are gathered meanwhile).
    workspace: kept between the rows (default: one that leaves gradients to autograd). may_shorten: the budget is a default, which is
    less where the mask turns out dense on a GPU.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        max_tokens_per_row: int,
        *,
        lockstep: bool = False,
        workspace: Workspace | None = None,
        may_shorten: bool = False,
    ) -> None:
        self.may_shorten = may_shorten
        self.lockstep = lockstep
        self.workspace = workspace or Workspace()
        self.max_tokens_per_row = sys.maxsize if lockstep else max_tokens_per_row
        self.sharing: Sharing | None = None
        self.trial: list[Pair] = [
            (example.prompt, answer) for example in _extremes(examples) for answer in example.answers.values()
        ]

    def __call__(
        self,
        model: nn.Module,
        sequences: Sequence[Pair],
        *,
        squares: bool = False,
        router: RouterTap | None = None,
    ) -> list[Tensor]:
        """A tensor per sequence, as `logprobs.token_logps` gives them."""
        if self.sharing is None:
            self.sharing = check_sharing(model, self.trial, self.workspace)
            if self.lockstep and self.sharing.form is None:
                raise PrefoptError(
                    f"train.shared_prefix: this model cannot share ({self.sharing.reason}), and sharded models take "
                    "equally many forward passes everywhere; set shared_prefix to false"
                )
            self._shorten(model)
        return packed_token_logps(
            model,
            sequences,
            max_tokens_per_row=self.max_tokens_per_row,
            sharing=self.sharing,
            squares=squares,
            router=router,
            workspace=self.workspace,
        )

    def _shorten(self, model: nn.Module) -> None:
        """Rows of a dense mask on a GPU are cut shorter where nothing is set."""
        if self.may_shorten and not self.lockstep and self.sharing and self.sharing.form:
            device = next(model.parameters()).device
            most = default_tokens_per_row(device, self.sharing.form)
            self.max_tokens_per_row = min(self.max_tokens_per_row, most)
