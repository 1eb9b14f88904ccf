"""What cannot work is said when the data is read, before a model is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.pipeline.obstacles import check_columns
from prefopt.pipeline.recipe import Recipe, load_recipe, resolve_arms
from prefopt.pipeline.run import run
from prefopt.stages.rank.pairs import COUNTS

PAIRS = ("id", "prompt_id", "prompt", "split", "chosen", "rejected")


def check(settings: dict[str, Any], kind: str, columns: tuple[str, ...]) -> None:
    check_columns(resolve_arms(parse_config(Recipe, settings, "test")), kind, columns)


@pytest.mark.parametrize(
    ("settings", "kind", "columns", "problem"),
    [
        ({}, "pairs", PAIRS, "scheme difficulty needs columns n, n_correct"),
        ({"weight": {"scheme": "column"}}, "pairs", PAIRS, "column 'weight' of given weights is missing"),
        ({"weight": {"scheme": "entropy"}}, "unpaired", PAIRS, "needs column answer_entropy"),
        ({"judge": None}, "prompts", PAIRS, "scheme difficulty needs columns n, n_correct"),
        ({"weight": {"scheme": "difficulty", "errors": "class"}}, "pairs", (*PAIRS, *COUNTS), "needs column n_rejected_class"),
        ({"weight": None, "reference": None}, "pairs", PAIRS, "train.loss reads reference log-probs"),
        ({"weight": None, "reference": None}, "pairs", (*PAIRS, "ref_chosen_logps"), "train.loss reads reference"),
        ({"weight": None, "arms": {"a": {}, "b": {"weight": {"scheme": "minmax"}}}}, "pairs", PAIRS, "arm 'b': weight"),
    ],
)  # fmt: skip
def test_missing_columns_are_told(settings, kind, columns, problem):
    with pytest.raises(PrefoptError, match=problem) as caught:
        check(settings, kind, columns)
    assert str(caught.value).startswith("arm ")


@pytest.mark.parametrize(
    ("settings", "kind", "columns"),
    [
        ({}, "prompts", PAIRS[:4]),
        ({}, "completions", PAIRS[:4]),
        ({}, "pairs", (*PAIRS, *COUNTS)),
        ({"weight": {"scheme": "uniform"}}, "pairs", PAIRS),
        ({"weight": {"scheme": "column"}}, "pairs", (*PAIRS, "weight")),
        ({"weight": {"scheme": "majority"}}, "prompts", PAIRS[:4]),
        ({"weight": None, "reference": None}, "pairs", (*PAIRS, "ref_chosen_logps", "ref_rejected_logps")),
        ({"weight": None, "reference": None, "train": {"lora": {}}}, "pairs", PAIRS),
        ({"weight": None, "reference": None, "train": {"loss": "simpo"}}, "pairs", PAIRS),
        ({"weight": None, "reference": None, "train": None}, "pairs", PAIRS),
    ],
)
def test_what_can_work_passes(settings, kind, columns):
    check(settings, kind, columns)


def test_a_run_on_pairs_stops_at_once_where_the_weights_need_samples(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n' * 3)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data: {{path: {tmp_path / 'pairs.jsonl'}, heldout: 0}}")
    with pytest.raises(PrefoptError, match="schemes uniform and column"):
        run(load_recipe(recipe), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == ["00-data"]
