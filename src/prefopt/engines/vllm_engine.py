"""vLLM on this machine (offline): token ids in, one seed per request.

vLLM promises equal samples for equal seeds only where it is batch invariant (VLLM_BATCH_INVARIANT=1, by its page on
reproducibility); else a resumed run may sample otherwise. Prompts are encoded and answers decoded by our own rules, so
the text is what training will see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase
from vllm import LLM, SamplingParams

from prefopt.core.errors import PrefoptError
from prefopt.engines import Completion, Dtype, EngineOptions, Sampling, VllmSettings, batch_seed
from prefopt.engines.transformers_engine import end_tokens
from prefopt.models.load import load_tokenizer
from prefopt.models.quiet import seeded
from prefopt.models.template import decode_completion, encode_prompt


class VllmEngine:
    """`Engine` on a vLLM model and our tokenizer. stops: end tokens besides the model's own EOS."""

    def __init__(
        self, llm: LLM, tokenizer: PreTrainedTokenizerBase, name: str, stops: frozenset[int]
    ) -> None:
        self.llm, self.tokenizer, self.name, self.stops = llm, tokenizer, name, stops
        self.max_tokens: int | None = llm.llm_engine.model_config.max_model_len

    def encode(self, row: Mapping[str, Any]) -> list[int]:
        """Prompt ids by the chat template; see `prefopt.models.template.encode_prompt`."""
        options = row.get("chat_template_kwargs") or {}
        return encode_prompt(self.tokenizer, row["prompt"], row.get("tools") or None, **options)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt; request i of the batch has the seed `batch_seed(seed, "request", i)`.

        Raises:
            PrefoptError: a prompt fills the whole context, or a request came back without an answer.
        """
        if not prompts:
            return []
        asked: list[dict[str, Any]] = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        params = [
            self._params(sampling, len(prompt), batch_seed(seed, "request", index))
            for index, prompt in enumerate(prompts)
        ]
        with seeded(seed):  # vLLM may seed this process itself
            outputs = self.llm.generate(asked, params, use_tqdm=False)
        return [self._completion(prompt, out) for prompt, out in zip(prompts, outputs, strict=True)]

    def _params(self, sampling: Sampling, prompt_tokens: int, seed: int) -> SamplingParams:
        room = sampling.max_new_tokens if self.max_tokens is None else self.max_tokens - prompt_tokens
        if room < 1:
            raise PrefoptError(
                f"a prompt of {prompt_tokens} tokens leaves no room in the model's context of {self.max_tokens}; drop it"
            )
        return SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,  # -1 is "all" in every version
            max_tokens=min(room, sampling.max_new_tokens),
            seed=seed,
            stop_token_ids=sorted(self.stops),
            logprobs=0 if sampling.logprobs else None,  # 0: of the written token alone
            detokenize=False,
        )

    def _completion(self, prompt: Sequence[int], output: Any) -> Completion:
        if not output.outputs or output.outputs[0].finish_reason not in ("stop", "length"):
            raise PrefoptError(f"vllm gave no answer to request {output.request_id}; see its messages above")
        first = output.outputs[0]
        ids = tuple(first.token_ids)
        text = decode_completion(self.tokenizer, ids, prompt)
        return Completion(text, ids, first.finish_reason, logp=first.cumulative_logprob)


def open_engine(model: Path | None, dtype: Dtype, options: EngineOptions = EngineOptions()) -> VllmEngine:
    """Load the directory `model` into vLLM; its own sampling settings (generation_config.json) are left aside.

    Raises:
        PrefoptError: no directory given, or vLLM cannot load it.
    """
    if model is None:
        raise PrefoptError("engine 'vllm' needs a model; give --model DIR")
    tokenizer = load_tokenizer(model)
    settings = options.vllm or VllmSettings()  # type: ignore[call-arg]
    arguments = {
        "tensor_parallel_size": settings.tensor_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_model_len": settings.max_model_len,
        **settings.extra,
    }
    with seeded(0):
        try:
            llm = LLM(
                model=str(model),
                dtype=dtype,
                seed=0,
                generation_config="vllm",
                trust_remote_code=False,
                **arguments,
            )
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise PrefoptError(
                f"{model}: vllm cannot load it ({reason}); see the settings under vllm"
            ) from None
    return VllmEngine(llm, tokenizer, model.name, _stops(model, tokenizer))


def _stops(model: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    try:
        own: GenerationConfig | None = GenerationConfig.from_pretrained(model)
    except OSError:  # the checkpoint has none
        own = None
    return end_tokens(own, tokenizer)
