"""Help, both forms of keys, completion, packaged recipes and their schema: every verb by one mechanism."""

import json
from typing import Literal

import jsonschema
import pytest
import yaml
from command import command

from prefopt.cli import app as cli
from prefopt.cli.completion import candidates
from prefopt.cli.help import kind_text
from prefopt.cli.registry import SETTINGS, Verb
from prefopt.cli.verbs import MODEL_VERBS, VERBS, stage_of
from prefopt.cli.words import read_words, settings_paths
from prefopt.core.settings import load_yaml, parse_overrides
from prefopt.pipeline.recipe import ARM_KEYS, Recipe, packaged_recipes
from prefopt.pipeline.schema import recipe_schema

TOP = cli.all_verbs()
LISTED = list(TOP.walk())


@pytest.mark.parametrize("verb", LISTED, ids=lambda verb: verb.name)
def test_every_listed_verb_shows_the_same_help_three_ways(verb):
    if "suite" in verb.path:
        pytest.importorskip("jax")
    shown = command("help", *verb.path)
    assert shown.exit_code == 0, shown.stderr
    if verb.name not in ("losses", "recipes"):  # groups that also do something alone show their verbs
        assert shown.stdout.startswith(f"usage: prefopt {verb.name}")
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert command(*verb.path, "--help").stdout == command(*verb.path, "-h").stdout == shown.stdout


@pytest.mark.parametrize("verb", LISTED, ids=lambda verb: verb.name)
def test_help_lists_every_option_and_setting_with_a_meaning(verb):
    if "suite" in verb.path:
        pytest.importorskip("jax")
    text = command("help", *verb.path).stdout
    if verb.name in ("losses", "recipes"):
        return
    lines = text.splitlines()
    for path in settings_paths(verb.settings()):
        place = next(n for n, line in enumerate(lines) if line.startswith(f"  --{path} "))
        rest = " ".join(line.strip() for line in lines[place : place + 3])
        assert "(default:" in text[text.index(f"  --{path} ") :][:900] or "(required)" in rest
        assert lines[place + 1].startswith("      "), f"{path} has no meaning"
    for name in verb.signature.fields:
        assert name.replace("_", "-") in text


def test_types_bounds_choices_and_defaults_are_shown():
    text = " ".join(command("help", "train").stdout.split())
    assert "--schedule cosine|linear|constant (default: cosine)" in text
    assert "--steps int >= 1 or null (default: null)" in text
    assert "--lora.r int >= 1 (default: 16)" in text
    assert "--loss dpo|" in text
    assert "--gradient_checkpointing true|false (default: false)" in text
    assert "--rule top|bottom|" in command("help", "select").stdout.replace("\n", "")
    assert "--train.learning_rate number > 0 or null" in command("help", "run").stdout


def test_open_verbs_have_settings_and_closed_ones_none():
    assert {verb.path for verb in LISTED if verb.is_open} == set(SETTINGS)
    for name in VERBS:
        stage = stage_of(name)
        assert cli.find([name])[0].settings() is stage.config
        assert stage.needs_model == (name in MODEL_VERBS)


def _settings(*words):
    verb, left = cli.find(list(words))
    assert isinstance(verb, Verb)
    return parse_overrides(read_words(verb, left).settings)


@pytest.mark.parametrize(
    ("words", "tree"),
    [
        (["train", "--steps", "5"], {"steps": 5}),
        (["train", "--train.steps", "5"], {"steps": 5}),
        (["run", "r.yaml", "--steps", "5"], {"train": {"steps": 5}}),
        (["run", "r.yaml", "--train.steps=5"], {"train": {"steps": 5}}),
        (["run", "--train.steps", "5", "r.yaml"], {"train": {"steps": 5}}),
        (["weigh", "--weight.alpha", "1"], {"alpha": 1}),
        (["weigh", "--weigh.alpha", "1"], {"alpha": 1}),
        (["rank", "--judge", "recorded", "--judge-name", "x"], {"judge": {"kind": "recorded", "name": "x"}}),
        (["rank", "--rank.judge.kind", "local", "--model", "m"], {"judge": {"kind": "local", "model": "m"}}),
        (["judge", "--kind", "reward_model", "--model", "m"], {"kind": "reward_model", "model": "m"}),
        (["judge", "--extract", "number"], {"verifier": {"extract": "number"}}),
        (["sample", "--system", "42"], {"system": "42"}),
        (["train", "--gradient_checkpointing", "--steps", "2"], {"gradient_checkpointing": True, "steps": 2}),
        (["check", "f", "--columns.q", "prompt"], {"columns": {"q": "prompt"}}),
        (["train", "--lora.r", "4", "--lr", "x"][:3], {"lora": {"r": 4}}),
    ],
)
def test_both_forms_of_a_key(words, tree):
    assert _settings(*words) == tree


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "quickstart", "--max_length", "5"], "--reference.max_length or --train.max_length"),
        (["run", "quickstart", "--trian.steps", "5"], "did you mean 'train'"),
        (["run"], "RECIPE is missing"),
        (["run", "a", "b"], "unexpected argument 'b'"),
        (["select", "--input", "x", "-q"], "unknown option '-q'"),
        (["select", "--ouput", "x", "--input", "y"], "did you mean 'output'"),
        (["select", "--input", "x", "--model", "m"], "unknown key 'model'"),
        (["recipes", "show", "--otput", "x"], "it has no options"),
        (["report", "--otput", "x"], "did you mean 'output'"),
        (["train", "--steps"], "has no value"),
        (["sample", "--seed", "x", "--input", "p"], "seed"),
        (["suite", "bnch"], "did you mean 'bench'"),
        (["suite", "--preset", "x"], "unknown option"),
        (["help", "suite", "tun"], "did you mean 'tune'"),
        (["recipes", "show", "quickstrat"], "did you mean 'quickstart'"),
        (["completion", "tcsh"], "zsh"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(words, part):
    done = command(*words)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert part in done.stderr


def test_groups_list_their_verbs():
    assert command("-h").stdout == command("help").stdout == command().stdout
    assert all(f"  {name} " in command("-h").stdout for name in TOP.verbs)
    suite = command("suite").stdout
    assert suite == command("suite", "--help").stdout == command("help", "suite").stdout
    assert all(f"  {name} " in suite for name in TOP.verbs["suite"].verbs)
    assert command("--version").stdout.startswith("prefopt ")


@pytest.mark.parametrize(
    ("words", "has"),
    [
        (["se"], "select"),
        (["suite", "b"], "bench"),
        (["help", "sel"], "select"),
        (["train", "--sch"], "--schedule"),
        (["train", "--schedule", "c"], "cosine"),
        (["run", "quickstart", "--select.rule", ""], "two_tailed"),
        (["select", "--select.rule", "to"], "top"),
        (["run", "qu"], "quickstart"),
        (["recipes", "show", ""], "gsm8k"),
        (["judge", "--retry"], "--retry-failed"),
    ],
)
def test_completion(words, has):
    found = candidates(TOP, words)
    assert has in found
    assert all(word.startswith(words[-1]) for word in found)
    assert command("__complete", *words).stdout.splitlines() == found


def test_completion_leaves_files_to_the_shell():
    assert candidates(TOP, ["select", "--input", ""]) == []
    assert candidates(TOP, ["run", "quickstart", "--data", ""]) == []
    for shell in ("bash", "zsh", "fish"):
        assert "prefopt __complete" in command("completion", shell).stdout


def test_recipes_are_listed_shown_and_described():
    listed = command("recipes").stdout
    for name, path in packaged_recipes().items():
        assert any(line.startswith(f"{name} ") and len(line.split()) > 4 for line in listed.splitlines())
        assert command("recipes", "show", name).stdout == path.read_text(encoding="utf-8")
    assert json.loads(command("recipes", "schema").stdout) == recipe_schema()


def test_schema_takes_what_is_right_and_refuses_what_is_wrong():
    schema = recipe_schema()
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)
    for path in packaged_recipes().values():
        assert [error.message for error in checker.iter_errors(load_yaml(path))] == []
    good = (
        "rank: {judge: recorded}\nsample: {models: [a, null, {model: b}]}\narms: {x: {select: null}, y: null}"
    )
    assert list(checker.iter_errors(yaml.safe_load(good))) == []
    for short in (
        "judge: {kind: function, path: my_checks.py, name: check}",
        "judge: {kind: regex, pattern: '^a', ignore_case: true}",
        "judge: {kind: sum, parts: [{kind: length, max_words: 5, weight: 2}, {kind: answer}]}",
        "judge: {kind: verifier, verifier: {kind: json_schema, schema: {type: object}}}",
        "sweep: {share: 0.1, all: {train.beta: [0.1, 0.2]}, arms: {x: [{train: {beta: 1}}], y: null}}",
    ):
        assert list(checker.iter_errors(yaml.safe_load(short))) == [], short
    for bad in (
        "judge: {kind: regexp}",
        "judge: {kind: regex, patern: a}",
        "sweep: {share: 0.1, everything: {}}",
        "trian: {}",
        "train: {schedule: cosin}",
        "train: {steps: 0}",
        "arms: {x: {train: {stepz: 1}}}",
        "arms: {x: {data: {path: y}}}",
    ):
        assert list(checker.iter_errors(yaml.safe_load(bad))), bad
    assert set(schema["$defs"]["Arm"]["properties"]) == set(ARM_KEYS) <= set(Recipe.model_fields)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (tuple[str, ...], "[text, ...]"),
        (tuple[float, float], "[number, number]"),
        (list[int], "[int, ...]"),
        (dict[str, str], "{name: text, ...}"),
        (str | list[str], "text or [text, ...]"),
        (Literal["a", "b"], "a|b"),
    ],
)
def test_kinds_in_words(kind, text):
    assert kind_text(kind) == text


def test_plugins_are_an_option_of_every_verb():
    assert "--plugins [text, ...]" in command("help", "select").stdout
    assert command("help", "run").stdout.count("  --plugins ") == 1
    assert "--plugins" in candidates(TOP, ["select", "--pl"])
