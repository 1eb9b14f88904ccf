"""A causal language model as a judge, read at its first token: P(first better) = p(A) / (p(A) + p(B)).

p(A) is summed over every token that spells the letter (`A`, ` A`), so the answer does not hang on how the chat
template ends. Nothing is generated. Averaged over both orders, the model's liking for a letter or a place cancels to
first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.judges import Comparison, PairwiseJudgeConfig, Verdict, winner_of
from prefopt.judges.prompt import DIRECT, load_prompt, texts_of
from prefopt.judges.reward_model import model_path
from prefopt.tables.records import digest

if TYPE_CHECKING:
    from torch import Tensor

    from prefopt.tables.context import Context

# how tokenizers write a blank before a letter: GPT-2's and SentencePiece's marks, and the blank itself
BLANKS = "Ġ▁ "


class LocalJudge:
    """Compares by the logits of "A" and "B" behind the judge prompt.

    Raises:
        PrefoptError: no causal model at `path`, or a vocabulary without the letters.
    """

    both_orders = True
    averages = True
    cacheable = True

    def __init__(self, path: Path, config: PairwiseJudgeConfig) -> None:
        from prefopt.models.load import (
            default_device,
            load_model,
            load_tokenizer,
            model_digest,
            template_digest,
        )
        from prefopt.scoring.reward import longest

        self.config = config
        self.name = f"local:{path.name}"
        self.prompt = load_prompt(config, DIRECT)
        self.tokenizer = load_tokenizer(path)
        self.letters = letter_ids(self.tokenizer)
        self.control = tuple(
            token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special
        )
        self.model = load_model(path).to(default_device())
        limit = longest(self.model, self.tokenizer)
        self.max_length = min(config.max_length or limit, limit)
        self.about = {
            "model_digest": model_digest(path),
            "template_digest": template_digest(self.tokenizer),
            "prompt_digest": digest(self.prompt.text),
            "rubric": config.rubric,
            "use_reference": config.use_reference,
            "max_length": self.max_length,
            "tie_band": config.tie_band,
        }

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call, of this order alone; `missing` where the judge prompt is longer than the model."""
        encoded = [self.encode(call) for call in batch]
        fitting = [k for k, ids in enumerate(encoded) if len(ids) < self.max_length]
        order = sorted(fitting, key=lambda k: (-len(encoded[k]), k))
        found: dict[int, float] = {}
        for start in range(0, len(order), self.config.batch_size):
            places = order[start : start + self.config.batch_size]
            found.update(zip(places, self.probabilities([encoded[k] for k in places]), strict=True))
        return [
            Verdict(winner_of(found[k], self.config.tie_band), found[k], prompt_tokens=len(ids))
            if k in found
            else Verdict("missing", text="judge prompt too long", prompt_tokens=len(ids))
            for k, ids in enumerate(encoded)
        ]

    def encode(self, call: Comparison) -> list[int]:
        """Token ids of the judge prompt, ready for its verdict."""
        from prefopt.models.template import TemplateRefused, encode_prompt

        messages = self.prompt.messages(texts_of(call, self.config), self.control)
        if not getattr(self.tokenizer, "chat_template", None):
            text = "\n\n".join(message["content"] for message in messages)
            return encode_prompt(self.tokenizer, f"{text}\n\nVerdict:")
        try:
            return encode_prompt(self.tokenizer, messages)
        except TemplateRefused:  # a template without a system turn: all in the user's
            text = "\n\n".join(message["content"] for message in messages)
            return encode_prompt(self.tokenizer, [{"role": "user", "content": text}])

    def probabilities(self, prompts: Sequence[Sequence[int]]) -> list[float]:
        """P(A) against B at the next token of each prompt."""
        import torch

        with torch.inference_mode():
            logits = next_logits(self.model, prompts)
            one, two = (torch.logsumexp(logits[:, ids].double(), dim=1) for ids in self.letters)
            return torch.sigmoid(one - two).tolist()

    def describe(self) -> dict[str, Any]:
        """Kind, model, prompt and what else the verdicts depend on."""
        return {"kind": "local", **self.about}


def next_logits(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Logits [B, V] of the token behind each prompt, fp32; only last positions reach the head."""
    from prefopt.scoring.logprobs import answer_logits, make_batch

    # every batch row needs an answer; the token that stands in for it comes after the place that is read
    batch = make_batch([(list(ids), [ids[-1]]) for ids in prompts]).to(next(model.parameters()).device)
    return answer_logits(model, batch)


def letter_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of the tokens that spell "A", and of those that spell "B", with or without a blank before.

    Raises:
        PrefoptError: the vocabulary lacks a letter.
    """
    found: dict[str, list[int]] = {"A": [], "B": []}
    for token, index in tokenizer.get_vocab().items():
        letter = token.lstrip(BLANKS)
        if letter in found:
            found[letter].append(index)
    for letter, ids in found.items():
        if not ids:
            raise PrefoptError(
                f"judge local: the model's vocabulary has no token {letter!r}; take another model"
            )
    return sorted(found["A"]), sorted(found["B"])


def open_judge(config: PairwiseJudgeConfig, context: Context) -> LocalJudge:
    """The judge on the causal model `config.model`."""
    return LocalJudge(model_path(config), config)
