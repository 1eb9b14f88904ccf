"""Verifiers by name: a regular expression, a length, a JSON schema, sums of several, and what is refused."""

import json
import time

import pytest
from pydantic import ValidationError

from prefopt.core import plugins
from prefopt.core.errors import PrefoptError
from prefopt.stages.judge.settings import JudgeConfig
from prefopt.verify import (
    VERIFIERS,
    Failure,
    Score,
    VerifyConfig,
    register_verifier,
    score_rows,
    verifier_digests,
)


def scores(config, *completions, **columns):
    rows = [
        {"id": f"r{k}", "prompt": "q", "completion": text, **columns} for k, text in enumerate(completions)
    ]
    return score_rows(rows, VerifyConfig(**config))


def verdicts(config, *completions, **columns):
    return [score.is_correct for score in scores(config, *completions, **columns)]


def test_a_regular_expression_is_found_or_is_all_of_it():
    assert verdicts({"kind": "regex", "pattern": "[0-9]+"}, "a 12", "none") == [True, False]
    assert verdicts({"kind": "regex", "pattern": "[0-9]+", "match": "full"}, "a 12", " 12\n") == [False, True]
    assert verdicts(
        {"kind": "regex", "pattern": "SORRY", "ignore_case": True, "wanted": False}, "Sorry", "ok"
    ) == [
        False,
        True,
    ]


def test_a_regular_expression_without_end_is_stopped():
    start = time.process_time()
    found = scores({"kind": "regex", "pattern": "(a+)+$", "timeout_s": 0.3}, "aa", "a" * 40 + "b")
    assert found[0] == Score(True, 1.0)
    assert found[1].reason == "check took more than 0.3 s"
    assert time.process_time() - start < 20


def test_bounds_of_length_are_included():
    config = {"kind": "length", "min_words": 2, "max_words": 3}
    assert verdicts(config, "a", "a b", "a b c", "a b c d") == [False, True, True, False]
    assert verdicts({"kind": "length", "max_characters": 2}, "ab", "abc") == [True, False]
    assert verdicts({"kind": "length", "max_sentences": 1}, "One.", "One. Two.") == [True, False]
    assert verdicts({"kind": "length", "max_tokens": 5}, "x", completion_tokens=5) == [True]
    assert verdicts({"kind": "length", "max_tokens": 5}, "x") == [None]


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


def test_json_fits_a_schema_of_the_settings_a_file_or_the_row(tmp_path):
    pytest.importorskip("jsonschema")
    said = ['{"a": 1}', '{"a": "x"}', "no json", 'Here:\n```json\n{"a": 2}\n```\nDone.']
    assert verdicts({"kind": "json_schema", "schema": SCHEMA}, *said) == [True, False, False, True]
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    config = {"kind": "json_schema", "schema": str(path)}
    assert verdicts(config, *said) == [True, False, False, True]
    before = verifier_digests(VerifyConfig(**config))
    path.write_text("{}")
    assert verifier_digests(VerifyConfig(**config)) != before
    assert verdicts({"kind": "json_schema"}, *said[:2], schema=json.dumps(SCHEMA)) == [True, False]
    assert verdicts({"kind": "json_schema"}, "{}") == [None]
    with pytest.raises(PrefoptError, match="not a JSON schema"):
        scores({"kind": "json_schema", "schema": {"type": "nothing"}}, "{}")


def test_a_sum_weighs_its_parts():
    parts = [
        {"kind": "length", "max_words": 2, "weight": 0.5},
        {"kind": "regex", "pattern": "a", "weight": 2.0},
        {"kind": "math", "weight": -1.0},
    ]
    found = scores({"kind": "sum", "parts": parts}, "a\nA: 4", "a", r"a \boxed{4}", gold="4")
    assert [score.score for score in found] == [2.0 - 1.0, 2.5, 0.5 + 2.0 - 1.0]
    assert [score.is_correct for score in found] == [False, False, True]
    above = scores({"kind": "sum", "parts": parts, "correct_at": 1.5}, "a\nA: 4", "a", gold="4")
    assert [score.is_correct for score in above] == [False, True]


def test_a_row_fails_where_a_part_of_the_sum_fails():
    @register_verifier("failing_part")
    def failing_part(prompt, completion, row):
        if completion == "bad":
            raise ValueError("bad one")
        return 3

    try:
        parts = [{"kind": "failing_part", "weight": 2}, {"kind": "length", "max_words": 9}]
        found = scores({"kind": "sum", "parts": parts}, "good", "bad")
        assert found[0] == Score(True, 7.0)
        assert isinstance(found[1], Failure)
        assert "ValueError" in found[1].reason
    finally:
        plugins.remove_part("verifier", "failing_part", VERIFIERS)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"kind": "code"}, "sandbox"),
        ({"kind": "regexp", "pattern": "x"}, "did you mean 'regex'"),
        ({"kind": "regex"}, "needs the option 'pattern'"),
        ({"kind": "regex", "pattern": "("}, "pattern"),
        ({"kind": "regex", "pattern": "x", "match": "begin"}, "match is 'begin'"),
        ({"kind": "length"}, "no bound"),
        ({"kind": "length", "max_wrods": 3}, "did you mean 'max_words'"),
        ({"kind": "length", "max_words": "three"}, "max_words is 'three'"),
        ({"kind": "length", "min_words": 4, "max_words": 3}, "min_words 4 is above"),
        ({"kind": "function"}, "needs path"),
        ({"kind": "sum"}, "needs parts"),
        ({"kind": "constraints", "mode": "lose"}, "mode is 'lose'"),
    ],
)
def test_settings_that_cannot_be_are_named(config, says):
    with pytest.raises(ValidationError, match=says):
        VerifyConfig(**config)
    with pytest.raises(ValidationError, match=says):
        JudgeConfig(**config)


def test_short_and_stored_forms_are_the_same_settings():
    short = JudgeConfig(kind="function", path="c.py", name="mine", timeout_s=2, batch=True)
    assert short.kind == "verifier"
    assert (short.verifier.kind, short.verifier.path, short.verifier.name) == ("function", "c.py", "mine")
    for config in (
        short,
        JudgeConfig(kind="regex", pattern="x"),
        JudgeConfig(kind="math"),
        JudgeConfig(kind="sum", parts=[{"kind": "length", "max_words": 3, "weight": 2}]),
    ):
        assert JudgeConfig(**config.model_dump(mode="json")) == config
    assert JudgeConfig(kind="math").verifier == VerifyConfig()
