"""Models and tokenizers from directories: found, checked, named by their content, loaded without surprises.

A model is an ordinary Hugging Face directory. Only safetensors are read, code shipped with a model never runs, dropout
is 0, the dtype is the checkpoint's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.core import processes
from prefopt.core.errors import PrefoptError, out_of_memory
from prefopt.models.adapters import VOLATILE as ADAPTER_VOLATILE
from prefopt.models.adapters import WEIGHTS, Bits, adapter_settings, base_of, is_adapter, put_in, quantization
from prefopt.models.bounds import check_sizes, check_unused
from prefopt.models.marks import plain_ids
from prefopt.models.quiet import no_progress_bar
from prefopt.tables.records import digest, file_digest

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
# in config.json, but not about what the model computes
VOLATILE = frozenset({"transformers_version", "_name_or_path", "use_cache"})
DROPOUT = re.compile(r"dropout|pdrop|layerdrop")


def check_directory(path: Path, *, weights: bool = True) -> None:
    """Raise unless `path` holds config, tokenizer and (if asked) safetensors weights; of an adapter, its base does.

    Raises:
        PrefoptError: naming what is missing.
    """
    if not path.is_dir():
        raise PrefoptError(f"{path}: no such model directory")
    if is_adapter(path):
        return check_directory(base_of(path), weights=weights)
    if not (path / "config.json").exists():
        raise PrefoptError(f"{path}: no config.json; give the directory of a whole causal language model")
    _check_tokenizer(path)
    if weights and not any(path.glob("*.safetensors")):
        other = next((p.name for p in sorted(path.iterdir()) if p.suffix in {".bin", ".pt", ".pth"}), None)
        remedy = f"{other} is no safe format: convert it to safetensors" if other else "add model.safetensors"
        raise PrefoptError(f"{path}: no weights (*.safetensors); {remedy}")


def load_tokenizer(path: Path, *, base: Path | None = None) -> PreTrainedTokenizerBase:
    """The directory's tokenizer; of an adapter without one, that of its base (default: the one it names).

    Raises:
        PrefoptError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if not path.is_dir():
        raise PrefoptError(f"{path}: no such model directory")
    if is_adapter(path) and not any((path / name).exists() for name in TOKENIZER_FILES):
        return load_tokenizer(base or base_of(path))
    _check_tokenizer(path)
    check_sizes(path)
    with _told(path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float):
        raise PrefoptError(
            f"{path / 'tokenizer_config.json'}: model_max_length is {longest!r}, no number; mend it or leave it out"
        )
    return tokenizer


def load_model(path: Path, *, dtype: Dtype = "auto", bits: Bits | None = None) -> PreTrainedModel:
    """The directory's causal language model, in eval mode on the CPU, dropout 0; of an adapter, merged into its base.

    dtype: `auto` is the checkpoint's own, never silently float32. bits: linear layers quantized to so many, on the GPU.

    Raises:
        PrefoptError: something is missing (config, tokenizer, weights, single tensors) or cannot be read; 4 or 8 bits of
            an adapter, or where they cannot be had.
    """
    from transformers import AutoModelForCausalLM

    check_directory(path)
    if is_adapter(path):
        if bits:
            raise PrefoptError(
                f"{path}: an adapter has no {bits}-bit weights; run `prefopt merge-adapter` first"
            )
        return put_in(load_model(base_of(path), dtype=dtype), path)
    more = None
    if bits:
        more = quantization(getattr(torch, checkpoint_dtype(path) if dtype == "auto" else dtype), bits)
    config = without_dropout(load_config(path))
    return load_pretrained(AutoModelForCausalLM, path, config, dtype=dtype, more=more)


def load_pretrained(
    kind: Any,
    path: Path,
    config: Any,
    *,
    dtype: Dtype = "auto",
    may_lack: Callable[[str], bool] | None = None,
    more: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """The weights of a checked directory in a model of the auto class `kind`, in eval mode on the CPU.

    may_lack: names of weights that may be missing and are then drawn at random (a new head). more: further arguments
    of `from_pretrained`.

    Raises:
        PrefoptError: weights are missing, have no place in the model, or cannot be read; the directory holds an adapter.
    """
    if is_adapter(path):
        raise PrefoptError(f"{path}: is an adapter; merge it first with `prefopt merge-adapter`")
    with _told(path, "model"), no_progress_bar():
        model, info = kind.from_pretrained(
            path,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **(more or {}),
        )
    missing = sorted(name for name in info["missing_keys"] if may_lack is None or not may_lack(name))
    if missing:  # they would be random numbers
        raise PrefoptError(
            f"{path}: the weights lack {missing[0]!r} and {len(missing) - 1} more; save them anew"
        )
    check_unused(info["unexpected_keys"], path)
    return model.eval()


def checkpoint_dtype(path: Path) -> str:
    """Name of the dtype that `load_model(path, dtype="auto")` gives, without loading the weights."""
    from safetensors import safe_open

    if is_adapter(path):
        return checkpoint_dtype(base_of(path))
    declared = getattr(load_config(path), "dtype", None)
    if declared is not None:
        return str(declared).removeprefix("torch.")
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    with _told(path, "weights"):
        for file in sorted(path.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    if tensors.get_slice(name).get_dtype() in names:
                        return names[tensors.get_slice(name).get_dtype()]
    return "float32"


def default_device() -> torch.device:
    """The CUDA device if there is one (of several processes each has its own), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if processes.world() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cuda")


def model_digest(path: Path) -> str:
    """SHA-256 (hex) of weights and config; file names count, versions and paths noted in the config do not.

    Of an adapter: of the adapter and of its base.

    Raises:
        PrefoptError: config or weights are missing.
    """
    check_directory(path)
    if is_adapter(path):
        settings = {
            key: value for key, value in adapter_settings(path).items() if key not in ADAPTER_VOLATILE
        }
        return digest("adapter", model_digest(base_of(path)), settings, file_digest(path / WEIGHTS))
    config = _read_config(path)
    plain = {key: value for key, value in config.items() if key not in VOLATILE}
    files = [*sorted(path.glob("*.safetensors")), *sorted(path.glob("adapter_config.json"))]
    return digest(plain, [[file.name, file_digest(file)] for file in files])


def tokenizer_digest(source: Path | PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of what the tokenizer does: vocabulary, merges, normalisation, special tokens.

    The chat template is not part of it (`template_digest`), nor are padding and truncation settings.
    """
    tokenizer = load_tokenizer(source) if isinstance(source, Path) else source
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return digest("vocabulary", special, tokenizer.get_vocab(), type(tokenizer).__name__)
    rules = json.loads(backend.to_str())
    return digest(
        "tokenizers", special, {k: v for k, v in rules.items() if k not in {"padding", "truncation"}}
    )


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of the chat template (of "none" where there is none)."""
    return digest("chat template", getattr(tokenizer, "chat_template", None))


def check_ids(model: PreTrainedModel, ids: list[int], where: str) -> None:
    """Raise if a sequence does not fit the model.

    Raises:
        PrefoptError: more tokens than the model has positions, or an id beyond its embedding.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and len(ids) > positions:
        raise PrefoptError(
            f"{where}: {len(ids)} tokens, but the model has {positions} positions; set max_length to {positions} or less"
        )
    size = model.get_input_embeddings().weight.shape[0]
    largest = int(plain_ids(ids).max())
    if largest >= size:
        raise PrefoptError(
            f"{where}: token id {largest}, but the model's embedding has {size} rows; tokenizer and weights do not "
            "belong together"
        )


def _check_tokenizer(path: Path) -> None:
    if not any((path / name).exists() for name in TOKENIZER_FILES):
        raise PrefoptError(
            f"{path}: no tokenizer (tokenizer.json); save the model's tokenizer into the directory"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PrefoptError(f"{path / 'config.json'}: cannot be read ({error}); save the model anew") from None
    if not isinstance(config, dict):
        raise PrefoptError(f"{path / 'config.json'}: no JSON object; save the model anew")
    return config


def load_config(path: Path) -> Any:
    """The directory's configuration, a `PreTrainedConfig`.

    Raises:
        PrefoptError: it cannot be read.
    """
    from transformers import AutoConfig

    if is_adapter(path):
        return load_config(base_of(path))
    check_sizes(path)
    with _told(path, "config.json"):
        return AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)


def without_dropout(config: Any) -> Any:
    """The config with every dropout at 0: policy and reference must agree, and noise on pairs has no use."""
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for name, value in part.to_dict().items():
            if DROPOUT.search(name) and isinstance(value, float):
                setattr(part, name, 0.0)
    return config


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Whatever a loader raises becomes one line with the path (safetensors errors have no common base)."""
    try:
        yield
    except PrefoptError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "ignore_mismatched_sizes" in reason:  # it points to a report on the terminal
            reason = "sizes in config.json are not those of the weights"
        raise PrefoptError(f"{path}: the {what} cannot be loaded ({reason.strip()}); save it anew") from None
