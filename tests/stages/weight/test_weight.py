import json

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.stages.weight.settings import WeightConfig
from prefopt.stages.weight.weight import STAGE, weight
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of


def pair(name, prompt, n, n_correct, **more):
    return {
        "id": name,
        "prompt_id": prompt,
        "prompt": "q",
        "split": "train",
        "chosen": "c",
        "rejected": "r",
        "kept": True,
        "n": n,
        "n_correct": n_correct,
        "n_unparsed": 0,
        "n_rejected_class": 1,
        "majority_share": 0.5,
        "answer_entropy": 0.7,
        **more,
    }


ROWS = [
    pair("a", "p0", 16, 0, n_rejected_class=4),
    pair("b", "p1", 16, 1, n_rejected_class=5),
    pair("c", "p1", 16, 1, n_rejected_class=10),
    pair("d", "p2", 16, 8, n_rejected_class=8),
]


def run(rows=ROWS, inputs=None, strict=False, seed=0, **settings):
    config = parse_config(WeightConfig, settings, "test")
    output = weight(make_table(rows), config, Context(seed=seed, strict=strict, inputs=inputs or {}))
    return {row["id"]: row["weight"] for row in rows_of(output.table)}, output


def test_published_weights():
    assert run(normalize="raw", epsilon=0.0)[0] == {"a": 1.5, "b": 8.5, "c": 8.5, "d": 1.5}


def test_mean1_is_the_default_and_counts_training_rows_alone():
    rows = [*ROWS, pair("e", "p9", 16, 1, split="eval")]
    got, _ = run(rows, epsilon=0.0)
    assert got == {"a": 0.3, "b": 1.7, "c": 1.7, "d": 0.3, "e": 1.0}


def test_errors_of_the_rejected_class():
    got, _ = run(errors="class", normalize="raw", epsilon=0.0)
    assert got == {"a": 1 + 0.5 * 4 / 16, "b": 3.5, "c": 6.0, "d": 1.5}


def test_unparsed_answers_count_as_wrong_unless_ignored():
    rows = [pair("a", "p0", 10, 2, n_unparsed=4)]
    assert run(rows, normalize="raw", epsilon=0.0)[0] == {"a": 3.0}
    assert run(rows, normalize="raw", epsilon=0.0, unparsed="ignore")[0] == {"a": 2.0}


@pytest.mark.parametrize("errors", ["all", "class"])
@pytest.mark.parametrize("scheme", ["difficulty", "majority", "entropy", "shuffled"])
@pytest.mark.parametrize("normalize", ["mean1", "raw"])
def test_neutral_constants_give_exactly_one(scheme, normalize, errors):
    got, _ = run(scheme=scheme, alpha=0.0, epsilon=0.0, normalize=normalize, errors=errors)
    assert set(got.values()) == {1.0}


def test_uniform_needs_no_statistics():
    rows = [{k: v for k, v in row.items() if not k.startswith("n")} for row in ROWS]
    got, output = run(rows, scheme="uniform")
    assert set(got.values()) == {1.0}
    assert output.quality["by_n_correct"] == []
    assert output.quality["unsolved_prompts"] is None


def test_missing_statistics_are_named_with_the_remedy():
    rows = [{k: v for k, v in row.items() if not k.startswith("n")} for row in ROWS]
    with pytest.raises(PrefoptError, match="needs columns n, n_correct") as error:
        run(rows)
    assert "uniform" in str(error.value)
    assert "column" in str(error.value)
    rows = [{k: v for k, v in row.items() if k != "answer_entropy"} for row in ROWS]
    with pytest.raises(PrefoptError, match="needs column answer_entropy"):
        run(rows, scheme="entropy")


def test_rows_not_selected_leave_even_when_strict():
    rows = [*ROWS, pair("x", "p5", 16, 3, kept=False)]
    got, output = run(rows, strict=True)
    assert set(got) == {"a", "b", "c", "d"}
    assert output.dropped == {"not selected": 1}


def test_clip_and_per_prompt():
    assert run(normalize="raw", epsilon=0.0, clip=4.0)[0] == {"a": 1.5, "b": 4.0, "c": 4.0, "d": 1.5}
    got, _ = run(normalize="raw", epsilon=0.0, per_prompt=True)
    assert got == {"a": 1.5, "b": 4.25, "c": 4.25, "d": 1.5}
    # the count is that of the kept pairs, not of the pairs that were made
    rows = [{**row, "kept": row["id"] != "c", "n_pairs": 2} for row in ROWS]
    assert run(rows, normalize="raw", epsilon=0.0, per_prompt=True)[0]["b"] == 8.5


def test_schemes_without_gold_read_the_answer_classes():
    rows = [pair("a", "p0", 8, None, majority_share=0.25, answer_entropy=1.0)]
    assert run(rows, scheme="majority", epsilon=0.0, normalize="raw")[0] == {"a": 2.5}
    assert run(rows, scheme="entropy", normalize="raw")[0] == {"a": 1.5}


def test_minmax():
    rows = [pair(str(k), f"p{k}", 10, k) for k in (0, 1, 5, 9)]
    got, _ = run(rows, scheme="minmax", normalize="raw")
    assert got == {"0": 1.0, "1": pytest.approx(1.2), "5": pytest.approx(1.0), "9": pytest.approx(0.8)}


def test_shuffled_is_difficulty_on_other_prompts():
    rows = [pair(f"r{i:02d}", f"p{i:02d}", 16, i % 16) for i in range(48)]
    plain, _ = run(rows)
    shuffled, _ = run(rows, scheme="shuffled", seed=1)
    assert sorted(shuffled.values()) == pytest.approx(sorted(plain.values()))
    assert sum(shuffled[i] == plain[i] for i in plain) < 15
    assert shuffled == run(rows[::-1], scheme="shuffled", seed=1)[0]
    assert shuffled != run(rows, scheme="shuffled", seed=2)[0]


def given_rows(*values):
    return [
        {"id": f"r{i}", "prompt_id": f"p{i}", "prompt": "q", "chosen": "c", "rejected": "r", "weight": v}
        for i, v in enumerate(values)
    ]


def test_given_weights():
    assert run(given_rows(1.0, 3.0, 0.0), scheme="column", normalize="raw")[0] == {
        "r0": 1.0,
        "r1": 3.0,
        "r2": 0.0,
    }
    assert run(given_rows(1.0, 3.0), scheme="column")[0] == {"r0": 0.5, "r1": 1.5}
    rows = [{**row, "importance": 2} for row in given_rows(1.0, 1.0)]
    assert run(rows, scheme="column", column="importance", normalize="raw")[0] == {"r0": 2.0, "r1": 2.0}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "weight is not a finite number"),
        (float("inf"), "weight is not a finite number"),
        (None, "weight is not a finite number"),
        (-1.0, "weight is negative"),
        (1e300, "weight is above 1e+12"),
    ],
)
def test_bad_given_weights_are_counted_drops_or_errors(value, reason):
    got, output = run(given_rows(1.0, value), scheme="column")
    assert got == {"r0": 1.0}
    assert output.dropped == {reason: 1}
    with pytest.raises(PrefoptError, match="row 'r1': weight is"):
        run(given_rows(1.0, value), scheme="column", strict=True)
    with pytest.raises(PrefoptError, match="no training pair is left"):
        run(given_rows(value), scheme="column")


def test_weights_given_as_text_are_dropped():
    rows = [{**row, "importance": "high"} for row in given_rows(1.0)]
    with pytest.raises(PrefoptError, match="not a finite number: 1"):
        run(rows, scheme="column", column="importance")


def test_a_missing_weight_column_and_all_zero_weights_are_errors():
    with pytest.raises(PrefoptError, match="column 'weight' of given weights is missing"):
        run(scheme="column")
    with pytest.raises(PrefoptError, match="all weights are 0"):
        run(given_rows(0.0, 0.0), scheme="column")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"n": None}, "sampling statistics are missing"),
        ({"n_correct": None}, "sampling statistics are missing"),
        ({"n": 0, "n_correct": 0}, "no sample of the prompt counts"),
        ({"n_correct": 17}, "sampling statistics contradict each other"),
        ({"n_correct": -1}, "sampling statistics are negative"),
    ],
)
def test_unusable_statistics_are_counted_drops_or_errors(more, reason):
    rows = [*ROWS, {**pair("bad", "p7", 16, 1), **more}]
    got, output = run(rows)
    assert set(got) == {"a", "b", "c", "d"}
    assert output.dropped == {reason: 1}
    with pytest.raises(PrefoptError, match=reason):
        run(rows, strict=True)


def test_replaced_weights_are_counted():
    rows = given_rows(2.0, 2.0, None)
    got, output = run(rows, scheme="uniform")
    assert set(got.values()) == {1.0}
    assert output.quality["replaced_weights"] == 2
    assert "replaced_weights" not in run(given_rows(2.0), scheme="column")[1].quality


def completions(prompt, flags):
    return [
        {
            "id": f"{prompt}-{k}",
            "prompt_id": prompt,
            "completion": "x",
            "is_correct": ok,
            "answer_class": int(not ok),
        }
        for k, ok in enumerate(flags)
    ]


def test_report():
    samples = [
        row for k in range(12) for row in completions(f"p{k}", [True] * 5 * k + [False] * (60 - 5 * k))
    ]
    rows = [pair(f"r{k:02d}", f"p{k}", 60, 5 * k) for k in range(12)]
    _, output = run(rows, inputs={"completions": make_table(samples)})
    quality = output.quality
    assert json.loads(json.dumps(quality, allow_nan=False)) == quality
    assert quality["unsolved_prompts"] == 1
    assert quality["final"]["mean"] == pytest.approx(1.0)
    assert quality["raw"]["max"] == pytest.approx(1 + 0.5 * 55 / 5 + 1 / 60)
    assert quality["final"]["effective_pairs"] < 12
    assert sum(quality["histogram"]["all"]) == 12
    assert [entry["n_correct"] for entry in quality["by_n_correct"]] == list(range(0, 60, 5))
    assert quality["half_split"]["prompts"] == 12
    assert quality["half_split"]["spearman"] > 0.8


def test_half_split_reads_the_samples_of_training_prompts():
    samples = [
        {**row, "split": "eval" if k == 0 else "train"}
        for k in range(12)
        for row in completions(f"p{k}", [True] * k + [False] * (12 - k))
    ]
    rows = [pair(f"r{k:02d}", f"p{k}", 12, k, split="train" if k < 5 else "eval") for k in range(1, 12)]
    inputs = {"completions": make_table(samples)}
    found = run(rows, inputs=inputs)[1].quality["half_split"]
    assert (found["prompts"], found["paired"]["prompts"]) == (11, 4)
    assert run(rows, inputs=inputs, scheme="uniform")[1].quality["half_split"] is None
    assert run(rows)[1].quality["half_split"] is None


def test_half_split_ignores_unparsed_samples_when_told():
    samples = [row for k in range(6) for row in completions(f"p{k}", [True, False, False])]
    samples = [{**row, "answer_class": 0 if row["is_correct"] else -1} for row in samples]
    rows = [pair(f"r{k}", f"p{k}", 3, 1, n_unparsed=1) for k in range(6)]
    inputs = {"completions": make_table(samples)}
    assert run(rows, inputs=inputs)[1].quality["half_split"]["prompts"] == 6
    assert run(rows, inputs=inputs, unparsed="ignore")[1].quality["half_split"]["prompts"] == 0


def test_unknown_scheme_is_one_line_with_the_nearest():
    with pytest.raises(PrefoptError, match="unknown scheme, did you mean 'uniform'"):
        run(scheme="unifrom")


def test_the_stage_declares_what_it_adds():
    assert set(STAGE.adds) <= set(run()[1].table.column_names)
    assert STAGE.folder_name == "06-weight"
