"""Stage 08: accuracy of test prompts, ranking of held-out pairs, one model against another."""

from importlib import resources
from pathlib import Path

import pytest
import torch

import prefopt.stages.evaluate.evaluate as evaluate_module
from prefopt.core.errors import PrefoptError
from prefopt.engines.fake import FakeEngine
from prefopt.models.load import load_model, load_tokenizer
from prefopt.models.template import encode_pair
from prefopt.recipes.quickstart.task import parse
from prefopt.rules.intervals import mcnemar, paired_difference, wilson
from prefopt.scoring.logprobs import score
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.evaluate.evaluate import ADDS, evaluate
from prefopt.stages.evaluate.figures import against, pair_correct, pair_figures, pair_margin
from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.stages.reference.reference import reference
from prefopt.stages.reference.settings import ReferenceConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import make_table, rows_of

BASE = Path(str(resources.files("prefopt.recipes"))) / "quickstart" / "base"
EXPRESSIONS = ["12+7*3", "5+5+5", "9*9-1", "40-13+2", "3*4*5", "7+8-9"]


def quiz(count=6):
    rows = [
        {
            "id": f"t{i}",
            "prompt_id": f"t{i}",
            "prompt": [{"role": "user", "content": text}],
            "gold": str(parse(text).answer),
        }
        for i, text in enumerate(EXPRESSIONS[:count])
    ]
    return make_table(rows)


def pair_table(split="eval"):
    rows = [
        {
            "id": f"p{i}",
            "prompt_id": f"q{i // 2}",
            "prompt": [{"role": "user", "content": text}],
            "split": split,
            "chosen": [{"role": "assistant", "content": f"A: {parse(text).answer}"}],
            "rejected": [{"role": "assistant", "content": "A: " + "1" * (i + 1)}],
        }
        for i, text in enumerate(EXPRESSIONS)
    ]
    return make_table(rows)


NO_PAIRS = make_table([], ("id", "prompt_id", "prompt", "split", "chosen", "rejected"))
SETTINGS = {"max_new_tokens": 40, "batch_size": 4}


def run(table=NO_PAIRS, model=BASE, folder=None, seed=0, inputs=None, **settings):
    context = Context(seed=seed, model=model, folder=folder, inputs=inputs or {})
    return evaluate(table, EvaluateConfig(**{**SETTINGS, **settings}), context)


def scripted(monkeypatch, answers):
    """Test prompts p0 ... with scripted first answers (right is A: 1)."""
    engine = FakeEngine({f"p{i}": texts for i, texts in enumerate(answers)})
    monkeypatch.setattr(evaluate_module, "open_engine", lambda *_: engine)
    rows = [
        {"id": f"p{i}", "prompt_id": f"p{i}", "prompt": f"p{i}", "gold": "1"} for i in range(len(answers))
    ]
    return make_table(rows)


def test_sampled_and_greedy_rows_and_their_figures(monkeypatch):
    prompts = scripted(monkeypatch, [["A: 1"], ["A: 2"], ["A: 1.0"], ["no"]])
    output = run(inputs={"prompts": prompts})
    rows = rows_of(output.table)
    assert [(row["mode"], row["id"]) for row in rows] == [
        (mode, f"p{i}-{mode}-0") for mode in ("sampled", "greedy") for i in range(4)
    ]
    assert [row["is_correct"] for row in rows] == [True, False, True, False] * 2
    low, high = wilson(2, 4)
    assert output.quality["accuracy"] == {"mean": 0.5, "low": low, "high": high, "n": 4}
    assert output.quality["greedy"] == output.quality["accuracy"]
    assert output.quality["pass_at_k"] == {"1": 0.5}
    assert output.quality["completions"]["greedy"]["unparsed_share"] == 0.25
    assert output.quality["pairs"] is None
    assert output.quality["against_before"] is None
    assert set(ADDS) == set(output.table.column_names)


def test_several_samples_per_prompt_give_pass_at_k(monkeypatch):
    prompts = scripted(monkeypatch, [["A: 1", "A: 2"], ["A: 2"], ["A: 1"]])
    output = run(inputs={"prompts": prompts}, n=8, greedy=False, pass_k=[1, 2, 8, 16])
    counts = [0, 0, 0]
    for row in rows_of(output.table):
        counts[int(row["prompt_id"][1:])] += row["is_correct"]
    assert counts[1:] == [0, 8]
    assert 0 < counts[0] < 8
    assert output.quality["accuracy"]["mean"] == pytest.approx(sum(counts) / 24)
    assert output.quality["accuracy"]["n"] == 3
    assert output.quality["pass_at_k"]["8"] == pytest.approx(2 / 3)
    assert list(output.quality["pass_at_k"]) == ["1", "2", "8"]
    assert output.quality["greedy"] is None


def test_prompts_without_gold_have_no_verdict(monkeypatch):
    prompts = scripted(monkeypatch, [["A: 1"], ["A: 1"]])
    rows = [{**row, "gold": None if row["id"] == "p0" else "1"} for row in rows_of(prompts)]
    output = run(inputs={"prompts": make_table(rows)}, greedy=False)
    assert [row["is_correct"] for row in rows_of(output.table)] == [None, True]
    assert output.quality["accuracy"]["n"] == 1
    nothing = make_table([{**row, "gold": None} for row in rows])
    assert run(inputs={"prompts": nothing}).quality["accuracy"] is None


def test_change_against_the_model_before(monkeypatch):
    prompts = scripted(monkeypatch, [["A: 1"], ["A: 1"], ["A: 2"], ["A: 2"], ["A: 2"]])
    before = run(inputs={"prompts": prompts}).table
    prompts = scripted(monkeypatch, [["A: 1"], ["A: 2"], ["A: 1"], ["A: 1"], ["A: 1"]])
    found = run(inputs={"prompts": prompts, "before": before}).quality["against_before"]
    expected = paired_difference([1, 1, 0, 0, 0], [1, 0, 1, 1, 1])
    assert found["accuracy"] == {**expected, "gained": 3, "lost": 1, "mcnemar_p": mcnemar(3, 1)}
    assert found["greedy"] == found["accuracy"]


def test_change_uses_only_prompts_that_both_have():
    def rows(verdicts):
        return [
            {"kind": "sample", "mode": "greedy", "prompt_id": p, "completion_index": 0, "is_correct": v}
            for p, v in verdicts.items()
        ]

    found = against(rows({"a": True, "b": False, "gone": True}), rows({"b": True, "a": True, "new": False}))
    assert (found["greedy"]["n"], found["greedy"]["gained"], found["greedy"]["lost"]) == (2, 1, 0)
    assert found["accuracy"] is None


def test_limit_and_repeated_prompts(monkeypatch):
    prompts = scripted(monkeypatch, [["A: 1"]] * 4)
    doubled = make_table([row for row in rows_of(prompts) for _ in range(2)])
    assert run(inputs={"prompts": doubled}, greedy=False).quality["test_prompts"] == 4
    assert run(inputs={"prompts": doubled}, greedy=False, limit=3).quality["accuracy"]["n"] == 3


def test_a_table_of_prompts_is_its_own_test_set_and_heldout_rows_go_first(monkeypatch):
    prompts = scripted(monkeypatch, [["A: 1"]] * 4)
    assert run(prompts, greedy=False).quality["test_prompts"] == 4
    halves = [{**row, "split": "eval" if i % 2 else "train"} for i, row in enumerate(rows_of(prompts))]
    assert run(make_table(halves), greedy=False).quality["test_prompts"] == 2


def test_data_of_the_settings_is_read_when_no_table_is_given():
    output = run(data=DataConfig(path="builtin:quickstart/test.jsonl", heldout=0.0), limit=3, greedy=False)
    assert output.quality["accuracy"]["n"] == 3


def test_nothing_to_evaluate_is_said(capsys):
    output = run()
    assert output.table.num_rows == 0
    assert "no test prompt and no held-out pair" in capsys.readouterr().err
    assert output.quality["accuracy"] is None


def test_model_resumes_to_the_same_rows(tmp_path):
    table = reference(pair_table(), ReferenceConfig(max_length=60), Context(model=BASE)).table
    inputs = {"prompts": quiz()}
    whole = run(table, inputs=inputs)
    folder = StageFolder(tmp_path / "08-evaluate")
    folder.begin("key")
    run(table, inputs=inputs, folder=folder)
    for label, part in (("sampled", 0), ("greedy", 1), ("pairs", 0)):
        folder.work_part(label, part).unlink()
    again = run(table, inputs=inputs, folder=folder)
    assert again.table.data.table.equals(whole.table.data.table)
    assert again.quality == whole.quality
    greedy = [row for row in rows_of(whole.table) if row["mode"] == "greedy"]
    assert sum(row["is_correct"] for row in greedy) >= 4  # the shipped model can do sums


# ---- pairs


def test_pairs_under_the_reference_itself_are_all_ties_in_reward():
    table = reference(pair_table(), ReferenceConfig(max_length=60), Context(model=BASE)).table
    output = run(table)
    found = output.quality["pairs"]
    assert found["pairs"] == 6
    assert found["reference"]["n"] == 3  # two pairs per prompt
    assert found["logp"] == found["reference"]
    assert (found["reward"]["mean"], found["reward"]["ties"]) == (0.5, 6)
    assert found["chosen_drift_nats"] == pytest.approx(0, abs=1e-4)
    assert found["against_reference"]["mean"] == 0
    assert {row["pair_correct"] for row in rows_of(output.table)} == {None}


def test_pair_logps_are_those_of_the_library_and_need_no_reference():
    output = run(pair_table(), pair_metric="logp")
    model, tokenizer = load_model(BASE), load_tokenizer(BASE)
    pairs = [encode_pair(tokenizer, row, max_length=90) for row in rows_of(pair_table())]
    expected = score(model, [(pair.prompt_ids, pair.chosen_ids) for pair in pairs], 100)
    rows = rows_of(output.table)
    assert [row["chosen_logps"] for row in rows] == pytest.approx(expected, abs=1e-4)
    assert [row["pair_correct"] for row in rows] == [
        row["chosen_logps"] > row["rejected_logps"] for row in rows
    ]
    found = output.quality["pairs"]
    assert found["reference"] is found["reward"] is found["chosen_drift_nats"] is None
    assert found["logp"]["mean"] == sum(row["pair_correct"] for row in rows) / 6


def test_pairs_are_cut_as_the_reference_cut_them(tmp_path):
    table = reference(pair_table(), ReferenceConfig(max_length=14), Context(model=BASE)).table
    assert any(rows["truncated"] for rows in rows_of(table))
    output = run(table, max_length=90)
    for row in rows_of(output.table):
        assert row["chosen_logps"] == pytest.approx(row["ref_chosen_logps"], abs=1e-4)
        assert row["rejected_logps"] == pytest.approx(row["ref_rejected_logps"], abs=1e-4)


def test_a_reference_of_other_tokens_is_an_error_line():
    rows = rows_of(reference(pair_table(), ReferenceConfig(max_length=60), Context(model=BASE)).table)
    rows[3]["chosen_tokens"] -= 1
    with pytest.raises(PrefoptError, match=r"'p3': chosen has \d+ tokens here"):
        run(make_table(rows))


@pytest.mark.parametrize(
    ("pairs", "split", "count"), [("heldout", "train", 0), ("all", "train", 6), ("none", "eval", 0)]
)
def test_which_pairs_are_ranked(pairs, split, count):
    assert run(pair_table(split), pairs=pairs).quality["heldout_pairs"] == count


def test_too_long_pairs_are_dropped_with_a_count():
    output = run(pair_table(), max_length=10)
    assert output.dropped == {"prompt longer than max_length": 2}
    assert output.quality["pairs"]["pairs"] == 4


def test_text_prompts_and_message_pairs_share_a_table():
    prompts = [{**row, "prompt": row["prompt"][0]["content"]} for row in rows_of(quiz(2))]
    rows = rows_of(run(pair_table(), inputs={"prompts": make_table(prompts)}, greedy=False).table)
    assert rows[0]["prompt"] == [{"role": "user", "content": EXPRESSIONS[0]}]
    assert len(rows) == 8


def pair_row(chosen, rejected, ref=(None, None), tokens=(2, 4), **more):
    return {"kind": "pair", "id": "x", "prompt_id": "x", "chosen_logps": chosen, "rejected_logps": rejected,
            "ref_chosen_logps": ref[0], "ref_rejected_logps": ref[1],
            "chosen_tokens": tokens[0], "rejected_tokens": tokens[1], **more}  # fmt: skip


def test_margins_by_hand():
    row = pair_row(-4.0, -6.0, (-5.0, -4.0))
    assert pair_margin(row, "logp") == 2
    assert pair_margin(row, "logp", "ref_") == -1
    assert pair_margin(row, "logp_mean") == -2 + 1.5
    assert pair_margin(row, "reward") == 3
    assert [pair_correct(row, metric) for metric in ("logp", "logp_mean", "reward")] == [True, False, True]
    assert pair_correct(pair_row(-4.0, -6.0), "reward") is None
    assert pair_correct(pair_row(-4.0, -4.0), "logp") is None


def test_pair_figures_by_hand():
    rows = [
        pair_row(-4.0, -6.0, (-5.0, -4.0), id="a", prompt_id="a"),  # reference wrong, policy right
        pair_row(-7.0, -6.0, (-5.0, -4.0), id="b", prompt_id="b"),  # both wrong, same margin: a tie in reward
        pair_row(-1.0, -3.0, (-1.0, -2.0), id="c", prompt_id="c"),
    ]
    found = pair_figures(rows)
    assert (found["reference"]["mean"], found["logp"]["mean"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (found["reward"]["mean"], found["reward"]["ties"]) == (pytest.approx(2.5 / 3), 1)
    assert found["against_reference"]["gained"] == 1
    assert found["against_reference"]["mcnemar_p"] == mcnemar(1, 0)
    assert found["chosen_drift_nats"] == pytest.approx((1 - 2 + 0) / 3)
    assert found["chosen_drift_share"] == pytest.approx(-1 / 11)
    assert pair_figures([]) is None


def test_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    run(pair_table(), inputs={"prompts": quiz(2)})
    assert torch.equal(state, torch.get_rng_state())
