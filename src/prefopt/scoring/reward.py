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
from prefopt.models.template import PromptTooLong, encode_answer, tokenize

Kind = Literal["scalar", "pairwise"]
KIND = "prefopt_kind"  # in config.json of our models
# what the two answers stand between, for the pairwise model
OPENINGS = ("Prompt:\n", "\n\nAnswer A:\n", "\n\nAnswer B:\n", "\n\nIs answer A better?")
LEAST_ANSWER = 8  # tokens of each answer that must have room behind a prompt


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
    config.pad_token_id = _pad_id(tokenizer)
    if new is not None:
        setattr(config, KIND, new)
    prefix = f"{_body_name(config)}."

    def may_lack(name: str) -> bool:
        return new is not None and (not name.startswith(prefix) or ".pooler." in name)

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # a new head is no news
    try:
        return load_pretrained(
            AutoModelForSequenceClassification, path, config, dtype=dtype, may_lack=may_lack
        )
    finally:
        logging.set_verbosity(level)


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


def encode_scalar(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], answer: Any, *, max_length: int
) -> list[int]:
    """Ids of prompt and answer, by the chat template where there is one; a long answer is cut at its end.

    Raises:
        PromptTooLong, TemplateRefused: as in `encode_answer`.
    """
    prompt = row["prompt"]
    if isinstance(prompt, str) and getattr(tokenizer, "chat_template", None):
        row = {**row, "prompt": [{"role": "user", "content": prompt}]}
    encoded = encode_answer(tokenizer, row, answer, max_length=max_length)
    return [*encoded.prompt_ids, *encoded.answer_ids]


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


def outputs(model: nn.Module, sequences: Sequence[Any], pad_id: int) -> Tensor:
    """The model's one output [B] for B token sequences, fp32, differentiable; right-padded."""
    width = max(len(ids) for ids in sequences)
    padded = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(padded)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = np.asarray(ids)
        mask[row, : len(ids)] = 1
    device = next(model.parameters()).device
    found = model(
        input_ids=torch.from_numpy(padded).to(device), attention_mask=torch.from_numpy(mask).to(device)
    )
    return found.logits[:, 0].float()


def read_all(model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, batch_size: int) -> list[float]:
    """`outputs` of any number of sequences without gradient, longest first, `batch_size` at a time."""
    order = sorted(range(len(sequences)), key=lambda k: (-len(sequences[k]), k))
    values = [0.0] * len(sequences)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            found = outputs(model, [sequences[k] for k in places], int(model.config.pad_token_id))
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
