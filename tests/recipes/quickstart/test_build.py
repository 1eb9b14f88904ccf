from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from prefopt.recipes.quickstart import BASE_MODEL, PROMPTS, build, task, writers

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE_MODEL)


def test_the_shipped_tokenizer_is_the_one_the_builder_makes(shipped) -> None:
    made = build.make_tokenizer()
    assert made.get_vocab() == shipped.get_vocab()
    assert made.chat_template == shipped.chat_template
    ids = [shipped.pad_token_id, shipped.bos_token_id, shipped.eos_token_id, shipped.unk_token_id]
    assert len(set(ids)) == 4
    assert None not in ids


def test_every_prompt_and_answer_round_trips(shipped) -> None:
    rng = random.Random(0)
    shipped_prompts = [
        json.loads(line)["prompt"][0]["content"]
        for path in PROMPTS.values()
        for line in path.read_text().splitlines()
    ]
    for expression in shipped_prompts:
        completion = writers.write(task.parse(expression), rng)[1]
        ids, prompt_tokens = build.encode_row(shipped, expression, completion)
        assert ids[0] == shipped.bos_token_id
        assert ids.count(shipped.bos_token_id) == 1
        assert ids[-1] == shipped.eos_token_id
        assert ids.count(shipped.eos_token_id) == 1
        assert shipped.unk_token_id not in ids
        assert len(ids) <= build.MAX_LENGTH
        assert shipped.decode(ids[1:prompt_tokens]) == f"Q:{expression}\n"
        assert shipped.decode(ids[prompt_tokens:-1]) == completion


def test_the_template_renders_the_prompt_as_documented(shipped) -> None:
    messages = [{"role": "user", "content": "12+7*3"}]
    assert (
        shipped.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "<s>Q:12+7*3\n"
    )
    messages.append({"role": "assistant", "content": "A: 57"})
    assert shipped.apply_chat_template(messages, tokenize=False) == "<s>Q:12+7*3\nA: 57</s>"


def test_plain_text_gets_one_bos_and_unknown_characters_are_unk(shipped) -> None:
    ids = shipped("Q:1+1\n")["input_ids"]
    assert ids.count(shipped.bos_token_id) == 1
    assert shipped("é", add_special_tokens=False)["input_ids"] == [shipped.unk_token_id]


def test_the_shipped_base_is_an_ordinary_small_model(shipped) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL).eval()
    assert type(model).__name__ == "LlamaForCausalLM"
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(model.config, name) == getattr(shipped, name)
        assert getattr(model.generation_config, name) == getattr(shipped, name)
    assert model.config.vocab_size == len(shipped)
    rows = task.prompts("tuning", 32, build.SEED)
    right = 0
    for row in rows:
        ids = shipped.apply_chat_template(row["prompt"], add_generation_prompt=True, return_tensors="pt")
        with torch.no_grad():
            output = model.generate(**ids, do_sample=False, temperature=None, max_new_tokens=64)
        completion = shipped.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        right += str(task.extract_answer(completion)) == row["answer"]
    assert right >= 24  # greedy accuracy is above 90%: 24 of 32 leaves room for chance


def test_the_shipped_files_are_small_and_safe() -> None:
    files = [path for path in BASE_MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4 * MEGABYTE
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja"}
    assert {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"} <= {
        p.name for p in files
    }


def test_the_corpus_shares_no_prompt_with_the_prompt_files() -> None:
    corpus = {chain.expression for chain in itertools.islice(task.chains("corpus", build.SEED), 3000)}
    for split, count in build.PROMPT_COUNTS.items():
        rows = task.prompts(split, count, build.SEED)
        assert not corpus & {row["prompt"][0]["content"] for row in rows}


def test_the_loss_counts_completion_tokens_alone(shipped) -> None:
    rows = [build.encode_row(shipped, "1+2+3", "A: 6"), build.encode_row(shipped, "12+20*2", "A: 64")]
    inputs, labels = build.collate(rows, shipped.pad_token_id)
    for (ids, prompt), row_inputs, row_labels in zip(rows, inputs.tolist(), labels.tolist(), strict=True):
        assert row_inputs[: len(ids)] == ids
        assert row_inputs[len(ids) :] == [shipped.pad_token_id] * (len(row_inputs) - len(ids))
        assert [label for label in row_labels if label != -100] == ids[prompt:]
        assert row_labels[prompt : len(ids)] == ids[prompt:]


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    rates = [build.learning_rate(step, 1000) for step in range(1000)]
    assert max(rates) == build.PEAK_LR
    assert rates[: build.WARMUP_STEPS] == sorted(rates[: build.WARMUP_STEPS])
    assert rates[build.WARMUP_STEPS :] == sorted(rates[build.WARMUP_STEPS :], reverse=True)
    assert rates[-1] < build.PEAK_LR * 1e-4


def test_the_global_random_state_is_left_alone() -> None:
    import torch

    before = torch.get_rng_state()
    build.make_model(build.make_tokenizer(), seed=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build.main(["--output", str(tmp_path / name), "--steps", "30", "--threads", "1"])
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert len(one) >= 8
    assert one == two


@pytest.mark.slow
def test_a_short_build_learns_and_another_seed_differs(tmp_path: Path) -> None:
    losses = build.build(tmp_path / "one", steps=30, seed=0, threads=1)
    assert losses[-1] < 0.8 * losses[0]
    build.build(tmp_path / "two", steps=2, seed=1, threads=1)
    assert (tmp_path / "one/train.jsonl").read_bytes() != (tmp_path / "two/train.jsonl").read_bytes()
