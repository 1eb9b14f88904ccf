"""What an installed prefopt has with it: hatch packs all of src/prefopt that git does not ignore."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "prefopt"
# part of the product -> the files without which it does not work
WANTED = {
    "recipes": ["recipes/quickstart.yaml", "recipes/pairs.yaml", "recipes/gsm8k.yaml", "recipes/unpaired.yaml"],
    "quickstart": ["recipes/quickstart/train.jsonl", "recipes/quickstart/test.jsonl"],
    "base model": [f"recipes/quickstart/base/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")],
    "report": ["report/page.html.j2", "report/figures.html.j2", "report/style.css", "report/script.js"],
    "suite": ["suite/bench/tuned.json", "suite/simulator/assets/hopper.xml", "suite/simulator/assets/ant.xml"],
}  # fmt: skip


def test_nothing_that_the_package_reads_is_left_out_of_the_wheel():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["packages"] == ["src/prefopt"]
    assert not {"exclude", "only-include"} & set(build)
    missing = [name for names in WANTED.values() for name in names if not (PACKAGE / name).is_file()]
    assert missing == []
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: what is ignored cannot be asked")
    data = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    asked = "\n".join(str(path.relative_to(ROOT)) for path in data)
    done = subprocess.run(
        ["git", "check-ignore", "--stdin"], cwd=ROOT, input=asked, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == []
