import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.stages.rank.rank import ADDS, STAGE, rank
from prefopt.stages.rank.settings import RankConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of


def sample(prompt, number, text, correct, answer_class, **more):
    return {
        "id": f"{prompt}-{number}",
        "prompt_id": prompt,
        "prompt": f"question {prompt}",
        "split": "train",
        "completion_index": number,
        "completion": text,
        "model": "m",
        "is_correct": correct,
        "answer_class": answer_class,
        "score": 1.0 if correct else 0.0,
        "n": 8,
        "n_correct": 3,
        "n_incorrect": 5,
        "n_unparsed": 1,
        **more,
    }


def prompt_rows(prompt="p", **more):
    """3 right; wrong: class 1 twice, class 2, class 3, and one unparsed."""
    answers = [(True, 0)] * 3 + [(False, 1)] * 2 + [(False, 2), (False, 3), (False, -1)]
    return [sample(prompt, k, f"answer {k}", ok, c, **more) for k, (ok, c) in enumerate(answers)]


def run(rows, seed=0, strict=False, **settings_):
    config = parse_config(RankConfig, settings_, "test")
    output = rank(make_table(rows), config, Context(seed=seed, strict=strict))
    return rows_of(output.table), output


def test_verify_makes_four_pairs_over_distinct_wrong_classes():
    pairs, output = run(prompt_rows())
    assert len(pairs) == 4
    classes = {row["id"]: row["answer_class"] for row in prompt_rows()}
    assert [classes[pair["rejected_id"]] for pair in pairs] in ([1, 2, 3, -1], [1, 3, 2, -1])
    assert all(classes[pair["chosen_id"]] == 0 for pair in pairs)
    assert {pair["n_rejected_class"] for pair in pairs} == {1, 2}
    assert {pair["n_pairs"] for pair in pairs} == {4}
    assert {pair["margin"] for pair in pairs} == {1.0}
    assert len({pair["id"] for pair in pairs}) == 4
    assert (pairs[0]["n"], pairs[0]["n_correct"], pairs[0]["split"]) == (8, 3, "train")
    assert output.quality["pairs_per_prompt"] == {"0": 0, "4": 1}


def test_more_pairs_than_combinations_gives_all_combinations():
    pairs, _ = run(prompt_rows(), pairs_per_prompt=100)
    assert len({(pair["chosen_id"], pair["rejected_id"]) for pair in pairs}) == len(pairs) == 15


def test_match_length_pairs_answers_of_like_length():
    lengths = (20, 50, 90, 48, 300, 22, 88, 400)
    rows = [{**row, "completion_tokens": n} for row, n in zip(prompt_rows(), lengths, strict=True)]
    pairs, _ = run(rows, match="length", pairs_per_prompt=3)
    assert {(pair["chosen_id"], pair["rejected_id"]) for pair in pairs} == {
        ("p-0", "p-5"), ("p-1", "p-3"), ("p-2", "p-6"),
    }  # fmt: skip
    unknown = [{**row, "completion_tokens": None} for row in rows]  # characters stand in: here all alike
    assert len(run(unknown, match="length", pairs_per_prompt=3)[0]) == 3
    with pytest.raises(PrefoptError, match="match is of strategy verify"):
        run(rows, match="length", strategy="score")


def test_message_prompts_get_message_answers():
    rows = [{**row, "prompt": [{"role": "user", "content": "q"}]} for row in prompt_rows()]
    pairs, _ = run(rows, pairs_per_prompt=1)
    (message,) = pairs[0]["chosen"]
    assert message["role"] == "assistant"
    assert message["content"].startswith("answer")
    assert pairs[0]["prompt"] == [{"role": "user", "content": "q"}]


def test_solved_and_unsolved_prompts_are_skipped_and_counted():
    rows = [
        *prompt_rows("p"),
        *[sample("right", k, f"{k}", True, 0) for k in range(3)],
        *[sample("wrong", k, f"{k}", False, k) for k in range(2)],
    ]
    pairs, output = run(rows)
    assert {pair["prompt_id"] for pair in pairs} == {"p"}
    assert output.quality["prompts"] == {"total": 3, "all right": 1, "all wrong": 1, "paired": 1}
    assert output.quality["pairs_per_prompt"] == {"0": 2, "4": 1}
    assert run(rows, strict=True)[0] == pairs  # skipping a prompt is no fault of the data


def test_gold_when_unsolved():
    rows = [sample("wrong", k, f"bad {k}", False, k, gold_completion="gold way") for k in range(2)]
    rows += [sample("nogold", k, f"bad {k}", False, k, gold_completion=None) for k in range(2)]
    pairs, output = run(rows, gold_when_unsolved=True)
    assert [pair["chosen"] for pair in pairs] == ["gold way"] * 2
    assert {pair["chosen_id"] for pair in pairs} == {"wrong-gold"}
    assert {pair["rejected_id"] for pair in pairs} == {"wrong-0", "wrong-1"}
    assert {pair["margin"] for pair in pairs} == {1.0}
    assert output.quality["gold_chosen"] == 2
    assert output.quality["prompts"]["all wrong, no gold_completion"] == 1
    with pytest.raises(PrefoptError, match="prompts all wrong: 2"):
        run(rows)


def test_chosen_equal_to_rejected_is_a_counted_drop():
    rows = [sample("w", 0, "same", False, 0, gold_completion=" same"), *prompt_rows()]
    rows = [{**row, "gold_completion": row.get("gold_completion")} for row in rows]
    pairs, output = run(rows, gold_when_unsolved=True)
    assert output.dropped == {"chosen equals rejected": 1}
    assert output.quality["prompts"] == {"total": 2, "chosen equals rejected": 1, "paired": 1}
    assert {pair["prompt_id"] for pair in pairs} == {"p"}
    with pytest.raises(PrefoptError, match="chosen equals rejected"):
        run(rows, gold_when_unsolved=True, strict=True)


def test_empty_unjudged_and_repeated_completions_are_counted():
    rows = [
        *prompt_rows(),
        sample("p", 8, "  ", False, -1),
        sample("p", 9, "answer 0 ", True, 0),
        sample("p", 10, "unjudged", None, None),
        sample("q", 0, "", False, -1),
    ]
    pairs, output = run(rows, pairs_per_prompt=100)
    assert len(pairs) == 15
    assert output.dropped == {"empty completion": 2, "duplicate completion": 1, "no is_correct": 1}
    assert output.quality["prompts"] == {"total": 2, "no usable answer": 1, "paired": 1}
    with pytest.raises(PrefoptError, match=r"rank: row 'p-\d+': .* \(--strict"):
        run(rows, strict=True)
    # class sizes are those of all samples, whatever was left out
    assert {p["n_rejected_class"] for p in pairs if p["rejected_id"] == "p-7"} == {2}


@given(st.permutations(range(16)), st.integers(0, 2))
@settings(max_examples=25)
def test_pairs_do_not_depend_on_the_order_of_rows(order, seed):
    rows = [*prompt_rows("p"), *prompt_rows("q")]
    expected = {pair["id"]: pair for pair in run(rows, seed=seed)[0]}
    got = {pair["id"]: pair for pair in run([rows[i] for i in order], seed=seed)[0]}
    assert got == expected


def test_the_choice_varies_with_seed_and_prompt():
    rows = [row for k in range(8) for row in prompt_rows(f"p{k}")]
    pairs = run(rows, pairs_per_prompt=1)[0]
    assert len({pair["chosen_id"][-1] for pair in pairs}) > 1
    assert pairs != run(rows, pairs_per_prompt=1, seed=1)[0]


def test_columns_of_the_prompt_travel_and_those_of_a_sample_do_not():
    rows = [
        {**row, "topic": "algebra", "latency": float(k), "gold": "18", "tools": [{"name": "calc"}]}
        for k, row in enumerate(prompt_rows())
    ]
    pairs, output = run(rows)
    assert pairs[0]["topic"] == "algebra"
    assert pairs[0]["gold"] == "18"
    assert pairs[0]["tools"] == [{"name": "calc"}]
    assert "latency" not in pairs[0]
    assert "completion" not in pairs[0]
    assert output.quality["columns_left_out"] == ["latency"]


def scored(prompt, *scores):
    rows = [sample(prompt, k, f"text {k}", None, None) for k in range(len(scores))]
    return [{**row, "score": s} for row, s in zip(rows, scores, strict=True)]


def test_score_takes_best_and_worst():
    rows = [*scored("p", 0.1, 0.9, 0.5), *scored("flat", 0.5, 0.5), *scored("single", 0.5)]
    pairs, output = run(rows, strategy="score")
    (pair,) = pairs
    assert (pair["chosen_id"], pair["rejected_id"]) == ("p-1", "p-0")
    assert pair["margin"] == pytest.approx(0.8)
    assert pair["n_rejected_class"] is None
    assert output.quality["prompts"] == {
        "total": 3, "fewer than two answers": 1, "no answer scores higher than the rejected one": 1, "paired": 1,
    }  # fmt: skip


def test_score_rejected_at_mean_minus_two_sd():
    values = [1.0] * 60 + [0.0] * 60 + [-1.0, -9.0]
    low, _ = run(scored("p", *values), strategy="score")
    near, _ = run(scored("p", *values), strategy="score", rejected_at="mean-2sd")
    assert (low[0]["score_rejected"], near[0]["score_rejected"]) == (-9.0, -1.0)


def test_score_may_make_several_pairs():
    pairs, _ = run(scored("p", 4.0, 3.0, 2.0, 1.0), strategy="score", pairs_per_prompt=3)
    assert [(p["score_chosen"], p["score_rejected"]) for p in pairs] == [(4.0, 1.0), (3.0, 2.0)]


def test_nan_scores_are_counted():
    _, output = run(scored("p", 4.0, 3.0, float("nan"), None), strategy="score")
    assert output.dropped == {"no score": 2}


def pair_row(name, prompt, chosen, rejected, **more):
    return {"id": name, "prompt_id": prompt, "prompt": "q", "chosen": chosen, "rejected": rejected, **more}


def test_given_pairs_are_checked_and_completed():
    rows = [
        pair_row("a", "p", "long answer", "no", score_chosen=5.0, score_rejected=2.0, source="web"),
        pair_row("b", "p", "x", "yy", score_chosen=None, score_rejected=None, source="web"),
        pair_row("c", "q", "same", "same ", score_chosen=None, score_rejected=None, source="web"),
        pair_row("d", "q", "x", "", score_chosen=None, score_rejected=None, source="web"),
    ]
    pairs, output = run(rows, strategy="given")
    assert [(p["id"], p["margin"], p["n_pairs"], p["source"]) for p in pairs] == [
        ("a", 3.0, 2, "web"), ("b", None, 2, "web"),
    ]  # fmt: skip
    assert output.dropped == {"chosen equals rejected": 1, "empty answer": 1}
    assert output.quality["share_chosen_longer"] == 0.5
    assert output.quality["length_difference"]["mean"] == 4.0
    assert len(run(rows, strategy="given", pairs_per_prompt=1)[0]) == 1


def test_report_is_plain_json():
    _, output = run(prompt_rows())
    assert json.loads(json.dumps(output.quality, allow_nan=False)) == output.quality
    assert output.quality["pairs_by_split"] == {"train": 4}
    assert set(ADDS) <= set(output.table.column_names)
    assert STAGE.folder_name == "03-rank"


def test_missing_columns_unknown_strategies_and_no_pair_are_clear_errors():
    with pytest.raises(PrefoptError, match="'is_correct' is missing; run `prefopt judge`"):
        run([{k: v for k, v in row.items() if k != "is_correct"} for row in prompt_rows()])
    with pytest.raises(PrefoptError, match="'score' is missing"):
        run([{k: v for k, v in row.items() if k != "score"} for row in prompt_rows()], strategy="score")
    with pytest.raises(PrefoptError, match="unknown strategy, did you mean 'verify'"):
        run(prompt_rows(), strategy="verfy")
    with pytest.raises(PrefoptError, match=r"no pair could be made \(prompts all right: 1"):
        run([sample("p", 0, "a", True, 0)])
    empty = make_table([], ["id", "prompt_id", "prompt", "completion", "is_correct"])
    with pytest.raises(PrefoptError, match="the table is empty"):
        rank(empty, RankConfig(), Context())
