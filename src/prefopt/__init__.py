"""Preference optimization as one pipeline: sample, judge, rank, select, weigh, train, evaluate, report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from prefopt.core.errors import PrefoptError
    from prefopt.engines import register_engine
    from prefopt.judges import register_judge
    from prefopt.losses import LOSSES, build_loss, register_loss
    from prefopt.pipeline.face import Run, SeedRuns, run
    from prefopt.pipeline.functions import (
        Result,
        evaluate,
        judge,
        load_dataset,
        rank,
        reference,
        sample,
        select,
        train,
        weight,
    )
    from prefopt.pipeline.trainer import Trainer, TrainerConfig
    from prefopt.rules.selection import register_rule
    from prefopt.stages.data.reading.added import register_format
    from prefopt.verify import Score, register_verifier

# name -> module; imported when the name is asked for, so that `import prefopt` loads neither torch nor anything else
_PLACES = {
    "LOSSES": "prefopt.losses",
    "PrefoptError": "prefopt.core.errors",
    "Result": "prefopt.pipeline.functions",
    "Run": "prefopt.pipeline.face",
    "SeedRuns": "prefopt.pipeline.face",
    "Score": "prefopt.verify",
    "Trainer": "prefopt.pipeline.trainer",
    "TrainerConfig": "prefopt.pipeline.trainer",
    "build_loss": "prefopt.losses",
    "evaluate": "prefopt.pipeline.functions",
    "judge": "prefopt.pipeline.functions",
    "load_dataset": "prefopt.pipeline.functions",
    "rank": "prefopt.pipeline.functions",
    "reference": "prefopt.pipeline.functions",
    "register_engine": "prefopt.engines",
    "register_format": "prefopt.stages.data.reading.added",
    "register_judge": "prefopt.judges",
    "register_loss": "prefopt.losses",
    "register_rule": "prefopt.rules.selection",
    "register_verifier": "prefopt.verify",
    "run": "prefopt.pipeline.face",
    "sample": "prefopt.pipeline.functions",
    "select": "prefopt.pipeline.functions",
    "train": "prefopt.pipeline.functions",
    "weight": "prefopt.pipeline.functions",
}
_FOLDERS = ("engines", "judges", "losses", "models", "report", "rules", "suite", "tools", "verify")

__all__ = [
    "LOSSES",
    "PrefoptError",
    "Result",
    "Run",
    "Score",
    "SeedRuns",
    "Trainer",
    "TrainerConfig",
    "__version__",
    "build_loss",
    "evaluate",
    "judge",
    "load_dataset",
    "rank",
    "reference",
    "register_engine",
    "register_format",
    "register_judge",
    "register_loss",
    "register_rule",
    "register_verifier",
    "run",
    "sample",
    "select",
    "train",
    "weight",
]


def __getattr__(name: str) -> Any:
    """A public name, or a folder of the package (`prefopt.verify`), imported when it is asked for."""
    if name in _PLACES:
        found = getattr(importlib.import_module(_PLACES[name]), name)
        globals()[name] = found
        return found
    if name in _FOLDERS:
        return importlib.import_module(f"prefopt.{name}")
    raise AttributeError(f"module 'prefopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_FOLDERS})
