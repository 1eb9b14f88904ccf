"""A conversation as text, by the chat template that the tokenizer brings: code of others, which may fail or never end.

A template that raises `raise_exception` refuses the messages; the row is dropped. One that fails in another way at any
conversation (a missing name, a division by zero, a recursion without end) is broken, which is an error that names the model's
folder and the template's own reason. One that fails at a row alone drops that row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefopt.core.errors import PrefoptError
from prefopt.core.limits import OutOfTime, cpu_limit

Message = Mapping[str, Any]
Content = str | Sequence[Message]

REFUSED = "refused by the chat template"
SECONDS = 2.0  # of computing, for one conversation; the longest of real templates take milliseconds
LONGEST = 4_000_000  # characters of a conversation, about a million tokens
# what the rendering itself decides; a row's chat_template_kwargs may not
RESERVED = frozenset({
    "add_generation_prompt",
    "continue_final_message",
    "conversation",
    "max_length",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
})  # fmt: skip


class Unfit(PrefoptError):
    """A row that cannot be encoded and is dropped for `reason`."""

    reason: str


class TemplateRefused(Unfit):
    """The chat template raised on these messages (say, two user turns)."""

    reason = REFUSED


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    kwargs: Mapping[str, Any],
    *,
    generation: bool = False,
) -> str:
    """The messages as the tokenizer's chat template writes them. generation: with its generation prompt.

    Raises:
        TemplateRefused: the template raised on these messages.
        PrefoptError: there is no template, it is broken, or it does not end.
    """
    if not getattr(tokenizer, "chat_template", None) and "chat_template" not in kwargs:
        raise PrefoptError(
            "the rows are messages, but the tokenizer has no chat template; add chat_template.jinja to the model "
            "directory or give prompts and answers as text"
        )
    reserved = sorted(RESERVED & set(kwargs))
    if reserved:
        raise PrefoptError(f"chat_template_kwargs may not set {reserved[0]!r}; remove it from the row")
    try:
        return _apply(tokenizer, messages, tools, kwargs, generation)
    except PrefoptError:
        raise
    except OutOfTime:
        raise PrefoptError(
            f"{folder_of(tokenizer)}: the chat template does not end: more than {SECONDS:g} s for one conversation; mend "
            "chat_template.jinja"
        ) from None
    except Exception as error:  # whatever the template's code raises, MemoryError and RecursionError too
        reason = reason_of(error)
        own = kwargs.get("chat_template")
        fault = (
            None
            if is_refusal(error)
            else _fault(tokenizer, own if isinstance(own, str) else "", str(tokenizer.chat_template))
        )
        if fault is not None:
            raise PrefoptError(
                f"{folder_of(tokenizer)}: the chat template fails ({fault}); mend chat_template.jinja"
            ) from None
        raise TemplateRefused(
            f"the chat template of {folder_of(tokenizer)} refused the messages: {reason}; mend the row's turns"
        ) from None


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    kwargs: Mapping[str, Any],
    generation: bool,
) -> str:
    plain = [dict(message) for message in messages]
    with cpu_limit(SECONDS):
        text = tokenizer.apply_chat_template(
            plain,
            tools=list(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=generation,
            **kwargs,
        )
    given = sum(len(message["content"]) for message in plain if isinstance(message.get("content"), str))
    if (
        len(text) > LONGEST and len(text) > 10 * given
    ):  # it would be cut or dropped, after minutes of tokenizing
        raise PrefoptError(
            f"{folder_of(tokenizer)}: the chat template writes {len(text)} characters for a conversation of {given}; mend "
            "chat_template.jinja"
        )
    return str(text)


def is_refusal(error: BaseException) -> bool:
    """Whether a template said no by `raise_exception`, which is of no class below `TemplateError`."""
    from jinja2.exceptions import TemplateError

    return type(error) is TemplateError


@lru_cache(maxsize=8)
def _fault(tokenizer: PreTrainedTokenizerBase, template: str, own: str) -> str | None:
    """Why the template (empty: the tokenizer's `own`) fails at the plainest conversation too; None where it does not."""
    more = {"chat_template": template} if template else {}
    try:
        _apply(tokenizer, [{"role": "user", "content": "x"}], None, more, generation=True)
    except Exception as error:
        return None if is_refusal(error) else reason_of(error)
    except OutOfTime:
        return "it does not end"
    return None


def reason_of(error: BaseException) -> str:
    """What an error of foreign code says, in one line with its class where that is no class of templates."""
    from jinja2.exceptions import TemplateError

    text = " ".join(str(error).split())[:200]
    if isinstance(error, TemplateError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def folder_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Where the tokenizer was loaded from."""
    return str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
