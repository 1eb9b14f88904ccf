"""A recipe: every setting of a run in one YAML file, arms included, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import load_plugins, names_of
from prefopt.core.settings import Config, load_yaml, merge, parse_config
from prefopt.pipeline.sweep_settings import Settings, SweepConfig, tried_by_arm, with_settings
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.stages.judge.settings import JudgeConfig
from prefopt.stages.rank.settings import RankConfig
from prefopt.stages.reference.settings import ReferenceConfig
from prefopt.stages.sample.settings import SampleConfig
from prefopt.stages.select.settings import SelectConfig
from prefopt.stages.train.settings import TrainConfig
from prefopt.stages.weight.settings import WeightConfig

ARM_KEYS = (
    *("sample", "judge", "rank", "reference", "select", "weight", "train", "evaluate"),
    *("rounds", "reference_model"),
)
BASE = "base"
# setting of `reference` -> the input of a loss that wants it
WANTED = {"prefix_logps": "ref_chosen_prefix", "mismatched": "kl"}


class TinyConfig(Config):
    """The built-in smoke model (`model: tiny`): byte-level BPE of the input, ChatML, random weights."""

    vocab_size: int = Field(2048, ge=300, description="size of the byte-level BPE vocabulary")
    warmup_steps: int = Field(
        0, ge=0, description="supervised steps on the prompts' answers, so that log-probs mean something"
    )


class Recipe(Config):
    """All settings of a run. A stage set to null is skipped."""

    name: str = Field(
        "run", pattern=r"^\.*[\w-][\w.-]*$", description="name of the run; its folder is runs/NAME"
    )
    about: str = Field("", description="one sentence for the report")
    plugins: list[str] = Field(
        [], description="modules and files that add losses, judges, verifiers, ... (docs/extending.md)"
    )
    seed: int = Field(0, ge=0, description="seed of the whole run; every stage derives its own")
    seeds: list[int] = Field(
        [], description="run all arms with each of these seeds instead, and report means over seeds"
    )
    model: str = Field("tiny", description="model directory, builtin:quickstart/base, tiny, or a hub name")
    tiny: TinyConfig = TinyConfig()
    rounds: int = Field(
        1, ge=1, le=100, description="times the run samples from its model, ranks and trains (docs/rounds.md)"
    )
    reference_model: Literal["last", "fixed"] = Field(
        "last",
        description="reference of a further round: last, the model it starts from; fixed, the recipe's",
    )
    resample: bool = Field(
        False,
        description="rounds on data that holds completions or pairs: sample its prompts from round 2 on",
    )
    data: DataConfig = DataConfig()
    sample: SampleConfig | None = SampleConfig()
    judge: JudgeConfig | None = JudgeConfig()
    rank: RankConfig | None = RankConfig()
    reference: ReferenceConfig | None = ReferenceConfig()
    select: SelectConfig | None = SelectConfig()
    weight: WeightConfig | None = WeightConfig()
    train: TrainConfig | None = TrainConfig()
    evaluate: EvaluateConfig | None = EvaluateConfig()
    arms: dict[str, dict[str, Any]] = Field({}, description="named overrides; the last one is the main arm")
    sweep: SweepConfig | None = Field(
        None, description="settings that every arm tries first, on tuning prompts (docs/sweeps.md)"
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
            raise ValueError("seeds must be different whole numbers from 0 on, e.g. [0, 1, 2]")
        return seeds

    def given(self) -> dict[str, Any]:
        """The settings that were given, as plain data."""
        return self.model_dump(mode="json", exclude_unset=True)


def packaged_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    root = Path(str(resources.files("prefopt.recipes")))
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a packaged one; a file of that name in the working folder goes first.

    Raises:
        PrefoptError: neither; names the nearest packaged recipe.
    """
    path, packaged = Path(name), packaged_recipes()
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    if str(name) not in packaged:
        raise PrefoptError(
            f"no recipe {str(name)!r}: it is no file, and among the packaged ones, {nearest(str(name), packaged)}"
        )
    return packaged[str(name)]


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe (a file, the name of a packaged one, or its content) with overrides on top.

    Its plug-ins, and those of the overrides, are loaded first.

    Raises:
        PrefoptError: unreadable file, unknown key (nearest known one named), bad value, in the recipe or in an arm.
    """
    if isinstance(source, Mapping):
        given, where, home = dict(source), "recipe", None
    else:
        path = find_recipe(source)
        given, where, home = load_yaml(path), str(path), path.parent
        given.setdefault("name", path.stem)
    data = merge(given, overrides or {})
    plugins = [*names_of(given.get("plugins")), *names_of((overrides or {}).get("plugins"))]
    load_plugins(plugins, home)
    if plugins:
        data["plugins"] = list(dict.fromkeys(plugins))
    if home is not None:
        data = _with_checks_found(data, home)
    recipe = parse_config(Recipe, data, where)
    resolve_arms(recipe, where)
    if recipe.sweep is not None:
        resolve_sweep(recipe, where)
    return recipe


def _with_checks_found(data: Any, home: Path) -> Any:
    """The recipe with every check of the user's (`{kind: function, path: ...}`) that lies beside it named by its path."""
    if isinstance(data, list):
        return [_with_checks_found(value, home) for value in data]
    if not isinstance(data, dict):
        return data
    found = {key: _with_checks_found(value, home) for key, value in data.items()}
    path = found.get("path")
    if found.get("kind") == "function" and isinstance(path, str):
        beside = home / path
        if not Path(path).expanduser().exists() and beside.is_file():
            found["path"] = str(beside)
    return found


def resolve_arms(recipe: Recipe, where: str = "recipe") -> dict[str, Recipe]:
    """Name -> complete recipe of each arm, in order; the last is the main arm. Without arms: `{"main": recipe}`.

    Settings of `reference` left to the losses are filled in, the same in all arms, so that they share the stage.

    Raises:
        PrefoptError: an arm named base (the untrained model is always reported so), or with a bad key or value.
    """
    if not recipe.arms:
        return _with_wanted_references({"main": recipe}, where)
    plain = recipe.model_dump(exclude={"arms", "sweep"}, exclude_unset=True)
    arms = {}
    for name, override in recipe.arms.items():
        if name == BASE or not name.replace("-", "").replace("_", "").isalnum():
            raise PrefoptError(
                f"{where}: arms.{name}: 'base' is kept for the untrained model; use letters, digits, - or _"
            )
        override = override or {}
        for key in override:
            if key not in ARM_KEYS:
                raise PrefoptError(f"{where}: arms.{name}: unknown key {key!r}, {nearest(key, ARM_KEYS)}")
        arms[name] = parse_config(Recipe, merge(plain, override), f"{where}: arms.{name}")
    return _with_wanted_references(arms, where)


@dataclass(frozen=True)
class Candidate:
    """Settings that an arm tries. name: `ARM-1`, `ARM-2`, ...; override: the arm in the recipe, with these settings."""

    name: str
    settings: Settings
    override: dict[str, Any]


def resolve_sweep(recipe: Recipe, where: str = "recipe") -> dict[str, list[Candidate]]:
    """Arm -> what it tries, in order; `main` where the recipe has no arms.

    Raises:
        PrefoptError: arms that try different numbers, a setting that is none, a seed that is reported.
    """
    sweep = recipe.sweep
    assert sweep is not None
    if sweep.seed in (recipe.seeds or [recipe.seed]):
        raise PrefoptError(
            f"{where}: sweep.seed {sweep.seed} is a seed of the report, which would then know its own tuning; give another"
        )
    plain = recipe.model_dump(exclude={"arms", "sweep", "seeds"}, exclude_unset=True)
    arms = recipe.arms or {"main": {}}
    found: dict[str, list[Candidate]] = {}
    for arm, tried in tried_by_arm(sweep, list(arms), where).items():
        override = arms[arm] or {}
        whole = merge(plain, override)
        found[arm] = []
        for number, settings in enumerate(tried, start=1):
            place = f"{where}: sweep: arm {arm}, setting {number}"
            changed = {**override, **with_settings(whole, settings, ARM_KEYS, place)}
            parse_config(Recipe, merge(plain, changed), place)
            found[arm].append(Candidate(f"{arm}-{number}", settings, changed))
    return found


def _with_wanted_references(arms: dict[str, Recipe], where: str) -> dict[str, Recipe]:
    """What the arms' training needs of the reference pass, put where `reference` leaves it open: columns that losses read, and
    the arithmetic of the training, so that both have the same numeric path.

    Raises:
        PrefoptError: a setting is false and an arm's loss needs it.
    """
    needs = {name: arm.train.loss_sum.needs for name, arm in arms.items() if arm.train is not None}
    filled = {}
    for name, arm in arms.items():
        update: dict[str, Any] = {}
        for setting, wanted in WANTED.items():
            given = getattr(arm.reference, setting, None)
            if given is False and wanted in needs.get(name, ()):
                raise PrefoptError(
                    f"{where}: reference.{setting} is false, but train.loss needs it; remove the setting"
                )
            if given is None and any(wanted in names for names in needs.values()):
                update[setting] = True
        is_mixed = arm.train is not None and arm.train.precision == "mixed"
        if arm.reference is not None and is_mixed and arm.reference.dtype == "auto":
            update["dtype"] = "mixed"
        if arm.reference is not None and update:
            arm = arm.model_copy(update={"reference": arm.reference.model_copy(update=update)})
        filled[name] = arm
    return filled
