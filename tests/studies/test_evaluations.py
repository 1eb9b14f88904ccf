"""What docs/evaluate.md says of recorded judgments is what the studies found, and, where the data lie beside, what comes out now."""

import json
import re
from pathlib import Path

import pytest

from prefopt.core.settings import parse_config
from prefopt.tools.mt_bench.mt_bench import mt_bench
from prefopt.tools.mt_bench.settings import MtBenchConfig
from prefopt.tools.win_rate.settings import WinRateConfig
from prefopt.tools.win_rate.win_rate import win_rate

ROOT = Path(__file__).parent.parent.parent
PAGE = re.sub(r"\s+", " ", (ROOT / "docs" / "evaluate.md").read_text())
WINS = json.loads((ROOT / "studies" / "results" / "win-rates.json").read_text())
VOTES = json.loads((ROOT / "studies" / "results" / "mt-bench.json").read_text())
JUDGE = "weighted_alpaca_eval_gpt4_turbo"


def test_recorded_win_rates_are_within_what_was_asked_for():
    for judge, found in WINS["records"]["largest_difference"].items():
        assert found["win_rate"] <= 0.1
        assert judge != JUDGE or max(found[form] for form in ("minimal", "noreg", "v1")) <= 0.5
    board = WINS["leaderboard"]["largest_difference"]
    assert board["win_rate"] <= 0.1
    assert board["length_controlled, all prompts"] <= 0.12
    assert board["the same with difficulties by position"] <= 0.41
    assert (WINS["leaderboard"]["models_with_all_prompts"], WINS["leaderboard"]["models_without"]) == (50, 6)


def test_the_page_gives_the_figures_of_the_studies():
    forms = WINS["records"]["models"][f"gpt-3.5-turbo-1106 by {JUDGE}"]["length_controlled"]
    assert "plain win rate of 7.9%, {:.1f}% in the minimal form, {:.1f}% with difficulties and {:.1f}% with anchors".format(
        *(forms[form]["prefopt"] for form in ("minimal", "noreg", "v1"))
    ) in PAGE  # fmt: skip
    rates = VOTES["win_rates"]["gpt4_pair"]["all"]
    for model, said in (("gpt-4", "gpt-4"), ("claude-v1", "claude-v1"), ("vicuna-13b-v1.2", "vicuna-13b")):
        assert f"{said} {rates[model]['win_rate'][0]:.1f}" in PAGE
    mean, low, high = VOTES["agreement"]["expert - gpt4_pair, turn 1, without ties"]["percent"]
    assert f"{mean:.1f}% [{low:.1f}, {high:.1f}] of first turns without ties" in PAGE
    assert VOTES["largest_difference_points"] == 0


def test_recorded_judgments_give_the_figures_again(shared_data):
    place = shared_data / "alpaca_eval" / "completions.jsonl.gz"
    config = parse_config(WinRateConfig, {"judge": {"kind": "recorded", "name": JUDGE}}, "test")
    found = win_rate([f"{place}:claude-2"], f"{place}:gpt4_1106_preview", config).figures["models"][
        "claude-2"
    ]
    kept = WINS["records"]["models"][f"claude-2 by {JUDGE}"]
    assert 100 * found["win_rate"]["mean"] == pytest.approx(kept["win_rate"]["published"], abs=1e-3)
    assert 100 * found["length_controlled"]["mean"] == pytest.approx(
        kept["length_controlled"]["minimal"]["prefopt"], abs=1e-3
    )
    files = [str(shared_data / "mt_bench" / f"{who}_votes.jsonl") for who in ("gpt4", "human")]
    votes = mt_bench(files, parse_config(MtBenchConfig, {}, "test")).figures
    again = {
        f"{' - '.join(e['judges'])}, turn {e['turn']}, {'with' if e['ties'] else 'without'} ties": e
        for e in votes["agreement"]
    }
    for title, entry in VOTES["agreement"].items():
        assert 100 * again[title]["mean"] == pytest.approx(entry["counted"], abs=0.01)
