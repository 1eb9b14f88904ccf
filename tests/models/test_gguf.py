"""GGUF files as models: unpacked once by content, weights and vocabulary those of the file, and lines for what is none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from prefopt.core.errors import PrefoptError
from prefopt.models import gguf as ours
from prefopt.models.find import has_chat_template, resolve_model
from prefopt.models.load import check_directory, load_model, load_tokenizer

gguf = pytest.importorskip("gguf", reason="needs prefopt[gguf]")
WIDTH, HEADS, DEPTH, INNER = 64, 2, 1, 96
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def write_gguf(path, *, quantized=False, said=DEPTH):
    """A Llama of random weights with a byte vocabulary; returns its tensors by their names in the file."""
    from gguf.quants import quantize
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(said)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(bytes_to_unicode().values()), "Ġt"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = {"token_embd.weight": (len(tokens), WIDTH), "output_norm.weight": (WIDTH,)}
    for k in range(DEPTH):
        names |= {
            f"blk.{k}.{n}.weight": (WIDTH, WIDTH) for n in ("attn_q", "attn_k", "attn_v", "attn_output")
        }
        names |= {f"blk.{k}.{n}.weight": (INNER, WIDTH) for n in ("ffn_gate", "ffn_up")}
        names |= {f"blk.{k}.{n}.weight": (WIDTH,) for n in ("attn_norm", "ffn_norm")}
        names[f"blk.{k}.ffn_down.weight"] = (WIDTH, INNER)
    tensors = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in names.items()}
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, value in tensors.items():
        if quantized and value.ndim == 2:
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_is_unpacked_once_and_says_so(tmp_path, cache, capsys):
    file = tmp_path / "small.Q8_0.gguf"
    tensors = write_gguf(file)
    directory = resolve_model(str(file))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "unpacked once into" in said
    assert directory.is_relative_to(cache)
    assert directory.name == "small.Q8_0"
    check_directory(directory)
    model = load_model(directory)
    assert model.dtype == torch.float32
    weights = dict(model.named_parameters())
    assert np.array_equal(weights["model.embed_tokens.weight"].detach(), tensors["token_embd.weight"])
    down = weights["model.layers.0.mlp.down_proj.weight"]
    assert np.array_equal(down.detach(), tensors["blk.0.ffn_down.weight"])
    assert "quantization_config" not in json.loads((directory / "config.json").read_text())
    assert has_chat_template(directory)
    tokenizer = load_tokenizer(directory)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert text == "<|im_start|>user\na<|im_end|>\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(tokenizer.encode("a to b")) == "a to b"

    moved = file.rename(tmp_path / "moved" / file.name if (tmp_path / "moved").mkdir() is None else file)
    assert resolve_model(str(moved)) == directory
    assert not capsys.readouterr().err


def test_quantized_weights_are_written_in_16_bits_near_the_files(tmp_path):
    tensors = write_gguf(tmp_path / "q.gguf", quantized=True)
    model = load_model(ours.unpack(tmp_path / "q.gguf", tmp_path / "out"))
    assert model.dtype == torch.bfloat16
    weight = dict(model.named_parameters())["model.layers.0.mlp.up_proj.weight"].float().detach().numpy()
    true = tensors["blk.0.ffn_up.weight"]
    # half a step of 8 bits over a block's range, and half a unit of bfloat16's last place
    assert np.abs(weight - true).max() <= np.abs(true).max() * (1 / 127 / 2 + 1 / 256) * 1.01
    wide = ours.unpack(tmp_path / "q.gguf", tmp_path / "wide", dtype="float32")
    assert load_model(wide).dtype == torch.float32


def test_a_header_of_absurd_sizes_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    write_gguf(tmp_path / "deep.gguf", said=100_000)
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained", lambda *a, **k: pytest.fail("built")
    )
    with pytest.raises(PrefoptError, match="num_hidden_layers is 100000, beyond anything"):
        ours.unpack(tmp_path / "deep.gguf", tmp_path / "out")


def test_what_is_no_model_is_one_line(tmp_path, cache, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"no model")
    with pytest.raises(PrefoptError, match="is no GGUF file"):
        resolve_model(str(tmp_path / "a.gguf"))
    (tmp_path / "b.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(PrefoptError, match="cannot read this GGUF file") as caught:
        resolve_model(str(tmp_path / "b.gguf"))
    assert "\n" not in str(caught.value)
    assert not list(cache.rglob("*.tmp"))
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    with pytest.raises(PrefoptError, match=r"pip install 'prefopt\[gguf\]'"):
        resolve_model(str(tmp_path / "b.gguf"))
    (tmp_path / "c.txt").write_text("x")
    with pytest.raises(PrefoptError, match="is a file"):
        resolve_model(str(tmp_path / "c.txt"))
    with pytest.raises(PrefoptError, match="no such directory"):
        resolve_model(str(tmp_path / "gone.gguf"))
