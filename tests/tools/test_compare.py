"""`prefopt compare`: which prompts count, the tests it makes, and what it shows."""

from __future__ import annotations

import json
import re

import pytest
from command import command

from prefopt.core.errors import PrefoptError
from prefopt.rules.intervals import mcnemar, sign_flip
from prefopt.rules.student import holm
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.records import make_table, write_json
from prefopt.tools.compare import compare


def answers(right, n=1, start=0, prompt=str):
    """Rows of prompts `start`, ...: n sampled answers each, the first so many right."""
    rows = []
    for k, count in enumerate(right, start=start):
        for i in range(n):
            rows.append({"kind": "sample", "mode": "sampled", "id": f"{k}-{i}", "prompt_id": f"p{k}", "prompt": prompt(f"q{k}"),
                         "gold": str(k), "completion_index": i, "is_correct": i < count})  # fmt: skip
    return rows


def pairs(signs):
    return [
        {"kind": "pair", "mode": None, "id": f"h{k}", "prompt_id": f"h{k}", "prompt": f"h{k}", "chosen": "a", "rejected": "b",
         "chosen_logps": -1.0, "rejected_logps": -1.0 - sign, "chosen_tokens": 1, "rejected_tokens": 1}
        for k, sign in enumerate(signs)
    ]  # fmt: skip


def make_run(folder, arms, **config):
    """A finished run as far as compare looks at it. arms: name -> rows of 08, the last is the main one."""
    places = {}
    for name, rows in arms.items():
        places[name] = {"evaluate": f"arms/{name}/08-evaluate"}
        about = {"key": "0" * 64, "config": config, "seed": 0}
        names = tuple(dict.fromkeys(key for row in rows for key in row))
        StageFolder(folder / places[name]["evaluate"]).finish(
            "evaluate", StageOutput(make_table(rows, names)), about
        )
    main = list(arms)[-1]
    write_json(
        folder / "summary.json",
        {"main": main, "arms": {n: {} for n in arms if n != "base"}, "folders": places},
    )
    return str(folder)


def test_differences_are_paired_by_prompt_and_only_shared_ones_count(tmp_path):
    a = make_run(tmp_path / "a", {"full": answers([1] * 30 + [0] * 10)})
    # other order of ids, messages in place of text, ten prompts that a has not
    rows = answers([1] * 10 + [0] * 40, prompt=lambda q: [{"role": "user", "content": q}])
    b = make_run(tmp_path / "b", {"full": rows[::-1]})
    metric = compare([b, a])["metrics"]["accuracy"]
    assert (metric["items"], metric["left_out"]) == (40, {"b": 10, "a": 0})
    assert metric["figures"]["a"]["mean"] == 0.75
    assert metric["figures"]["b"]["mean"] == 0.25
    (row,) = metric["paired"]
    assert (row["a"], row["b"], row["mean"], row["gained"], row["lost"]) == ("a", "b", 0.5, 20, 0)
    assert row["p"] == pytest.approx(mcnemar(20, 0)["midp"])
    assert row["test"].startswith("McNemar")
    assert row["verdict"] == "better"


def test_holm_over_the_comparisons_of_a_metric(tmp_path):
    runs = [
        make_run(tmp_path / name, {"m": answers([1] * k + [0] * (40 - k))})
        for name, k in (("a", 10), ("b", 16), ("c", 30))
    ]
    rows = compare(runs)["metrics"]["accuracy"]["paired"]
    assert [(row["a"], row["b"]) for row in rows] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])
    assert all(row["p_holm"] >= row["p"] for row in rows)


def test_several_answers_are_compared_prompt_by_prompt(tmp_path):
    up, down = [3, 2, 4, 4, 1], [1, 1, 3, 2, 1]
    a = make_run(tmp_path / "a", {"m": answers(down, n=4)})
    b = make_run(tmp_path / "b", {"m": answers(up, n=4)})
    (row,) = compare([a, b])["metrics"]["accuracy"]["paired"]
    assert row["test"].startswith("random signs")
    assert row["mean"] == pytest.approx(sum(x - y for x, y in zip(up, down, strict=True)) / 20)
    assert row["p"] == 2 / 2**4  # four prompts differ, all in one direction
    assert row["verdict"] == "no clear difference"


def test_random_signs():
    assert sign_flip([]) == sign_flip([0.0]) == 1.0
    assert sign_flip([1.0]) == 1.0
    assert sign_flip([1.0] * 10) == 2 / 2**10
    assert sign_flip([1, -1, 1, -1]) == 1.0
    many = sign_flip([1.0] * 40)
    assert 0 < many < 1e-3
    assert many == sign_flip([-1.0] * 40)
    mixed = [1.0] * 30 + [-1.0] * 20
    assert sign_flip(mixed) == pytest.approx(mcnemar(30, 20)["exact"], abs=0.01)


def test_arms_of_one_run_and_held_out_pairs(tmp_path):
    run = make_run(tmp_path / "r", {"base": pairs([1] * 5 + [-1] * 35), "full": pairs([1] * 35 + [-1] * 5)})
    found = compare([f"{run}:base", run])
    assert [one["name"] for one in found["runs"]] == ["r:base", "r"]
    metric = found["metrics"]["pair_accuracy"]
    assert metric["items"] == 40
    assert metric["paired"][0]["gained"] == 30


def test_what_may_mislead_is_said(tmp_path):
    a = make_run(tmp_path / "a", {"m": answers([1] * 4)}, temperature=1.0)
    b = make_run(tmp_path / "b", {"m": answers([0] * 40)}, temperature=0.5)
    said = " ".join(compare([a, b])["warnings"])
    assert "evaluated otherwise (temperature)" in said
    assert "only 4 items are shared" in said
    assert "4 items are few" in said


def test_what_cannot_be_compared_is_one_line(tmp_path):
    a = make_run(tmp_path / "a", {"m": answers([1, 0])})
    b = make_run(tmp_path / "b", {"m": answers([1, 0], start=9)})
    for places, said in (
        ([a], "at least two"),
        ([a, a], "given twice"),
        ([a, b], "share no test prompt"),
        ([a, f"{a}:n"], "did you mean 'm'|known: m"),
        ([a, str(tmp_path / "gone")], "holds no finished run"),
    ):
        with pytest.raises(PrefoptError, match=said) as caught:
            compare(places)
        assert "\n" not in str(caught.value)


def test_the_verb_prints_tables_and_writes_a_page_that_needs_nothing_else(tmp_path):
    evil = tmp_path / "x<script>\x1b[2J"
    a = make_run(evil, {"m": answers([1] * 20 + [0] * 20)})
    b = make_run(tmp_path / "b", {"m": answers([1] * 40)})
    shown = command("compare", b, a, "--output", tmp_path / "out")
    assert shown.exit_code == 0, shown.stderr
    assert "sampled, 40 prompts that all have" in shown.stdout
    assert "worse" in shown.stdout
    assert "\x1b" not in shown.stdout
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href)=|url\(", page)
    assert page.count('class="dot"') == 2
    again = command("compare", b, a, "--output", tmp_path / "out")
    assert (tmp_path / "out" / "compare.html").read_text() == page
    assert again.stdout == shown.stdout
    kept = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert kept["metrics"] == compare([b, a])["metrics"]
