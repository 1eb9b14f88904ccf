"""Model directories: found, refused with a reason, named by content, loaded in their own dtype without dropout."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from prefopt.core.errors import PrefoptError
from prefopt.models import load as models
from prefopt.models.find import resolve_model
from prefopt.models.load import (
    check_ids,
    checkpoint_dtype,
    load_model,
    load_tokenizer,
    model_digest,
    template_digest,
    tokenizer_digest,
)
from prefopt.models.tiny import make_tokenizer


def small_llama(seed: int = 0) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=32, attention_dropout=0.1,
            )
        )  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "model"
    small_llama().save_pretrained(path)
    make_tokenizer(["some text"], vocab_size=300).save_pretrained(path)
    return path


def test_builtin_and_directory(directory):
    assert resolve_model(str(directory)) == directory
    base = resolve_model("builtin:quickstart/base")
    assert load_model(base).config.model_type == "llama"
    assert load_tokenizer(base).chat_template


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("builtin:nothing/here", "no builtin model 'nothing/here'; there are: .*quickstart/base"),
        ("builtin:../../etc", "no builtin model"),
        ("./no/such/dir", "no such directory; give a model directory or a hub name"),
        ("some/hub-name", "the hub did not give it"),
        ("tiny", "built by `prefopt run` alone"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(PrefoptError, match=message):
        resolve_model(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(PrefoptError, match="is a file"):
        resolve_model(str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", r"no weights \(\*.safetensors\); add"),
    ],
)
def test_what_is_missing_is_named(directory, remove, message):
    (directory / remove).unlink()
    with pytest.raises(PrefoptError, match=message):
        load_model(directory)
    with pytest.raises(PrefoptError, match=message):
        model_digest(directory)


def test_pickled_weights_are_not_read(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(PrefoptError, match=r"pytorch_model.bin is no safe format"):
        load_model(directory)


def test_missing_tokenizer_and_directory(directory, tmp_path):
    (directory / "tokenizer.json").unlink()
    with pytest.raises(PrefoptError, match="no tokenizer"):
        load_tokenizer(directory)
    with pytest.raises(PrefoptError, match="no such model directory"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_files_are_one_line(directory, file):
    data = (directory / file).read_bytes()
    (directory / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(PrefoptError) as caught:
        load_tokenizer(directory) if file == "tokenizer.json" else load_model(directory)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused(directory):
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PrefoptError, match=r"the weights lack 'model.layers.1.mlp.up_proj.weight'"):
        load_model(directory)


def test_code_of_a_model_never_runs(directory):
    config = json.loads((directory / "config.json").read_text())
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (directory / "config.json").write_text(json.dumps(config))
    marker = directory / "ran"
    (directory / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(PrefoptError, match=r"config.json cannot be loaded"):
        load_model(directory)
    assert not marker.exists()


def test_checkpoint_dtype_is_kept(directory, tmp_path):
    assert load_model(directory).dtype == torch.float32
    half = tmp_path / "half"
    small_llama().to(torch.bfloat16).save_pretrained(half)
    shutil.copy(directory / "tokenizer.json", half)
    assert checkpoint_dtype(directory) == "float32"
    assert checkpoint_dtype(half) == "bfloat16"
    assert load_model(half).dtype == torch.bfloat16
    assert load_model(half, dtype="float32").dtype == torch.float32
    config = json.loads((half / "config.json").read_text())
    config.pop("dtype")
    (half / "config.json").write_text(json.dumps(config))
    assert checkpoint_dtype(half) == "bfloat16"
    assert load_model(half).dtype == torch.bfloat16


def test_dropout_is_off_even_in_training_mode(directory, tmp_path):
    assert load_model(directory).config.attention_dropout == 0.0
    gpt2 = tmp_path / "gpt2"
    GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    ).save_pretrained(gpt2)
    shutil.copy(directory / "tokenizer.json", gpt2)
    loaded = load_model(gpt2)
    assert not loaded.training
    loaded.train()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_digest_names_the_content(directory, tmp_path):
    first = model_digest(directory)
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "0"}))
    assert model_digest(copy) == first
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert model_digest(copy) != first
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    small_llama(seed=1).save_pretrained(other)
    assert model_digest(other) != first


def test_tokenizer_digest_survives_use_and_saving(directory, tmp_path):
    tokenizer = load_tokenizer(directory)
    first, template = tokenizer_digest(directory), template_digest(tokenizer)
    tokenizer(["a", "bb"], padding=True, truncation=True, max_length=3)
    tokenizer.save_pretrained(tmp_path / "again")
    assert tokenizer_digest(tokenizer) == first
    assert tokenizer_digest(tmp_path / "again") == first
    assert template_digest(load_tokenizer(tmp_path / "again")) == template
    tokenizer.chat_template += " "
    assert template_digest(tokenizer) != template
    assert tokenizer_digest(tokenizer) == first
    tokenizer.eos_token = "<|endoftext|>"
    assert tokenizer_digest(tokenizer) != first
    assert tokenizer_digest(make_tokenizer(["other words"], vocab_size=300)) != first


def test_sequences_that_do_not_fit(directory):
    model = load_model(directory)
    check_ids(model, [1] * 32, "row 'a'")
    with pytest.raises(
        PrefoptError, match="row 'a': 33 tokens, but the model has 32 positions; set max_length to 32"
    ):
        check_ids(model, [1] * 33, "row 'a'")
    with pytest.raises(PrefoptError, match="token id 300, but the model's embedding has 300 rows"):
        check_ids(model, [1, 300], "row 'a'")


def test_progress_bars_are_as_before(directory):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    load_model(directory)
    assert logging.is_progress_bar_enabled() == before
    assert models.default_device().type in {"cpu", "cuda"}
    assert AutoTokenizer.from_pretrained(directory).eos_token == "<|im_end|>"
