"""Win rates of recorded AlpacaEval judgments: prefopt's against those that the records and the published definition give.

    python studies/alpaca_eval.py --data DIR [--repository CHECKOUT] [--output studies/results/win-rates.json]

DIR holds `completions.jsonl.gz`: prompts, answers of several models and judgments (`preference_b`) against a baseline, by
the judges of AlpacaEval 1 and 2. CHECKOUT is a clone of tatsu-lab/alpaca_eval: with it the length-controlled forms with
prompt difficulties are measured too, and the leaderboard of AlpacaEval 2 is made again from all of its annotations.

The reference of the length-controlled rates is the published definition in another implementation: the regression by
scikit-learn (pip install scikit-learn) with an L1 penalty whose strength five folds of the prompts choose. The difficulties
are no file of the repository; they follow from annotations that hold the regression's predictions, and its weights. Where
the clone lacks the annotations of the changed baselines, their effect follows from the weights of the leaderboard (`anchors`).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.rules.length_control import ANCHOR_WEIGHT, length_terms
from prefopt.tools.win_rate.settings import WinRateConfig
from prefopt.tools.win_rate.win_rate import win_rate

JUDGES = {
    "alpaca_eval_gpt4": "text_davinci_003@v1_reference",
    "weighted_alpaca_eval_gpt4_turbo": "gpt4_1106_preview",
}
JUDGE, BASELINE = list(JUDGES.items())[1]
CHANGED = (f"{BASELINE}_verbose", f"{BASELINE}_concise")
WEIGHTS = f"src/alpaca_eval/metrics/weights/{JUDGE}/length_controlled_v1/baseline_{BASELINE}.csv"
LEADERBOARD = f"src/alpaca_eval/leaderboards/data_AlpacaEval_2/{JUDGE}_leaderboard.csv"
WITH_PREDICTIONS = "vicuna-13b-v1.5"  # a model whose annotations hold `glm_preference`
FORMS = ("minimal", "noreg", "v1")  # length alone; with difficulties; with difficulties and anchors
COLUMNS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(0.5 * x))


# ---- the published definition, by scikit-learn


def reference(y, terms, difficulty=None, anchors=None) -> float:
    """Length-controlled win rate in percent: L1-penalized logistic regression, C of ten by five folds, at equal lengths."""
    columns = [terms, *([] if difficulty is None else [difficulty]), np.ones(len(y))]
    x, weights = np.stack(columns, 1), np.ones(len(y))
    equal = x.copy()
    equal[:, 0] = 0
    if anchors is not None:
        changed, rate = anchors
        x = np.concatenate([np.column_stack([changed, np.zeros(len(changed))]), x])
        y, weights = (
            np.concatenate([rate, y]),
            np.concatenate([np.full(len(rate), ANCHOR_WEIGHT / 2), weights]),
        )
    folds = np.arange(len(y)) % 5
    losses = []
    for c in np.logspace(-4, 4, 10):
        total = 0.0
        for fold in range(5):
            inside = folds != fold
            p = np.clip(
                sigmoid(x[~inside] @ _regress(x[inside], y[inside], weights[inside], c)), 1e-15, 1 - 1e-15
            )
            out = y[~inside] * np.log(p) + (1 - y[~inside]) * np.log(1 - p)
            total -= float(np.mean(weights[~inside] * out))
        losses.append((total, c))
    return float(100 * sigmoid(equal @ _regress(x, y, weights, min(losses)[1])).mean())


def _regress(x, y, weights, c):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=0)
    labels = np.repeat([1, 0], len(y))
    model.fit(np.concatenate([x, x]), labels, sample_weight=np.concatenate([y * weights, (1 - y) * weights]))
    return model.coef_[0]


# ---- a clone of the repository


class Repository:
    """Files of a clone at its newest commit; `difficulty`: prompt -> value."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.commit = self._git("rev-parse", "HEAD").decode().strip()
        self.weights = {row[""]: [float(row[name]) for name in COLUMNS] for row in self._csv(WEIGHTS)}
        self.leaderboard = {row[""]: row for row in self._csv(LEADERBOARD)}
        rows = json.loads(self._show(f"results/{WITH_PREDICTIONS}/{JUDGE}/{JUDGE}/annotations.json"))
        _, psi, theta = self.weights[WITH_PREDICTIONS]
        p = np.array([row["glm_preference"] for row in rows])
        values = (np.log(p / (1 - p)) - theta) / psi
        self.prompts = [row["instruction"] for row in rows]
        self.difficulty = dict(zip(self.prompts, values.tolist(), strict=True))

    def _git(self, *words: str) -> bytes:
        return subprocess.run(["git", "-C", str(self.place), *words], capture_output=True, check=True).stdout

    def _show(self, path: str) -> bytes:
        return self._git("show", f"HEAD:{path}")

    def _csv(self, path: str) -> list[dict[str, str]]:
        return list(csv.DictReader(self._show(path).decode().splitlines()))

    def annotations(self, model: str) -> list[dict[str, Any]] | None:
        """Rows of a model; None where the clone has none (a file that is not stored)."""
        try:
            return json.loads(self._show(f"results/{model}/{JUDGE}/annotations.json"))
        except (subprocess.CalledProcessError, json.JSONDecodeError):
            return None

    def outputs(self, model: str) -> dict[str, str]:
        """Prompt -> answer of a model."""
        return {
            row["instruction"]: row["output"]
            for row in json.loads(self._show(f"results/{model}/model_outputs.json"))
        }

    def anchors(self) -> tuple[dict[str, list[dict[str, Any]]], str]:
        """Annotations of the changed baselines, and whence they are.

        Only their sums w y tanh(d) and w y gamma enter the regression. Where the files are missing, the sums are those at
        which the gradient of a model with published weights is 0 (the median over models; a penalty moves it by 1 / C), and
        the preferences are those of the logistic regression that has these sums.
        """
        kept = {name: self.annotations(name) for name in CHANGED}
        if all(kept.values()):
            return {name: rows or [] for name, rows in kept.items()}, "annotations"
        base = self.outputs(BASELINE)
        texts = {name: self.outputs(name) for name in CHANGED}
        x = np.concatenate(
            [self._terms([(base[p], texts[name][p], p) for p in self.prompts]) for name in CHANGED]
        )
        w = ANCHOR_WEIGHT / len(CHANGED)
        sums = []
        for name, theta in self.weights.items():
            rows = self.annotations(name) if name != BASELINE and name not in CHANGED else None
            if rows and len(rows) == len(self.prompts):
                own = np.column_stack(
                    [
                        self._terms([(r["output_1"], r["output_2"], r["instruction"]) for r in rows]),
                        np.ones(len(rows)),
                    ]
                )
                left = own.T @ (preferences(rows) - sigmoid(own @ np.array(theta)))
                if abs(left[2]) < 0.1:  # a light penalty
                    sums.append(w * x.T @ sigmoid(x @ np.array(theta[:2])) - left[:2])
        target, beta = np.median(sums, axis=0), np.zeros(2)
        for _ in range(50):
            p = sigmoid(x @ beta)
            beta += np.linalg.solve(w * (x * (p * (1 - p))[:, None]).T @ x, target - w * x.T @ p)
        shared = sigmoid(x @ beta).reshape(len(CHANGED), -1)
        return {
            name: [
                {"instruction": p, "output_1": base[p], "output_2": texts[name][p], "generator_1": BASELINE,
                 "generator_2": name, "preference": 1 + float(y)}
                for p, y in zip(self.prompts, shared[k], strict=True)
            ]
            for k, name in enumerate(CHANGED)
        }, f"weights of {len(sums)} models"  # fmt: skip

    def _terms(self, rows: list[tuple[str, str, str]]):
        lengths = length_terms([len(a or "") for a, _, _ in rows], [len(b or "") for _, b, _ in rows])
        return np.column_stack([lengths, [self.difficulty[p] for _, _, p in rows]])


def preferences(rows: list[dict[str, Any]]):
    """For the model, 0..1."""
    return np.array([0.5 if r["preference"] == 0 else r["preference"] - 1 for r in rows])


# ---- what is compared


def recorded(data: Path) -> dict[tuple[str, str], list[tuple[str, str, str, float]]]:
    """(judge, model) -> (prompt, baseline's text, model's text, preference for the model), read without prefopt."""
    found: dict[tuple[str, str], list[tuple[str, str, str, float]]] = {}
    with gzip.open(data / "completions.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            texts = {entry["model"]: entry["text"] for entry in row["completions"]}
            for said in row["judgments"]:
                pair = (texts[said["model_a"]], texts[said["model_b"]])
                found.setdefault((said["judge"], said["model_b"]), []).append(
                    (row["prompt"], *pair, said["preference_b"])
                )
    return found


def by_records(data: Path, files: dict[str, Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """One entry per judge and model of `data`: prefopt's figures beside those of the records."""
    source = data / "completions.jsonl.gz"
    for (judge, model), rows in recorded(data).items():
        prompts, bases, answers, y = zip(*rows, strict=True)
        terms, y = length_terms([len(t) for t in bases], [len(t) for t in answers]), np.array(y)
        forms: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {"minimal": ({}, ())}
        if files is not None and judge == JUDGE:
            gamma = np.array([files["values"][p] for p in prompts])
            forms["noreg"] = ({"difficulty": files["difficulty"]}, (gamma,))
            forms["v1"] = (
                {"difficulty": files["difficulty"], "anchors": files["anchors"]},
                (gamma, files["terms"]),
            )
        entry: dict[str, Any] = {"prompts": len(rows), "length_controlled": {}}
        for form, (settings, more) in forms.items():
            config = WinRateConfig(judge={"kind": "recorded", "name": judge}, **settings)  # type: ignore[arg-type]
            found = win_rate([f"{source}:{model}"], f"{source}:{JUDGES[judge]}", config).figures["models"][
                model
            ]
            entry["win_rate"] = beside(100 * found["win_rate"]["mean"], 100 * float(y.mean()))
            own = 100 * found["length_controlled"]["mean"]
            entry["length_controlled"][form] = beside(own, reference(y, terms, *more))
        yield f"{model} by {judge}", entry


def by_leaderboard(
    repository: Repository, files: dict[str, Any], folder: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """One entry per model whose annotations the clone holds: prefopt's figures beside the leaderboard's."""
    for model, line in repository.leaderboard.items():
        rows = repository.annotations(model) if model in repository.weights and model != BASELINE else None
        if not rows:
            continue
        place = write(folder / "annotations.json", [{**row, "generator_2": model} for row in rows])
        config = WinRateConfig(difficulty=files["difficulty"], anchors=files["anchors"])  # type: ignore[call-arg]
        found = win_rate([str(place)], config=config).figures["models"][model]
        entry: dict[str, Any] = {
            "prompts": len(rows),
            "win_rate": beside(100 * found["win_rate"]["mean"], float(line["win_rate"])),
            "length_controlled": beside(
                100 * found["length_controlled"]["mean"], float(line["length_controlled_winrate"])
            ),
        }
        if len(rows) < len(repository.prompts):
            # the published code takes difficulties by position, which is another prompt's behind a missing row
            values = list(repository.difficulty.values())
            shifted = [{"prompt": row["instruction"], "difficulty": values[k]} for k, row in enumerate(rows)]
            config = WinRateConfig(
                difficulty=write(folder / "shifted.json", shifted), anchors=files["anchors"]
            )  # type: ignore[call-arg]
            other = (
                100
                * win_rate([str(place)], config=config).figures["models"][model]["length_controlled"]["mean"]
            )
            entry["difficulty_by_position"] = beside(other, float(line["length_controlled_winrate"]))
        yield model, entry


def beside(own: float, other: float) -> dict[str, float]:
    """Two figures and their difference."""
    return {"prefopt": round(own, 4), "published": round(other, 4), "difference": round(own - other, 4)}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a JSON array; returns the path."""
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def largest(entries: dict[str, Any], *path: str) -> float:
    """Largest absolute difference at this place of the entries that have it."""
    found = []
    for entry in entries.values():
        for key in path:
            entry = entry.get(key, {}) if isinstance(entry, dict) else {}
        if "difference" in entry:
            found.append(abs(entry["difference"]))
    return max(found, default=0.0)


def main() -> None:
    """Compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repository", type=Path)
    parser.add_argument("--output", type=Path, default=Path("studies/results/win-rates.json"))
    options = parser.parse_args()
    result: dict[str, Any] = {"unit": "percent; differences in points"}
    with tempfile.TemporaryDirectory() as name:
        folder, files, repository = Path(name), None, None
        if options.repository is not None:
            repository = Repository(options.repository)
            changed, source = repository.anchors()
            values = [{"prompt": p, "difficulty": v} for p, v in repository.difficulty.items()]
            rows = [row for name in CHANGED for row in changed[name]]
            parts = [
                repository._terms([(r["output_1"], r["output_2"], r["instruction"]) for r in changed[n]])
                for n in CHANGED
            ]
            files = {
                "values": repository.difficulty, "terms": (np.concatenate(parts), preferences(rows)),
                "difficulty": write(folder / "difficulty.json", values),
                "anchors": [write(folder / f"{name}.json", changed[name]) for name in CHANGED],
            }  # fmt: skip
            result |= {
                "repository": {
                    "name": "tatsu-lab/alpaca_eval",
                    "commit": repository.commit,
                    "anchors": source,
                }
            }
        records = dict(by_records(options.data, files))
        result["records"] = {
            "largest_difference": {
                judge: {
                    "win_rate": largest(own, "win_rate"),
                    **{form: largest(own, "length_controlled", form) for form in FORMS if form in next(iter(own.values()))["length_controlled"]},
                }
                for judge in JUDGES
                if (own := {name: entry for name, entry in records.items() if name.endswith(f" by {judge}")})
            },
            "models": records,
        }  # fmt: skip
        if repository is not None and files is not None:
            board = dict(by_leaderboard(repository, files, folder))
            whole = {n: e for n, e in board.items() if e["prompts"] == len(repository.prompts)}
            result["leaderboard"] = {
                "models_with_all_prompts": len(whole), "models_without": len(board) - len(whole),
                "largest_difference": {
                    "win_rate": largest(board, "win_rate"),
                    "length_controlled, all prompts": largest(whole, "length_controlled"),
                    "length_controlled, prompts missing": largest(
                        {n: e for n, e in board.items() if n not in whole}, "length_controlled"),
                    "the same with difficulties by position": largest(board, "difficulty_by_position"),
                },
                "models": board,
            }  # fmt: skip
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        json.dumps(
            {key: result[key]["largest_difference"] for key in ("records", "leaderboard") if key in result},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
