"""The load-balancing loss of mixture-of-experts models, over exactly the tokens of an optimizer step.

E experts, L layers, K experts per token, N tokens of the step: E sum_i f_i P_i, with f_i the share of tokens (times K)
routed to expert i and P_i the mean probability that the routers give it, both over all layers (2101.03961, eq. 4-6, as
transformers pools it). f and N are of the whole step (2501.11873), so the gradient is the same whatever the micro-batches,
packing and processes; f is counted in a pass without gradient before.

A prompt counts once per row of the data, not once per answer, an answer's last token, which predicts nothing, not at all,
padding never; packed rows and padded batches give the same value.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefopt.core.errors import PrefoptError
from prefopt.scoring.packing import Ids, Row

logger = logging.getLogger("prefopt.train")

TOLERANCE = 1e-2  # relative, between this loss and the model's own on one sequence


class RouterTap:
    """Sums over the tokens of forward passes; given to `logprobs.token_logps` and its kin.

    prompt, answer: what a token of each sequence's prompt and answer counts, each [B]. After the passes: chosen [E],
    tokens that each expert got; probs [E], summed probabilities, with gradient; tokens [], both over all layers.
    """

    def __init__(self, top_k: int, prompt: Sequence[float], answer: Sequence[float]) -> None:
        self.top_k, self.prompt, self.answer = top_k, list(prompt), list(answer)
        self.chosen: Any = 0.0
        self.probs: Any = 0.0
        self.tokens: Any = 0.0

    def add(self, logits: Sequence[Tensor], weights_T: np.ndarray) -> None:
        """Add one pass. logits: of each layer, [T, E]. weights_T: what each token counts."""
        for layer_TE in logits:
            weights = torch.from_numpy(weights_T).to(layer_TE.device, torch.float32)
            probs_TE = layer_TE.float().softmax(-1)
            top = probs_TE.detach().topk(self.top_k, dim=-1).indices.flatten()
            counts = torch.zeros(layer_TE.shape[-1], device=layer_TE.device)
            self.chosen = self.chosen + counts.scatter_add(0, top, weights.repeat_interleave(self.top_k))
            self.probs = self.probs + weights @ probs_TE
            self.tokens = self.tokens + weights.sum()

    def only(self, place: int) -> RouterTap:
        """A tap for one of the sequences; `join` brings its sums back."""
        return RouterTap(self.top_k, [self.prompt[place]], [self.answer[place]])

    def join(self, other: RouterTap) -> None:
        """Add the sums of a tap made by `only`."""
        self.chosen, self.probs = self.chosen + other.chosen, self.probs + other.probs
        self.tokens = self.tokens + other.tokens

    def weights_of_batch(self, columns: np.ndarray, lengths: Sequence[int], width: int) -> np.ndarray:
        """What each place of a padded batch [B, width] counts, flat; the rest as in `logprobs.Batch`."""
        found = np.zeros((len(lengths), width), dtype=np.float32)
        for place, mine in enumerate(np.split(columns, np.cumsum(lengths)[:-1])):
            found[place, : mine[0] + 1] = self.prompt[place]
            found[place, mine[1:]] = self.answer[place]
        return found.reshape(-1)

    def weights_of_row(self, row: Row) -> np.ndarray:
        """What each token of a packed row counts."""
        found = np.zeros(len(row.input_ids), dtype=np.float32)
        columns = np.split(row.columns, np.cumsum(row.lengths)[:-1])
        for place, mine in zip(row.places, columns, strict=True):
            prompt = (row.groups == row.groups[mine[0]]) & (row.segments == 0)
            found[prompt] += self.prompt[place]
            found[mine[1:]] = self.answer[place]
        return found


@dataclass(frozen=True)
class RouterLoss:
    """The load-balancing loss as a setting. factor: of the loss in the objective. top_k: experts per token."""

    factor: float
    top_k: int

    def tap(self, valid: Sequence[bool], answers: int) -> RouterTap:
        """For sequences that are `answers` answers of each row in turn; rows that stand in (not valid) count 0."""
        one = [float(each) for each in valid]
        return RouterTap(self.top_k, [each / answers for each in one] * answers, one * answers)


class Balance:
    """The loss of one step, micro-batch by micro-batch. chosen [E], tokens []: of the whole step, all processes."""

    def __init__(self, factor: float, chosen_E: Tensor, tokens: Tensor) -> None:
        self.factor, self.tokens = factor, tokens
        self.shares_E = chosen_E / tokens
        self.value = torch.zeros((), device=tokens.device)

    def add(self, tap: RouterTap) -> Tensor:
        """A micro-batch's part of factor * E sum_i f_i P_i, with gradient; `value` adds up the parts without factor."""
        part = len(self.shares_E) * (self.shares_E * tap.probs).sum() / self.tokens
        self.value = self.value + part.detach()
        return self.factor * part


def experts_per_token(model: nn.Module) -> int | None:
    """How many experts a token goes to; None for a model without routers that tell."""
    config: Any = model.config
    text = config.get_text_config()
    count = getattr(text, "num_experts_per_tok", None)
    return int(count) if count and hasattr(text, "output_router_logits") else None


def balance_loss(chosen_E: Tensor, probs_E: Tensor, tokens: Tensor) -> Tensor:
    """E sum_i f_i P_i from sums over tokens (of all layers)."""
    return len(chosen_E) * (chosen_E / tokens * (probs_E / tokens)).sum()


@torch.no_grad()
def check_router(model: Any, sequence: tuple[Ids, Ids]) -> int:
    """Compare with the model's own load-balancing loss on one sequence (prompt and answer ids); returns the experts per token.

    Raises:
        PrefoptError: no mixture of experts, or its loss is another one.
    """
    kind = model.config.model_type
    top_k = experts_per_token(model)
    if top_k is None:
        raise PrefoptError(f"train.router_loss: models of type {kind!r} have no routers; remove it")
    was_training = model.training
    model.eval()
    try:
        ids = [int(token) for part in sequence for token in part]
        tokens = torch.tensor([ids], device=next(model.parameters()).device)
        output = model(input_ids=tokens, output_router_logits=True, use_cache=False)
    finally:
        model.train(was_training)
    tap = RouterTap(top_k, [1.0], [1.0])
    tap.add(output.router_logits, np.ones(tokens.shape[1], dtype=np.float32))
    ours, theirs = float(balance_loss(tap.chosen, tap.probs, tap.tokens)), float(output.aux_loss)
    if not abs(ours - theirs) <= TOLERANCE * abs(theirs):
        raise PrefoptError(
            f"train.router_loss: models of type {kind!r} have another load-balancing loss ({theirs:.4g}, here "
            f"{ours:.4g}); remove it"
        )
    return top_k


def tell_router_is_off(model: nn.Module) -> None:
    """A line in the log where a mixture of experts trains without its load-balancing loss."""
    if experts_per_token(model) is not None:
        logger.info("router_loss is off: the load-balancing loss of this model's routers is not trained on")
