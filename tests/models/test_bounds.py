"""Configs against weights: absurd sizes end at once, weights without a place are refused, harmless ones are not."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.core.errors import PrefoptError
from prefopt.models.adapters import base_of
from prefopt.models.bounds import check_sizes
from prefopt.models.load import check_directory, load_config, load_model, load_tokenizer, model_digest
from prefopt.models.tiny import make_tokenizer


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored")
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(path)
    make_tokenizer(["some text"], 300).save_pretrained(path)
    return path


@pytest.fixture
def folder(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "model")


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_weights(folder, change):
    file = folder / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "num_attention_heads",
        "head_dim",
    ],
)
@pytest.mark.parametrize("value", [1_000_000, 10**15])
def test_sizes_beyond_the_weights_end_at_once(folder, key, value):
    edit(folder, **{key: value})
    start = time.process_time()
    for work in (load_config, load_model, load_tokenizer):
        with pytest.raises(PrefoptError, match=f"{key} is {value}, beyond anything in the weights"):
            work(folder)
    assert time.process_time() - start < 5


def test_sizes_within_another_config_count_too(folder):
    edit(folder, text_config={"num_hidden_layers": 10**9})
    with pytest.raises(PrefoptError, match=r"text_config.num_hidden_layers is 1000000000"):
        check_sizes(folder)


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 32}, {"vocab_size": 1}, {"num_hidden_layers": 6}, {"num_hidden_layers": 0}]
)
def test_a_config_that_does_not_fit_is_one_line_and_no_report(folder, changes, capfd):
    edit(folder, **changes)
    with pytest.raises(PrefoptError) as caught:
        load_model(folder)
    line = str(caught.value)
    assert line.startswith(str(folder))
    assert "above report" not in line
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_model_cut_to_fewer_layers_is_refused(folder, layers):
    edit(folder, num_hidden_layers=layers)
    with pytest.raises(
        PrefoptError, match=rf"'model.layers.{layers}\..* and \d+ more, for which config.json has no place"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    "name",
    ["score.weight", "v_head.summary.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "vision_tower.a.weight",
     "mtp.layers.0.weight", "transformer.h.0.attn.bias"],
)  # fmt: skip
def test_weights_that_the_model_is_right_without_are_no_matter(folder, name):
    import torch

    edit_weights(folder, lambda state: state.update({name: torch.zeros(1)}))
    assert load_model(folder).config.num_hidden_layers == 4


def test_a_tied_head_that_is_stored_is_no_matter(tmp_path):
    config = LlamaConfig(vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                         num_attention_heads=2, tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer(["some text"], 300).save_pretrained(tmp_path)
    edit_weights(
        tmp_path, lambda state: state.update({"lm_head.weight": state["model.embed_tokens.weight"].clone()})
    )
    assert load_model(tmp_path)


def adapter(path, base):
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (path / "adapter_model.safetensors").write_bytes(b"")
    return path


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_ring_of_adapters_is_one_line(tmp_path, length):
    for place in range(length):
        adapter(tmp_path / str(place), f"../{(place + 1) % length}")
    for work in (base_of, check_directory, load_model, load_tokenizer, model_digest):
        with pytest.raises(PrefoptError, match="the base of this adapter leads back to"):
            work(tmp_path / "0")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_json_nested_too_deep_is_one_line(folder, name):
    (folder / name).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(PrefoptError) as caught:
        (load_config if name == "config.json" else load_tokenizer)(folder)
    assert "\n" not in str(caught.value)
    if name == "config.json":
        with pytest.raises(PrefoptError, match=r"config.json"):
            model_digest(folder)


def test_an_adapter_config_nested_too_deep_is_one_line(tmp_path):
    path = adapter(tmp_path / "adapter", "x")
    (path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(PrefoptError, match=r"adapter_config.json: cannot be read"):
        load_model(path)
