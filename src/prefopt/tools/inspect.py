"""A row as the model sees it: every token with its id and whether it counts. Plain text, safe for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERS = ("chosen", "rejected", "completion")
NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


def describe_row(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int = 1024) -> str:
    """Prompt and answers of a row token by token: position, id, text, mask (1: its log-prob counts, 0: it is context).

    The row holds a prompt and any of chosen, rejected, completion. Control and invisible characters are shown as
    escapes. A prompt that leaves no room for an answer is shown with a note in place of the answers.

    Raises:
        PrefoptError: the row has no prompt, or cannot be encoded.
    """
    from prefopt.models.template import PromptTooLong, encode_prompt

    if row.get("prompt") is None:
        raise PrefoptError("inspect: the row has no prompt; give a file of prompts or pairs")
    names = [name for name in ANSWERS if row.get(name) is not None]
    try:
        prompt, answers, cut, masks = _encode(row, names, tokenizer, max_length)
        note = ""
    except PromptTooLong as error:
        prompt, answers, cut = (
            encode_prompt(tokenizer, row["prompt"], row.get("tools"), **_options(row)),
            {},
            set(),
        )
        masks = {}
        note = f"\n{escape(str(error))}; the row is dropped\n"
    lines = [_headline(row, prompt, answers, max_length), note]
    lines += _section("prompt", prompt, 0, tokenizer, [False] * len(prompt))
    for name, ids in answers.items():
        lines += _section(name, ids, len(prompt), tokenizer, masks.get(name) or [True] * len(ids))
        lines.append(_ending(ids, name in cut, tokenizer, max_length))
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """The text with control, format and other invisible characters as escapes; printable text stays as it is."""
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if character in NAMED:
        return NAMED[character]
    if character == " " or (character.isprintable() and unicodedata.category(character)[0] != "C"):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _encode(
    row: Mapping[str, Any], names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[int], dict[str, list[int]], set[str], dict[str, list[bool] | None]]:
    """Prompt ids, answer ids by name, which answers were cut, and which of their tokens count (None: all)."""
    from prefopt.models.template import encode_answer, encode_pair, encode_prompt, stop_ids

    if {"chosen", "rejected"} <= set(names):
        whole = encode_pair(tokenizer, row, max_length=max_length)
        answers = {"chosen": whole.chosen_ids, "rejected": whole.rejected_ids}
        # an answer that just fits beside one that was cut has its end token
        cut = {
            name for name, ids in answers.items() if whole.truncated and ids[-1] not in stop_ids(tokenizer)
        }
        masks = {"chosen": whole.chosen_counts, "rejected": whole.rejected_counts}
        return whole.prompt_ids, answers, cut, masks
    prompt = encode_prompt(tokenizer, row["prompt"], row.get("tools"), **_options(row))
    found: dict[str, list[int]] = {}
    cut, masks = set(), {}
    for name in names:
        one = encode_answer(tokenizer, row, row[name], max_length=max_length)
        prompt, found[name], masks[name] = one.prompt_ids, one.answer_ids, one.counts
        cut |= {name} if one.truncated else set()
    return prompt, found, cut, masks


def _headline(
    row: Mapping[str, Any], prompt: Sequence[int], answers: Mapping[str, Sequence[int]], max_length: int
) -> str:
    counts = [f"prompt {len(prompt)}", *(f"{name} {len(ids)}" for name, ids in answers.items())]
    form = "text" if isinstance(row["prompt"], str) else "messages, chat template applied"
    return f"row {escape(str(row.get('id', '')))!s} ({form})\ntokens: {', '.join(counts)}; max_length {max_length}"


def _section(
    title: str, ids: Sequence[int], start: int, tokenizer: PreTrainedTokenizerBase, counts: Sequence[bool]
) -> Iterator[str]:
    share = f"{sum(counts)} of {len(ids)} tokens count" if any(counts) and not all(counts) else "counts"
    yield f"\n{title} ({share if any(counts) else 'context, does not count'})"
    yield f"{'position':>8} {'id':>7} {'mask':>4}  token"
    for offset, (token, is_counted) in enumerate(zip(ids, counts, strict=True)):
        yield f"{start + offset:>8} {token:>7} {int(is_counted):>4}  '{_token_text(token, tokenizer)}'"


def _token_text(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The token's text; its raw piece where it is no whole character or its blank would be lost."""
    piece = tokenizer.convert_ids_to_tokens(token)
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if isinstance(piece, str) and ("�" in text or not text or piece.startswith("▁")):
        text = piece.replace("▁", " ")
    return escape(text)


def _ending(ids: Sequence[int], cut: bool, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    if cut:
        return f"         cut at max_length {max_length}: no end token"
    return f"         ends with the end token '{_token_text(ids[-1], tokenizer)}'"


def _options(row: Mapping[str, Any]) -> dict[str, Any]:
    return dict(row.get("chat_template_kwargs") or {})
