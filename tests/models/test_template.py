"""Prompts and answers as token ids: template once, BOS once, one end token, the common prefix, the cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prefopt.core.errors import PrefoptError
from prefopt.models.marks import count_of, counting, plain_ids, up_to
from prefopt.models.template import (
    EncodedPair,
    NothingCounts,
    PromptTooLong,
    TemplateRefused,
    common_prefix,
    decode_completion,
    encode_answer,
    encode_pair,
    encode_prompt,
    stop_ids,
)
from prefopt.models.template_faults import template_faults
from prefopt.models.tiny import make_tokenizer

WORDS = [
    "the answer is",
    "Step 1: 12+7=19",
    "what is twelve plus seven?",
    "no, it is",
    "  indented",
    "äöü 漢字 🙂",
]
LONG = 4096
TURNS = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '</s>' }}{% endfor %}"
OPENED = TURNS + "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"


def characters(template: str | None = None, *, adds_bos: bool = True, specials: tuple[str, ...] = ()):
    """One token per ASCII character; `<s>` is put in front by the tokenizer itself where `adds_bos`."""
    names = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate([*names, *map(chr, range(32, 127)), "\n"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.decoder = decoders.Fuse()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        chat_template=template, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return tokenizer


@pytest.fixture(scope="module")
def chatml():
    """Byte-level BPE with ChatML, no BOS; as GPT-2 and Qwen."""
    return make_tokenizer(WORDS * 20, vocab_size=400)


def messages(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pair(prompt, chosen, rejected, **more) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def texts(tokenizer, encoded: EncodedPair) -> tuple[str, str, str]:
    return tuple(
        tokenizer.decode(ids) for ids in (encoded.prompt_ids, encoded.chosen_ids, encoded.rejected_ids)
    )


def test_chatml_by_hand(chatml):
    encoded = encode_pair(chatml, pair(messages("hi"), reply("yes"), reply("no")), max_length=LONG)
    assert texts(chatml, encoded) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "yes<|im_end|>",
        "no<|im_end|>",
    )
    assert encoded.truncated is False
    assert encode_prompt(chatml, messages("hi")) == encoded.prompt_ids


def test_text_by_hand(chatml):
    encoded = encode_pair(chatml, pair("Q: 1?", " one", " two"), max_length=LONG)
    assert texts(chatml, encoded) == ("Q: 1?", " one<|im_end|>", " two<|im_end|>")
    assert encode_prompt(chatml, "Q: 1?") == encoded.prompt_ids


text_of = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(prompt=text_of, chosen=text_of, rejected=text_of, as_messages=st.booleans())
def test_ids_are_the_full_texts_whatever_merges_across_the_boundary(
    chatml, prompt, chosen, rejected, as_messages
):
    row = pair(prompt, chosen, rejected)
    wholes = [prompt + chosen, prompt + rejected]
    if as_messages:
        row = pair(messages(prompt), reply(chosen), reply(rejected))
        wholes = [
            chatml.apply_chat_template([*row["prompt"], *row[side]], tokenize=False).removesuffix(
                "<|im_end|>\n"
            )
            for side in ("chosen", "rejected")
        ]
    encoded = encode_pair(chatml, row, max_length=LONG)
    for ids, whole in zip((encoded.chosen_ids, encoded.rejected_ids), wholes, strict=True):
        expected = chatml(whole, add_special_tokens=False)["input_ids"]
        assert encoded.prompt_ids + ids == [*expected, chatml.eos_token_id]
        assert ids.count(chatml.eos_token_id) == 1
    # generation starts from the same ids, but for tokens that merge with an answer
    generated = encode_prompt(chatml, row["prompt"])
    assert generated[: len(encoded.prompt_ids)] == encoded.prompt_ids


def test_a_merge_across_the_boundary_goes_to_the_answers():
    vocabulary = {c: i for i, c in enumerate(["</s>", "a", "b", "c", "d", "bc"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("b", "c")]))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    encoded = encode_pair(tokenizer, pair("ab", "cd", "dd"), max_length=LONG)
    assert texts(tokenizer, encoded) == ("a", "bcd</s>", "bdd</s>")
    assert encode_prompt(tokenizer, "ab") == tokenizer.convert_tokens_to_ids(["a", "b"])


def test_answers_that_begin_alike_keep_their_common_tokens():
    """The prompt is the prefix shared with the prompt's own text: an answer's tokens all count."""
    tokenizer = characters(OPENED)
    encoded = encode_pair(tokenizer, pair(messages("q"), reply("same 1"), reply("same 2")), max_length=LONG)
    assert texts(tokenizer, encoded) == ("[user]q</s>[assistant]", "same 1</s>", "same 2</s>")


@pytest.mark.parametrize("template", ["{{ bos_token }}" + OPENED, OPENED])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_template_alone_decides_about_bos(template, adds_bos):
    tokenizer = characters(template, adds_bos=adds_bos)
    row = pair(messages("q", "a", "r"), reply("x"), reply("y"))
    encoded = encode_pair(tokenizer, row, max_length=LONG)
    full = tokenizer.apply_chat_template([*row["prompt"], *row["chosen"]], return_dict=False)
    assert encoded.prompt_ids + encoded.chosen_ids == full
    wanted = 1 if template.startswith("{{ bos_token }}") else 0
    assert (encoded.prompt_ids + encoded.rejected_ids).count(tokenizer.bos_token_id) == wanted


@pytest.mark.parametrize("prompt", ["q: ", "<s>q: "])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_text_has_bos_once_where_the_tokenizer_puts_one(prompt, adds_bos):
    tokenizer = characters(adds_bos=adds_bos)
    encoded = encode_pair(tokenizer, pair(prompt, "x", "y"), max_length=LONG)
    assert encoded.prompt_ids.count(1) == (1 if adds_bos or prompt.startswith("<s>") else 0)
    assert encode_prompt(tokenizer, prompt) == encoded.prompt_ids
    assert texts(tokenizer, encoded)[1:] == ("x</s>", "y</s>")


@pytest.mark.parametrize(
    "answer",
    ["x", "x</s>", "x</s></s>", "x</s>\n", "x</s>\n</s>"],
    ids=["none", "one", "two", "blank", "both"],
)
@pytest.mark.parametrize("template", [None, OPENED, OPENED.replace("'</s>'", "'</s>\n'")])
def test_one_eos_whatever_the_data_brings(answer, template):
    tokenizer = characters(template)
    row = pair("q", answer, "y") if template is None else pair(messages("q"), reply(answer), reply("y"))
    encoded = encode_pair(tokenizer, row, max_length=LONG)
    assert texts(tokenizer, encoded)[1:] == ("x</s>", "y</s>")


def test_unknown_characters_at_the_end_are_no_end_token():
    tokenizer = characters()
    encoded = encode_pair(tokenizer, pair("q", "x漢", "漢<s>"), max_length=LONG)
    assert encoded.chosen_ids[-1] == encoded.rejected_ids[-1] == tokenizer.eos_token_id


def test_a_template_without_end_token_gets_eos():
    tokenizer = characters(OPENED.replace("'</s>'", "'\n'"))
    row = pair(messages("q"), reply("x"), reply("y"))
    assert texts(tokenizer, encode_pair(tokenizer, row, max_length=LONG))[1] == "x\n</s>"
    assert stop_ids(tokenizer) == (tokenizer.eos_token_id,)


def test_the_templates_own_end_of_turn_is_the_end():
    """Llama 3 and Gemma: the turn ends with a token that is not the tokenizer's EOS."""
    template = OPENED.replace("</s>", "<end_of_turn>\n")
    tokenizer = characters(template, specials=("<end_of_turn>",))
    encoded = encode_pair(tokenizer, pair(messages("q"), reply("x"), reply("y")), max_length=LONG)
    assert texts(tokenizer, encoded)[1:] == ("x<end_of_turn>", "y<end_of_turn>")
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert stop_ids(tokenizer) == (tokenizer.eos_token_id, turn)
    assert decode_completion(tokenizer, [*encoded.chosen_ids, 40, 41]) == "x"


def test_a_template_without_generation_prompt():
    """The header that stands before every answer is part of the prompt, in pairs and in generation."""
    tokenizer = characters(TURNS)
    encoded = encode_pair(tokenizer, pair(messages("q"), reply("x"), reply("y")), max_length=LONG)
    assert texts(tokenizer, encoded) == ("[user]q</s>[assistant]", "x</s>", "y</s>")
    assert encode_prompt(tokenizer, messages("q")) == encoded.prompt_ids


def test_a_template_that_strips_content():
    tokenizer = characters(OPENED.replace("m.content", "(m.content | trim)"))
    encoded = encode_pair(tokenizer, pair(messages(" q "), reply("\n x "), reply("y")), max_length=LONG)
    assert texts(tokenizer, encoded) == ("[user]q</s>[assistant]", "x</s>", "y</s>")


def test_a_generation_prompt_that_opens_a_thinking_block():
    """Answers are rendered without the block: the pair's prompt ends before it, generation starts within it."""
    template = TURNS + "{% if add_generation_prompt %}{{ '[assistant]<think>' }}{% endif %}"
    tokenizer = characters(template)
    encoded = encode_pair(tokenizer, pair(messages("q"), reply("x"), reply("y")), max_length=LONG)
    assert texts(tokenizer, encoded) == ("[user]q</s>[assistant]", "x</s>", "y</s>")
    assert tokenizer.decode(encode_prompt(tokenizer, messages("q"))) == "[user]q</s>[assistant]<think>"


def test_a_template_that_treats_the_last_turn_apart():
    """History rendered differently once an answer follows: no prompt token counts as answer."""
    template = (
        "{% for m in messages %}{{ '[' + m.role + (' last' if loop.last else '') + ']' + m.content + '</s>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '[assistant last]' }}{% endif %}"
    )
    tokenizer = characters(template)
    encoded = encode_pair(tokenizer, pair(messages("q"), reply("x"), reply("y")), max_length=LONG)
    assert texts(tokenizer, encoded) == ("[user]q</s>[assistant last]", "x</s>", "y</s>")


def test_multi_turn_system_and_tools(chatml):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    prompt = [{"role": "system", "content": "be brief"}, *messages("hi", "hello", "add 1 2")]
    row = pair(prompt, reply("3"), reply("4"), tools=tools)
    prompt_text, chosen, _ = texts(chatml, encode_pair(chatml, row, max_length=LONG))
    assert prompt_text.count("be brief") == 1
    assert '"name": "add"' in prompt_text
    assert prompt_text.endswith("<|im_start|>user\nadd 1 2<|im_end|>\n<|im_start|>assistant\n")
    assert chosen == "3<|im_end|>"
    assert encode_prompt(chatml, prompt, tools) == encode_pair(chatml, row, max_length=LONG).prompt_ids
    call = [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}]
    called = texts(chatml, encode_pair(chatml, pair(prompt, call, reply("4")), max_length=LONG))[1]
    assert called.startswith("\n<tool_call>")
    assert called.endswith("</tool_call><|im_end|>")


def test_template_arguments_of_the_row_arrive():
    tokenizer = characters("{% if polite %}{{ 'please ' }}{% endif %}" + OPENED)
    row = pair(messages("q"), reply("x"), reply("y"), chat_template_kwargs={"polite": True})
    encoded = encode_pair(tokenizer, row, max_length=LONG)
    assert texts(tokenizer, encoded)[0] == "please [user]q</s>[assistant]"
    assert encode_prompt(tokenizer, row["prompt"], polite=True) == encoded.prompt_ids
    with pytest.raises(PrefoptError, match="may not set 'tokenize'"):
        encode_prompt(tokenizer, row["prompt"], tokenize=True)


def test_answers_are_cut_at_the_end_and_prompts_never():
    tokenizer = characters(adds_bos=False)
    row = pair("12345", "abc", "abcdef")
    fits = encode_pair(tokenizer, row, max_length=12)
    assert (texts(tokenizer, fits)[1:], fits.truncated) == (("abc</s>", "abcdef</s>"), False)
    cut = encode_pair(tokenizer, row, max_length=9)
    assert (texts(tokenizer, cut)[1:], cut.truncated) == (("abc</s>", "abcd"), True)
    least = encode_pair(tokenizer, row, max_length=6)
    assert texts(tokenizer, least) == ("12345", "a", "a")
    with pytest.raises(PromptTooLong, match="5 tokens leave no place"):
        encode_pair(tokenizer, row, max_length=5)
    one = encode_answer(tokenizer, {"prompt": "12345"}, "abcdef", max_length=9)
    assert (one.answer_ids, one.truncated) == (cut.rejected_ids, True)


def test_an_empty_prompt_stands_on_bos_or_eos():
    assert encode_pair(characters(), pair("", "x", "y"), max_length=LONG).prompt_ids == [1]
    without = characters(adds_bos=False)
    without.bos_token = None
    assert encode_pair(without, pair("", "x", "y"), max_length=LONG).prompt_ids == [2]
    assert encode_prompt(without, "") == [2]


def test_what_cannot_be_encoded_is_told():
    row = pair(messages("q"), reply("x"), reply("y"))
    with pytest.raises(PrefoptError, match="no chat template"):
        encode_pair(characters(), row, max_length=LONG)
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + OPENED
    )
    with pytest.raises(TemplateRefused, match="no system role"):
        encode_prompt(characters(strict), [{"role": "system", "content": "s"}])
    with pytest.raises(PrefoptError, match="one form"):
        encode_pair(characters(OPENED), pair("q", reply("x"), reply("y")), max_length=LONG)
    endless = characters()
    endless.eos_token = None
    with pytest.raises(PrefoptError, match="no EOS token"):
        encode_pair(endless, pair("q", "x", "y"), max_length=LONG)


def test_a_leading_space_survives_decoding_behind_the_prompt():
    """Llama's decoder drops the blank at the start of a text."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "Q": 4, ":": 5, "▁yes": 6, "▁Q": 7}
    for piece in ("▁y", "e", "s", "y", "▁ye", "es"):
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "Q"), ("▁", "y"), ("▁y", "e"), ("▁ye", "s")]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    encoded = encode_pair(tokenizer, pair("Q:", " yes", " es"), max_length=LONG)
    assert tokenizer.convert_ids_to_tokens(encoded.chosen_ids) == ["▁yes", "</s>"]
    assert decode_completion(tokenizer, encoded.chosen_ids) == "yes"
    assert decode_completion(tokenizer, encoded.chosen_ids, encoded.prompt_ids) == " yes"


@settings(max_examples=40, deadline=None)
@given(answer=text_of)
def test_decoding_gives_the_answer_back(chatml, answer):
    prompt = messages("hi")
    encoded = encode_answer(chatml, {"prompt": prompt}, answer, max_length=LONG)
    found = decode_completion(chatml, encoded.answer_ids, encoded.prompt_ids)
    rendered = chatml.apply_chat_template([*prompt, *reply(answer)], tokenize=False)
    assert rendered.endswith(found + "<|im_end|>\n")
    assert found == answer


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(first, second):
    n = common_prefix(first, second)
    assert first[:n] == second[:n]
    assert n == min(len(first), len(second)) or first[n] != second[n]


# ---- what counts in an answer of several turns

TOOLS_TALK = [
    {"role": "assistant", "content": "look"},
    {"role": "user", "content": "ZEBRA"},
    {"role": "tool", "content": "GNU"},
    {"role": "assistant", "content": "done"},
]


def counted(tokenizer, row, side="chosen"):
    """(text of the tokens that count, text of the others) of an answer."""
    encoded = encode_pair(tokenizer, row, max_length=LONG)
    ids, counts = getattr(encoded, f"{side}_ids"), getattr(encoded, f"{side}_counts")
    counts = counts or [True] * len(ids)
    return tuple(
        tokenizer.decode([i for i, c in zip(ids, counts, strict=True) if c is wanted])
        for wanted in (True, False)
    )


@pytest.mark.parametrize(
    ("count", "ours"),
    [(None, "look{e}done{e}"), ("assistant", "look{e}done{e}"), ("last", "done{e}"), ("all", None)],
)
def test_what_users_and_tools_say_within_an_answer_does_not_count(chatml, count, ours):
    row = pair(messages("q"), TOOLS_TALK, reply("no")) | ({"count_in_answer": count} if count else {})
    said, others = counted(chatml, row)
    if ours is None:
        assert (others, "ZEBRA" in said) == ("", True)
        return
    end = chatml.decode([chatml.eos_token_id])
    assert said == ours.format(e=end)
    assert "ZEBRA" in others
    assert "GNU" in others
    assert "assistant" in others  # the header of the second turn
    assert counted(chatml, row, "rejected") == (f"no{end}", "")
    assert encode_pair(chatml, row, max_length=LONG).rejected_counts is None


def test_marks_keep_ids_and_mask_in_one_array(chatml):
    encoded = encode_pair(chatml, pair(messages("q"), TOOLS_TALK, reply("no")), max_length=LONG)
    array = encoded.marked("chosen")
    assert plain_ids(array).tolist() == encoded.chosen_ids
    assert counting(array).tolist() == encoded.chosen_counts
    assert count_of(array) == sum(encoded.chosen_counts) < len(array)
    assert encoded.marked("rejected") == encoded.rejected_ids
    assert count_of(up_to(array, 3)) == 3


def test_thinking_that_a_template_leaves_out_of_earlier_turns_leaves_the_turn(chatml):
    """Qwen-like: the thinking of a turn is rendered only while the turn is the last."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = pair(
        messages("q"),
        [{"role": "assistant", "content": "<think>hm</think>one"}, *TOOLS_TALK[1:]],
        reply("no"),
    )
    said, others = counted(chatml, row | {"chat_template_kwargs": {"chat_template": template}})
    end = chatml.decode([chatml.eos_token_id])
    assert said == f"one{end}done{end}"
    assert "ZEBRA" in others


def test_an_answer_cut_before_its_last_turn_is_dropped_where_that_alone_counts(chatml):
    row = pair(messages("q"), TOOLS_TALK, reply("no")) | {"count_in_answer": "last"}
    room = len(encode_pair(chatml, row, max_length=LONG).prompt_ids) + 4
    with pytest.raises(NothingCounts, match="no token of an answer counts"):
        encode_pair(chatml, row, max_length=room)


# ---- what a template does without a word


def test_a_template_that_drops_thinking_is_told_with_the_share(chatml):
    think = "<think>hm</think>"
    rows = [
        pair(messages("q"), reply(f"{think}a"), reply(f"{think}b")),
        pair(messages("q"), reply("a"), reply("b")),
    ]
    template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    told = template_faults(
        chatml, [row | {"chat_template_kwargs": {"chat_template": template}} for row in rows]
    )
    assert len(told) == 1
    assert "drops a part of 50% of the answers" in told[0]
    assert template_faults(chatml, rows) == []


def test_a_template_with_the_date_is_told(chatml):
    row = pair(messages("q"), reply("a"), reply("b"))
    dated = "{{ strftime_now('%Y') }}" + chatml.chat_template
    (told,) = template_faults(chatml, [row | {"chat_template_kwargs": {"chat_template": dated}}])
    assert "today's date (strftime_now)" in told
