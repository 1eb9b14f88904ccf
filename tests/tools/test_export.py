"""`prefopt export`: adapters as they are, GGUF by a converter that is there, and lines where something is missing."""

from __future__ import annotations

import json

import pytest
from command import command

from prefopt.core.errors import PrefoptError
from prefopt.models.find import resolve_model
from prefopt.tools.export import SCRIPT, export

MODEL = "builtin:quickstart/base"
CONVERTER = """\
import json, pathlib, sys
model, out = sys.argv[1], sys.argv[sys.argv.index("--outfile") + 1]
if not pathlib.Path(model, "model.safetensors").is_file():
    sys.exit("no weights")
pathlib.Path(out).write_bytes(b"GGUF" + json.dumps(sys.argv[1:]).encode())
"""


@pytest.fixture
def converter(tmp_path, monkeypatch):
    home = tmp_path / "llama.cpp"
    home.mkdir()
    (home / SCRIPT).write_text(CONVERTER)
    monkeypatch.setenv("LLAMA_CPP", str(home))
    return home / SCRIPT


@pytest.fixture
def nothing_on_the_path(tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_model_as_gguf_and_for_ollama(tmp_path, converter):
    shown = command("export", MODEL, "--to", "gguf", "--output", tmp_path / "out" / "m.gguf")
    assert shown.exit_code == 0, shown.stderr
    made = (tmp_path / "out" / "m.gguf").read_bytes()
    assert made.startswith(b"GGUF")
    words = json.loads(made[4:])
    assert words[0] == str(resolve_model(MODEL))
    assert words[-2:] == ["--outtype", "f16"]
    folder = export(MODEL, "ollama", tmp_path / "ollama")
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "model.gguf"]
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert lines[1:]
    assert all(line.startswith('PARAMETER stop "') for line in lines[1:])
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_adapter_is_copied_whole(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    folder = export(str(adapter), "adapter", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in adapter.iterdir()
    }


def test_what_is_missing_is_one_line(tmp_path, nothing_on_the_path):
    with pytest.raises(PrefoptError, match=r"is not on this machine; clone .* LLAMA_CPP"):
        export(MODEL, "gguf", tmp_path / "a.gguf")
    with pytest.raises(PrefoptError, match="is a whole model"):
        export(MODEL, "adapter", tmp_path / "a")
    with pytest.raises(PrefoptError, match="no such file"):
        export(MODEL, "gguf", tmp_path / "a.gguf", converter=tmp_path / "gone.py")
    with pytest.raises(PrefoptError, match="so it has no arm"):
        export(MODEL, "gguf", tmp_path / "a.gguf", arm="dpo")
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; print('one', file=sys.stderr); sys.exit('the last word')")
    with pytest.raises(PrefoptError, match="the last word") as caught:
        export(MODEL, "gguf", tmp_path / "a.gguf", converter=broken)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.gguf").exists()
    (tmp_path / "a.gguf").write_text("mine")
    with pytest.raises(PrefoptError, match="exists already"):
        export(MODEL, "gguf", tmp_path / "a.gguf", converter=broken)
    assert (tmp_path / "a.gguf").read_text() == "mine"
    assert not list(tmp_path.rglob("*.tmp"))
