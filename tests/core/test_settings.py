"""Settings: unknown keys and bad values are one line; files and flags follow one rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config, load_yaml, merge, parse_config, parse_overrides


class Inner(Config):
    rate: float = Field(0.1, gt=0, description="a rate")
    mode: Literal["fast", "slow"] = "fast"


class Outer(Config):
    name: str = "x"
    steps: int = Field(3, ge=1, description="steps")
    inner: Inner | None = Inner()
    needed: int


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(PrefoptError) as caught:
        parse_config(Outer, data, "file.yaml")
    message = str(caught.value)
    assert message.startswith("file.yaml: ")
    assert "\n" not in message
    return message


def test_settings_are_frozen() -> None:
    config = parse_config(Outer, {"needed": 1}, "here")
    with pytest.raises(ValueError, match="frozen"):
        config.name = "y"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"needed": 1, "stepz": 2}, "unknown key 'stepz', did you mean 'steps'?"),
        ({"needed": 1, "inner": {"rat": 2}}, "unknown key 'inner.rat', did you mean 'rate'?"),
        ({"needed": 1, "inner": {"q": 2}}, "unknown key 'inner.q', known: mode, rate"),
        ({}, "key 'needed' is missing"),
        ({"needed": 1, "steps": 0}, "steps: Input should be greater than or equal to 1 (given: 0)"),
        ({"needed": 1, "steps": "many"}, "(given: 'many')"),
        ({"needed": 1, "inner": {"rate": float("nan")}}, "inner.rate"),
        ({"needed": 1, "inner": {"mode": "quick"}}, "inner.mode: Input should be 'fast' or 'slow'"),
    ],
)
def test_bad_settings_name_the_key(data: dict[str, Any], words: str) -> None:
    assert words in refused(data)


def test_nearest() -> None:
    assert nearest("wieght", ["weight", "margin"]) == "did you mean 'weight'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\n", "line 2"),
        ("- 1\n- 2\n", "holds a list, expected 'key: value' lines"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4 key 'c' stands twice"),
        ("a: !!python/object:os.system x\n", "line 1"),
        ("a: 2026-99-99\n", "month"),
        ("a: " + "[" * 1500, "nested too deep"),
    ],
)
def test_bad_yaml_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PrefoptError) as caught:
        load_yaml(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert words in message


def test_yaml_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PrefoptError, match="No such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(PrefoptError, match="Is a directory"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(PrefoptError, match="not UTF-8 at byte 3"):
        load_yaml(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n", encoding="utf-8")
    assert load_yaml(tmp_path / "empty.yaml") == {}


def test_yaml_merge_keys_and_anchors_still_work(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\n", encoding="utf-8")
    assert load_yaml(path)["other"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.05", 0.05),
        ("1e-5", 1e-5),
        ("-3", -3),
        ("true", True),
        ("null", None),
        ("9" * 5000, "9" * 5000),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("[1, two]", [1, "two"]),
        ("{a: 1}", {"a": 1}),
        ("'5'", "5"),
        ("word", "word"),
        ("runs/2026-01-02", "runs/2026-01-02"),
        # texts that YAML 1.1 would turn into something else
        ("2026-01-02", "2026-01-02"),
        ("2026-99-99", "2026-99-99"),
        ("12:30:45", "12:30:45"),
        ("You are: a poet", "You are: a poet"),
        ("C# is # nice", "C# is # nice"),
        ("- item", "- item"),
        ("&anchor x", "&anchor x"),
        ("nan", "nan"),
        ("infinity", "infinity"),
        ("# note", "# note"),
        ("[" * 400, "[" * 400),
    ],
    ids=lambda v: str(v)[:20],
)
def test_values_of_flags(text: str, value: Any) -> None:
    found = parse_overrides(["--a.b-c", text])["a"]["b_c"]
    assert found == value
    assert type(found) is type(value)
    assert parse_overrides([f"--a.b_c={text}"]) == parse_overrides(["--a.b-c", text])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["stray"], "unexpected argument 'stray'"),
        (["--"], "unexpected argument"),
        (["--a"], "option '--a' has no value"),
        (["--a", "--b", "1"], "option '--a' has no value"),
        (["--a", "1", "--a.b", "2"], "goes below 'a', which was given a value"),
    ],
)
def test_bad_flags(words: list[str], problem: str) -> None:
    with pytest.raises(PrefoptError) as caught:
        parse_overrides(words)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (2**63, "16 hexadecimal digits"),
        ([{"x": 10**400}], r"key\.0\.x: a number of"),
        ("a\udcff", "is not UTF-8"),
        ("a\0b", "holds a zero byte"),
        ({"a\0": 1}, "a key in it"),
        ("x" * 5000, r"\(5002 characters\)"),
    ],
)
def test_values_that_no_setting_can_be(value: Any, problem: str) -> None:
    class Small(Config):
        key: int = 0

    with pytest.raises(PrefoptError, match=problem) as caught:
        parse_config(Small, {"key": value}, "file")
    assert len(str(caught.value)) < 600
    assert str(caught.value).startswith("file: key")


def test_settings_without_end_are_refused(tmp_path: Path) -> None:
    class Open(Config):
        a: Any = None
        steps: int = 1

    laughs = "a: &a [x, x]\n" + "".join(
        f"{k}: &{k} [{', '.join([f'*{before}'] * 9)}]\n"
        for before, k in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text in ("a: &a {x: *a}", "a: &a [*a]", laughs.replace("i: &i", "steps: &i")):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(PrefoptError, match=r"nested too deep, or too many values|unknown key"):
            parse_config(Open, load_yaml(tmp_path / "r.yaml"), "file")
    with pytest.raises(PrefoptError, match="steps: a number of 333 hexadecimal digits"):
        parse_config(Open, {"steps": "9" * 400}, "file")


tree = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
).filter(lambda v: isinstance(v, dict))


@settings(deadline=None, max_examples=60)
@given(tree, tree)
def test_merge_is_right_biased_and_leaves_its_inputs(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = yaml.safe_dump([base, over])
    merged = merge(base, over)
    assert yaml.safe_dump([base, over]) == before
    assert merge(merged, over) == merged
    assert merge({}, base) == merge(base, {}) == base
    assert set(merged) == set(base) | set(over)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=30))
def test_any_flag_value_is_read_or_refused(text: str) -> None:
    try:
        parse_overrides([f"--key={text}"])
    except PrefoptError as error:
        assert "\n" not in str(error)  # noqa: PT017
