"""`--plugins` on every command line, and `plugins:` in a file of settings."""

import json

import pytest

from prefopt.cli.app import call
from prefopt.cli.plugins import split_plugins
from prefopt.core import plugins
from prefopt.core.errors import PrefoptError
from prefopt.verify.verifiers import VERIFIERS

PLUGIN = """import prefopt
@prefopt.register_verifier("{name}")
def {name}(prompt, completion, row, *, words=2):
    return len(completion.split()) <= words
"""
ROWS = [
    {
        "prompt": "q",
        "completions": [
            {"completion": "one two", "model": "m"},
            {"completion": "one two three", "model": "m"},
        ],
    }
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    yield
    for name in plugins.added("verifier"):
        plugins.remove_part("verifier", name, VERIFIERS)


@pytest.mark.parametrize(
    ("words", "rest", "named"),
    [
        (["a", "--plugins", "x,./y.py", "--b", "1"], ["a", "--b", "1"], ["x", "./y.py"]),
        (["--plugins=[x, ./y.py]", "a"], ["a"], ["x", "./y.py"]),
        (["a", "--plugin", "x"], ["a", "--plugin", "x"], []),
    ],
)
def test_the_words_of_plugins_are_taken_out(words, rest, named):
    assert split_plugins(words) == (rest, named)


@pytest.mark.parametrize("words", [["a", "--plugins"], ["a", "--plugins", "--b"], ["a", "--plugins="]])
def test_the_option_needs_a_value(words):
    with pytest.raises(PrefoptError, match="has no value"):
        split_plugins(words)


def test_a_verb_uses_what_a_plug_in_adds(tmp_path):
    (tmp_path / "by_option.py").write_text(PLUGIN.format(name="by_option"))
    call(
        [
            "judge",
            "--plugins",
            "./by_option.py",
            "--input",
            "rows.json",
            "--kind",
            "by_option",
            "--output",
            "one",
        ]
    )
    assert [row["is_correct"] for row in _table("one")] == [True, False]
    (tmp_path / "by_file.py").write_text(PLUGIN.format(name="by_file"))
    (tmp_path / "judge.yaml").write_text("plugins: [./by_file.py]\nkind: by_file\noptions: {words: 3}\n")
    call(["judge", "--config", "judge.yaml", "--input", "rows.json", "--output", "two"])
    assert [row["is_correct"] for row in _table("two")] == [True, True]


def _table(folder):
    from pathlib import Path

    from prefopt.tables.folder import StageFolder

    return StageFolder(Path(folder)).table().to_list()
