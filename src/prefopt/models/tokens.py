"""Text to ids and back: BOS once, an end token on every answer, the tokens that stop one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefopt.core.errors import PrefoptError
from prefopt.models.rendering import folder_of, reason_of, render


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], prompt_ids: Sequence[int] = ()
) -> str:
    """Text of generated ids, up to the first end token, without special tokens.

    With `prompt_ids` the answer is decoded behind its prompt, so that a leading space survives in tokenizers that
    drop it at the start of a text.
    """
    stops = stop_ids(tokenizer)
    kept = list(ids)
    end = next((i for i, token in enumerate(kept) if token in stops), len(kept))
    kept = kept[:end]
    context = list(prompt_ids)
    before, whole = _decode(tokenizer, context), _decode(tokenizer, context + kept)
    return whole[len(before) :] if whole.startswith(before) else _decode(tokenizer, kept)


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end an answer: EOS, and the chat template's end of turn where that is another token."""
    found = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    template = getattr(tokenizer, "chat_template", None)
    turn = _end_of_turn(tokenizer, len(tokenizer), str(template)) if template else None
    return (*found, turn) if turn is not None and turn not in found else tuple(found)


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of the text as it stands: whatever BOS there is, is in the text. No truncation, no length warning.

    Raises:
        PrefoptError: the tokenizer fails, for example at a character that it has no token for.
    """
    return _ids(tokenizer, text, add_special_tokens=False, truncation=False, verbose=False)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, **more: Any) -> list[int]:
    """What the tokenizer makes of a text.

    Raises:
        PrefoptError: it fails, for example at a character that it has no token for.
    """
    try:
        return list(tokenizer(text, **more)["input_ids"])
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # of Rust: an Exception, or a panic that is none
        raise PrefoptError(
            f"{folder_of(tokenizer)}: the tokenizer fails at the text {text[:40]!r} ({reason_of(error)}); mend "
            "tokenizer.json (does it have its unk token?)"
        ) from None


def with_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """BOS in front of a text where the tokenizer itself would put it, unless the text has it already."""
    bos = tokenizer.bos_token
    if bos is None or text.startswith(bos):
        return text
    habit = _ids(tokenizer, "a", verbose=False)
    return bos + text if habit and habit[0] == tokenizer.bos_token_id else text


def never_empty(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The first answer token needs something to stand behind: BOS, or EOS as GPT-2 does, for an empty prompt."""
    if ids:
        return ids
    opener = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if opener is None:
        raise PrefoptError("an empty prompt needs a BOS or EOS token, but the tokenizer has none")
    return [int(opener)]


def with_end(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The answer with exactly one end token: the text's own (blanks behind it go), else EOS added.

    Raises:
        PrefoptError: the tokenizer has no EOS token.
    """
    ends = end_ids(tokenizer, len(tokenizer))
    at = last_word(tokenizer, ids)
    if at >= 0 and ids[at] in ends:
        while (before := last_word(tokenizer, ids[:at])) >= 0 and ids[before] == ids[at]:
            at = before
        return ids[: at + 1]
    if tokenizer.eos_token_id is None:
        raise PrefoptError("the tokenizer has no EOS token; set eos_token in tokenizer_config.json")
    return [*ids, int(tokenizer.eos_token_id)]


def last_word(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """Index of the last token that is not blank, -1 where there is none."""
    at = len(ids) - 1
    while at >= 0 and not str(tokenizer.decode([ids[at]])).strip():
        at -= 1
    return at


@lru_cache(maxsize=8)
def end_ids(tokenizer: PreTrainedTokenizerBase, size: int) -> frozenset[int]:
    """Control tokens that may end an answer: EOS, end of turn, ... `size`: the vocabulary's, for tokens added later."""
    ids = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    others = {tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id}
    return frozenset((ids - others) | ({tokenizer.eos_token_id} - {None}))


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: PreTrainedTokenizerBase, size: int, template: str) -> int | None:
    """The control token that the chat template writes behind an answer, None where it writes none."""
    probe = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    try:
        ids = tokenize(tokenizer, render(tokenizer, probe, None, {}))
        last = with_end(tokenizer, ids)[-1]
    except PrefoptError:
        return None
    return last


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the longest common prefix of two sequences."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length
