"""Raw rows of every known form -> our rows; the forms of one data set agree with each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.checks import check_row
from prefopt.stages.data.reading.dialogue import BadRow, common_text, content, split_pair, transcript, turns
from prefopt.stages.data.reading.formats import FORMATS, KINDS
from prefopt.stages.data.reading.forms.ask import gold_text
from prefopt.stages.data.reading.forms.pairs import preference
from prefopt.stages.data.reading.forms.single import unpaired
from prefopt.stages.data.reading.readers import read_rows
from prefopt.stages.data.reading.recognise import detect

Row = dict[str, Any]
U, A, S = (
    lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant", "system")
)


def convert(row: Row, kind: str = "auto") -> tuple[str, Row]:
    form = detect({k: v for k, v in row.items() if v is not None}, kind, "file")
    return form.name, form.convert(row)


def pair(row: Row) -> tuple[Any, Any, Any]:
    _, found = convert(row)
    return found["prompt"], found["chosen"], found["rejected"]


def refused(row: Row, kind: str = "auto") -> str:
    with pytest.raises(BadRow) as caught:
        convert(row, kind)
    return caught.value.reason


# ---- pairs


def test_text_and_message_pairs_stay_as_they_are() -> None:
    text = {"prompt": "p", "chosen": "c", "rejected": "r", "extra": 1}
    assert convert(text) == ("preference", text)
    talk = {"prompt": [U("p"), A("x"), U("q")], "chosen": [A("c")], "rejected": [A("r")]}
    assert convert(talk) == ("preference", talk)


def test_answers_take_the_form_of_the_prompt() -> None:
    messages = ([U("p")], [A("c")], [A("r")])
    assert pair({"prompt": [U("p")], "chosen": "c", "rejected": "r"}) == messages
    assert pair({"prompt": "p", "chosen": [A("c")], "rejected": [A("r")]}) == messages
    assert pair({"prompt": "p", "chosen": [U("p"), A("c")], "rejected": [U("p"), A("r")]}) == messages
    assert pair({"prompt": [U("p")], "chosen": [U("p"), A("c")], "rejected": [U("p"), A("r")]}) == messages
    assert pair({"prompt": "p", "chosen": A("c"), "rejected": "r"}) == messages


def test_answers_that_answer_something_else() -> None:
    row = {"prompt": [U("p")], "chosen": [U("other"), A("c")], "rejected": [U("p"), A("r")]}
    assert refused(row) == "answers do not continue the prompt"


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": "q"}, "q"),
        ({"instruction": "i", "input": ""}, "i"),
        ({"instruction": "i", "input": "x"}, "i\n\nx"),
        ({"prompt": None, "question": "q"}, "q"),
        ({"system": "be kind", "question": "q"}, [S("be kind"), U("q")]),
        ({"system": "", "question": "q"}, [U("q")]),
        ({"messages": [U("q")]}, [U("q")]),
        ({"system": "be kind", "conversations": [S("mine"), U("q")]}, [S("mine"), U("q")]),
    ],
)
def test_where_the_prompt_stands(row: Row, prompt: Any) -> None:
    found = pair({**row, "chosen": "c", "rejected": "r"})
    answers = ("c", "r") if isinstance(prompt, str) else ([A("c")], [A("r")])
    assert found == (prompt, *answers)


def test_sharegpt() -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"},
            {"from": "human", "value": "c"},
        ],
        "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"from": "gpt", "value": "no"},
    }
    assert pair(row) == ([S("s"), U("a"), A("b"), U("c")], [A("yes")], [A("no")])


def test_tools_of_sharegpt_become_tool_calls() -> None:
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    found = content(
        [
            {"from": "human", "value": "sun?"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "yes"},
        ],
        "prompt",
    )
    called = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]}
    assert found == [U("sun?"), called, {"role": "tool", "content": "yes"}]
    odd = content([{"from": "function_call", "value": "no json"}], "prompt")
    assert odd == [A("no json")]


def test_message_fields_beyond_role_and_content_are_kept() -> None:
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "name": "Al",
    }
    assert content([message], "prompt") == [{"role": "user", "content": "ab", "name": "Al"}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "prompt is missing"),
        (3, "prompt is a number, not text or messages"),
        (True, "prompt is true or false, not text or messages"),
        ([], "prompt is an empty message list"),
        (["a"], "prompt is a list, but not of messages"),
        ([{"role": "narrator", "content": "x"}], "message with an unknown role in prompt"),
        ([{"content": "x"}], "message with an unknown role in prompt"),
        ([{"role": ["user"], "content": "x"}], "message with an unknown role in prompt"),
        ([{"role": "user"}], "message without content in prompt"),
        ([{"role": "user", "content": 5}], "message without content in prompt"),
        ([{"role": "assistant", "content": None}], "message without content in prompt"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message content in prompt is not text"),
    ],
)
def test_what_is_no_content(value: Any, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        content(value, "prompt")
    assert caught.value.reason == reason


# ---- the prompt inside the answers


def test_common_messages() -> None:
    start = [U("a"), A("b"), U("c")]
    row = {"chosen": [*start, A("x")], "rejected": [*start, A("y")]}
    assert convert(row) == ("implicit", {"prompt": start, "chosen": [A("x")], "rejected": [A("y")]})


def test_a_shared_answer_belongs_to_the_answers() -> None:
    """The conversations part at the user's second message: what both were asked is the first."""
    chosen, rejected = [U("a"), A("b"), U("c"), A("d")], [U("a"), A("b"), U("x"), A("y")]
    assert pair({"chosen": chosen, "rejected": rejected}) == ([U("a")], chosen[1:], rejected[1:])


def test_one_conversation_may_be_the_start_of_the_other() -> None:
    assert pair({"chosen": [U("a"), A("b"), U("c"), A("d")], "rejected": [U("a"), A("b")]})[0] == [U("a")]


def test_nothing_in_common() -> None:
    assert refused({"chosen": [A("x")], "rejected": [A("y")]}) == "chosen and rejected share no prompt"
    assert (
        refused({"chosen": [U("a"), A("x")], "rejected": [U("b"), A("x")]})
        == "chosen and rejected share no prompt"
    )
    assert refused({"chosen": [U("a"), A("x")], "rejected": [U("a"), A("x")]}) == "identical answers"
    assert refused({"chosen": "yes", "rejected": "yes"}) == "identical answers"
    with pytest.raises(BadRow, match="share no prompt"):
        common_text("yes", "no")


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("\n\nHuman: hi\n\nAssistant:", " Hello", " Help yourself"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " The end", " The answer"),
        ("### Instruction:\nAdd.\n\n### Response:\n", "The sum", "The product"),
        ("[INST] Add. [/INST]", " 3", " 4"),
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "Hello", "He"),
        ("Q: 1+1\nA:", " 2", " 3"),
        ("Say hi.\n", "hello there", "hello you"),
        ("Once upon a", " time", " mattress"),
    ],
)
def test_common_text_is_cut_where_an_answer_can_begin(prompt: str, chosen: str, rejected: str) -> None:
    assert common_text(prompt + chosen, prompt + rejected) == (prompt, chosen, rejected)


def test_the_cut_is_in_no_word() -> None:
    prompt, chosen, rejected = common_text("Once upon a time", "Once upon a timber")
    assert (prompt, chosen, rejected) == ("Once upon a", " time", " timber")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (" x\n\nHuman: thanks\n\nAssistant: bye", " y", "another turn inside an answer"),
        (" x", " y\n\nHuman: and?", "another turn inside an answer"),
    ],
)
def test_transcripts_with_turns_inside_answers(chosen: str, rejected: str, reason: str) -> None:
    start = "\n\nHuman: hi\n\nAssistant:"
    assert refused({"chosen": start + chosen, "rejected": start + rejected}) == reason


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("\n\nHuman: a\n\nAssistant:\n\nHuman: b\n\nAssistant:", "empty turn in a transcript"),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant:", "two turns of one speaker in a row in a transcript"),
    ],
)
def test_damaged_transcripts(start: str, reason: str) -> None:
    assert refused({"chosen": start + " x", "rejected": start + " y"}) == reason


def test_transcript_as_messages() -> None:
    text = "Be brief.\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert transcript(text) == [S("Be brief."), U("a"), A("b"), U("c")]
    assert turns(text) == turns(transcript(text)) == 2


spoken = st.text(st.characters(codec="utf-8", exclude_characters="\n:"), min_size=1, max_size=12).filter(
    str.strip
)


@settings(deadline=None, max_examples=60)
@given(st.lists(spoken, min_size=1, max_size=7), spoken, spoken)
def test_prompt_and_answers_put_together_again(said: list[str], chosen: str, rejected: str) -> None:
    """Whatever stands in a dialogue, the parts give back the two texts, and the messages the two conversations."""
    if len(said) % 2 == 0:
        said = said[1:]
    roles = ["Human", "Assistant"] * len(said)
    start = "".join(f"\n\n{role}: {text}" for role, text in zip(roles, said, strict=False)) + "\n\nAssistant:"
    if chosen == rejected:
        return
    prompt, ours, theirs = common_text(start + chosen, start + rejected)
    assert (prompt, prompt + ours, prompt + theirs) == (start, start + chosen, start + rejected)
    talk = transcript(start)
    assert [m["content"] for m in talk] == [text.strip() for text in said]
    assert split_pair(None, [*talk, A(chosen)], [*talk, A(rejected)]) == (talk, [A(chosen)], [A(rejected)])


# ---- other forms of pairs


def test_hh_native() -> None:
    start = "\n\nHuman: hi\n\nAssistant:"
    row = {"text": [start + " no", start + " yes"], "score": [0.0, 1.0]}
    name, found = convert(row)
    assert name == "transcripts"
    assert found == {
        "prompt": start, "chosen": " yes", "rejected": " no", "score_chosen": 1.0, "score_rejected": 0.0,
    }  # fmt: skip
    assert refused({**row, "score": [1, 1]}) == "no preference (tie)"
    assert refused({**row, "text": ["a"]}) == "expected two texts and two scores"


@pytest.mark.parametrize(
    ("preference", "chosen", "score"),
    [(1, "one", 1.0), (2.0, "two", 1.0), (1.25, "one", 0.75), (1.75, "two", 0.75)],
)
def test_alpaca_eval_annotations(preference: float, chosen: str, score: float) -> None:
    row = {
        "instruction": "i", "output_1": "one", "output_2": "two", "preference": preference,
        "generator_1": "m1", "generator_2": "m2",
    }  # fmt: skip
    name, found = convert(row)
    assert name == "alpaca_eval"
    assert (found["chosen"], found["score_chosen"], found["score_rejected"]) == (chosen, score, 1 - score)
    assert found["chosen_model"] == {"one": "m1", "two": "m2"}[chosen]
    for tie in (0, 1.5, None):
        with pytest.raises(BadRow, match="no preference"):
            FORMATS["alpaca_eval"].convert({**row, "preference": tie})
    assert refused({**row, "preference": 7}) == "preference is not a number from 1 to 2"


@pytest.mark.parametrize(
    ("votes", "chosen"), [((1, 1, 2), "one"), ((2, 0, 2), "two"), ((1, 2, 0), None), ((0, 0, 1), None)]
)
def test_pandalm_votes(votes: tuple[int, ...], chosen: str | None) -> None:
    row: Row = {"instruction": "i", "input": "", "response1": "one", "response2": "two"}
    row |= {f"annotator{i}": vote for i, vote in enumerate(votes, start=1)}
    if chosen is None:
        assert refused(row) == "no preference (tie)"
    else:
        assert pair(row)[1] == chosen


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        ({"score_chosen": 3, "score_rejected": 1}, (3, 1)),
        ({"chosen_score": 3, "rejected_score": 1}, (3, 1)),
        ({"chosen-rating": 5.0, "rejected-rating": 2.0}, (5.0, 2.0)),
        ({"rank_chosen": 0, "rank_rejected": 2}, (0, -2)),
    ],
)
def test_scores_under_other_names(given_names: Row, expected: tuple[float, float]) -> None:
    found = preference({"prompt": "p", "chosen": "c", "rejected": "r", **given_names})
    assert (found["score_chosen"], found["score_rejected"]) == expected


# ---- completions and prompts


def test_tournament() -> None:
    row = {
        "prompt": "p", "answer": 18.0, "subset": "x",
        "completions": [
            {"model": "m", "text": "a", "is_correct": True},
            {"model": "n", "response": "b", "overall_score": 7.5},
            {"text": "c", "rank": 2},
            "d",
            {"model": "o", "content": [A("e")]},
        ],
    }  # fmt: skip
    name, found = convert(row)
    assert name == "tournament"
    assert found["gold"] == "18"
    assert found["completions"] == [
        {"model": "m", "completion": "a", "is_correct": True},
        {"model": "n", "completion": "b", "score": 7.5},
        {"completion": "c", "rank": 2, "score": -2},
        {"completion": "d"},
        {"model": "o", "completion": "e"},
    ]
    assert refused({**row, "completions": []}) == "no completions"
    assert refused({**row, "completions": "a"}) == "completions is not a list"


def test_gsm8k_answer_is_split_at_the_hashes() -> None:
    row = {"question": "q", "answer": "First this.\nThen that.\n#### 1,234"}
    assert convert(row) == ("prompts", {"prompt": "q", "gold": "1234", "gold_completion": row["answer"]})


@pytest.mark.parametrize(
    ("value", "text"),
    [(18.0, "18"), (18, "18"), (0.5, "0.5"), (" x ", "x"), ("", None), (None, None), (-3.0, "-3")],
)
def test_gold_as_text(value: Any, text: str | None) -> None:
    assert gold_text(value) == text


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, float("nan"), float("inf")])
def test_what_is_no_gold(value: Any) -> None:
    with pytest.raises(BadRow, match="gold answer is"):
        gold_text(value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p"}, {"prompt": "p"}),
        ({"instruction": "i", "input": "x", "output": "o"}, {"prompt": "i\n\nx", "gold_completion": "o"}),
        (
            {"problem": "p", "solution": "s", "answer": "4"},
            {"prompt": "p", "gold": "4", "gold_completion": "s"},
        ),
        ({"messages": [U("a"), A("b")]}, {"prompt": [U("a")], "gold_completion": "b"}),
        ({"prompt": [U("a")], "completion": [A("b")]}, {"prompt": [U("a")], "gold_completion": "b"}),
        ({"turns": ["first", "second"], "category": "x"}, {"prompt": "first", "category": "x"}),
    ],
)
def test_prompts(row: Row, expected: Row) -> None:
    assert convert(row) == ("prompts", expected)


# ---- recognition


def test_kind_decides_between_forms() -> None:
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "completions": ["a"]}
    assert convert(row)[0] == "preference"
    assert convert(row, "completions") == (
        "tournament",
        {"prompt": "p", "completions": [{"completion": "a"}]},
    )
    assert convert(row, "prompts") == ("prompts", {"prompt": "p"})


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        (
            {"promt": 1, "chosen": 1},
            "auto",
            ["'prompt' is missing", "chosen, promt", "{promt: prompt}"],
        ),
        ({"prompt": 1, "choosen": 1, "rejected": 1}, "auto", ["'chosen' is missing", "{choosen: chosen}"]),
        ({"prompt": 1, "Chosen": 1, "Rejected": 1}, "auto", ["'chosen' is missing", "{Chosen: chosen}"]),
        ({"prompt": 1, "chosen": 1}, "auto", ["'rejected' is missing", "{YOUR_REJECTED: rejected}"]),
        ({"prompt": "p", "completion": "x"}, "pairs", ["no pairs", "'chosen' is missing"]),
        ({"prompt": "p"}, "completions", ["no completions", "'completions' is missing"]),
        (
            {"winner": 1, "judge": 2},
            "auto",
            ["no known format", "'prompt' is missing (found: judge, winner)"],
        ),
        ({}, "auto", ["found: none"]),
    ],
)
def test_unknown_forms_name_what_is_missing(row: Row, kind: str, words: list[str]) -> None:
    with pytest.raises(PrefoptError) as caught:
        detect(row, kind, "file")
    assert str(caught.value).startswith("file: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "row", [{"prompt": "p", "completion": "c", "label": True}, {"messages": [U("a"), A("b")], "label": False}]
)
def test_unpaired_feedback_is_known_by_its_label(row: Row) -> None:
    assert detect(row, "auto", "file").kind == "unpaired"
    assert detect(row, "prompts", "file").kind == "prompts"


def test_a_label_of_a_class_is_not_feedback_and_not_passed_over() -> None:
    row = {"prompt": "p", "label": "sports"}
    with pytest.raises(
        PrefoptError, match=r"column 'label' looks like a label; .* or set data\.kind: prompts"
    ):
        detect(row, "auto", "file")
    assert detect(row, "prompts", "file").kind == "prompts"


UNPAIRED = {"prompt": "p", "completion": "c", "label": True}
TALK = [U("a"), A("b"), U("c"), A("d")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (UNPAIRED, UNPAIRED),
        ({"question": "p", "response": "c", "label": False}, {**UNPAIRED, "label": False}),
        ({**UNPAIRED, "label": " False "}, {**UNPAIRED, "label": False}),
        ({**UNPAIRED, "label": 1.0}, UNPAIRED),
        ({**UNPAIRED, "label": -1}, {**UNPAIRED, "label": False}),
        ({"messages": TALK, "label": True}, {"prompt": TALK[:3], "completion": TALK[3:], "label": True}),
        ({**UNPAIRED, "prompt": [U("p")]}, {"prompt": [U("p")], "completion": [A("c")], "label": True}),
        ({**UNPAIRED, "completion": [A("c")]}, {"prompt": [U("p")], "completion": [A("c")], "label": True}),
        ({**UNPAIRED, "system": "s"}, {"prompt": [{"role": "system", "content": "s"}, U("p")],
                                       "completion": [A("c")], "label": True}),
        ({**UNPAIRED, "topic": "x"}, {**UNPAIRED, "topic": "x"}),
    ],
)  # fmt: skip
def test_unpaired_rows(row: Row, expected: Row) -> None:
    assert check_row(unpaired(row), "unpaired") == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**UNPAIRED, "label": None}, "label is missing"),
        ({**UNPAIRED, "label": "maybe"}, "label is not true or false"),
        ({**UNPAIRED, "label": 0.5}, "label is not true or false"),
        ({**UNPAIRED, "completion": " "}, "empty completion"),
        ({**UNPAIRED, "completion": None}, "completion is missing"),
        ({**UNPAIRED, "prompt": None}, "prompt is missing"),
        ({"messages": [U("a")], "label": True}, "completion is missing"),
        ({**UNPAIRED, "prompt": [U("p")], "completion": [U("c")]}, "answers do not continue the prompt"),
        ({**UNPAIRED, "weight": -1}, "weight is negative"),
    ],
)
def test_bad_unpaired_rows(row: Row, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        check_row(unpaired(row), "unpaired")
    assert caught.value.reason == reason


def test_formats_have_distinct_names_and_words() -> None:
    assert all(name == form.name for name, form in FORMATS.items())
    assert all(f.about and f.kind in KINDS for f in FORMATS.values())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "model", "solution"]), inner
        )
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(list(FORMATS.values())), st.data())
def test_any_row_is_converted_or_refused_with_a_reason(form: Any, data: st.DataObject) -> None:
    names = [
        "prompt",
        "chosen",
        "rejected",
        "text",
        "score",
        "output_1",
        "output_2",
        "preference",
        "response1",
    ]
    names += [
        "response2",
        "annotator1",
        "completions",
        "question",
        "answer",
        "system",
        "input",
        "turns",
        "messages",
    ]
    row = data.draw(st.dictionaries(st.sampled_from(names), anything))
    try:
        found = form.convert(row)
    except BadRow as bad:
        assert bad.reason  # noqa: PT017
    else:
        assert isinstance(found["prompt"], str | list)
        if form.kind == "pairs":
            kinds = {type(found[name]) for name in ("prompt", "chosen", "rejected")}
            assert kinds in ({str}, {list})


# ---- the real files: native and normalised forms agree


def rows_in(path: Path) -> list[Row]:
    return [row for row, _ in read_rows(str(path))]


def pairs_in(path: Path) -> list[tuple[str, str, str]]:
    form = None
    found = []
    for row in rows_in(path):
        form = form or detect(row, "auto", str(path))
        try:
            converted = form.convert(row)
        except BadRow:
            continue
        found.append(tuple(json.dumps(converted[name]) for name in ("prompt", "chosen", "rejected")))
    return found


def test_hh_native_gives_the_normalised_pairs(shared_data: Path) -> None:
    native = pairs_in(shared_data / "hh_helpful" / "native.jsonl.gz")
    assert set(pairs_in(shared_data / "hh_helpful" / "preference.jsonl.gz")) <= set(native)
    empty_reply = [p for p in native if not json.loads(p[2]).strip()]
    assert len(native) == 1668 + len(empty_reply) == 1669


def test_hh_transcripts_give_the_normalised_messages(shared_data: Path) -> None:
    texts = rows_in(shared_data / "hh_helpful" / "preference.jsonl.gz")
    talks = rows_in(shared_data / "hh_helpful" / "preference_conversational.jsonl.gz")
    for text, talk in zip(texts, talks, strict=True):
        assert transcript(text["prompt"]) == talk["prompt"]
        assert text["chosen"].strip() == talk["chosen"][0]["content"]


def test_hh_pairs_as_whole_texts_are_split_again(shared_data: Path) -> None:
    for row in rows_in(shared_data / "hh_helpful" / "preference.jsonl.gz"):
        parts = row["prompt"], row["chosen"], row["rejected"]
        assert common_text(parts[0] + parts[1], parts[0] + parts[2]) == parts


def test_demo_mix_sharegpt_gives_the_normalised_messages(shared_data: Path) -> None:
    folder = shared_data / "demo_mix"
    native = pairs_in(folder / "dpo_en_demo.json.gz")
    assert (len(native), len(set(native))) == (215, 211)
    assert set(native) == set(pairs_in(folder / "preference_conversational.jsonl.gz"))


def test_pandalm_test_set_gives_the_normalised_pairs(shared_data: Path) -> None:
    native = pairs_in(shared_data / "pandalm" / "testset-v1.json")
    assert set(pairs_in(shared_data / "pandalm" / "preference.jsonl")) <= set(native)
    full = [p for p in native if all(json.loads(side).strip() for side in p)]
    assert len(full) == 594


def test_gsm8k_solutions_give_the_normalised_completions(shared_data: Path) -> None:
    folder = shared_data / "gsm8k"
    native = rows_in(folder / "example_model_solutions.jsonl.gz")
    normal = rows_in(folder / "completions.jsonl.gz")
    form = detect(native[0], "auto", "native")
    assert form.name == "solutions"
    for row, other in zip(native, normal, strict=True):
        ours, theirs = form.convert(row), detect(other, "auto", "normal").convert(other)
        assert ours["prompt"] == theirs["prompt"]
        assert ours["completions"] == theirs["completions"]
        assert float(ours["gold"].replace(",", "")) == float(theirs["gold"])


def test_alpaca_eval_annotations_give_the_normalised_pairs(shared_data: Path) -> None:
    folder = shared_data / "alpaca_eval"
    native = pairs_in(folder / "native" / "alpaca-7b" / "annotations_alpaca_eval_gpt4.json.gz")
    normal = [
        r
        for r in rows_in(folder / "preference_v1.jsonl.gz")
        if "alpaca-7b" in (r["chosen_model"], r["rejected_model"])
    ]
    wanted = {tuple(json.dumps(r[name]) for name in ("prompt", "chosen", "rejected")) for r in normal}
    assert set(native) == wanted
    assert len(native) == len(normal) == 557
