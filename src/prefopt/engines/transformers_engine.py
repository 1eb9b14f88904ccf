"""The default engine: a causal LM of transformers on this machine, batch by batch.

Models with the plain key-value cache (nearly all) go through the decode loop here. Against `model.generate` it runs
one prefill per distinct prompt, drops finished rows from the batch, and draws token t of row r with one random number
that depends on (seed, t, r) alone; greedy completions are those of `generate` (a test compares them). Measured on the
quickstart model, 512 rows, one core: 1.3 s against 2.1 to 3.0 s. Other caches (recurrent, hybrid) use `generate`.

Shapes: B rows alive, P padded prompt length (left padding), V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from prefopt.core.errors import PrefoptError
from prefopt.engines import Completion, Dtype, EngineOptions, Sampling, until_stop
from prefopt.engines.choosing import choose
from prefopt.engines.roomy_cache import roomy_cache
from prefopt.models.load import default_device, load_model, load_tokenizer
from prefopt.models.quiet import seeded
from prefopt.models.template import decode_completion, encode_prompt, stop_ids

# the batch is cut down to its unfinished rows when fewer than this share of them is left
COMPACT_BELOW = 0.75


class TransformersEngine:
    """`Engine` on a loaded model and tokenizer; the model is put into eval mode and its own sampling settings go.

    continuous: by transformers' continuous batching (paged cache; a request enters as soon as another ends). Faster on
    GPUs where lengths differ; what a row says then depends on its neighbours, so a resumed run may sample otherwise.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        continuous: bool = False,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.max_tokens = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.stops = end_tokens(model.generation_config, tokenizer)
        self.continuous = continuous
        # pad rows are masked: any id of the vocabulary will do
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        # what a checkpoint brings along (top_k, repetition_penalty, ...) would change samples unseen
        model.generation_config = GenerationConfig(
            eos_token_id=list(self.stops) or None, pad_token_id=self.pad
        )

    def encode(self, row: Mapping[str, Any]) -> list[int]:
        """Prompt ids by the chat template; see `prefopt.models.template.encode_prompt`."""
        options = row.get("chat_template_kwargs") or {}
        return encode_prompt(self.tokenizer, row["prompt"], row.get("tools") or None, **options)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt; equal prompts share their prefill.

        A row ends with an end token ("stop"), after `max_new_tokens`, or where the model's context is full ("length").

        Raises:
            PrefoptError: the model gives NaN; a prompt fills the whole context.
        """
        return self.write(prompts, sampling, seed) if prompts else []

    def write(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """`generate` for a model that is being trained: without inference mode, whose tensors no later gradient may meet."""
        budgets = [self._budget(len(prompt), sampling.max_new_tokens) for prompt in prompts]
        answers = self._writer()(self, prompts, sampling, seed, budgets)
        return [self._completion(prompt, ids) for prompt, ids in zip(prompts, answers, strict=True)]

    def _writer(self) -> Callable[..., list[list[int]]]:
        if self.continuous:
            from prefopt.engines.continuous import write_batch

            return write_batch
        return _decode if _has_plain_cache(self.model) else _generate

    def _budget(self, prompt_tokens: int, max_new_tokens: int) -> int:
        room = max_new_tokens if self.max_tokens is None else self.max_tokens - prompt_tokens
        if room < 1:
            raise PrefoptError(
                f"a prompt of {prompt_tokens} tokens leaves no room in the model's context of {self.max_tokens}; drop it"
            )
        return min(room, max_new_tokens)

    def _completion(self, prompt: Sequence[int], ids: list[int]) -> Completion:
        text = decode_completion(self.tokenizer, ids, prompt)
        return Completion(text, tuple(ids), "stop" if ids[-1] in self.stops else "length")


def open_engine(
    model: Path | None, dtype: Dtype, options: EngineOptions = EngineOptions()
) -> TransformersEngine:
    """Load model and tokenizer from the directory `model`, on the GPU where there is one.

    Raises:
        PrefoptError: no directory given, or nothing usable in it.
    """
    if model is None:
        raise PrefoptError("engine 'transformers' needs a model; give --model DIR")
    loaded = load_model(model, dtype=dtype).to(default_device())
    continuous = options.continuous_batching
    return TransformersEngine(loaded, load_tokenizer(model), model.name, continuous=continuous)


def end_tokens(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """EOS of the tokenizer, the template's end of turn, and what the checkpoint's generation config ends with."""
    own = getattr(config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return frozenset({*stop_ids(tokenizer), *(int(token) for token in listed if token is not None)})


def _has_plain_cache(model: PreTrainedModel) -> bool:
    """Whether the model keeps keys and values alone, row by row, so that rows can be repeated and dropped."""
    if getattr(model, "_is_stateful", False) or not type(model)._supports_default_dynamic_cache():
        return False
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _pad_left(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask [B, P]."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


# ---- the decode loop


@dataclass
class _Rows:
    """The rows still being written. index [B]: place in the batch; mask [B, T so far]; ends [B]: budget in tokens."""

    index: Tensor
    mask: Tensor
    positions: Tensor  # [B, 1] of the next token
    budgets: Tensor  # [B]
    done: Tensor  # [B]
    cache: DynamicCache

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows [K] alone."""
        self.cache.batch_select_indices(rows)
        for name in ("index", "mask", "positions", "budgets", "done"):
            setattr(self, name, getattr(self, name)[rows])


def _prefill(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], budgets: Sequence[int]
) -> tuple[_Rows, Tensor]:
    """Run every distinct prompt once; the rows of the batch and their first logits [B, V]."""
    model, device = engine.model, engine.model.device
    distinct, which = _distinct(prompts)
    ids, mask = _pad_left(distinct, engine.pad, device)
    cache = roomy_cache(model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        **_cached(model, cache),
        **_last_logits(model),
    ).logits[:, -1]
    spread = torch.tensor(which, device=device)
    if len(distinct) < len(prompts):
        cache.batch_select_indices(spread)
    rows = _Rows(
        index=torch.arange(len(prompts), device=device),
        mask=mask[spread],
        positions=mask[spread].sum(1, keepdim=True),
        budgets=torch.tensor(budgets, device=device),
        done=torch.zeros(len(prompts), dtype=torch.bool, device=device),
        cache=cache,
    )
    return rows, logits[spread]


def _distinct(prompts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[int]]:
    """The different prompts, and which of them each row asks."""
    places: dict[tuple[int, ...], int] = {}
    which = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    return list(places), which


def _decode(
    engine: TransformersEngine,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int,
    budgets: Sequence[int],
) -> list[list[int]]:
    """Token ids of each answer, end token included."""
    device, longest = engine.model.device, max(budgets)
    stops = torch.tensor(sorted(engine.stops), dtype=torch.long, device=device)
    written = torch.full((longest, len(prompts)), engine.pad, device=device)
    lengths = torch.tensor(budgets, device=device)
    generator = torch.Generator().manual_seed(seed)
    # one number per token and row, drawn ahead: what a row says does not depend on when its neighbours end
    noise = torch.rand(longest, len(prompts), dtype=torch.float64, generator=generator).to(device)
    rows, logits = _prefill(engine, prompts, budgets)
    for step in range(longest):
        tokens = choose(logits, sampling, noise[step, rows.index])
        written[step, rows.index] = tokens
        stopped = torch.isin(tokens, stops) & ~rows.done
        lengths[rows.index[stopped]] = torch.minimum(
            lengths[rows.index[stopped]], lengths.new_tensor(step + 1)
        )
        rows.done |= stopped | (rows.budgets <= step + 1)
        alive = int((~rows.done).sum())
        if alive == 0:
            break
        if alive < COMPACT_BELOW * len(rows.done):
            left = (~rows.done).nonzero().squeeze(1)
            tokens = tokens[left]
            rows.keep(left)
        logits = _step(engine.model, rows, tokens)
    return [column[:length] for column, length in zip(written.T.tolist(), lengths.tolist(), strict=True)]


def _step(model: PreTrainedModel, rows: _Rows, tokens: Tensor) -> Tensor:
    """Append tokens [B] to the rows; the next logits [B, V]."""
    rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(tokens), 1)], dim=1)
    output = model(
        input_ids=tokens[:, None],
        attention_mask=rows.mask,
        position_ids=rows.positions,
        **_cached(model, rows.cache),
        **_last_logits(model),
    )
    rows.positions = rows.positions + 1
    return output.logits[:, -1]


def _cached(model: PreTrainedModel, cache: DynamicCache) -> dict[str, Any]:
    """The cache under the name that the model has for it: `cache` from transformers 5.24 on, `past_key_values` before."""
    known = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache, "use_cache": True}


def _last_logits(model: PreTrainedModel) -> dict[str, int]:
    """Logits of the last position alone, where the model can be asked for that."""
    return {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}


# ---- models with another cache


def _generate(
    engine: TransformersEngine,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int,
    budgets: Sequence[int],
) -> list[list[int]]:
    """The same by `model.generate`, seeded, without touching the global random state."""
    ids, mask = _pad_left(prompts, engine.pad, engine.model.device)
    draw: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        draw = {
            "do_sample": True,
            "temperature": float(sampling.temperature),
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
    with seeded(seed):
        output = engine.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max(budgets), **draw
        )
    new = output[:, ids.shape[1] :].tolist()
    return [list(until_stop(row[:budget], engine.stops)) for row, budget in zip(new, budgets, strict=True)]
