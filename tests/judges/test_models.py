"""Judges that read a model, and the verifier: verdicts against direct computations."""

import pytest
import reward_models as small
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from prefopt.core.errors import PrefoptError
from prefopt.judges import JUDGES, Comparison, PairwiseJudgeConfig, Verdict, open_judge, winner_of
from prefopt.judges.local import letter_ids
from prefopt.judges.reward_model import RewardScorer, sigmoid
from prefopt.models.load import load_tokenizer
from prefopt.models.quiet import seeded
from prefopt.scoring.reward import encode_comparison, encode_scalar, load_reward_model, read_all
from prefopt.tables.context import Context


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small.small_base(tmp_path_factory.mktemp("base"))


def head(base, folder, kind):
    """An untrained reward model whose outputs are far apart."""
    tokenizer = load_tokenizer(base)
    with seeded(2):
        model = load_reward_model(base, tokenizer, new=kind)
    with torch.no_grad():
        model.score.weight.mul_(30)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scalar(base, tmp_path_factory):
    return head(base, tmp_path_factory.mktemp("scalar"), "scalar")


@pytest.fixture(scope="module")
def pairwise(base, tmp_path_factory):
    return head(base, tmp_path_factory.mktemp("pairwise"), "pairwise")


def calls(n=6):
    return [
        Comparison(r["prompt_id"], r["prompt"], {"completion": r["chosen"] * (1 + k % 3)}, {"completion": r["rejected"]})
        for k, r in enumerate(small.good_and_bad(n))
    ]  # fmt: skip


def swapped(call):
    return Comparison(call.prompt_id, call.prompt, call.second, call.first, call.reference)


def opened(kind, path=None, **settings):
    config = PairwiseJudgeConfig(kind=kind, model=None if path is None else str(path), **settings)
    return open_judge(config, Context())


# ---- local


def test_local_is_the_softmax_over_both_letters(base):
    judge = opened("local", base, batch_size=4)
    found = judge.compare(calls(), seed=0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), load_tokenizer(base)
    vocabulary = tokenizer.get_vocab()
    letters = [[i for t, i in vocabulary.items() if t in (side, f"Ġ{side}")] for side in "AB"]
    assert all(letters)
    for call, verdict in zip(calls(), found, strict=True):
        with torch.no_grad():
            p = model(torch.tensor([judge.encode(call)])).logits[0, -1].double().softmax(-1)
        one, two = (p[ids].sum().item() for ids in letters)
        assert verdict.probability == pytest.approx(one / (one + two), abs=1e-6)
        assert verdict.winner == winner_of(verdict.probability, 0.05)
    assert judge.both_orders
    assert judge.averages


def test_both_forms_of_a_letter_count_and_nothing_else():
    class Tokens:
        def get_vocab(self):
            return {"A": 3, "ĠA": 5, "▁A": 9, "a": 1, "AB": 2, "B": 4, "ĠBe": 8, "ĠB": 7}

    class NoB(Tokens):
        def get_vocab(self):
            return {"A": 0}

    assert letter_ids(Tokens()) == ([3, 5, 9], [4, 7])
    with pytest.raises(PrefoptError, match="no token 'B'"):
        letter_ids(NoB())


def test_local_encodes_the_verdict_at_the_next_token(base):
    judge = opened("local", base, rubric="Be short.")
    call = Comparison("p", "1+1?", {"completion": "2<|im_end|>"}, {"completion": "3"}, reference="2")
    text = judge.tokenizer.decode(judge.encode(call))
    assert text.endswith("<|im_start|>assistant\n")
    assert text.count("<|im_end|>") == 2  # of system and user alone
    assert "Be short." in text
    assert text.index("2< |im_end|>") < text.index("3\n</answer_B>")


def test_what_does_not_fit_is_missing(base):
    judge = opened("local", base, max_length=600)
    long = Comparison("p", "q", {"completion": "apple " * 700}, {"completion": "x"})
    assert [v.winner for v in judge.compare([long], seed=0)] == ["missing"]


# ---- reward models


def test_scalar_is_the_sigmoid_of_the_difference(scalar):
    judge = opened("reward_model", scalar, tie_band=0.0)
    tokenizer = load_tokenizer(scalar)
    model = load_reward_model(scalar, tokenizer)
    assert not judge.both_orders
    for call, verdict in zip(calls(), judge.compare(calls(), seed=0), strict=True):
        ids = [encode_scalar(tokenizer, {"prompt": call.prompt}, row["completion"], max_length=2048) for row in (call.first, call.second)]  # fmt: skip
        one, two = (read_all(model, [each], batch_size=1)[0] for each in ids)
        assert verdict.probability == pytest.approx(1 / (1 + torch.tensor(two - one).exp().item()), abs=1e-4)
        assert verdict.winner == ("first" if one > two else "second")
    there, back = judge.compare(calls(), seed=0), judge.compare([swapped(c) for c in calls()], seed=0)
    assert [v.probability for v in there] == pytest.approx([1 - v.probability for v in back])


def test_pairwise_reads_both_answers(pairwise):
    judge = opened("pairwise_model", pairwise, tie_band=0.0)
    tokenizer = load_tokenizer(pairwise)
    model = load_reward_model(pairwise, tokenizer)
    for call, verdict in zip(calls(), judge.compare(calls(), seed=0), strict=True):
        ids = encode_comparison(tokenizer, call.prompt, call.first["completion"], call.second["completion"], max_length=2048)  # fmt: skip
        logit = read_all(model, [ids], batch_size=1)[0]
        assert verdict.probability == pytest.approx(sigmoid(logit), abs=1e-4)
        assert verdict.winner == ("first" if logit > 0 else "second")


def test_models_of_the_wrong_kind_are_told(base, scalar, pairwise):
    for kind, path, said in (
        ("reward_model", pairwise, "use judge kind pairwise_model"),
        ("pairwise_model", scalar, "use judge kind reward_model"),
        ("reward_model", base, "no reward model but LlamaForCausalLM"),
        ("local", None, r"set judge\.model"),
    ):
        with pytest.raises(PrefoptError, match=said):
            opened(kind, path)


def test_a_prompt_that_is_too_long_is_missing(scalar, pairwise):
    long = Comparison("p", "apple " * 200, {"completion": "x"}, {"completion": "y"})
    for kind, path in (("reward_model", scalar), ("pairwise_model", pairwise)):
        found = opened(kind, path, max_length=64).compare([long, *calls(2)], seed=0)
        assert [v.winner == "missing" for v in found] == [True, False, False]


def test_descriptions_name_what_verdicts_depend_on(base, scalar):
    assert opened("local", base).describe() == opened("local", base, batch_size=3).describe()
    for changed in ({"rubric": "x"}, {"tie_band": 0.1}, {"max_length": 600}):
        assert opened("local", base).describe() != opened("local", base, **changed).describe()
    assert opened("reward_model", scalar).describe()["model_digest"]


# ---- verifier and the band


def test_right_beats_wrong():
    rows = {"right": "A: 7", "right too": "so the answer is 7.0", "wrong": "A: 8", "none": "I give up"}
    rows = {name: {"completion": text, "gold": "7"} for name, text in rows.items()}
    judge = opened("verifier")
    pairs = [
        ("right", "wrong"),
        ("wrong", "right"),
        ("right", "right too"),
        ("wrong", "none"),
        ("none", "right"),
    ]
    found = judge.compare([Comparison("p", "q", rows[a], rows[b]) for a, b in pairs], seed=0)
    assert [(v.winner, v.probability) for v in found] == [
        ("first", 1.0), ("second", 0.0), ("tie", 0.5), ("tie", 0.5), ("second", 0.0),
    ]  # fmt: skip
    without = [
        {"completion": "x", "is_correct": True},
        {"completion": "y", "is_correct": False},
        {"completion": "z"},
    ]
    found = judge.compare([Comparison("p", "q", without[0], other) for other in without[1:]], seed=0)
    assert [v.winner for v in found] == ["first", "missing"]
    assert not judge.both_orders


@pytest.mark.parametrize(
    ("p", "band", "winner"),
    [(0.5, 0.0, "tie"), (0.5 + 1e-9, 0.0, "first"), (0.54, 0.05, "tie"), (0.56, 0.05, "first"), (0.44, 0.05, "second"), (0.0, 0.05, "second")],
)  # fmt: skip
def test_the_tie_band(p, band, winner):
    assert winner_of(p, band) == winner


def test_a_missing_package_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setitem(JUDGES, "verifier", ("prefopt.judges.no_such_module", "pip install x"))
    with pytest.raises(PrefoptError, match=r"needs the package .*; pip install x"):
        opened("verifier")
    assert Verdict("tie").probability is None


# ---- reward models of other makers: the reward is that of their own usage, alone or in a batch

TAIL = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}{% if loop.last %}"
    "{{ '\\n\\nrate it:' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_TAIL = TAIL.replace("\\n\\nrate it:", "")


def classifier(base, folder, *, config_pad, tokenizer_pad=None, template=None):
    """A random scalar model as others save it. config_pad, tokenizer_pad: a token, "" for none, or an id as it is."""
    tokenizer = load_tokenizer(base)
    tokenizer.pad_token = tokenizer_pad or None
    if template:
        tokenizer.chat_template = template
    ids = tokenizer.convert_tokens_to_ids
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, num_labels=1, initializer_range=0.4, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, max_position_embeddings=512,
        pad_token_id=config_pad if isinstance(config_pad, int) else ids(config_pad) if config_pad else None,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


END, OTHER = "<|im_end|>", "<|endoftext|>"


@pytest.mark.parametrize("template", [None, TAIL, NO_TAIL], ids=["chatml", "tail", "no tail"])
@pytest.mark.parametrize(
    ("config_pad", "tokenizer_pad"),
    [(OTHER, END), (END, END), ("", ""), ("", END), (END, OTHER), (-1, OTHER)],
    ids=["padded by the end", "pad is end", "no padding", "config without", "config is end", "minus one"],
)
def test_a_reward_is_that_of_the_plain_call(base, tmp_path, template, config_pad, tokenizer_pad):
    model, tokenizer = classifier(
        base, tmp_path, config_pad=config_pad, tokenizer_pad=tokenizer_pad, template=template
    )
    rows = [{"prompt": r["prompt"], "completion": r["chosen"] * (1 + k % 3)} for k, r in enumerate(small.good_and_bad(5))]  # fmt: skip
    found = RewardScorer(tmp_path, batch_size=4).scores(rows)
    for row, score in zip(rows, found, strict=True):
        turns = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        ids = tokenizer.apply_chat_template(turns, tokenize=True, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            assert score == pytest.approx(model(input_ids=ids).logits[0, 0].item(), abs=1e-4)
    assert max(found) - min(found) > 0.01


def test_a_long_answer_loses_its_end_and_a_long_prompt_its_row(base, tmp_path):
    _, tokenizer = classifier(base, tmp_path, config_pad=OTHER, tokenizer_pad=OTHER)
    row = {"prompt": "river 1", "completion": "apple " * 40}
    ids = encode_scalar(tokenizer, row, row["completion"], max_length=30)
    assert ids == encode_scalar(tokenizer, row, row["completion"], max_length=500)[:30]
    assert RewardScorer(tmp_path, max_length=30).scores([{"prompt": "apple " * 60, "completion": "x"}]) == [
        None
    ]


@pytest.mark.parametrize("types", [1, 2])
def test_an_encoder_reads_prompt_and_answer_as_two_texts(tmp_path, capsys, types):
    tokenizer = BertTokenizer(vocab={w: k for k, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *small.WORDS])})  # fmt: skip
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_labels=1, initializer_range=0.4, type_vocab_size=types, max_position_embeddings=64,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = [{"prompt": "apple river", "completion": "stone " * n} for n in (1, 3, 9)]
    found = RewardScorer(tmp_path).scores(rows)
    assert "it reads tokenizer(prompt, answer)" in capsys.readouterr().err
    for row, score in zip(rows, found, strict=True):
        inputs = tokenizer(row["prompt"], row["completion"], return_tensors="pt")
        if types == 1:
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            assert score == pytest.approx(model(**inputs).logits[0, 0].item(), abs=1e-4)
    long = {"prompt": "apple", "completion": "stone " * 90}
    assert RewardScorer(tmp_path).scores([long, {"prompt": "apple " * 70, "completion": "x"}])[1] is None
    with pytest.raises(PrefoptError, match="one prompt and one answer"):
        RewardScorer(tmp_path).scores([{"prompt": [{"role": "user", "content": "a"}] * 3, "completion": "x"}])
