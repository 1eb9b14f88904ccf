"""What is committed names no place of the machine on which it was written."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# folders of people and of their jobs; `/tmp`, `/usr` and the like may stand in examples
PLACE = re.compile(rb"(?<![\w.:/~<-])/(?:home|Users|root|work|workspace|mnt|data|scratch|opt/conda)/[\w.-]+")
SHOWN = re.compile(
    rb"/(?:home|mnt|data|scratch)/(?:me|you|user|prefopt)\b"
)  # examples in the docs, the image


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [
        ROOT / name for name in listed.stdout.decode().split("\0") if name and name != "tests/test_tree.py"
    ]


def test_no_file_names_a_local_folder():
    found = []
    for path in committed():
        if path.is_file() and path.suffix not in (".safetensors", ".png", ".gz", ".parquet"):
            places = [place for place in PLACE.findall(path.read_bytes()) if not SHOWN.match(place)]
            found += [f"{path.relative_to(ROOT)}: {place.decode()}" for place in sorted(set(places))]
    assert found == []


def test_the_pattern_finds_what_it_is_for():
    assert PLACE.search(b'"data": "/home/jane/data"')
    assert PLACE.search(b" /work/shared/x")
    assert not PLACE.search(b"https://example.org/data/x")
    assert not PLACE.search(b"RUN/data/part and src/work/x")
