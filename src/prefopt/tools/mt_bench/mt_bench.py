"""`prefopt mt-bench`: models by MT-Bench's protocol, and tables of recorded votes (docs/evaluate.md)."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.rules.intervals import share_interval
from prefopt.rules.votes import WINNERS, Vote, agreement, judge_kind, mean_interval, win_rates
from prefopt.stages.data.reading.readers import read_rows
from prefopt.tables.context import Context
from prefopt.tables.owned import Claims
from prefopt.tables.records import Row, make_table, to_json, write_json, write_table, write_text
from prefopt.tools.mt_bench.answers import Answers, as_rows, read_or_write
from prefopt.tools.mt_bench.bench import read_bench, read_categories
from prefopt.tools.mt_bench.grading import Grade, Grader, Match
from prefopt.tools.mt_bench.settings import MtBenchConfig
from prefopt.tools.win_rate.answers import begins_with

JOURNAL = "replies.jsonl"
FIGURES, TABLE, ANSWERS, VOTES = "mt-bench.json", "judgments.parquet", "answers.jsonl", "votes.jsonl"
CLAIMS = Claims("mt-bench", (FIGURES, TABLE, ANSWERS, VOTES), loose=(JOURNAL,), lasting=(JOURNAL,))
ALL = "all"
MANY_UNPARSED, MANY_CUT = 0.05, 0.1


@dataclass(frozen=True)
class MtBench:
    """figures: what mt-bench.json holds. judgments: one row per judgment. answers, votes: in MT-Bench's form."""

    figures: dict[str, Any]
    judgments: Sequence[Row] = ()
    answers: Sequence[Answers] = ()
    votes: Sequence[Vote] = field(default_factory=tuple)


def mt_bench(
    places: Sequence[str],
    config: MtBenchConfig,
    context: Context | None = None,
    *,
    baseline: str | None = None,
    journal: Path | None = None,
) -> MtBench:
    """Models (or answers, or recorded votes) at `places` by MT-Bench's protocol.

    baseline: pairwise, the one that the others meet; else every pair meets. journal: file in which replies of the judge are
    kept, so that a killed command goes on.

    Raises:
        PrefoptError: files that have not their form, no model, no judge, or one that gives up.
    """
    recorded = [place for place in places if has_votes(place)]
    if recorded:
        if len(recorded) < len(places) or baseline is not None or config.judge is not None:
            raise PrefoptError(
                f"mt-bench: {recorded[0]} holds votes; give files of votes alone, without judge and baseline"
            )
        votes = [vote for place in places for vote in read_votes(place)]
        categories = read_categories(config.questions) if config.questions is not None else {}
        return MtBench(vote_figures(votes, categories), votes=votes)
    context = context or Context()
    grader = Grader(config, context.seed, journal)
    bench = read_bench(config)
    if baseline is not None and config.mode == "single":
        raise PrefoptError("mt-bench: --baseline is for --mode pairwise")
    all_places = [*places, *([baseline] if baseline is not None and baseline not in places else [])]
    if config.mode == "pairwise" and len(all_places) < 2:
        raise PrefoptError("mt-bench: pairwise needs at least two models; give more, or --baseline")
    models = [read_or_write(place, bench.questions, config, context) for place in all_places]
    names = [model.name for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise PrefoptError(f"mt-bench: {twice} is given twice; name different models")
    about = {"questions": len(bench.questions), "mode": config.mode, "judge": config.judge and config.judge.model,
             "seed": context.seed}  # fmt: skip
    if config.mode == "single":
        grades = grader.grades(bench, models)
        figures = grade_figures(grades)
        rows, votes = [_grade_row(one) for one in grades], []
    else:
        against = models[all_places.index(baseline)].name if baseline is not None else None
        matches = grader.matches(bench, models, against)
        votes = [match.vote for match in matches if match.vote is not None]
        figures = vote_figures(votes, {question.id: question.category for question in bench.questions})
        figures |= _faults([match.vote is None for match in matches])
        rows = [_match_row(one) for one in matches]
    turns = sum(len(question.turns) for question in bench.questions)
    warnings = [
        *(
            f"{m.name}: {m.unanswered} turns have no answer, the prompt filled the context."
            for m in models
            if m.unanswered
        ),
        *(
            f"{m.name}: {m.cut} of {turns} answers were cut at max_new_tokens."
            for m in models
            if m.cut > MANY_CUT * turns
        ),
    ]
    if figures["unparsed"] > MANY_UNPARSED * max(1, figures["judgments"]):
        warnings.append(
            f"{figures['unparsed']} of {figures['judgments']} judgments cannot be read and are left out."
        )
    return MtBench(about | figures | {"calls": grader.calls, "warnings": warnings}, rows, models, votes)


# ---- figures


def grade_figures(grades: Sequence[Grade]) -> dict[str, Any]:
    """Model -> category (or all) -> turn_1, turn_2, both: mean grade with interval by question; unparsed grades are left out."""
    models: dict[str, dict[str, dict[str, Any]]] = {}
    for name in dict.fromkeys(grade.model for grade in grades):
        own = [grade for grade in grades if grade.model == name and grade.score is not None]
        found = {}
        for category in (ALL, *dict.fromkeys(grade.category for grade in grades)):
            part = [grade for grade in own if category in (ALL, grade.category)]
            turns = {
                f"turn_{turn}": [g for g in part if g.turn == turn]
                for turn in sorted({g.turn for g in grades})
            }
            found[category] = {
                title: mean_interval([g.score or 0.0 for g in chosen], [g.question for g in chosen])
                for title, chosen in {**turns, "both": part}.items()
            }
        models[name] = found
    return {"models": models, **_faults([grade.score is None for grade in grades])}


def vote_figures(votes: Sequence[Vote], categories: Mapping[Hashable, str]) -> dict[str, Any]:
    """Kind of judge -> part (all, turn_1, turn_2, a category) -> win rates of the models; agreement of kinds of judges."""
    kinds = sorted({judge_kind(vote.judge) for vote in votes})
    found: dict[str, Any] = {}
    for kind in kinds:
        own = [vote for vote in votes if judge_kind(vote.judge) == kind]
        parts = {ALL: own} | {
            f"turn_{turn}": [v for v in own if v.turn == turn] for turn in sorted({v.turn for v in own})
        }
        for category in dict.fromkeys(categories.values()):
            parts[category] = [vote for vote in own if categories.get(vote.question) == category]
        found[kind] = {title: win_rates(part) for title, part in parts.items() if part}
        found[kind]["ties"] = share_interval([float(v.share == 0.5) for v in own], [v.question for v in own])
    return {
        "win_rates": found,
        "agreement": list(_agreements(votes, kinds)),
        "votes": len(votes),
        **_faults([]),
    }


def _agreements(votes: Sequence[Vote], kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    for one, other in itertools.combinations_with_replacement(kinds, 2):
        for turn in sorted({vote.turn for vote in votes}):
            part = [vote for vote in votes if vote.turn == turn]
            for ties in (True, False):
                rate = agreement(part, one, other, ties=ties)
                if rate["pairs"]:
                    yield {"judges": [one, other], "turn": turn, "ties": ties, **rate}


def _faults(unread: Sequence[bool]) -> dict[str, int]:
    return {"judgments": len(unread), "unparsed": sum(unread)}


def _grade_row(one: Grade) -> Row:
    return {"model": one.model, "question_id": str(one.question), "category": one.category, "turn": one.turn,
            "score": one.score, "text": one.text}  # fmt: skip


def _match_row(one: Match) -> Row:
    return {"model_a": one.model_a, "model_b": one.model_b, "question_id": str(one.question), "category": one.category,
            "turn": one.turn, "winner": one.vote and one.vote.winner, "text_a_first": one.texts[0],
            "text_b_first": one.texts[1]}  # fmt: skip


# ---- recorded votes


def has_votes(place: str) -> bool:
    """Whether the file holds votes on pairs of models."""
    return begins_with(place, {"model_a", "model_b", "winner"})


def read_votes(place: str) -> Iterator[Vote]:
    """Votes of a file with judge, question_id, turn, model_a, model_b and winner.

    Raises:
        PrefoptError: a row that has not this form.
    """
    for row, where in read_rows(place):
        names = [row.get(name) for name in ("judge", "model_a", "model_b")]
        if not all(isinstance(name, str) for name in names) or not isinstance(
            row.get("question_id"), int | str
        ):
            raise PrefoptError(f"{where}: a vote needs judge, question_id, turn, model_a, model_b and winner")
        if row.get("winner") not in WINNERS or names[1] == names[2]:
            raise PrefoptError(
                f"{where}: winner {row.get('winner')!r} of {names[1]}, {names[2]}; must be one of {', '.join(WINNERS)}"
            )
        turn = row.get("turn", 1)
        if isinstance(turn, bool) or not isinstance(turn, int):
            raise PrefoptError(f"{where}: turn {turn!r}; must be a number")
        yield Vote(str(names[0]), row["question_id"], turn, str(names[1]), str(names[2]), row["winner"])


# ---- out


def write_mt_bench(found: MtBench, output: Path) -> Path:
    """Write figures, judgments, and answers and votes in MT-Bench's form; returns the path of the figures."""
    if found.judgments:
        write_table(make_table(list(found.judgments)), output / TABLE)
    if found.answers:
        write_text(output / ANSWERS, "".join(f"{to_json(row)}\n" for row in as_rows(found.answers)))
    if found.votes:
        rows = ({"judge": v.judge, "model_a": v.model_a, "model_b": v.model_b, "question_id": v.question, "turn": v.turn,
                 "winner": v.winner} for v in found.votes)  # fmt: skip
        write_text(output / VOTES, "".join(f"{to_json(row)}\n" for row in rows))
    write_json(output / FIGURES, found.figures)
    return output / FIGURES
