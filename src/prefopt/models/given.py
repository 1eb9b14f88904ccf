"""Models that are given as objects: written to a directory, since every stage reads models from directories."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.models.find import resolve_model


def given_model(model: Any, target: Path) -> Path:
    """Directory of a model that is named (path, builtin, hub) or given as an object, which is written to `target`.

    model: a name, a transformers model, or (model, tokenizer). A model without tokenizer takes that of the directory
    or hub name that it was loaded from.

    Raises:
        PrefoptError: no tokenizer, or no such model.
    """
    if isinstance(model, str | Path):
        return resolve_model(str(model))
    from prefopt.models.output import write_model

    network, tokenizer = with_tokenizer(model)
    temporary = target.with_name(f".{target.name}.new")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_model(
            network, tokenizer, "A model that was given in memory.\n", temporary=temporary, target=target
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def with_tokenizer(model: Any, tokenizer: Any = None) -> tuple[Any, Any]:
    """(model, tokenizer) of `model`, or of a pair of both; without a tokenizer that of where the model came from.

    Raises:
        PrefoptError: it is not known.
    """
    from prefopt.models.load import load_tokenizer

    if isinstance(model, tuple) and len(model) == 2:
        model, own = model
        tokenizer = tokenizer if tokenizer is not None else own
    if not hasattr(model, "save_pretrained"):
        raise PrefoptError(
            f"model: a {type(model).__name__}; give a directory, a hub name, a transformers model, or (model, tokenizer)"
        )
    if tokenizer is not None:
        return model, tokenizer
    source = str(getattr(model, "name_or_path", "") or getattr(model.config, "_name_or_path", ""))
    try:
        return model, load_tokenizer(resolve_model(source))
    except PrefoptError:
        raise PrefoptError("model: given without its tokenizer; give both: (model, tokenizer)") from None
