"""Comparisons of a model's answers with the baseline's: by a judge, or as they were recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefopt.core.errors import PrefoptError
from prefopt.judges import PairwiseJudge, open_judge
from prefopt.rules.content import text_of
from prefopt.rules.tournament import Final, Moves
from prefopt.stages.data.reading.readers import read_rows
from prefopt.stages.rank.comparer import Comparer, Contest
from prefopt.stages.rank.verdict_journal import VerdictJournal
from prefopt.tables.context import Context
from prefopt.tables.records import Row
from prefopt.tools.win_rate.answers import Outputs, key_of
from prefopt.tools.win_rate.settings import WinRateConfig

SHARES = {"a": 1.0, "tie": 0.5, "b": 0.0}


@dataclass(frozen=True)
class Compared:
    """One answer of a model against the baseline's. preference: for the model, 0..1; None where there is no verdict.

    share: 1, 0.5 or 0. fault: why there is no verdict. baseline, answer: the texts.
    """

    prompt: str
    preference: float | None
    share: float | None
    baseline: str
    answer: str
    fault: Literal["missing", "unparsed", ""] = ""


@dataclass(frozen=True)
class Asked:
    """What a judge said: comparisons by model, one row per call, and about the judge."""

    by_model: Mapping[str, Sequence[Compared]]
    verdicts: Sequence[Row]
    judge: Mapping[str, Any]
    name: str
    calls: int
    reused: int


def judged(
    models: Sequence[Outputs],
    baseline: Outputs,
    config: WinRateConfig,
    context: Context,
    journal: Path | None,
) -> Asked:
    """Every model against the baseline on the prompts that both answered; the k-th answer meets the k-th.

    Both orders are asked where they matter. Equal answers are a tie without a call, but for recorded verdicts.

    Raises:
        PrefoptError: no judge, no common prompt, or the judge gives up (what it answered is kept).
    """
    if config.judge is None:
        raise PrefoptError(
            "win-rate: who judges? give --judge KIND (docs/judges.md), or files of recorded annotations"
        )
    judge = open_judge(config.judge, context)
    contests: list[Contest] = []
    at: list[tuple[str, str]] = []  # (model, prompt key) of each contest
    for number, model in enumerate(models):
        shared = [key for key in baseline.rows if key in model.rows][: config.limit]
        if not shared:
            raise PrefoptError(
                f"{model.name}: answers none of the {len(baseline.rows)} prompts of {baseline.name}; compare answers to the "
                "same prompts"
            )
        for place, key in enumerate(shared):
            for k, (own, other) in enumerate(zip(model.rows[key], baseline.rows[key], strict=False)):
                contests.append(_contest(f"{number}-{place}-{k}", own, other, (model.name, baseline.name)))
                at.append((model.name, key))
    check = getattr(judge, "check", None)  # a recorded judge finds out what the rows hold
    if check is not None:
        check([side for contest in contests for side in contest.rows])
    comparer = Comparer(
        judge, seed=context.seed, tie_band=config.judge.tie_band, journal=VerdictJournal(journal, "win-rate")
    )
    recorded = config.judge.kind == "recorded"
    differing = [c for c in contests if recorded or c.rows[0]["completion"] != c.rows[1]["completion"]]
    played = comparer.run(differing, lambda k: _once(), lambda answers: 1)
    outcomes = {c.prompt_id: game.outcomes[0, 1] for c, game in zip(differing, played, strict=True)}
    calls = _last_calls(comparer.verdicts)
    by_model: dict[str, list[Compared]] = {model.name: [] for model in models}
    for contest, (name, key) in zip(contests, at, strict=True):
        outcome = outcomes.get(contest.prompt_id, "tie")
        found = _compared(
            key, contest, outcome, calls.get(contest.prompt_id, []), judge, config.probabilities
        )
        by_model[name].append(found)
    counts = comparer.counts
    return Asked(by_model, comparer.verdicts, judge.describe(), judge.name, counts.calls, counts.reused)


def _once() -> Moves:
    """The strategy of two answers: one comparison."""
    yield [(0, 1)]
    return Final(0, 1)


def _contest(name: str, own: Row, other: Row, models: tuple[str, str]) -> Contest:
    sides = []
    for row, side, model in ((own, "model", models[0]), (other, "baseline", models[1])):
        text = text_of(row["completion"])
        sides.append({"model": model, **row, "id": f"{name}-{side}", "completion": text, "side": side})
        if row.get("model") is None:
            sides[-1]["model"] = model
    return Contest(name, own["prompt"], sides, own.get("gold_completion") or own.get("gold"))


def _last_calls(verdicts: Sequence[Row]) -> dict[str, list[Row]]:
    """Contest -> the last answer to each of its calls."""
    found: dict[str, dict[str, Row]] = {}
    for row in verdicts:
        found.setdefault(row["prompt_id"], {})[row["first_id"]] = row
    return {name: list(calls.values()) for name, calls in found.items()}


def _compared(
    key: str, contest: Contest, outcome: str, calls: Sequence[Row], judge: PairwiseJudge, soft: bool
) -> Compared:
    own, other = contest.rows
    texts = (other["completion"], own["completion"])
    if outcome == "missing":
        return Compared(key, None, None, *texts, fault="missing")
    if any(call["winner"] == "unparsed" for call in calls):
        return Compared(key, None, None, *texts, fault="unparsed")
    share = SHARES[outcome]
    preference = share
    if soft and calls and all(call["probability"] is not None for call in calls):
        seen = [
            call["probability"] if call["first_id"] == own["id"] else 1.0 - call["probability"]
            for call in calls
        ]
        preference = sum(seen) / len(seen)
    return Compared(key, preference, share, *texts)


# ---- recorded annotations


def annotated(places: Sequence[str]) -> tuple[str, dict[str, list[Compared]], list[str]]:
    """Baseline, comparisons by model, and annotators of files in AlpacaEval's form.

    A row has instruction, output_1 and generator_1 (the baseline's), output_2 and generator_2, and preference: 1 for
    the baseline to 2 for the model, 0 or 1.5 a tie, null none.

    Raises:
        PrefoptError: a row that has not this form, or files with several baselines.
    """
    baselines: dict[str, str] = {}
    annotators: dict[str, None] = {}
    found: dict[str, list[Compared]] = {}
    for place in places:
        for row, where in read_rows(place):
            found.setdefault(str(row.get("generator_2") or Path(place).name), []).append(
                annotation(row, where)
            )
            baselines.setdefault(str(row.get("generator_1") or "baseline"), where)
            annotators[str(row.get("annotator") or "recorded")] = None
    if len(baselines) > 1:
        (one, _), (other, where) = list(baselines.items())[:2]
        raise PrefoptError(
            f"{where}: is against {other!r}, rows before it against {one!r}; give files of one baseline"
        )
    return next(iter(baselines)), found, list(annotators)


def annotation(row: Row, where: str) -> Compared:
    """One row of AlpacaEval's annotations; PrefoptError where it has not their form."""
    prompt, texts = row.get("instruction", row.get("prompt")), [row.get("output_1"), row.get("output_2")]
    if not isinstance(prompt, str) or not all(isinstance(text, str | None) for text in texts):
        raise PrefoptError(f"{where}: needs texts as instruction, output_1 and output_2")
    sides = (texts[0] or "", texts[1] or "")
    value = row.get("preference")
    if value is None:
        return Compared(key_of(prompt), None, None, *sides, fault="unparsed")
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 <= value <= 2):
        raise PrefoptError(
            f"{where}: preference {value!r}; must be 1 (output_1) to 2 (output_2), 0 for a tie, or null"
        )
    preference = 0.5 if value == 0 else float(value) - 1.0
    share = 0.5 if preference == 0.5 else float(preference > 0.5)
    return Compared(key_of(prompt), preference, share, *sides)


def as_annotations(
    baseline: str, annotator: str, by_model: Mapping[str, Sequence[Compared]]
) -> Iterator[dict[str, Any]]:
    """The comparisons as rows of that form."""
    for model, compared in by_model.items():
        for one in compared:
            yield {
                "instruction": one.prompt, "output_1": one.baseline, "generator_1": baseline, "output_2": one.answer,
                "generator_2": model, "annotator": annotator,
                "preference": None if one.preference is None else 1.0 + one.preference,
            }  # fmt: skip
