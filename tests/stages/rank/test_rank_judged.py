"""`prefopt rank` with a judge: tables, figures, budget, dry run, and recorded tournaments as they are."""

import json

import command as cli
import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.stages.rank.estimate import estimate
from prefopt.stages.rank.rank import rank
from prefopt.stages.rank.settings import RankConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of
from prefopt.tables.table_rows import read_table


def tournament(number, models="abcde"):
    """A line of a tournament file: each model beats the later ones, but c and d tie and b has no verdict on e."""
    shift = number % len(models)
    order = models[shift:] + models[:shift]
    judgments = [
        {"model_a": x, "model_b": y, "human_votes": ["a", "a", "b"], "majority": "a", "bot": "b" if x == order[0] else "a"}
        for i, x in enumerate(order)
        for y in order[i + 1 :]
        if (x, y) != (order[1], order[4])
    ]  # fmt: skip
    for entry in judgments:
        if (entry["model_a"], entry["model_b"]) == (order[2], order[3]):
            entry |= {"human_votes": ["a", "b", "tie"], "majority": "tie"}
    completions = [{"model": m, "text": f"answer {m} to {number}"} for m in models]
    return {
        "id": f"t{number}",
        "prompt": f"question {number}",
        "completions": completions,
        "judgments": judgments,
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(tournament(n)) + "\n" for n in range(20)))
    return path


def command(*words):
    return cli.command("rank", *words).output


def load(folder):
    names = ("part-00000.parquet", "ranked.parquet", "verdicts.parquet")
    tables = [rows_of(read_table(folder / name)) for name in names]
    return *tables, json.loads((folder / "manifest.json").read_text())["quality"]


def test_a_tournament_file_by_ipr(file, tmp_path):
    command("--input", file, "--judge", "recorded", "--strategy", "ipr", "--output", tmp_path / "out")
    pairs, ranked, verdicts, quality = load(tmp_path / "out")
    models = {row["id"]: row["model"] for row in ranked}
    assert len(pairs) == 20
    for pair in pairs:
        shift = int(pair["prompt_id"][1:]) % 5
        assert models[pair["chosen_id"]] == "abcde"[shift]
        assert pair["margin"] > 0
        assert "judgments" not in pair
    assert [row["rank"] for row in ranked] == [1, 2, 3, 4, 5] * 20
    assert {row["prompt_id"] for row in verdicts} == {f"t{n}" for n in range(20)}
    assert quality["strategy"] == "ipr"
    assert quality["judge"] == {"kind": "recorded", "source": "majority", "complete": "none"}
    assert quality["swap_consistency"] is None
    assert quality["comparisons"] == quality["calls"] == len(verdicts) <= 20 * 7
    assert 0 < quality["tie_rate"] < 0.3
    assert 0 < quality["missing"] == sum(row["winner"] == "missing" for row in verdicts)
    assert quality["cycle_rate"] == 0
    assert quality["agreement_by"] == {}  # the votes are the judge


def test_another_judge_of_the_file_is_held_against_the_votes(file, tmp_path):
    words = ("--judge", "recorded", "--judge-name", "bot", "--strategy", "round_robin")
    command("--input", file, *words, "--output", tmp_path / "out")
    pairs, ranked, verdicts, quality = load(tmp_path / "out")
    first = {pair["prompt_id"]: pair["chosen_id"] for pair in pairs}
    models = {row["id"]: row["model"] for row in ranked}
    assert all(models[i] == "abcde"[(int(p[1:]) + 1) % 5] for p, i in first.items())
    assert quality["agreement_with"] == "human_votes"
    assert quality["agreement"] == pytest.approx(
        4 / 8
    )  # of 9 comparisons one is a tie by vote, and 4 are against the best
    assert len(verdicts) == 200
    assert quality["missing"] == 20


def test_hub_completion_fills_the_gap(file, tmp_path):
    words = ("--judge", "recorded", "--judge.complete", "hub", "--strategy", "round_robin")
    command("--input", file, *words, "--output", tmp_path / "out")
    *_, verdicts, quality = load(tmp_path / "out")
    assert quality["missing"] == 0
    assert {row["judge"] for row in verdicts} == {"recorded:majority complete=hub"}


def test_simulated_judge_reports_both_orders(file, tmp_path):
    command("--input", file, "--judge", "simulated", "--strategy", "knockout", "--output", tmp_path / "out")
    *_, verdicts, quality = load(tmp_path / "out")
    assert 0.4 < quality["swap_consistency"] < 0.9
    assert quality["first_slot_rate"] > 0.5
    assert quality["calls"] == 2 * quality["comparisons"] == len(verdicts)
    assert quality["cycle_rate"] is not None


def test_dry_run_calls_no_judge(file, monkeypatch, tmp_path):
    monkeypatch.setattr("prefopt.stages.rank.judged.open_judge", None)
    words = (
        "--input",
        file,
        "--judge",
        "server",
        "--judge.server.base_url",
        "http://127.0.0.1:1/v1",
        "--dry-run",
    )
    said = command(*words, "--judge.server.model", "m", "--judge-calls", 250)
    assert "20 prompts with 100 answers" in said
    assert "comparisons: 80 to 160" in said
    assert "calls: 160 to 250" in said
    assert "tokens read" in said
    assert list(tmp_path.iterdir()) == [file]


def test_strategies_on_one_folder_share_verdicts_and_leave_no_stale_tables(tmp_path):
    path, out = tmp_path / "answers.jsonl", tmp_path / "out"
    line = {"prompt": "2+2?", "answer": "4", "completions": [{"text": f"The answer is {k}.", "is_correct": k == 4} for k in range(5)]}  # fmt: skip
    path.write_text(json.dumps(line) + "\n")
    command("--input", path, "--judge", "verifier", "--output", out)
    first = load(out)
    assert first[0][0]["chosen"] == "The answer is 4."
    command("--input", path, "--judge", "verifier", "--strategy", "round_robin", "--output", out)
    quality = load(out)[-1]
    assert quality["calls"] + quality["calls_reused"] == 10
    assert quality["calls_reused"] == first[-1]["calls"] + first[-1]["cycle_calls"] == 10
    assert first[-1]["calls"] <= 7
    assert quality["agreement_with"] == "is_correct"
    command("--input", path, "--strategy", "verify", "--output", out)
    assert not (out / "ranked.parquet").exists()
    assert (out / "verdicts.jsonl").exists()


def rows(prompts=6, answers=5):
    return [
        {
            "id": f"p{p}-{k}",
            "prompt_id": f"p{p}",
            "prompt": "q",
            "completion": f"text {k}",
            "quality": float(k),
        }
        for p in range(prompts)
        for k in range(answers)
    ]


def settings(**more):
    return parse_config(RankConfig, more, "test")


def test_the_estimate_bounds_what_is_asked():
    table = make_table(rows())
    for strategy in ("ipr", "knockout", "round_robin"):
        config = settings(strategy=strategy, judge={"kind": "simulated", "simulated": {"slope": 50.0}})
        found = estimate(rows_of(table), config, Context())
        quality = rank(table, config, Context()).quality
        assert found["calls_least"] <= quality["calls"] <= found["calls_most"]


def test_a_clear_judge_finds_best_and_worst():
    for strategy in ("ipr", "knockout", "round_robin"):
        for aggregate in ("copeland", "bradley_terry"):
            config = settings(
                strategy=strategy,
                aggregate=aggregate,
                judge={"kind": "simulated", "simulated": {"slope": 50.0}},
            )
            pairs = rows_of(rank(make_table(rows()), config, Context(seed=3)).table)
            assert {(pair["chosen"], pair["rejected"]) for pair in pairs} == {("text 4", "text 0")}


def test_prompts_beyond_the_budget_are_counted():
    config = settings(
        judge={"kind": "simulated", "simulated": {"slope": 50.0}}, judge_calls=45, cycle_prompts=0
    )
    quality = rank(make_table(rows()), config, Context()).quality
    assert quality["calls"] <= 45
    assert quality["prompts"]["budget of judge calls spent"] + quality["prompts"]["paired"] == 6
    with pytest.raises(PrefoptError, match="raise judge_calls"):
        rank(make_table(rows()), settings(judge="simulated", judge_calls=3), Context())


def test_pairs_do_not_depend_on_the_order_of_rows():
    config = settings(judge="simulated")
    found = rows_of(rank(make_table(rows()), config, Context(seed=1)).table)
    again = rows_of(rank(make_table(rows()[::-1]), config, Context(seed=1)).table)
    assert sorted(found, key=lambda r: r["id"]) == sorted(again, key=lambda r: r["id"])


def test_settings_that_do_not_fit_are_refused():
    assert settings().chosen_strategy == "verify"
    assert settings(judge="simulated").chosen_strategy == "ipr"
    for bad, said in (
        ({"strategy": "ipr"}, "asks a judge"),
        ({"strategy": "verify", "judge": "recorded"}, "asks no judge"),
        ({"judge": "recorded", "pairs_per_prompt": 4}, "one pair per prompt"),
        ({"judge": "oracle"}, "unknown judge"),
    ):
        with pytest.raises(PrefoptError, match=said):
            settings(**bad)
    with pytest.raises(PrefoptError, match="'completion' is missing"):
        rank(
            make_table([{"id": "1", "prompt_id": "1", "prompt": "q"}]), settings(judge="simulated"), Context()
        )


@pytest.mark.parametrize(
    ("name", "words", "least"),
    [
        ("pandalm/completions.jsonl", (), 90),
        ("pandalm/completions.jsonl", ("--judge-name", "gpt-3.5-turbo"), 70),
        pytest.param("alpaca_eval/completions.jsonl.gz", ("--judge-name", "weighted_alpaca_eval_gpt4_turbo", "--judge.complete", "hub"), 500, marks=pytest.mark.slow),
        ("tldr/completions.jsonl.gz", (), 50),
        ("oasst_trees/completions.jsonl", (), 150),
    ],
)  # fmt: skip
def test_recorded_files_as_they_are(shared_data, tmp_path, name, words, least):
    words = ("--judge", "recorded", "--strategy", "ipr", "--cycle-prompts", 20, *words)
    command("--input", shared_data / name, *words, "--output", tmp_path / "out")
    pairs, _, verdicts, quality = load(tmp_path / "out")
    assert len(pairs) >= least
    assert quality["comparisons"] == len(verdicts)
    assert quality["swap_consistency"] is None
    if "complete" not in str(words) and "oasst" not in name:
        assert quality["missing"] > 0


def test_a_changed_prompt_file_is_other_work(tmp_path):
    from prefopt.stages.rank.rank import STAGE

    file = tmp_path / "prompt.md"
    file.write_text("one", encoding="utf-8")
    config = RankConfig(judge={"kind": "server", "prompt": str(file)})
    before = STAGE.outside(config)
    file.write_text("two", encoding="utf-8")
    assert len(before) == 1
    assert STAGE.outside(config) != before
    file.unlink()
    with pytest.raises(PrefoptError, match="no such file"):
        STAGE.outside(config)
    assert STAGE.outside(RankConfig()) == []


def test_agreement_with_all_verdicts_of_the_file(tmp_path):
    """The majority has nothing but its own file to agree with: how often is ipr's best that of all verdicts?"""
    file = tmp_path / "completions.jsonl"
    file.write_text("".join(json.dumps(tournament(k)) + "\n" for k in range(6)), encoding="utf-8")
    done = cli.command("rank", "--input", file, "--judge", "recorded", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    quality = json.loads((tmp_path / "out" / "manifest.json").read_text())["quality"]
    agreed = quality["winner_agreement"]
    # one answer beats all others, and every tournament lacks one verdict
    assert agreed["known"]["mean"] == 1.0
    assert agreed["known"]["n"] == 6
    assert agreed["complete"]["n"] == 0
    assert quality["agreement"] == 1.0
    assert "Copeland" in quality["agreement_with"]
