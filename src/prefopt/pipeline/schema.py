"""The JSON Schema of recipes, arms included: what editors complete and check while a recipe is written."""

from __future__ import annotations

import copy
from typing import Any

from prefopt.pipeline.recipe import ARM_KEYS, Recipe
from prefopt.verify import VERIFIERS
from prefopt.verify.verifiers import OWN, options_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TEXT = {"type": "string"}
# class -> field -> short forms that are read besides the settings themselves
SHORT: dict[str, dict[str, dict[str, Any]]] = {
    "RankConfig": {"judge": TEXT},
    "SampleConfig": {
        "models": {
            "type": "array",
            "items": {"anyOf": [TEXT, {"type": "null"}, {"$ref": "#/$defs/ModelSource"}]},
        }
    },
}


def recipe_schema() -> dict[str, Any]:
    """Keys, types, choices, bounds, defaults and meanings of a recipe; an unknown key is an error, in an arm too."""
    schema = Recipe.model_json_schema(by_alias=True)
    for kind, fields in SHORT.items():
        for name, form in fields.items():
            schema["$defs"][kind]["properties"][name].setdefault("anyOf", []).append(form)
    _add_verifiers(schema["$defs"])
    own = schema["properties"]
    arm = {name: copy.deepcopy(own[name]) for name in ARM_KEYS}
    for name in ARM_KEYS:  # an arm says what differs: the defaults are the recipe's
        arm[name].pop("default", None)
    schema["$defs"]["Arm"] = {
        "description": "What differs in this arm; null takes a stage away.",
        "type": ["object", "null"],
        "properties": arm,
        "additionalProperties": False,
    }
    own["arms"]["additionalProperties"] = {"$ref": "#/$defs/Arm"}
    return {"$schema": DIALECT, **schema, "title": "prefopt recipe"}


def _add_verifiers(kinds: dict[str, Any]) -> None:
    """A verifier's options may stand beside its `kind`, and the judge takes a verifier by its name."""
    options: dict[str, Any] = {name: {} for kind in VERIFIERS for name in options_of(kind)}
    for kind in ("VerifyConfig", "Part"):
        kinds[kind]["properties"] = {**options, **kinds[kind]["properties"]}
    judge, verifier = kinds["JudgeConfig"]["properties"], kinds["VerifyConfig"]["properties"]
    kinds["JudgeConfig"]["properties"] = {**verifier, **judge}
    judge["kind"]["enum"] = [*judge["kind"]["enum"], *OWN, *VERIFIERS]
    kinds["JudgeConfig"]["properties"]["kind"] = judge["kind"]
