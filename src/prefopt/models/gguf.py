"""Models in one file of llama.cpp (GGUF), read once into a directory as every stage wants it.

Quantized weights are unpacked: training needs them dense. The file's own chat template and vocabulary come along.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import warnings
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError

from prefopt.core.errors import PrefoptError, no_space, out_of_memory
from prefopt.core.notice import notice
from prefopt.tables.records import file_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIX = ".gguf"
MAGIC = b"GGUF"
CACHE = "PREFOPT_CACHE"  # environment variable: where unpacked models are kept
DENSE_BITS = 24  # file bits per parameter from which the weights were stored in 32 bits
GgufDtype = Literal["auto", "float32", "bfloat16"]


def is_gguf(path: Path) -> bool:
    """Whether a path names a file of this form."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def cache_root() -> Path:
    """Folder of unpacked models: `$PREFOPT_CACHE`, else `~/.cache/prefopt`, with `gguf` below it."""
    given = os.environ.get(CACHE)
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "prefopt"
    return root.expanduser() / "gguf"


def unpacked(path: Path) -> Path:
    """Directory of a GGUF file's model, by its content: unpacked at the first call, with a line that says so.

    Raises:
        PrefoptError: see `unpack`.
    """
    _check_file(path)
    target = cache_root() / file_digest(path)[:16] / path.stem
    if (target / "config.json").is_file():
        return target
    notice(f"{path}: unpacked once into {target} (safetensors; {CACHE} names another folder)")
    return unpack(path, target)


def unpack(path: Path, target: Path, *, dtype: GgufDtype = "auto") -> Path:
    """Write the model of a GGUF file as a directory: safetensors, config, tokenizer with its chat template.

    dtype: of the written weights; auto is float32 for a file of 32-bit weights, else bfloat16, whose rounding (1/256 of
    a weight at most) is below that of 4 to 8 bits. Returns `target`, which appears in one move.

    Raises:
        PrefoptError: no GGUF file, an architecture or form that transformers cannot read, the package gguf is missing,
            or `target` cannot be written.
    """
    _check_file(path)
    if find_spec("gguf") is None:
        raise PrefoptError(f"{path}: reading GGUF needs the package gguf; pip install 'prefopt[gguf]'")
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
        model, tokenizer = _read(path)
        _into(model, dtype, path.stat().st_size)
        _write(model, tokenizer, _card(path), temporary, target)
    except (OSError, SafetensorError) as error:
        reason = no_space(error) or getattr(error, "strerror", None) or str(error)
        raise PrefoptError(
            f"{target}: the unpacked model cannot be written ({reason}); free space, or name another folder in {CACHE}"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write(model: PreTrainedModel, tokenizer: Any, card: str, temporary: Path, target: Path) -> None:
    from prefopt.models.quiet import no_bars
    from prefopt.models.written import into_place

    with no_bars():
        model.save_pretrained(temporary)
    tokenizer.save_pretrained(str(temporary))
    (temporary / "README.md").write_text(card, encoding="utf-8")
    temporary.chmod(0o755)  # mkdtemp's is for its owner alone
    into_place(temporary, target)


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise PrefoptError(
            f"{path}: cannot be read ({error.strerror}); give the path of a GGUF file"
        ) from None
    if head != MAGIC:
        raise PrefoptError(
            f"{path}: is no GGUF file (it does not begin with GGUF); download or convert it again"
        )


def _read(path: Path) -> tuple[PreTrainedModel, Any]:
    """Model with dense float32 weights, and its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from prefopt.models.quiet import no_progress_bar

    place = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with warnings.catch_warnings(), no_progress_bar(), redirect_stderr(io.StringIO()):  # a bar of its own
            warnings.simplefilter("ignore")
            _check_sizes(AutoConfig.from_pretrained(path.parent, **place), path)
            model, info = AutoModelForCausalLM.from_pretrained(
                path.parent, quantization_config=GgufConfig(dequantize=True), output_loading_info=True, **place
            )  # fmt: skip
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **place)
    except PrefoptError:
        raise
    except Exception as error:  # readers of many parts, without a common class
        if out_of_memory(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PrefoptError(
            f"{path}: transformers cannot read this GGUF file ({reason.strip()[:200]}); give the model as a directory "
            "of safetensors"
        ) from None
    if missing := sorted(info["missing_keys"]):
        raise PrefoptError(
            f"{path}: the file lacks {missing[0]!r} and {len(missing) - 1} more weights; download it again"
        )
    return model, tokenizer


def _check_sizes(config: Any, path: Path) -> None:
    """Refuse a header that says more layers than the file has tensors, or any size beyond its bytes: they would be built."""
    from prefopt.models.bounds import SMALL, sizes

    with path.open("rb") as file:
        tensors = int.from_bytes(file.read(16)[8:], "little")  # magic, version, number of tensors
    for key, value in sizes(config.to_dict()):
        most = tensors if "layer" in key else max(SMALL, path.stat().st_size)
        if value > most:
            raise PrefoptError(
                f"{path}: {key} is {value}, beyond anything in the file; download or convert it again"
            )


def _into(model: PreTrainedModel, dtype: GgufDtype, size: int) -> None:
    """Give the model the dtype it is written in, and take away what speaks of quantization."""
    import torch

    parameters = sum(weight.numel() for weight in model.parameters())
    if dtype == "auto":
        dtype = "float32" if 8 * size > DENSE_BITS * parameters else "bfloat16"
    model.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)


def _card(path: Path) -> str:
    return (
        f"---\nlibrary_name: transformers\n---\n# {path.stem}\n\n"
        f"Weights of `{path.name}`, unpacked by prefopt. SHA-256 of the file: `{file_digest(path)}`.\n"
    )
