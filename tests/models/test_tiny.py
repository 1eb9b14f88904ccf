"""The smoke model: any text, ChatML, about a million parameters, the same bytes for the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.models import tiny
from prefopt.models.load import load_model, load_tokenizer
from prefopt.models.template import encode_answer
from prefopt.models.tiny import build_tiny, build_tiny_for, make_tokenizer, warm_up
from prefopt.scoring.logprobs import completion_logps
from prefopt.tables.records import file_digest, make_table

TEXTS = [
    "What is two plus three? It is 5.",
    "What is nine minus four? It is 5.",
    "The sum of 10 and 20 is 30.",
] * 5
PAIRS = [
    {
        "id": f"r{i}",
        "prompt": [{"role": "user", "content": f"what is {i} plus {i}?"}],
        "chosen": [{"role": "assistant", "content": f"it is {2 * i}"}],
        "rejected": [{"role": "assistant", "content": "no idea"}],
        "split": "eval" if i % 5 == 0 else "train",
    }
    for i in range(20)
]


def contents(directory):
    return {path.name: file_digest(path) for path in sorted(directory.iterdir())}


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_every_text_survives(text):
    tokenizer = make_tokenizer(TEXTS, vocab_size=300)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_size_and_directory(tmp_path):
    directory = build_tiny(TEXTS * 40, tmp_path / "tiny", seed=1)
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    assert 0.7e6 < model.num_parameters() < 1.3e6
    assert len(tokenizer) <= 2048
    assert tokenizer.eos_token == "<|im_end|>"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]  # nothing left beside it


def test_equal_seed_equal_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "WARMUP_BATCH_TOKENS", 256)
    state = torch.random.get_rng_state()
    table = make_table(PAIRS)
    one, two, other = (
        contents(build_tiny_for(table, tmp_path / name, key="k", seed=seed, vocab_size=400, warmup_steps=2))
        for name, seed in [("one", 3), ("two", 3), ("other", 4)]
    )
    assert one == two
    assert one["model.safetensors"] != other["model.safetensors"]
    assert one["tokenizer.json"] == other["tokenizer.json"]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_key_decides_whether_it_is_built_again(tmp_path):
    directory = build_tiny(TEXTS, tmp_path / "tiny", seed=1, key="a", vocab_size=300)
    before = contents(directory)
    stamp = (directory / "model.safetensors").stat().st_mtime_ns
    build_tiny(TEXTS, directory, seed=2, key="a", vocab_size=300)
    assert (directory / "model.safetensors").stat().st_mtime_ns == stamp
    build_tiny(TEXTS, directory, seed=2, key="b", vocab_size=300)
    assert contents(directory)["model.safetensors"] != before["model.safetensors"]


def test_a_build_that_dies_leaves_nothing_and_starts_anew(tmp_path, monkeypatch):
    whole = contents(build_tiny(TEXTS, tmp_path / "whole", seed=1, key="k", vocab_size=300))

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "mark_tiny", die)
        with pytest.raises(KeyboardInterrupt):
            build_tiny(TEXTS, tmp_path / "again", seed=1, key="k", vocab_size=300)
    assert not (tmp_path / "again").exists()
    assert contents(build_tiny(TEXTS, tmp_path / "again", seed=1, key="k", vocab_size=300)) == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "whole"]


def test_somebodys_directory_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(PrefoptError, match="holds something else"):
        build_tiny(TEXTS, tmp_path / "mine", seed=1)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_warm_up_learns_the_answers(monkeypatch):
    monkeypatch.setattr(tiny, "WARMUP_BATCH_TOKENS", 256)
    tokenizer = make_tokenizer(TEXTS, vocab_size=300)
    model = tiny.make_model(tokenizer, seed=0)
    answers = list(tiny._answers(PAIRS))
    losses = warm_up(model, tokenizer, 12, answers, seed=0)
    assert len(losses) == 12
    assert losses[-1] < 0.7 * losses[0]
    encoded = [
        encode_answer(tokenizer, PAIRS[1], PAIRS[1][side], max_length=99) for side in ("chosen", "rejected")
    ]
    with torch.no_grad():
        chosen, rejected = completion_logps(model, [(e.prompt_ids, e.answer_ids) for e in encoded])
    assert chosen / len(encoded[0].answer_ids) > rejected / len(encoded[1].answer_ids)


def test_held_out_rows_are_not_read(monkeypatch, tmp_path):
    seen = {}

    def note(texts, directory, **more):
        seen.update(more, texts=texts)
        return directory

    monkeypatch.setattr(tiny, "build_tiny", note)
    build_tiny_for(make_table(PAIRS), tmp_path, key="k", seed=0, warmup_steps=1)
    assert not [row for row, _ in seen["warmup"][1] if row["split"] == "eval"]
    assert "what is 5 plus 5?" not in seen["texts"]
    assert "what is 6 plus 6?" in seen["texts"]


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        ([{"prompt": "p", "gold_completion": "long", "gold": "1", "completion": "c"}], ["long"]),
        ([{"prompt": "p", "gold": "1"}], ["1"]),
        ([{"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}], ["c"]),
        ([{"prompt": "p"}], []),
    ],
)
def test_answers_to_learn_from(rows, answers):
    assert [answer for _, answer in tiny._answers(rows)] == answers


def test_warm_up_without_answers_is_told(tmp_path):
    table = make_table([{"id": "a", "prompt": "only a question"}])
    with pytest.raises(PrefoptError, match="no answer to learn from"):
        build_tiny_for(table, tmp_path / "tiny", key="k", seed=0, warmup_steps=1)
    assert not (tmp_path / "tiny").exists()


@given(st.lists(st.integers(1, 900), min_size=1, max_size=150), st.integers(0, 99))
def test_warm_up_batches_stay_within_the_budget_and_take_every_row_once(sizes, seed):
    sequences = [([i], [1] * size) for i, size in enumerate(sizes)]
    batches = tiny._batches(sequences, torch.Generator().manual_seed(seed))
    seen: list[int] = []
    while len(seen) < len(sizes):
        batch = next(batches)
        widest = max(tiny._size(sequence) for sequence in batch)
        assert len(batch) == 1 or widest * len(batch) <= tiny.WARMUP_BATCH_TOKENS
        seen += [prompt[0] for prompt, _ in batch]
    assert sorted(seen) == list(range(len(sizes)))
