"""MT-Bench's recorded votes: prefopt's table and agreement of judges against counts made without it.

    python studies/mt_bench.py --data DIR [--output studies/results/mt-bench.json]

DIR holds `question.jsonl`, `gpt4_votes.jsonl` and `human_votes.jsonl` (lmsys/mt_bench_human_judgments). Counted here by the
definitions of the public code of 2306.05685: a win rate over all pairs of models where a tie counts half, and agreement as
the share of equal votes among all pairs of one vote of each kind of judge on the same question, turn and pair of models:
with ties (an inconsistent verdict is a tie, ties are equal) and without them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import combinations, product
from pathlib import Path
from typing import Any

from prefopt.tools.mt_bench.mt_bench import mt_bench
from prefopt.tools.mt_bench.settings import MtBenchConfig

JUDGE, PEOPLE = "gpt4_pair", "expert"
# said in 2306.05685, section 4.2, of all 80 questions, first turn, without ties
PUBLISHED = {
    f"{PEOPLE} - {JUDGE}, turn 1, without ties": 85,
    f"{PEOPLE} - {PEOPLE}, turn 1, without ties": 81,
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def counted_rates(votes: list[dict[str, Any]]) -> dict[str, float]:
    """Model -> percent of its comparisons that it won, a tie as half."""
    won, met = defaultdict(float), defaultdict(int)
    for vote in votes:
        for side in ("model_a", "model_b"):
            won[vote[side]] += 0.5 if "tie" in vote["winner"] else float(vote["winner"] == side)
            met[vote[side]] += 1
    return {model: 100 * won[model] / met[model] for model in met}


def counted_agreement(
    votes: list[dict[str, Any]], one: str, other: str, turn: int, ties: bool
) -> tuple[int, int]:
    """Equal pairs of votes, and pairs of votes."""
    said = defaultdict(lambda: defaultdict(list))
    for vote in votes:
        if vote["turn"] == turn:
            winner = "tie" if "tie" in vote["winner"] else vote[vote["winner"]]
            if ties or winner != "tie":
                cell = (vote["question_id"], frozenset((vote["model_a"], vote["model_b"])))
                said[cell][JUDGE if vote["judge"] == JUDGE else vote["judge"].split("_")[0]].append(winner)
    equal = total = 0
    for kinds in said.values():
        pairs = combinations(kinds[one], 2) if one == other else product(kinds[one], kinds[other])
        for first, second in pairs:
            equal, total = equal + (first == second), total + 1
    return equal, total


def main() -> None:
    """Count, compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("studies/results/mt-bench.json"))
    options = parser.parse_args()
    files = [options.data / "gpt4_votes.jsonl", options.data / "human_votes.jsonl"]
    config = MtBenchConfig(questions=options.data / "question.jsonl")  # type: ignore[call-arg]
    found = mt_bench([str(file) for file in files], config).figures
    votes = [row for file in files for row in rows_of(file)]
    category = {row["question_id"]: row["category"] for row in rows_of(config.questions)}
    gpt4 = [vote for vote in votes if vote["judge"] == JUDGE]
    parts = {"all": gpt4} | {f"turn_{turn}": [v for v in gpt4 if v["turn"] == turn] for turn in (1, 2)}
    parts |= {
        name: [v for v in gpt4 if category[v["question_id"]] == name]
        for name in dict.fromkeys(category.values())
    }
    table, differences = {}, []
    for part, chosen in parts.items():
        table[part] = {}
        for model, rate in sorted(counted_rates(chosen).items(), key=lambda item: -item[1]):
            own = found["win_rates"][JUDGE][part][model]
            interval = [round(100 * own["adjusted"][end], 2) for end in ("mean", "low", "high")]
            differences.append(abs(100 * own["adjusted"]["mean"] - rate))
            table[part][model] = {
                "win_rate": interval,
                "counted": round(rate, 2),
                **{k: own[k] for k in ("wins", "ties", "losses")},
            }
    agreements = {}
    for entry in found["agreement"]:
        one, other = entry["judges"]
        equal, total = counted_agreement(votes, one, other, entry["turn"], entry["ties"])
        assert total == entry["pairs"]
        differences.append(abs(100 * entry["mean"] - 100 * equal / total))
        title = f"{one} - {other}, turn {entry['turn']}, {'with' if entry['ties'] else 'without'} ties"
        agreements[title] = {
            "percent": [round(100 * entry[end], 2) for end in ("mean", "low", "high")], "counted": round(100 * equal / total, 2),
            "pairs": total, **({"published": PUBLISHED[title]} if title in PUBLISHED else {}),
        }  # fmt: skip
    result = {
        "questions": len(category), "votes": len(votes), "unit": "percent: mean and 95% interval by question",
        "largest_difference_points": round(max(differences), 9), "win_rates": {JUDGE: table}, "agreement": agreements,
    }  # fmt: skip
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("largest_difference_points", "agreement")}, indent=1))


if __name__ == "__main__":
    main()
