"""Adapter directories: as a model, merged into a model of its own, and the lines that say what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.cli import app as cli
from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.models.adapters import merged_weights, quantization
from prefopt.models.load import checkpoint_dtype, load_model, load_tokenizer, model_digest, tokenizer_digest
from prefopt.models.lora import add_adapter, base_is_kept, save_adapter
from prefopt.models.quiet import quiet_peft, seeded
from prefopt.recipes.quickstart.build import make_tokenizer
from prefopt.scoring.logprobs import completion_logps
from prefopt.stages.train.settings import TrainConfig
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
    save_adapter(model, path)
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
        load_model(base, bits=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("prefopt.models.adapters.find_spec", lambda name: None)
    with pytest.raises(PrefoptError, match="bitsandbytes is not installed"):
        quantization(torch.bfloat16, 4)


def test_merging_leaves_a_plain_head_tied(base):
    model = merged_weights(
        add_adapter(load_model(base), r=2, alpha=4.0, dropout=0.0, target_modules="all-linear")
    )
    assert model.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


# ---- adapters of longer vocabularies, with modules of their own, and of other kinds


def spread(model, std=0.1):
    """Every trained weight away from where it began."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and weight.ndim == 2:
                weight.add_(
                    std * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
                )
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("rows", "more"),
    [
        (3, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        (
            3,
            {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        ),  # saved with the embedding, as peft does where it grew
        (-2, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        (0, {"modules_to_save": ["lm_head"]}),
        (0, {"modules_to_save": ["embed_tokens"]}),
        (0, {"trainable_token_indices": [5, 9]}),
        (0, {"use_dora": True}),
        (0, {"use_rslora": True}),
        (0, {"init_lora_weights": "pissa"}),
        (0, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    ],
    ids=str,
)
def test_an_adapter_is_put_in_as_peft_runs_it(tmp_path, tied, rows, more):
    base = write_base(tmp_path / "base", tied=tied)
    model, tokenizer = load_model(base), load_tokenizer(base)
    size = model.get_input_embeddings().weight.shape[0] + rows
    if rows:
        model.resize_token_embeddings(size, mean_resizing=False)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **more}
    with quiet_peft():
        adapted = spread(get_peft_model(model, LoraConfig(**settings)))
        adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    pairs = [*PAIRS, ([5], [size - 1, 6])]
    expected = completion_logps(adapted, pairs).detach()
    merged = merge_adapter(tmp_path / "adapter", tmp_path / "merged", model=str(base))
    for path in (tmp_path / "adapter", merged):
        torch.testing.assert_close(
            completion_logps(load_model(path), pairs).detach(), expected, atol=2e-4, rtol=0
        )


def test_an_adapter_whose_base_grew_and_is_not_here_is_told(tmp_path):
    base = write_base(tmp_path / "base", tied=False)
    model = load_model(base)
    model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + 3, mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM")
    with quiet_peft():
        get_peft_model(model, config).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    load_tokenizer(base).save_pretrained(tmp_path / "adapter")
    with pytest.raises(PrefoptError, match=r"rows of embedding, but .* does not hold the others"):
        load_model(tmp_path / "adapter")


@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_4"])
@pytest.mark.parametrize("scale", [{}, {"use_rslora": True}, {"rank_pattern": {"v_proj": 2}}], ids=str)
def test_an_adapter_of_a_changed_base_is_written_as_lora_of_its_base(tmp_path, base, start, scale):
    more = {"init_lora_weights": start, **scale}
    with seeded(0):
        model = add_adapter(
            load_model(base), r=4, alpha=8.0, dropout=0.0, target_modules=["q_proj", "v_proj"], **more
        )
    before = completion_logps(load_model(base), PAIRS).detach()
    torch.testing.assert_close(completion_logps(model, PAIRS).detach(), before, atol=1e-4, rtol=0)
    assert not base_is_kept(model)
    expected = completion_logps(spread(model), PAIRS).detach()
    assert float((expected - before).abs().max()) > 1e-2
    save_adapter(model, tmp_path / "adapter")
    load_tokenizer(base).save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(
        completion_logps(load_model(tmp_path / "adapter"), PAIRS).detach(), expected, atol=2e-4, rtol=0
    )
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["init_lora_weights"] is True


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({}, True),
        ({"use_dora": True}, True),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"bias": "all"}, False),
    ],
    ids=str,
)
def test_what_keeps_its_base(base, more, kept):
    model = add_adapter(load_model(base), r=4, alpha=8.0, dropout=0.0, target_modules=["q_proj"], **more)
    assert base_is_kept(model) is kept


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"use_dorra": True}, "lora.use_dorra: unknown key, did you mean 'use_dora'"),
        ({"lora_alpha": 8}, "lora_alpha: is `alpha` here"),
        ({"init_lora_weights": "eva"}, "eva is not done here"),
        ({"bias": 3, "layers_pattern": "h", "target_modules": "all-linear"}, "layers_pattern"),
        ({"init_lora_weights": "pissa", "merge": False}, None),
        ({"loraplus_lr_ratio": 0}, "greater than 0"),
    ],
    ids=str,
)
def test_keys_of_peft_are_checked_when_settings_are_read(more, said):
    if said is None:
        assert not parse_config(TrainConfig, {"lora": more}, "x").lora.keeps_base
        return
    with pytest.raises(PrefoptError) as caught:
        parse_config(TrainConfig, {"lora": more}, "x")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
