"""Models by name: a directory, one that comes with the package, or one from the hub."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

from prefopt.core.errors import PrefoptError
from prefopt.models.gguf import is_gguf, unpacked

BUILTIN = "builtin:"


HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


HUB_FILES = ["README.md", "*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def resolve_model(name: str) -> Path:
    """Directory of `builtin:quickstart/base`, of a path, or of a model on the Hugging Face hub (downloaded once).

    A path may also be a GGUF file, which is unpacked once into a cache (`prefopt.models.gguf`).

    Raises:
        PrefoptError: no such directory, builtin model or hub name, or the hub cannot be reached; a GGUF file that cannot
            be read.
    """
    if name.startswith(BUILTIN):
        return _builtin(name.removeprefix(BUILTIN))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if is_gguf(path):
        return unpacked(path)
    if path.exists():
        raise PrefoptError(
            f"model {name!r} is a file; give a .gguf file, or the directory that holds config.json and the weights"
        )
    if name == "tiny":
        raise PrefoptError(
            "model 'tiny' is built by `prefopt run` alone; give a model directory (RUN/00-model)"
        )
    if not HUB_NAME.fullmatch(name):
        raise PrefoptError(f"model {name!r}: no such directory; give a model directory or a hub name")
    return _from_hub(name)


def _builtin(name: str) -> Path:
    root = Path(str(resources.files("prefopt.recipes")))
    path = (root / name).resolve()
    if path.is_relative_to(root.resolve()) and (path / "config.json").exists():
        return path
    found = sorted(str(p.parent.relative_to(root)) for p in root.glob("*/*/config.json"))
    raise PrefoptError(f"no builtin model {name!r}; there are: {', '.join(found) or 'none'}")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, ValueError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PrefoptError(
            f"model {name!r}: no such directory, and the hub did not give it ({reason}); check the name, or download "
            "it first and give the directory"
        ) from None


def has_chat_template(path: Path) -> bool:
    """Whether a model directory (of an adapter: it or its base) brings a chat template."""
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    if _field(path / "tokenizer_config.json", "chat_template"):
        return True
    if (path / "tokenizer_config.json").is_file():
        return False  # a tokenizer of its own, without
    base = _field(path / "adapter_config.json", "base_model_name_or_path")
    return (
        isinstance(base, str) and Path(base) != path and Path(base).is_dir() and has_chat_template(Path(base))
    )


def _field(path: Path, name: str) -> object:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value.get(name) if isinstance(value, dict) else None
