"""Adapters on packed rows: exact, with the reference being the model whose adapter is off."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from training_worker import make_examples, make_trainer
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.losses import build_loss
from prefopt.models.lora import add_adapter
from prefopt.scoring.logprobs import token_logps
from prefopt.scoring.shared import check_sharing, packed_token_logps
from prefopt.stages.train.settings import TrainConfig, trainer_settings
from prefopt.training.live_reference import AdapterOff
from prefopt.training.metrics import history_rows

LAYERS = ["q_proj", "v_proj", "up_proj"]
SHARED = {"shared_prefix": True, "max_tokens_per_row": 60}


def base_model():
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, initializer_range=0.1,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def adapted(modules=LAYERS, *, moved=False, dropout=0.0):
    """The base model with a LoRA adapter; moved: with random factors, as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = add_adapter(base_model(), r=4, alpha=8.0, dropout=dropout, target_modules=modules)
        if moved:
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.fixture(scope="module")
def rows():
    return make_examples(12, 0, base_model())


def sequences_of(examples):
    return [(e.prompt, ids) for e in examples for ids in e.answers.values()]


def gradients(model, logps):
    model.zero_grad()
    torch.cat(logps).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("modules", [LAYERS, [*LAYERS, "lm_head"], ["lm_head"]], ids=str)
def test_packed_rows_equal_single_sequences_with_an_adapter(rows, modules):
    model, sequences = adapted(modules, moved=True), sequences_of(rows)
    sharing = check_sharing(model, sequences)
    assert sharing.form is not None
    packed = packed_token_logps(model, sequences, max_tokens_per_row=60, sharing=sharing)
    found = gradients(model, packed)
    single = [token_logps(model, [sequence])[0] for sequence in sequences]
    expected = gradients(model, single)
    together = torch.cat(packed).detach()
    assert float((together - torch.cat(single).detach()).abs().max()) < 1e-5
    norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
    off = math.sqrt(sum(float((g - found[name]).square().sum()) for name, g in expected.items()))
    assert off < 1e-5 * norm
    without = [token_logps(base_model(), [sequence])[0] for sequence in sequences]
    assert float((together - torch.cat(without).detach()).abs().max()) > 1e-2


def test_the_model_with_its_adapter_off_is_the_base_model_to_the_bit(rows):
    model, sequences = adapted(moved=True, dropout=0.5).train(), sequences_of(rows)
    with torch.no_grad(), AdapterOff()(model):
        assert not model.training
        off = torch.cat([token_logps(model, [s])[0] for s in sequences])
        plain = torch.cat([token_logps(base_model(), [s])[0] for s in sequences])
        assert torch.equal(off, plain)
    assert model.training
    assert all(p.requires_grad for name, p in model.named_parameters() if "lora_" in name)
    model.eval()
    assert not torch.equal(torch.cat([token_logps(model, [s])[0] for s in sequences]), plain)


def trained(folder, examples, loss="dpo", modules=LAYERS, held_out=None, dropout=0.0, **settings):
    trainer = make_trainer(
        folder, build_loss(loss), examples, held_out, model=adapted(modules, dropout=dropout),
        **{"max_steps": 3, "logging_steps": 1, **settings},
    )  # fmt: skip
    trainer.train()
    return trainer


def adapter_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def largest_difference(first, second):
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("loss", ["dpo", [{"name": "dpo", "ld_alpha": 0.4}], "bco_pair"], ids=str)
def test_without_a_store_the_adapter_is_switched_off(tmp_path, rows, loss, caplog):
    bare = [replace(row, reference={}) for row in rows]
    with caplog.at_level(logging.INFO, "prefopt.train"):
        live = trained(tmp_path, bare, loss, held_out=bare[:4], **SHARED)
    assert "adapter off" in caplog.text
    first = history_rows(live.state.log_history)[0]
    assert first["step0/reward_max"] == 0.0
    assert first["step0/passed"] == 1.0
    held_out = live.evaluate()
    if loss == "dpo":  # the same as with the log-probs of a reference pass
        stored = trained(tmp_path, rows, loss, held_out=rows[:4])
        assert largest_difference(adapter_of(live), adapter_of(stored)) < 1e-5
        assert held_out == pytest.approx(stored.evaluate(), abs=1e-4)
        assert held_out["eval_rewards/margins"] != 0.0


def test_the_first_reward_is_exactly_zero_with_dropout_off_only(tmp_path, rows):
    bare = [replace(row, reference={}) for row in rows]
    first = history_rows(trained(tmp_path, bare, dropout=0.0, max_steps=1).state.log_history)[0]
    assert first["step0/loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert first["step0/reward_max"] == 0.0


def test_a_store_wins_where_it_is_whole_and_can_be_refused(tmp_path, rows):
    shifted = [replace(r, reference={k: v + 1.0 for k, v in r.reference.items()}) for r in rows]
    warned = history_rows(trained(tmp_path, shifted, max_steps=1).state.log_history)[0]
    assert warned["step0/passed"] == 0.0
    refused = trained(tmp_path, shifted, max_steps=1, reference="adapter_off")
    assert history_rows(refused.state.log_history)[0]["step0/reward_max"] == 0.0
    bare = [replace(row, reference={}) for row in rows]
    with pytest.raises(PrefoptError, match="prefopt reference"):
        trained(tmp_path, bare, reference="store")
    with pytest.raises(PrefoptError, match="needs an adapter"):
        make_trainer(tmp_path, build_loss("dpo"), bare, reference="adapter_off")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference": "adapter_off"}, "needs an adapter"),
        ({"load_in_4bit": True}, "merge to false"),
        ({"load_in_4bit": True, "lora": {}}, "merge to false"),
        ({"load_in_8bit": True, "lora": {}}, "load_in_8bit trains an adapter on weights that stay in 8 bits"),
        ({"load_in_8bit": True, "load_in_4bit": True, "lora": {"merge": False}}, "one of them"),
        ({"sync_reference": {"alpha": 0.5}, "lora": {}}, "alpha must be 1"),
        ({"sync_reference": {}, "loss": "simpo"}, "reads one"),
        ({"sync_reference": {"alpha": 1.5}}, "sync_reference.alpha"),
    ],
)
def test_settings_that_contradict_are_one_line(settings, message):
    with pytest.raises(PrefoptError, match=message):
        parse_config(TrainConfig, settings, "recipe.yaml")


def test_quantized_weights_are_their_own_reference(tmp_path):
    config = TrainConfig(load_in_4bit=True, lora={"merge": False})
    assert trainer_settings(config, tmp_path, 0, False).reference == "adapter_off"
