"""Adapter directories: as a model, merged into a model of its own, and the lines that say what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.cli import app as cli
from prefopt.core.errors import PrefoptError
from prefopt.models.adapters import merged_weights, quantization, save_arguments
from prefopt.models.load import checkpoint_dtype, load_model, load_tokenizer, model_digest, tokenizer_digest
from prefopt.models.output import add_adapter
from prefopt.recipes.quickstart.build import make_tokenizer
from prefopt.scoring.logprobs import completion_logps
from prefopt.tools.merge import merge_adapter

PAIRS = [([5, 9, 11], [7, 8, 6]), ([6, 12], [13, 4, 9, 4]), ([10], [3])]


def write_base(path, seed=0, *, tied=True, width=32):
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=96, tie_word_embeddings=tied,
        initializer_range=0.1, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def write_adapter(base, path, *, modules="all-linear", tokenizer=True):
    """A random adapter of the base; returns the model with the adapter on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = add_adapter(load_model(base), r=4, alpha=8.0, dropout=0.0, target_modules=modules)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(path, **save_arguments(model))
    if tokenizer:
        load_tokenizer(base).save_pretrained(path)
    return model.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "lora"
    write_adapter(base, path)
    return path


def logps(model):
    with torch.no_grad():
        return completion_logps(model, PAIRS)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "lm_head"]], ids=str)
def test_the_merged_model_gives_the_adapters_log_probs(tmp_path, tied, modules):
    base = write_base(tmp_path / "base", tied=tied)
    on = logps(write_adapter(base, tmp_path / "lora", modules=modules, tokenizer=False))
    assert float((on - logps(load_model(base))).abs().max()) > 1e-2
    assert float((on - logps(load_model(tmp_path / "lora"))).abs().max()) < 1e-5
    written = merge_adapter(tmp_path / "lora", tmp_path / "merged")
    assert float((on - logps(load_model(written))).abs().max()) < 1e-5
    assert not (written / "adapter_config.json").exists()
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        p.name for p in written.iterdir()
    }
    assert tokenizer_digest(written) == tokenizer_digest(base) == tokenizer_digest(tmp_path / "lora")


def test_the_digest_of_an_adapter_covers_base_and_adapter(base, adapter, tmp_path):
    first = model_digest(adapter)
    assert first not in (model_digest(base), model_digest(merge_adapter(adapter, tmp_path / "merged")))
    moved = shutil.copytree(adapter, tmp_path / "moved")
    assert model_digest(moved) == first
    other = write_base(tmp_path / "other", seed=5)
    settings = json.loads((moved / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "../other"  # seen from the adapter
    (moved / "adapter_config.json").write_text(json.dumps(settings))
    assert model_digest(moved) != first
    assert checkpoint_dtype(moved) == "float32"
    assert float((logps(load_model(moved)) - logps(load_model(other))).abs().max()) > 1e-2
    settings["lora_alpha"] = 16
    (adapter_twice := shutil.copytree(adapter, tmp_path / "twice"))
    (adapter_twice / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": str(base)})
    )
    assert model_digest(adapter_twice) != first


def test_an_adapter_trained_on_an_adapter_names_it_as_its_base(adapter, tmp_path):
    on = logps(write_adapter(adapter, tmp_path / "second"))
    settings = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(adapter)
    assert float((on - logps(load_model(tmp_path / "second"))).abs().max()) < 1e-5


def test_what_is_wrong_is_one_line(base, adapter, tmp_path):
    with pytest.raises(PrefoptError, match="no adapter directory"):
        merge_adapter(base, tmp_path / "out")
    with pytest.raises(PrefoptError, match=r"exists already|must stay as it is"):
        merge_adapter(adapter, base)
    with pytest.raises(
        PrefoptError, match=r"does not go into its base.*size mismatch|does not go into its base"
    ):
        merge_adapter(adapter, tmp_path / "out", model=str(write_base(tmp_path / "wide", width=64)))
    lost = shutil.copytree(adapter, tmp_path / "lost")
    settings = json.loads((lost / "adapter_config.json").read_text())
    for name, message in (
        (str(tmp_path / "gone"), "base of this adapter is not found"),
        (None, "names no base"),
    ):
        (lost / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": name}))
        with pytest.raises(PrefoptError, match=message) as caught:
            load_model(lost)
        assert "\n" not in str(caught.value)
    assert merge_adapter(lost, tmp_path / "found", model=str(base)).is_dir()
    (lost / "adapter_model.safetensors").unlink()
    with pytest.raises(PrefoptError, match="no adapter weights"):
        load_model(lost)
    assert not (tmp_path / "out").exists()


def test_the_verb(adapter, tmp_path, monkeypatch, capsys):
    words = ["prefopt", "merge-adapter", "--adapter", str(adapter), "--output", str(tmp_path / "merged")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code in (0, None)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_four_bits_need_a_gpu_and_bitsandbytes(base, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PrefoptError, match="no CUDA device"):
        load_model(base, in_4bit=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("prefopt.models.adapters.find_spec", lambda name: None)
    with pytest.raises(PrefoptError, match="bitsandbytes is not installed"):
        quantization(torch.bfloat16)


def test_merging_leaves_a_plain_head_tied(base):
    model = merged_weights(
        add_adapter(load_model(base), r=2, alpha=4.0, dropout=0.0, target_modules="all-linear")
    )
    assert model.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
