"""Reward models: sequence classifiers with one output, read from texts; their losses.

scalar: reward r(prompt, answer); P(first better) = sigmoid(r_first - r_second) (Bradley and Terry 1952).
pairwise: one model reads the prompt and both answers; its output is the logit of "the first is better".

Shapes: B rows of a batch. Rewards and logits are fp32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from prefopt.core.errors import PrefoptError
from prefopt.models.load import Dtype, check_directory, load_config, load_pretrained, without_dropout
from prefopt.models.rendering import render
from prefopt.models.template import PromptTooLong, encode_answer, tokenize
from prefopt.scoring.body import unwrap

Kind = Literal["scalar", "pairwise"]
KIND = "prefopt_kind"  # in config.json of our models
# what the two answers stand between, for the pairwise model
OPENINGS = ("Prompt:\n", "\n\nAnswer A:\n", "\n\nAnswer B:\n", "\n\nIs answer A better?")
LEAST_ANSWER = 8  # tokens of each answer that must have room behind a prompt
SECOND_AFTER = (
    "prefopt_second_after"  # of a model that marks its second text: the token behind which it begins
)


def load_reward_model(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, dtype: Dtype = "auto", new: Kind | None = None
) -> PreTrainedModel:
    """The directory's sequence classifier with one output, in eval mode on the CPU, dropout 0.

    new: start a reward model of that kind; a head that the weights lack is drawn from torch's generator.

    Raises:
        PrefoptError: no reward model (and `new` is None), one of more outputs, or files that are missing or bad.
    """
    from transformers import AutoModelForSequenceClassification

    check_directory(path)
    config = without_dropout(load_config(path))
    is_classifier = any("SequenceClassification" in name for name in config.architectures or ())
    if new is None and not is_classifier:
        raise PrefoptError(
            f"{path}: no reward model but {', '.join(config.architectures or ['an unnamed model'])}; "
            "train one with `prefopt train-reward`"
        )
    if is_classifier and config.num_labels != 1:
        raise PrefoptError(
            f"{path}: a classifier of {config.num_labels} classes; a reward model has one output (num_labels 1)"
        )
    config.num_labels = 1
    if new is not None:
        # of somebody else's model the padding token stays: its reward stands behind the last token that is another
        config.pad_token_id = config.get_text_config().pad_token_id = _pad_id(tokenizer)
        setattr(config, KIND, new)
    prefix = f"{_body_name(config)}."

    def may_lack(name: str) -> bool:
        return new is not None and (not name.startswith(prefix) or ".pooler." in name)

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # a new head is no news
    try:
        model = load_pretrained(
            AutoModelForSequenceClassification, path, config, dtype=dtype, may_lack=may_lack
        )
    finally:
        logging.set_verbosity(level)
    if reads_two_texts(tokenizer) and getattr(config, "type_vocab_size", 0) > 1:
        setattr(model, SECOND_AFTER, int(tokenizer.sep_token_id))
    return model


def reward_kind(model: PreTrainedModel) -> str:
    """scalar or pairwise; models of other makers are scalar."""
    return str(getattr(model.config, KIND, "scalar"))


def _body_name(config: Any) -> str:
    from transformers import AutoModelForSequenceClassification

    try:
        kind = AutoModelForSequenceClassification._model_mapping[type(config)]
    except KeyError:
        raise PrefoptError(
            f"model type {config.model_type!r} has no sequence classifier in transformers; take another base model"
        ) from None
    return str(kind.base_model_prefix)


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for found in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id):
        if found is not None:
            return int(found)
    return 0


def longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the model reads at most."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(min(positions or math.inf, tokenizer.model_max_length, 1 << 20))


# ---- texts -> token ids


def reads_two_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a model without a chat template is an encoder, which reads `tokenizer(prompt, answer)`."""
    has_template = bool(getattr(tokenizer, "chat_template", None))
    return not has_template and None not in (tokenizer.cls_token_id, tokenizer.sep_token_id)


def way_of_reading(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """How prompt and answer become one text where no chat template says so; None where one does."""
    if getattr(tokenizer, "chat_template", None):
        return None
    if reads_two_texts(tokenizer):
        return "it reads tokenizer(prompt, answer)"
    return "it reads the answer right behind the prompt, and an end token"


def encode_scalar(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], answer: Any, *, max_length: int
) -> list[int]:
    """Ids of prompt and answer as the model's own usage has them; a text that is too long is cut at its end.

    With a chat template all that it writes, what stands behind the end token too: the ids of
    `apply_chat_template([..., answer])`. Without one see `way_of_reading`.

    Raises:
        PromptTooLong, TemplateRefused: as in `encode_answer`.
        PrefoptError: messages of several turns and no chat template.
    """
    prompt = row["prompt"]
    if reads_two_texts(tokenizer):
        return _encode_two(tokenizer, _one_text(prompt), _one_text(answer), max_length)
    if isinstance(prompt, str):
        if not getattr(tokenizer, "chat_template", None):
            encoded = encode_answer(tokenizer, row, answer, max_length=max_length)
            return [*encoded.prompt_ids, *encoded.answer_ids]
        row = {**row, "prompt": [{"role": "user", "content": prompt}]}
    turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    tools, kwargs = row.get("tools") or None, row.get("chat_template_kwargs") or {}
    ids = tokenize(tokenizer, render(tokenizer, [*row["prompt"], *turns], tools, kwargs))
    if len(ids) > max_length:
        encode_answer(tokenizer, row, answer, max_length=max_length)  # has the prompt room for an answer?
    return ids[:max_length]


def _one_text(content: Any) -> str:
    """A text, or that of a single message."""
    if isinstance(content, str):
        return content
    if len(content) == 1 and isinstance(content[0].get("content"), str):
        return str(content[0]["content"])
    raise PrefoptError(
        "this reward model has no chat template and reads one prompt and one answer; give texts or single messages, or "
        "add chat_template.jinja to its directory"
    )


def _encode_two(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, max_length: int) -> list[int]:
    """`tokenizer(prompt, answer)`, the answer cut to fit."""
    ids = [int(token) for token in tokenizer(prompt, answer, verbose=False)["input_ids"]]
    if len(ids) <= max_length:
        return ids
    least = len(ids) - len(tokenize(tokenizer, answer)) + 1
    if least > max_length:
        raise PromptTooLong(
            f"prompt longer than max_length: with one token of an answer it has {least}, but {max_length} fit"
        )
    cut = tokenizer(prompt, answer, truncation="only_second", max_length=max_length, verbose=False)
    return [int(token) for token in cut["input_ids"]]


def encode_comparison(
    tokenizer: PreTrainedTokenizerBase, prompt: str, first: str, second: str, *, max_length: int
) -> list[int]:
    """Ids of prompt and both answers, parts tokenised apart. Long answers are cut at the end, both to fit alike.

    Raises:
        PromptTooLong: the prompt leaves no room for `LEAST_ANSWER` tokens of each answer.
    """

    def ids(text: str) -> list[int]:
        return tokenize(tokenizer, text)

    opening, between, behind = ids(OPENINGS[0] + prompt + OPENINGS[1]), ids(OPENINGS[2]), ids(OPENINGS[3])
    opener = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    room = max_length - len(opener) - len(opening) - len(between) - len(behind)
    answers = [ids(first), ids(second)]
    if sum(map(len, answers)) > room:
        if room < 2 * LEAST_ANSWER:
            raise PromptTooLong(
                f"prompt longer than max_length: {len(opening)} tokens leave no place for two answers within {max_length}"
            )
        shorter = min(map(len, answers))
        limit = max(room // 2, room - shorter)
        answers = [answer[:limit] for answer in answers]
    return [*opener, *opening, *answers[0], *between, *answers[1], *behind]


# ---- reading


def outputs(model: nn.Module, sequences: Sequence[Any]) -> Tensor:
    """The model's one output [B] for B token sequences, fp32, differentiable; what each gives alone, right-padded.

    Classifiers of decoders read behind the last token that is not the padding token of their config. Where it has none
    (they take one text at a time then, and read behind its last token), an id that no sequence holds stands in.
    """
    inner = unwrap(model)
    text = inner.config.get_text_config()
    own, vocabulary = text.pad_token_id, int(text.vocab_size)
    pad_id = own if own is not None and 0 <= own < vocabulary else _unused(sequences, vocabulary)
    width = max(len(ids) for ids in sequences)
    padded = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(padded)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = np.asarray(ids)
        mask[row, : len(ids)] = 1
    device = next(model.parameters()).device
    inputs = {"input_ids": padded, "attention_mask": mask}
    if (after := getattr(inner, SECOND_AFTER, None)) is not None:
        ends = padded == after
        inputs["token_type_ids"] = ((ends.cumsum(1) - ends > 0) & (mask > 0)).astype(np.int64)
    text.pad_token_id = pad_id
    try:
        found = model(**{name: torch.from_numpy(value).to(device) for name, value in inputs.items()})
    finally:
        text.pad_token_id = own
    return found.logits[:, 0].float()


def _unused(sequences: Sequence[Any], vocabulary: int) -> int:
    """An id of the vocabulary that stands in no sequence."""
    used = set(np.concatenate([np.asarray(ids) for ids in sequences]).tolist())
    return next((each for each in range(vocabulary) if each not in used), 0)


def read_all(model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, batch_size: int) -> list[float]:
    """`outputs` of any number of sequences without gradient, longest first, `batch_size` at a time."""
    order = sorted(range(len(sequences)), key=lambda k: (-len(sequences[k]), k))
    values = [0.0] * len(sequences)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            found = outputs(model, [sequences[k] for k in places])
            for place, value in zip(places, found.tolist(), strict=True):
                values[place] = value
    return values


# ---- losses


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected - margin) [B], nats (2307.09288, eq. 2; without margin 2203.02155, eq. 1)."""
    return -logsigmoid(chosen - rejected - margin)


def both_orders(forward: Tensor, backward: Tensor, margin: Tensor) -> Tensor:
    """Mean over the two orders of the log-loss of "first is better" [B], nats.

    forward: logit with the chosen answer first. backward: logit with the rejected answer first.
    """
    return -(logsigmoid(forward - margin) + logsigmoid(-backward - margin)) / 2
