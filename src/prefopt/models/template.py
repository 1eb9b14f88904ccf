"""From prompts and answers to token ids: chat template once, BOS once, an end token on every answer.

A conversation is rendered to text by the chat template, and the template alone decides about BOS (as generation with
`apply_chat_template` does everywhere). A text row is prompt + answer, with the tokenizer's BOS in front if it has that
habit. Each answer is tokenised together with its prompt, so that merges across the boundary are the model's own; the
prompt is then the longest token prefix that prompt and full texts share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefopt.core.errors import PrefoptError
from prefopt.models.marks import marked
from prefopt.models.rendering import REFUSED, Content, Message, TemplateRefused, Unfit, render
from prefopt.models.tokens import (
    common_prefix,
    decode_completion,
    end_ids,
    last_word,
    never_empty,
    stop_ids,
    tokenize,
    with_bos,
    with_end,
)

__all__ = [
    "REFUSED",
    "TOO_LONG",
    "Content",
    "EncodedAnswer",
    "EncodedPair",
    "Message",
    "NothingCounts",
    "PromptTooLong",
    "TemplateRefused",
    "Unfit",
    "common_prefix",
    "decode_completion",
    "encode_answer",
    "encode_pair",
    "encode_prompt",
    "stop_ids",
    "tokenize",
]

TOO_LONG = "prompt longer than max_length"


class NothingCounts(Unfit):
    """No token of an answer is the model's own, within max_length."""

    reason = "no token of an answer counts"


class PromptTooLong(Unfit):
    """The prompt leaves no place for one answer token within max_length."""

    reason = TOO_LONG


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a pair. prompt_ids + chosen_ids (+ rejected_ids) are the two full texts.

    Every answer ends with its end token (EOS, or the template's end of turn) unless it was cut.
    truncated: an answer was cut at max_length. chosen_counts, rejected_counts: which tokens count in the loss; None: all.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    truncated: bool
    chosen_counts: list[bool] | None = None
    rejected_counts: list[bool] | None = None

    def marked(self, side: str) -> list[int]:
        """Ids of an answer, those that do not count marked (`models.marks`)."""
        return marked(getattr(self, f"{side}_ids"), getattr(self, f"{side}_counts"))


@dataclass(frozen=True)
class EncodedAnswer:
    """Token ids of one prompt and one answer, as in `EncodedPair`."""

    prompt_ids: list[int]
    answer_ids: list[int]
    truncated: bool
    counts: list[bool] | None = None

    @property
    def marked(self) -> list[int]:
        """Ids of the answer, those that do not count marked (`models.marks`)."""
        return marked(self.answer_ids, self.counts)


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], *, max_length: int
) -> EncodedPair:
    """Encode `row`'s prompt, chosen and rejected (text or messages; `tools`, `chat_template_kwargs` are read).

    Prompts are never cut; answers are cut at the end to `max_length` tokens of prompt and answer together, each
    answer for itself, and have no end token then.

    Raises:
        PromptTooLong: no room for one answer token.
        TemplateRefused: the chat template raised.
        NothingCounts: an answer without a token that counts (say, cut before the last turn).
        PrefoptError: messages, but no chat template; no EOS token where one must be added.
    """
    answers = [row["chosen"], row["rejected"]]
    prompt_ids, (chosen, rejected) = _encode(tokenizer, row["prompt"], answers, *_template_options(row))
    room = _room(prompt_ids, max_length)
    truncated = max(len(chosen), len(rejected)) > room
    chosen, rejected = chosen[:room], rejected[:room]
    counts = [
        turn_counts(tokenizer, row, answer, prompt_ids, ids)
        for answer, ids in zip(answers, (chosen, rejected), strict=True)
    ]
    return EncodedPair(prompt_ids, chosen, rejected, truncated, *counts)


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], answer: Content, *, max_length: int
) -> EncodedAnswer:
    """Encode `row`'s prompt with one answer (text or messages), by the rules of `encode_pair`."""
    prompt_ids, (ids,) = _encode(tokenizer, row["prompt"], [answer], *_template_options(row))
    room = _room(prompt_ids, max_length)
    counts = turn_counts(tokenizer, row, answer, prompt_ids, ids[:room])
    return EncodedAnswer(prompt_ids, ids[:room], len(ids) > room, counts)


def turn_counts(
    tokenizer: PreTrainedTokenizerBase,
    row: Mapping[str, Any],
    answer: Content,
    prompt_ids: Sequence[int],
    ids: Sequence[int],
) -> list[bool] | None:
    """Which tokens of an answer count: those that assistant turns write, their end tokens included; None: all.

    What a user or a tool says within an answer, and the headers of all turns, are context. `row["count_in_answer"]`:
    assistant (default), last (the last assistant turn alone) or all.

    Raises:
        NothingCounts: none does.
    """
    wanted = row.get("count_in_answer") or "assistant"
    if isinstance(answer, str) or isinstance(row["prompt"], str) or len(answer) < 2 or wanted == "all":
        return None
    tools, kwargs = _template_options(row)
    full = [*prompt_ids, *ids]
    last = max(n for n, message in enumerate(answer) if message["role"] == "assistant")
    counts = [False] * len(full)
    for n, message in enumerate(answer):
        if message["role"] != "assistant" or (wanted == "last" and n != last):
            continue
        start, end = _turn(tokenizer, row["prompt"], answer, n, tools, kwargs, full)
        counts[start:end] = [True] * (end - start)
    found = counts[len(prompt_ids) :]
    if not any(found):
        raise NothingCounts(f"{NothingCounts.reason}: raise max_length, or see data.count")
    return found


def _turn(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: Sequence[Message],
    n: int,
    tools: Sequence[Any] | None,
    kwargs: Mapping[str, Any],
    full: Sequence[int],
) -> tuple[int, int]:
    """Place of the n-th message of an answer in `full` (ids of prompt and answer): behind its header, up to its end token.

    The template is asked with and without the message. Where it renders a turn otherwise once others follow (thinking
    left out of earlier turns), the end is where the next turn's rendering agrees again, less that turn's header.
    """
    before, with_it = [*prompt, *answer[:n]], [*prompt, *answer[: n + 1]]
    start = common_prefix(tokenize(tokenizer, _opened(tokenizer, before, tools, kwargs)), full)
    if n == len(answer) - 1:
        return start, len(full)
    whole = tokenize(tokenizer, render(tokenizer, with_it, tools, kwargs))
    end = common_prefix(whole, full)
    if end < len(whole) and len(full) > end:
        header = _tail(
            tokenizer,
            whole,
            tokenize(tokenizer, render(tokenizer, [*with_it, answer[n + 1]], tools, kwargs)),
            full,
        )
        end = max(end, header)
    return start, max(start, last_word(tokenizer, full[:end]) + 1)


def _opened(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    kwargs: Mapping[str, Any],
) -> str:
    """The messages with the header of an assistant turn behind them, as it stands in front of every answer."""
    try:
        return _prompt_texts(tokenizer, messages, tools, kwargs)[1]
    except TemplateRefused:  # not after an assistant's own turn: the header is part of what follows
        return render(tokenizer, messages, tools, kwargs)


def _tail(
    tokenizer: PreTrainedTokenizerBase, alone: Sequence[int], followed: Sequence[int], full: Sequence[int]
) -> int:
    """End, in `full`, of a turn that is rendered otherwise when another follows: its first end token behind the place
    where the renderings part."""
    agreed = common_prefix(followed, full)
    parted = common_prefix(alone, full)
    ends = end_ids(tokenizer, len(tokenizer))
    return next((i + 1 for i in range(parted, agreed) if full[i] in ends), parted)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Content,
    tools: Sequence[Any] | None = None,
    **kwargs: Any,
) -> list[int]:
    """Ids [T] to generate an answer from: the prompt side of a pair (up to merges across the boundary).

    kwargs: the row's chat_template_kwargs. They differ from the pair's prompt where a template's generation prompt
    is no prefix of what it renders afterwards (an opened thinking block, for example).

    Raises:
        TemplateRefused, PrefoptError: as in `encode_pair`.
    """
    if isinstance(prompt, str):
        return never_empty(tokenizer, tokenize(tokenizer, with_bos(tokenizer, prompt)))
    text, _ = _prompt_texts(tokenizer, prompt, tools, kwargs)
    return never_empty(tokenizer, tokenize(tokenizer, text))


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Content,
    answers: Sequence[Content],
    tools: Sequence[Any] | None,
    kwargs: Mapping[str, Any],
) -> tuple[list[int], list[list[int]]]:
    """Prompt ids and, per answer, its complete ids with end token."""
    if isinstance(prompt, str):
        opened = with_bos(tokenizer, prompt)
        texts = [opened + _as_text(answer) for answer in answers]
    else:
        opened = _prompt_texts(tokenizer, prompt, tools, kwargs)[1]
        texts = [render(tokenizer, [*prompt, *_as_messages(a)], tools, kwargs) for a in answers]
    prompt_ids = tokenize(tokenizer, opened)
    fulls = [tokenize(tokenizer, text) for text in texts]
    shared = min(common_prefix(prompt_ids, full) for full in fulls)
    endings = [with_end(tokenizer, full[shared:]) for full in fulls]
    return never_empty(tokenizer, prompt_ids[:shared]), endings


def _prompt_texts(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    tools: Sequence[Any] | None,
    kwargs: Mapping[str, Any],
) -> tuple[str, str]:
    """The prompt as text (to generate from, within a pair).

    They are one and the same unless the template knows no generation prompt, or writes one that its own rendering
    of an answer does not begin with. `seen` is what every answer stands behind, found with two stand-in answers.
    """
    opened = render(tokenizer, prompt, tools, kwargs, generation=True)
    probes = [[*prompt, {"role": "assistant", "content": word}] for word in ("x", "y")]
    try:
        first, second = (render(tokenizer, probe, tools, kwargs) for probe in probes)
    except (
        TemplateRefused
    ):  # a prompt that no assistant turn may follow; the answers themselves may be another role
        return opened, opened
    seen = first[: common_prefix(first, second)]
    if not seen.startswith(opened):
        return opened, seen
    without = render(tokenizer, prompt, tools, kwargs)
    return (seen, seen) if without == opened else (opened, opened)


def _template_options(row: Mapping[str, Any]) -> tuple[Sequence[Any] | None, Mapping[str, Any]]:
    return row.get("tools") or None, row.get("chat_template_kwargs") or {}


def _as_text(answer: Content) -> str:
    if isinstance(answer, str):
        return answer
    raise PrefoptError("the prompt is text, but the answer is messages; give both in one form")


def _as_messages(answer: Content) -> list[Message]:
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)


def _room(prompt_ids: Sequence[int], max_length: int) -> int:
    """Answer tokens that fit behind the prompt, at least one."""
    room = max_length - len(prompt_ids)
    if room < 1:
        raise PromptTooLong(
            f"{TOO_LONG}: {len(prompt_ids)} tokens leave no place for an answer within max_length={max_length}; "
            "raise max_length or shorten the prompt"
        )
    return room
