"""`prefopt init`: the recipe fits the data, loads, and says where its numbers come from."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml
from command import command

from prefopt.core.errors import PrefoptError
from prefopt.pipeline.costs import ModelSize
from prefopt.pipeline.recipe import load_recipe
from prefopt.tools.init.facts import DataFacts, Machine, ModelFacts, quantiles
from prefopt.tools.init.settings import RATES, arithmetic, batch, fit, learning_rate, lengths
from prefopt.tools.init.write import init

MODEL = "builtin:quickstart/base"
GB = 10**9


def rows_of(kind, n=40):
    for k in range(n):
        row = {"prompt": f"{k}+{k}"}
        if kind == "prompts":
            yield {**row, "answer": str(2 * k)}
        if kind == "questions":
            yield row
        if kind == "pairs":
            yield {**row, "chosen": f"A: {2 * k}", "rejected": "A: 7" + "1" * (k == 3) * 40}
        if kind == "unpaired":
            yield {**row, "completion": f"A: {2 * k}", "label": k % 3 == 0}
        if kind == "completions":
            yield {
                **row,
                "answer": str(2 * k),
                "completions": [{"text": f"A: {2 * k}"}, {"text": "A: 1"}, {"text": "A: 3"}],
            }


def data(folder, kind):
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)))
    return path


@pytest.mark.parametrize("kind", ["prompts", "questions", "pairs", "unpaired", "completions"])
def test_the_recipe_fits_its_data_and_can_be_planned(kind, tmp_path):
    file, recipe = data(tmp_path, kind), tmp_path / "my recipe.yaml"
    shown = command("init", "--model", MODEL, "--data", file, "--output", recipe)
    assert shown.exit_code == 0, shown.stderr
    loaded = load_recipe(recipe)
    assert loaded.data.kind == {"questions": "prompts"}.get(kind, kind)
    assert loaded.name == "my-recipe"
    planned = command("run", recipe, "--dry-run", "--output", tmp_path / "run")
    assert planned.exit_code == 0, planned.stderr
    assert ("kto" in str(loaded.train.loss)) == (kind == "unpaired")
    if kind == "questions":
        assert loaded.rank.judge.kind == "local"
        assert "a stand-in" in recipe.read_text()
    if kind in ("prompts", "completions"):
        assert loaded.rank.strategy == "verify"
        assert loaded.weight.scheme == "difficulty"
    assert command("init", "--model", MODEL, "--data", file, "--output", recipe).exit_code == 2


def test_lengths_are_counted_by_the_models_own_tokenizer(tmp_path):
    text = init(MODEL, str(data(tmp_path, "pairs")), test=str(tmp_path / "pairs.jsonl"))
    # one token per character and a frame of the template around them; row 3 has forty more
    from prefopt.models.find import resolve_model
    from prefopt.models.load import load_tokenizer
    from prefopt.models.template import encode_pair

    tokenizer = load_tokenizer(resolve_model(MODEL))
    pair = {"prompt": [{"role": "user", "content": "3+3"}], "chosen": [{"role": "assistant", "content": "A: 6"}],
            "rejected": [{"role": "assistant", "content": "A: 7" + "1" * 40}]}  # fmt: skip
    whole = encode_pair(tokenizer, pair, max_length=1000)
    assert f"longest {len(whole.prompt_ids) + len(whole.rejected_ids)}" in text
    assert yaml.safe_load(text)["train"]["max_length"] == 64


def test_names_come_back_as_they_were_given(tmp_path):
    odd = tmp_path / 'a "b": #c ü'
    odd.mkdir()
    file = data(odd, "pairs")
    assert yaml.safe_load(init(MODEL, str(file)))["data"]["path"] == str(file)


def facts(
    kind="pairs", rows=5000, prompt=(10, 20, 30, 40), answer=(50, 90, 300, 900), both=(60, 110, 321, 930)
):
    return DataFacts(kind, rows, ("prompt",), False, 100, prompt, answer, both)


def model(parameters=7 * GB, dtype="bfloat16", positions=4096):
    return ModelFacts(
        None, ModelSize(parameters, 2 * parameters, dtype, ((4096, 4096),) * 8), positions, True
    )


CPU = Machine("cpu", "this processor", 16 * GB, False)
GPU = Machine("cuda", "a card", 80 * GB, True)


def test_an_adapter_where_memory_is_short():
    # weights, gradients and two moments of 7 billion parameters in fp32 are 112 GB
    on_gpu = fit(facts(), model(), GPU)
    assert on_gpu.lora
    assert on_gpu.needed[0] == 4 * 4 * 7 * GB
    assert on_gpu.needed[1] < on_gpu.needed[0] / 3
    assert not fit(facts(), model(10**9), GPU).lora
    rates = [fit(facts(), model(10**9), GPU, lora=lora).learning_rate for lora in (False, True)]
    assert rates[1] == pytest.approx(10 * rates[0])


def test_learning_rates_fall_with_size_and_name_their_source():
    sizes = [10**8, 10**9, 7 * GB, 70 * GB]
    for lora in (False, True):
        found = [learning_rate(size, lora=lora) for size in sizes]
        assert all(a[0] >= b[0] for a, b in itertools.pairwise(found))
        assert all(source for _, source in found)
    assert all(lora > full for _, full, lora, _ in RATES)


def test_weights_of_16_bits_are_not_trained_as_such():
    import torch

    weight = torch.tensor([0.02], dtype=torch.bfloat16)
    assert torch.equal(weight + 1e-6, weight)  # why
    half = ModelSize(10**8, 2 * 10**8, "bfloat16", ())
    assert arithmetic(half, CPU) == ("float32", "float32")
    assert arithmetic(half, GPU) == ("mixed", "auto")
    assert arithmetic(ModelSize(10**8, 4 * 10**8, "float32", ()), CPU) == ("float32", "auto")


def test_lengths_hold_99_of_100_rows_and_fit_the_model():
    assert lengths(facts(), 4096) == (384, 320)
    assert lengths(facts(), 256) == (256, 226)
    assert lengths(facts("prompts", answer=(), both=()), 4096) == (320, 256)
    assert quantiles(range(1, 101)) == (50, 90, 99, 100)
    assert quantiles([]) == ()


@pytest.mark.parametrize(("rows", "size"), [(1, 8), (300, 8), (500, 16), (1000, 32), (100_000, 64)])
def test_small_data_gets_small_batches(rows, size):
    assert batch(rows) == size


def test_the_batch_counts_what_is_left_after_held_out_rows_and_selection():
    assert fit(facts(rows=1668), model(), GPU).pairs_per_step == 16  # 750 of them are trained on
    assert fit(facts("unpaired", rows=1668), model(), GPU).pairs_per_step == 32


def test_what_cannot_be_is_one_line(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for words, said in (
        (("--model", tmp_path / "gone", "--data", data(tmp_path, "pairs")), "no such directory"),
        (("--model", MODEL, "--data", tmp_path / "gone.jsonl"), "gone.jsonl"),
        (("--model", MODEL, "--data", tmp_path / "empty.jsonl"), "empty.jsonl"),
    ):
        shown = command("init", *words)
        assert shown.exit_code == 2
        assert said in shown.stderr
        assert len(shown.stderr.strip().splitlines()) == 1
    with pytest.raises(PrefoptError):
        init("tiny", str(data(tmp_path, "pairs")))
