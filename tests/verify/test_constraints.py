"""Every kind of constraint, held against what its description in the paper says (2311.07911)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.verify.constraints import KINDS, constraints, constraints_of, follows, loose_forms
from prefopt.verify.constraints.kinds import SPOKEN
from prefopt.verify.constraints.texts import ABBREVIATIONS, sentences

WORD = st.text("abcdefghij", min_size=1, max_size=6)
WORDS = st.lists(WORD, min_size=1, max_size=12)
COUNT = st.integers(1, 5)
LIGHT = settings(max_examples=40, deadline=None)


def keeps(text, kind, **kwargs):
    return follows(text, {"id": kind, "kwargs": kwargs})


def both(text, kind, name, count, relation):
    """Whether "at least" and "less than" a number both say what a count of the test's own says."""
    for wanted in (count - 1, count, count + 1):
        for said, truth in (("at least", count >= wanted), ("less than", count < wanted)):
            assert keeps(text, kind, **{name: wanted, relation: said}) is truth


def test_there_are_the_25_kinds_of_the_paper():
    assert len(KINDS) == 25
    assert len({name.partition(":")[0] for name in KINDS}) == 9
    assert set(SPOKEN) <= set(KINDS)


@LIGHT
@given(WORDS)
def test_words_are_counted_at_blanks_and_marks(words):
    both(", ".join(words) + "!", "length_constraints:number_words", "num_words", len(words), "relation")


@LIGHT
@given(
    st.lists(
        st.lists(WORD.filter(lambda word: word not in ABBREVIATIONS), min_size=2, max_size=5),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(".!?"),
)
def test_sentences_are_counted_at_their_ends(parts, mark):
    text = " ".join(" ".join(part).capitalize() + mark for part in parts)
    both(text, "length_constraints:number_sentences", "num_sentences", len(parts), "relation")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Dr. Smith went home. He was tired.", 2), ("It costs 3.50 dollars. Cheap!", 2), ("Wait... what?!", 2),
        ("J. R. Smith wrote it.", 1), ("1. Milk\n2. Bread", 1), ('He said "Go." Then he left.', 2), ("no end", 1), ("", 0),
        ("See e.g. the first one.", 1), ("It is in the U.S.", 1), ("Is it? Yes. It is!", 3), ("A line\nand another", 1),
        ("One (really.) Two.", 2), ("*Bold.* Plain.", 2), ("यह है। वह है।", 2), ("So am I. You too.", 2),
    ],
)  # fmt: skip
def test_what_ends_a_sentence(text, count):
    assert len(sentences(text)) == count


@LIGHT
@given(WORDS, st.sampled_from("abcdefghij"))
def test_letters_are_counted_in_any_case(words, letter):
    text = " ".join(words).title()
    count = sum(character.lower() == letter for character in text)
    kind = "keywords:letter_frequency"
    for wanted in (count, count + 1):
        assert keeps(text, kind, letter=letter, let_frequency=wanted, let_relation="at least") is (
            count >= wanted
        )
        assert keeps(text, kind, letter=letter.upper(), let_frequency=wanted, let_relation="less than") is (
            count < wanted
        )


@LIGHT
@given(st.integers(0, 4))
def test_keywords_are_counted_in_any_case(count):
    text = "Words here. " + "Saturn and saturn's ".replace(" and saturn's", " ") * count
    for wanted in range(6):
        kwargs = {"keyword": "saturn", "frequency": wanted}
        assert keeps(text, "keywords:frequency", **kwargs, relation="at least") is (count >= wanted)
        assert keeps(text, "keywords:frequency", **kwargs, relation="less than") is (count < wanted)


def test_keywords_exist_and_forbidden_ones_do_not():
    text = "The Moon (and its c++ code) is renamed."
    assert keeps(text, "keywords:existence", keywords=["moon", "C++"])
    assert not keeps(text, "keywords:existence", keywords=["moon", "mars"])
    assert keeps(
        text, "keywords:forbidden_words", forbidden_words=["name", "mars"]
    )  # within a word is no word
    assert not keeps(text, "keywords:forbidden_words", forbidden_words=["mars", "MOON"])


@LIGHT
@given(WORDS, st.lists(WORD, max_size=4))
def test_capital_words_are_those_in_capitals_alone(plain, loud):
    text = " ".join([*plain, *(word.upper() for word in loud), "Title"])
    kind = "change_case:capital_word_frequency"
    for wanted in (len(loud), len(loud) + 1):
        assert keeps(text, kind, capital_frequency=wanted, capital_relation="at least") is (
            len(loud) >= wanted
        )
        assert keeps(text, kind, capital_frequency=wanted, capital_relation="less than") is (
            len(loud) < wanted
        )


@LIGHT
@given(st.lists(WORDS, min_size=1, max_size=5))
def test_paragraphs_are_parted_by_asterisks(parts):
    paragraphs = [" ".join(part) for part in parts]
    kind = "length_constraints:number_paragraphs"
    for text in ("\n***\n".join(paragraphs), "***".join([*paragraphs, ""])):
        assert keeps(text, kind, num_paragraphs=len(parts))
        assert not keeps(text, kind, num_paragraphs=len(parts) + 1)
    assert not keeps("a\n***\n***\nb", kind, num_paragraphs=2)  # an empty one between


@LIGHT
@given(st.lists(WORDS, min_size=2, max_size=4), st.data())
def test_the_nth_paragraph_starts_with_the_word(parts, data):
    nth = data.draw(st.integers(1, len(parts)))
    paragraphs = [" ".join(["zz", *part]) for part in parts]
    paragraphs[nth - 1] = '"First, ' + paragraphs[nth - 1]
    asked = {"num_paragraphs": len(parts), "nth_paragraph": nth, "first_word": "first"}
    kind = "length_constraints:nth_paragraph_first_word"
    assert keeps("\n\n".join(paragraphs), kind, **asked)
    assert not keeps("\n\n".join(paragraphs), kind, **{**asked, "num_paragraphs": len(parts) + 1})
    assert not keeps("\n\n".join(paragraphs), kind, **{**asked, "first_word": "firs"})
    assert not keeps("\n\n".join(paragraphs), kind, **{**asked, "nth_paragraph": 1 + nth % len(parts)})


@LIGHT
@given(COUNT, COUNT)
def test_placeholders_bullets_highlights_and_sections_are_counted(there, wanted):
    holders = " ".join(["[name]"] * there)
    assert keeps(holders, "detectable_content:number_placeholders", num_placeholders=wanted) is (
        there >= wanted
    )
    for mark in ("* ", "- ", "  * "):
        listed = "Here:\n" + "\n".join([f"{mark}point"] * there) + "\n**bold** text"
        assert keeps(listed, "detectable_format:number_bullet_lists", num_bullets=wanted) is (there == wanted)
    for mark in ("*", "**"):
        bright = " and ".join([f"{mark}part{mark}"] * there) + " ** no **".replace(" no ", "")
        kind = "detectable_format:number_highlighted_sections"
        assert keeps(bright, kind, num_highlights=wanted) is (there >= wanted)
    parts = "\n".join(f"SECTION {number}\ntext" for number in range(there))
    kind = "detectable_format:multiple_sections"
    assert keeps(parts, kind, section_spliter="SECTION", num_sections=wanted) is (there >= wanted)


@pytest.mark.parametrize(
    ("kind", "kwargs", "good", "bad"),
    [
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Hi.\nP.S. Bye.", "Hi\np. s. bye"], ["Hi. Bye.", "PS bye"]),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Hi.\nP.P.S Bye.", "p. p. s. x"], ["Hi.\nP.S. Bye."]),
        ("detectable_format:title", {}, ["<<A title>>\ntext", "text <<x>>"], ["<A title>", "<<>>", "<< >>", "<<a\nb>>"]),
        ("detectable_format:constrained_response", {}, ["My answer is yes.", "Well. My answer is maybe."], ["Yes.", "my answer is yes", ""]),
        ("detectable_format:json_format", {}, ['{"a": [1]}', '```json\n{"a": 1}\n```', "```\n[]\n```", "3"], ["a: 1", "{'a': 1}", "Here: {}"]),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say It."}, ["say it. Yes", "  Say It.\n\nNo"], ["Yes. Say it.", "Say"]),
        ("combination:two_responses", {}, ["one\n******\ntwo", "******one******two"], ["one", "one******one", "a******b******c", "a******"]),
        ("startend:end_checker", {"end_phrase": "Any questions?"}, ["So. any QUESTIONS?", '"Any questions?"\n'], ["Any questions? No.", ""]),
        ("startend:quotation", {}, ['"all of it"', ' "x"\n'], ['"', '"half', 'say "x"', "'x'"]),
        ("punctuation:no_comma", {}, ["No such mark; none."], ["Well, one."]),
    ],
)  # fmt: skip
def test_formats_and_ends_by_example(kind, kwargs, good, bad):
    assert [text for text in good if not keeps(text, kind, **kwargs)] == []
    assert [text for text in bad if keeps(text, kind, **kwargs)] == []


ENGLISH = "The weather was very nice this morning, so we went down to the river with our children."


def test_languages_and_cases():
    pytest.importorskip("langdetect")
    german = "Das Wetter war heute Morgen sehr schön, deshalb gingen wir mit den Kindern an den Fluss."
    assert keeps(german, "language:response_language", language="de")
    assert not keeps(german, "language:response_language", language="en")
    assert keeps("1 2 3", "language:response_language", language="de")
    assert keeps(ENGLISH.lower(), "change_case:english_lowercase")
    assert not keeps(ENGLISH, "change_case:english_lowercase")
    assert not keeps(german.lower(), "change_case:english_lowercase")
    assert keeps(ENGLISH.upper(), "change_case:english_capital")
    assert not keeps(ENGLISH, "change_case:english_capital")


def test_without_langdetect_one_line_says_what_to_install(monkeypatch):
    import sys

    from prefopt.verify.constraints.texts import language

    language.cache_clear()
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(PrefoptError, match=r"prefopt\[checks\]"):
        keeps(ENGLISH, "language:response_language", language="en")


# ---- strict and loose


@LIGHT
@given(st.text("ab*\n ,", max_size=30), st.sampled_from(["punctuation:no_comma", "startend:quotation"]))
def test_what_is_kept_strictly_is_kept_loosely(text, kind):
    one = {"id": kind, "kwargs": {}}
    assert follows(text, one) <= follows(text, one, loose=True)
    assert len(loose_forms(text)) == 8


def test_loosely_first_line_last_line_and_asterisks_do_not_count():
    quoted = {"id": "startend:quotation", "kwargs": {}}
    for text in ('Sure:\n"It is."', '"It is."\nBye', 'Sure:\n"It is."\nBye', 'Sure:\n**"It is."**\nBye'):
        assert not follows(text, quoted)
        assert follows(text, quoted, loose=True)
    assert not follows('a\nb\n"It is."', quoted, loose=True)
    assert not follows(
        "  ", {"id": "punctuation:no_comma", "kwargs": {}}, loose=True
    )  # an empty answer keeps none


def test_the_score_is_the_share_that_is_kept():
    row = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    found = constraints("q", "no mark", row)
    assert (found.is_correct, found.score) == (False, 0.5)
    assert found.details["strict"] == [True, False]
    assert constraints("q", 'So\n"no mark"', row).is_correct is False
    assert constraints("q", 'So\n"no mark"', row, mode="loose").is_correct is True
    assert constraints("q", "x", {}).is_correct is None


@pytest.mark.parametrize(
    ("ids", "kwargs", "says"),
    [
        (["punctuation:no_coma"], [{}], "did you mean 'punctuation:no_comma'"),
        (["length_constraints:number_words"], [{}], "needs the option 'num_words'"),
        (["length_constraints:number_words"], [{"num_words": "many"}], "give a whole number"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "around"}], "'at least' or 'less than'"),
        (["keywords:existence"], [{"keywords": "moon"}], "give a list of texts"),
        (["punctuation:no_comma"], [], "equal length"),
        (["punctuation:no_comma"], [{"words": 3}], "has no option 'words'"),
    ],
)  # fmt: skip
def test_bad_constraints_are_named(ids, kwargs, says):
    with pytest.raises(PrefoptError, match=says):
        constraints_of({"instruction_id_list": ids, "kwargs": kwargs})


def test_arguments_that_are_null_or_whole_floats_are_read():
    everything = {"num_words": 3.0, "relation": None, "keywords": None, "language": None}
    found = constraints_of(
        {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [everything]}
    )
    assert found == [{"id": "length_constraints:number_words", "kwargs": {"num_words": 3}}]
    assert json.loads(json.dumps(found)) == found
