"""Tournaments and figures of the judge in the report: what the tables say, no more, and hostile text as text."""

import json

import pytest

from prefopt.report.load import load_run
from prefopt.report.rounds import rounds
from prefopt.report.tournaments import MOST_PROMPTS, _figures, comparisons
from prefopt.tables.records import rows_of
from prefopt.tables.table_rows import read_table


def _tables(folder):
    return (rows_of(read_table(folder / "03-rank" / f"{name}.parquet")) for name in ("ranked", "verdicts"))


def test_figures_are_those_of_the_manifest(run_of):
    folder = run_of("judged")
    quality = json.loads((folder / "03-rank" / "manifest.json").read_text())["quality"]
    shown = {label: value for label, value, _ in comparisons(load_run(folder))["figures"]}
    for label, name in (("swap consistency", "swap_consistency"), ("ties", "tie_rate"), ("first slot", "first_slot_rate"),
                        ("3-cycles", "cycle_rate"), ("agreement", "agreement")):  # fmt: skip
        assert shown[label] == f"{100 * quality[name]:.1f}%"


def test_agreement_with_the_file_itself_is_not_called_gold():
    found = _figures({
        "agreement": 0.9, "agreement_with": "winner by Copeland share of all known verdicts",
        "winner_agreement": {"known": {"mean": 0.9, "low": 0.8, "high": 0.95, "n": 60}},
    })  # fmt: skip
    assert [(label, value) for label, value, _ in found] == [("best of all", "90.0%")]


def test_every_cell_is_what_the_verdicts_say(run_of):
    folder = run_of("judged")
    ranked, verdicts = _tables(folder)
    view = comparisons(load_run(folder))
    assert len(view["prompts"]) == MOST_PROMPTS < view["total"]
    calls = {(row["first_id"], row["second_id"]): row for row in verdicts}
    by_rank = {(row["prompt_id"], row["rank"]): row for row in ranked}
    marks = {"first": "▲▽", "second": "▽▲", "tie": "=="}
    seen = 0
    for prompt in view["prompts"]:
        for row in prompt["table"]:
            me = by_rank[prompt["id"], row["rank"]]["id"]
            for column, cell in zip(prompt["table"], row["cells"], strict=True):
                other = by_rank[prompt["id"], column["rank"]]["id"]
                if me == other:
                    assert cell["tone"] == "self"
                elif (me, other) not in calls:
                    assert cell is None
                else:
                    there, back = calls[me, other], calls[other, me]
                    assert cell["marks"] == marks[there["winner"]][0] + marks[back["winner"]][1]
                    won = there["winner_id"]
                    assert cell["tone"] == {me: "good", other: "bad"}.get(won, "plain")
                    seen += 1
    assert seen > 50


def test_chosen_and_rejected_are_those_of_the_pairs(run_of):
    folder = run_of("judged")
    ranked, _ = _tables(folder)
    pairs = rows_of(read_table(folder / "03-rank" / "part-00000.parquet"))
    by_prompt = {row["prompt_id"]: row for row in pairs}
    ids = {(row["prompt_id"], row["rank"]): row["id"] for row in ranked}
    for prompt in comparisons(load_run(folder))["prompts"]:
        pair = by_prompt.get(prompt["id"])
        for row in prompt["table"]:
            name = ids[prompt["id"], row["rank"]]
            role = (
                ""
                if pair is None
                else {pair["chosen_id"]: "chosen", pair["rejected_id"]: "rejected"}.get(name, "")
            )
            assert row["role"] == role
        assert ("no pair" in prompt["summary"]) == (pair is None)


@pytest.mark.parametrize("kind", ["full", "pairs"])
def test_runs_without_a_judge_or_rounds_have_no_such_section(run_of, kind):
    run = load_run(run_of(kind))
    assert comparisons(run) is None
    assert rounds(run) is None


def test_a_missing_table_leaves_the_figures(run_of, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(run_of("judged"), folder)
    (folder / "03-rank" / "ranked.parquet").unlink()
    view = comparisons(load_run(folder))
    assert view["prompts"] == []
    assert view["figures"]


def test_rounds_show_base_and_every_round(run_of):
    run = load_run(run_of("judged"))
    entry = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    later = {**entry, "mean": 0.75}
    run.summary["rounds"] = {
        "full": [{"round": k, "accuracy": found, "greedy": None, "pair_accuracy": None, "pairs": 7 * k}
                 for k, found in ((1, entry), (2, later))],
        "dpo": [{"round": 1, "accuracy": entry, "greedy": None, "pair_accuracy": None, "pairs": 5}],
    }  # fmt: skip
    view = rounds(run)
    assert view["columns"] == ["base", "round 1", "round 2"]
    (measure,) = view["measures"]
    full, dpo = measure["rows"]
    assert [cell[0] for cell in full["cells"][1:]] == ["50.0%", "75.0%"]
    assert full["main"]
    assert dpo["cells"][2] is None
    assert "7, 14" in view["pairs"]
