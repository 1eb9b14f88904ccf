"""What comes behind the trainer: the model directory and the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedTokenizerBase

from prefopt.core.errors import PrefoptError, no_space
from prefopt.models.lora import save_adapter
from prefopt.models.quiet import no_bars
from prefopt.models.written import into_place


def write_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    card: str,
    *,
    temporary: Path,
    target: Path,
    state_dict: dict[str, Any] | None = None,
) -> None:
    """Write a Hugging Face directory (safetensors, config, generation config, tokenizer, README.md) in one move.

    temporary: a folder on the same disk as `target`. A kill leaves the old `target` or none, never half of one.

    Raises:
        PrefoptError: the disk is full or read-only, or a quota is reached.
    """
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with no_bars():
            if hasattr(model, "peft_config"):
                save_adapter(model, temporary, state_dict)
            else:
                model.save_pretrained(temporary, state_dict=state_dict)  # type: ignore[operator]
        tokenizer.save_pretrained(str(temporary))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        into_place(temporary, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = no_space(error) or getattr(error, "strerror", None) or str(error)
        raise PrefoptError(
            f"{target}: the model cannot be written ({reason}); free space or choose another --output"
        ) from None


def push_model(folder: Path, repository: str) -> None:
    """Upload a model directory to the hub, as `owner/name`; the repository is made when it is missing.

    Raises:
        PrefoptError: no access, no connection, or a bad name.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model trained with prefopt")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PrefoptError(
            f"push to {repository}: {reason}; the model lies at {folder}, log in with `hf auth login` and run again"
        ) from None
