"""The body of a causal LM, which gives hidden states, apart from its head; and models that run by their own forward pass.

Where the body is not found, or where body, head and scale (`logprobs.head_scale`) do not give the model's own logits, the
model's own forward pass is run, one sequence at a time: right for every model, at the price of time and of logits for every
token. Which models do is known for the life of the process (`run_plainly`), and told in one line.

Shapes: B sequences of a batch, T tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

import logging
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor, nn

from prefopt.scoring.router import RouterTap
from prefopt.scoring.workspace import Workspace, embed

logger = logging.getLogger("prefopt.scoring")

_PLAIN: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # causal LMs -> why they run plainly
Tap = tuple[RouterTap, np.ndarray]


def unwrap(model: nn.Module) -> Any:
    """The causal LM within DDP, torch.compile and PEFT wrappers (adapters stay in place, they sit in its layers)."""
    inner: Any = model
    while True:
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif not hasattr(inner, "get_output_embeddings") and isinstance(
            getattr(inner, "module", None), nn.Module
        ):
            inner = inner.module
        else:
            return inner


def body_of(model: nn.Module) -> nn.Module | None:
    """The part of a causal LM below its head, None where it is kept in a way that is not known."""
    causal = unwrap(model)
    for find in (lambda: causal.base_model, lambda: causal.get_decoder()):
        try:
            found = find()
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(found, nn.Module) and found is not causal:
            return found
    return None


def head_of(model: nn.Module) -> nn.Module | None:
    """The LM head, None where the model does not say."""
    return _asked(unwrap(model), "get_output_embeddings")


def embedding_of(model: nn.Module) -> nn.Module | None:
    """The embedding of the input tokens, None where the model does not say."""
    return _asked(unwrap(model), "get_input_embeddings")


def _asked(causal: Any, name: str) -> nn.Module | None:
    try:
        found = getattr(causal, name)()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def why_plain(model: nn.Module) -> str | None:
    """Why a model runs by its own forward pass; None where body and head are run apart."""
    causal = unwrap(model)
    if causal not in _PLAIN:
        if body_of(causal) is None:
            run_plainly(causal, "where it keeps its body is not known")
        elif head_of(causal) is None:
            run_plainly(causal, "where it keeps its head is not known")
    return _PLAIN.get(causal)


def run_plainly(model: nn.Module, reason: str) -> None:
    """From now on this model runs by its own forward pass; told once."""
    causal = unwrap(model)
    if causal not in _PLAIN:
        _PLAIN[causal] = reason
        logger.warning(
            "models of type %r run by their own forward pass, one sequence at a time: %s",
            causal.config.model_type,
            reason,
        )


def body_states(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Any,
    position_ids: Tensor,
    tap: Tap | None = None,
    workspace: Workspace | None = None,
) -> Tensor:
    """Hidden states [B, T, H] of the body, as its head gets them. attention_mask: whatever the body takes.

    workspace: of the trainer; the embedding's gradient is added in place where it can be.
    """
    body, embedding = body_of(model), embedding_of(model)
    assert body is not None  # `why_plain` says so before
    known = signature(body.forward).parameters
    inputs: dict[str, Any] = {"attention_mask": attention_mask}
    if "position_ids" in known:
        inputs["position_ids"] = position_ids
    if "use_cache" in known or any(p.kind is p.VAR_KEYWORD for p in known.values()):
        inputs["use_cache"] = False
    if workspace and embedding is not None and "inputs_embeds" in known and workspace.embeds(embedding):
        inputs["inputs_embeds"] = embed(input_ids, embedding)  # type: ignore[arg-type]
    else:
        inputs["input_ids"] = input_ids
    return _run(body, inputs, tap).last_hidden_state


def plain_logits(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, tap: Tap | None = None
) -> list[Tensor]:
    """Logits [tokens, V] of each row of a right-padded batch, in the model's dtype: its own forward pass, row by row.

    attention_mask: [B, T]. No row is padded, and no positions are given: neither can change what the model does.
    """
    causal = unwrap(model)
    takes_cache = "use_cache" in signature(causal.forward).parameters
    width, found = input_ids.shape[1], []
    for row, (ids, size) in enumerate(zip(input_ids, attention_mask.sum(1).tolist(), strict=True)):
        inputs: dict[str, Any] = {"input_ids": ids[None, :size]} | (
            {"use_cache": False} if takes_cache else {}
        )
        start = row * width
        mine = None if tap is None else (tap[0], tap[1][start : start + size])
        found.append(_run(causal, inputs, mine).logits[0])
    return found


def _run(module: Any, inputs: dict[str, Any], tap: Tap | None) -> Any:
    if tap is None:
        return module(**inputs)
    output = module(**inputs, output_router_logits=True)
    tap[0].add(output.router_logits, tap[1])
    return output
