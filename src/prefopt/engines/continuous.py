"""Continuous batching of transformers: requests enter the running batch as others end, over a paged cache.

One call of `generate_batch` per batch of rows, seeded; but the scheduler decides which rows share a forward pass, and
with it the last bits of their logits. So a resumed run may sample otherwise, and this is an option, not the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel

from prefopt.core.errors import PrefoptError
from prefopt.engines import Sampling, until_stop
from prefopt.models.quiet import seeded

PAGE = 256  # tokens of a page of the cache, transformers' default
CPU_PAGES = 256  # pages of the cache on a CPU, where transformers would size it by the memory of a GPU
CPU_BATCH_TOKENS = 1024  # tokens of one forward pass there


class Loaded(Protocol):
    """What is wanted of an engine: its model, its end tokens and its padding token."""

    model: PreTrainedModel
    stops: frozenset[int]
    pad: int


def write_batch(
    engine: Loaded,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int,
    budgets: Sequence[int],
) -> list[list[int]]:
    """Token ids of each answer, end token included.

    Raises:
        PrefoptError: this version or model cannot do it.
    """
    try:
        from transformers import ContinuousBatchingConfig
    except ImportError:
        raise _cannot("this version of transformers has none") from None
    pages = sum(-(-(len(prompt) + max(budgets)) // PAGE) for prompt in prompts)
    on_cpu = engine.model.device.type == "cpu"
    size = {"num_blocks": min(pages, CPU_PAGES), "max_batch_tokens": CPU_BATCH_TOKENS} if on_cpu else {}
    # its thread writes into tensors made here, which inference mode would forbid
    with seeded(seed), torch.inference_mode(False), torch.no_grad():
        try:
            found = _batch(
                engine, prompts, sampling, max(budgets), ContinuousBatchingConfig(seed=seed, **size)
            )
        except (ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
            raise _cannot(
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            ) from None
    if len(found) < len(prompts):
        raise _cannot(f"{len(prompts) - len(found)} of {len(prompts)} prompts came back without an answer")
    return [list(until_stop(ids[:budget], engine.stops)) for ids, budget in zip(found, budgets, strict=True)]


def _batch(
    engine: Loaded,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    max_new_tokens: int,
    config: object,
) -> list[list[int]]:
    model: PreTrainedModel = engine.model
    draw: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        draw = {"do_sample": True, "temperature": float(sampling.temperature), "top_p": sampling.top_p}
        draw |= {"top_k": sampling.top_k}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=list(engine.stops) or None,
        pad_token_id=engine.pad,
        **draw,
    )
    before = model.config._attn_implementation
    try:
        found = model.generate_batch(
            inputs=[list(prompt) for prompt in prompts],
            generation_config=settings,
            continuous_batching_config=config,
            progress_bar=False,
        )
    finally:
        # the manager turns the model to a paged attention for its time
        model.config._attn_implementation = before
    return [list(output.generated_tokens) for output in found.values() if output.error is None]


def _cannot(reason: str) -> PrefoptError:
    return PrefoptError(
        f"continuous batching is not possible here ({reason}); set sample.continuous_batching false"
    )
