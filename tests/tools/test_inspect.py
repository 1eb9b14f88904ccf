"""What `prefopt inspect` prints: every token, the mask, and nothing that a terminal would obey."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.models.template import encode_pair
from prefopt.models.tiny import make_tokenizer
from prefopt.tools.inspect import describe_row, escape

ROW = {
    "id": "r1",
    "prompt": [{"role": "user", "content": "what is one?"}],
    "chosen": [{"role": "assistant", "content": "it is 1"}],
    "rejected": [{"role": "assistant", "content": "no [bold]idea[/bold]"}],
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(["what is one? it is no idea"] * 9, vocab_size=300)


def token_lines(text: str) -> list[list[str]]:
    return [line.split(maxsplit=3) for line in text.splitlines() if line[:8].strip().isdigit()]


def test_every_token_with_its_mask(tokenizer):
    text = describe_row(ROW, tokenizer, max_length=100)
    encoded = encode_pair(tokenizer, ROW, max_length=100)
    lines = token_lines(text)
    assert [int(line[1]) for line in lines] == encoded.prompt_ids + encoded.chosen_ids + encoded.rejected_ids
    answers = len(encoded.chosen_ids) + len(encoded.rejected_ids)
    assert [line[2] for line in lines] == ["0"] * len(encoded.prompt_ids) + ["1"] * answers
    # both answers stand behind the prompt
    starts = [int(line[0]) for line in lines if line[2] == "1"]
    assert starts.count(len(encoded.prompt_ids)) == 2
    assert text.startswith("row r1 (messages, chat template applied)\n")
    assert f"prompt {len(encoded.prompt_ids)}, chosen {len(encoded.chosen_ids)}" in text
    assert text.count("ends with the end token '<|im_end|>'") == 2
    assert "'\\n'" in text  # line breaks of the template
    assert "[" in text  # markup is shown as it is


def test_cut_answers_are_marked(tokenizer):
    encoded = encode_pair(tokenizer, ROW, max_length=100)
    fits = len(encoded.prompt_ids) + len(encoded.chosen_ids)
    text = describe_row(ROW, tokenizer, max_length=fits)
    assert text.count(f"cut at max_length {fits}: no end token") == 1
    assert text.count("ends with the end token") == 1


def test_too_long_prompts_are_shown_with_a_note(tokenizer):
    text = describe_row(ROW, tokenizer, max_length=4)
    assert "prompt longer than max_length" in text
    assert "the row is dropped" in text
    assert {line[2] for line in token_lines(text)} == {"0"}


def test_rows_before_pairs(tokenizer):
    assert "completion (counts)" in describe_row({"prompt": "one?", "completion": " it"}, tokenizer)
    only = describe_row({"id": "p", "prompt": "one?"}, tokenizer)
    assert "row p (text)" in only
    assert "(counts)" not in only
    with pytest.raises(PrefoptError, match="no prompt"):
        describe_row({"id": "p"}, tokenizer)


def test_terminal_orders_are_shown_not_obeyed(tokenizer):
    row = {
        "id": "\x1b]0;title\x07",
        "prompt": "a\x1b[31m\u202eb",
        "chosen": "x\r\x00\u200b",
        "rejected": "\x9b2J",
    }
    text = describe_row(row, tokenizer)
    assert not [c for c in text if unicodedata.category(c)[0] == "C" and c != "\n"]
    assert "\\x1b]0;title\\x07" in text
    assert "\\r" in text
    assert "\\x00" in text


@given(st.text(st.characters()))
def test_escaped_text_is_one_printable_line_and_loses_nothing(text):
    shown = escape(text)
    assert not [c for c in shown if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029"]
    assert len(shown.splitlines()) <= 1
    # ASCII text can be read back exactly
    if text.isascii():
        assert shown.encode().decode("unicode_escape") == text


def test_pieces_of_characters_keep_their_raw_form(tokenizer):
    assert "'漢'" not in describe_row({"prompt": "漢", "chosen": "a", "rejected": "b"}, tokenizer)
    assert "�" not in describe_row({"prompt": "漢", "chosen": "a", "rejected": "b"}, tokenizer)
