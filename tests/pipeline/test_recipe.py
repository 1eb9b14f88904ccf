"""Recipes: checked before anything starts, with errors that help."""

from pathlib import Path

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.pipeline.recipe import Recipe, load_recipe, resolve_arms

RECIPES = sorted((Path(__file__).parents[2] / "src" / "prefopt" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert resolve_arms(recipe)


def _write(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("trian: {}", "did you mean 'train'"),
        ("train: {learning_rat: 1}", "did you mean 'learning_rate'"),
        ("select: {fraction: 1.5}", "select.fraction"),
        ("arms: {base: {}}", "'base' is kept for the untrained model"),
        ("arms: {a: {data: {}}}", "arms.a: unknown key 'data'"),
        ("arms: {a: {select: {rul: top}}}", "did you mean 'rule'"),
        ("- 1", "holds a list"),
        ("a: [", "mend the YAML"),
    ],
)
def test_bad_recipes_name_the_place_and_the_remedy(tmp_path, text, part):
    with pytest.raises(PrefoptError, match=r".*") as caught:
        load_recipe(_write(tmp_path, text))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_reach_nested_keys_and_arms_keep_them(tmp_path):
    path = _write(tmp_path, "arms: {a: {train: {learning_rate: 2.0e-5}}, b: {}}")
    recipe = load_recipe(path, {"train": {"learning_rate": 1e-3, "epochs": 3}})
    arms = resolve_arms(recipe)
    assert arms["a"].train.learning_rate == 2e-5
    assert arms["a"].train.epochs == arms["b"].train.epochs == 3
    assert arms["b"].train.learning_rate == 1e-3


def test_a_recipe_without_arms_is_its_own_main_arm():
    recipe = Recipe()
    assert resolve_arms(recipe) == {"main": recipe}


def test_null_skips_a_stage(tmp_path):
    assert load_recipe(_write(tmp_path, "select: null")).select is None


def test_losses_say_what_the_reference_pass_computes() -> None:
    base = {"train": {"loss": "dpo"}}
    arms = {"dpo": {}, "ld": {"train": {"loss": "ld_dpo"}}, "kto": {"train": {"loss": "kto"}}}
    plain = resolve_arms(parse_config(Recipe, base, "r"))["main"].reference
    assert plain is not None
    assert (plain.prefix_logps, plain.mismatched) == (None, None)
    found = [
        arm.reference for arm in resolve_arms(parse_config(Recipe, {**base, "arms": arms}, "r")).values()
    ]
    assert all(r is not None and (r.prefix_logps, r.mismatched) == (True, True) for r in found)
    off = {"train": {"loss": "kto"}, "reference": {"mismatched": False}}
    with pytest.raises(PrefoptError, match=r"reference.mismatched is false, but train.loss needs it"):
        resolve_arms(parse_config(Recipe, off, "r"))
