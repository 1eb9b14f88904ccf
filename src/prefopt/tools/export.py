"""`prefopt export`: a run's model (or any model directory) as an adapter alone, as one GGUF file, or with a Modelfile for Ollama."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from prefopt.core.errors import PrefoptError
from prefopt.models.adapters import CONFIG, is_adapter
from prefopt.models.find import resolve_model
from prefopt.models.gguf import MAGIC
from prefopt.models.written import beside
from prefopt.tools.chat import run_models
from prefopt.tools.merge import merge_adapter

Form = Literal["adapter", "gguf", "ollama"]
SCRIPT = "convert_hf_to_gguf.py"
HOME = "LLAMA_CPP"  # environment variable: folder of llama.cpp
GGUF, MODELFILE = "model.gguf", "Modelfile"


def export(
    place: str, form: Form, output: Path, *, arm: str | None = None, converter: Path | None = None
) -> Path:
    """Write the model of an arm (the main one unless named) in another form; returns `output`.

    place: folder of a finished run, or a model. adapter, ollama: `output` is a new directory; gguf: a new file.
    converter: llama.cpp's script, else that in `$LLAMA_CPP` or on the PATH.

    Raises:
        PrefoptError: no such run or model, `output` exists, no adapter to export, no converter, or it fails.
    """
    model = _model(place, arm)
    if output.exists():
        raise PrefoptError(f"{output}: exists already; name another --output")
    if form == "adapter":
        return _adapter(model, output)
    script = find_converter(converter)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrefoptError(
            f"{output}: cannot be written ({error.strerror}); choose another --output"
        ) from None
    with beside(output) as room:
        made = room / GGUF
        with _whole(model, room) as directory:
            convert(script, directory, made)
            if form == "gguf":
                os.replace(made, output)
                return output
            folder = room / "ollama"
            folder.mkdir()
            os.replace(made, folder / GGUF)
            (folder / MODELFILE).write_text(modelfile(directory), encoding="utf-8")
        os.replace(folder, output)
    return output


def _model(place: str, arm: str | None) -> Path:
    folder = Path(place).expanduser()
    if (folder / "summary.json").is_file():
        return list(run_models(folder, arm).values())[1]
    if arm is not None:
        raise PrefoptError(f"{place}: is no finished run, so it has no arm {arm!r}; leave --arm out")
    return resolve_model(place)


def _adapter(model: Path, output: Path) -> Path:
    if not is_adapter(model):
        raise PrefoptError(
            f"{model}: is a whole model, no adapter ({CONFIG} without config.json); train with train.lora and "
            "train.lora.merge false, which keeps the adapter alone"
        )
    with beside(output) as room:
        shutil.copytree(model, room / "adapter")
        os.replace(room / "adapter", output)
    return output


@contextmanager
def _whole(model: Path, room: Path) -> Iterator[Path]:
    """The model's directory; of an adapter, of the model merged for the while."""
    if not is_adapter(model):
        yield model
        return
    merged = merge_adapter(model, room / "merged")
    try:
        yield merged
    finally:
        shutil.rmtree(merged, ignore_errors=True)


# ---- llama.cpp


def find_converter(given: Path | None = None) -> Path:
    """llama.cpp's script: the one given, that in `$LLAMA_CPP`, or on the PATH.

    Raises:
        PrefoptError: there is none.
    """
    if given is not None:
        script = given / SCRIPT if given.is_dir() else given
        if not script.is_file():
            raise PrefoptError(f"{given}: no such file; give the path of llama.cpp's {SCRIPT}")
        return script
    home = os.environ.get(HOME)
    if home and (Path(home) / SCRIPT).is_file():
        return Path(home) / SCRIPT
    if found := shutil.which(SCRIPT):
        return Path(found)
    raise PrefoptError(
        f"prefopt export: llama.cpp's {SCRIPT} is not on this machine; clone github.com/ggml-org/llama.cpp and set {HOME} "
        "to its folder, or give --converter FILE"
    )


def convert(script: Path, model: Path, output: Path) -> None:
    """Run the converter: 16-bit weights in one file.

    Raises:
        PrefoptError: it fails, in its own last words, or writes no GGUF file.
    """
    words = [sys.executable, str(script), str(model), "--outfile", str(output), "--outtype", "f16"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise PrefoptError(f"{script}: cannot be run ({error.strerror}); give another --converter") from None
    if done.returncode or not _is_gguf(output):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise PrefoptError(
            f"{script}: no GGUF file came of {model} ({said[-1][:200]}); a missing package goes into this Python, else "
            "try a newer llama.cpp"
        )


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def modelfile(model: Path) -> str:
    """Ollama's Modelfile for `model.gguf` beside it: the file, and what ends an answer. Ollama takes the chat template
    from the GGUF file.
    """
    from prefopt.models.load import load_tokenizer
    from prefopt.models.template import stop_ids

    tokenizer = load_tokenizer(model)
    ends = [str(tokenizer.convert_ids_to_tokens(token)) for token in stop_ids(tokenizer)]
    stops = [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in dict.fromkeys(ends)]
    return "\n".join([f"FROM ./{GGUF}", *stops]) + "\n"
