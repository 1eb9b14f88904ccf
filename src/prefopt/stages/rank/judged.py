"""Ranking by a pairwise judge: tournaments of all prompts, and their tables (ranked, verdicts)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from prefopt.judges import PairwiseJudgeConfig, open_judge
from prefopt.rules.order import hash_order
from prefopt.rules.standing import Standing, standing
from prefopt.rules.tournament import (
    Moves,
    ipr,
    knockout,
    most_comparisons,
    round_robin,
    wins_matrix,
)
from prefopt.stages.rank.comparer import Comparer, Contest, Played
from prefopt.stages.rank.pairs import Group, Outcome
from prefopt.stages.rank.quality import cycle_figures, quality_of, winner_agreement
from prefopt.stages.rank.verdict_journal import VerdictJournal
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import Row, make_table, write_table

TOURNAMENTS: dict[str, Callable[..., Moves]] = {"ipr": ipr, "round_robin": round_robin, "knockout": knockout}
JOURNAL = "verdicts.jsonl"
FILES = ("ranked.parquet", "verdicts.parquet", "verdict-timings.parquet")
FREE = ("recorded", "simulated", "verifier")  # judges whose calls cost nothing
ALL_VERDICTS = "winner by Copeland share of all known verdicts"
CYCLE_PROMPTS = 200  # prompts of the round-robin sample that a free judge is given


class Pairing(Protocol):
    """The settings that strategies read (`RankConfig` has them, and reads the strategies' names)."""

    @property
    def chosen_strategy(self) -> str:
        """Name of the strategy."""

    @property
    def judge(self) -> PairwiseJudgeConfig | None:
        """The pairwise judge."""

    @property
    def judge_calls(self) -> int | None:
        """Budget of calls."""

    @property
    def aggregate(self) -> Literal["copeland", "bradley_terry"]:
        """How places come about."""

    @property
    def cycle_prompts(self) -> int | None:
        """Prompts whose answers are all compared."""

    @property
    def match(self) -> Literal["length"] | None:
        """How right and wrong answers find each other."""

    @property
    def verdict_cache(self) -> Path | None:
        """File of verdicts."""

    @property
    def gold_when_unsolved(self) -> bool:
        """Whether the gold solution stands in for a right sample."""

    @property
    def rejected_at(self) -> Literal["min", "mean-2sd"]:
        """Which of the worse answers is rejected."""


@dataclass
class Judged:
    """Outcomes of the groups, the rows of the further tables, and figures."""

    outcomes: list[Outcome]
    ranked: list[Row] = field(default_factory=list)
    verdicts: list[Row] = field(default_factory=list)
    timings: list[Row] = field(default_factory=list)
    quality: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: StageFolder | None) -> None:
        """Write the tables beside the stage's own."""
        if folder is None:
            return
        tables = (self.ranked, self.verdicts, self.timings)
        for name, rows in zip(FILES, tables, strict=True):
            write_table(make_table(rows), folder.path / name)


def clear_files(folder: StageFolder | None) -> None:
    """Remove the tables of an earlier run with another strategy; the kept verdicts stay."""
    for name in FILES if folder is not None else ():
        (folder.path / name).unlink(missing_ok=True)  # type: ignore[union-attr]


def rank_by_judge(groups: Sequence[Group], config: Pairing, context: Context) -> Judged:
    """Play the strategy in every group of at least two answers.

    The chosen and the rejected row get their Bradley-Terry strength as `score` (logits, from the prompt's verdicts).

    Raises:
        PrefoptError: the judge cannot be opened or gave up; what it answered is kept.
    """
    assert config.judge is not None
    judge = open_judge(config.judge, context)
    check = getattr(judge, "check", None)  # a recorded judge finds out what the rows hold
    if check is not None:
        check([row for group in groups for row in group.rows])
    playing = [group for group in groups if len(group.rows) > 1]
    contests = [contest_of(group) for group in playing]
    comparer = Comparer(
        judge,
        seed=context.seed,
        tie_band=config.judge.tie_band,
        journal=_journal(config, context),
        budget=config.judge_calls,
    )
    played = comparer.run(contests, starter(config, contests, context.seed), _most(config.chosen_strategy))
    standings = [
        standing(wins_matrix(len(contest.rows), game.outcomes), config.aggregate)
        for contest, game in zip(contests, played, strict=True)
    ]
    found = zip(playing, played, standings, strict=True)
    ends = {group.prompt_id: _outcome(group, game, places) for group, game, places in found}
    ranked = [
        row
        for contest, game, places in zip(contests, played, standings, strict=True)
        for row in _ranked(contest, game, places)
    ]
    quality = quality_of(comparer, contests, played)
    quality |= _cycles(comparer, config, context.seed, contests, played, quality)
    outcomes = [ends.get(group.prompt_id, Outcome(reason="fewer than two answers")) for group in groups]
    return Judged(outcomes, ranked, comparer.verdicts, comparer.timings, quality)


def contest_of(group: Group) -> Contest:
    """The group as the comparer takes it; the reference answer is the gold solution, else the gold answer."""
    first = group.rows[0]
    reference = first.get("gold_completion") or first.get("gold")
    return Contest(group.prompt_id, first["prompt"], group.rows, reference)


def starter(config: Pairing, contests: Sequence[Contest], seed: int) -> Callable[[int], Moves]:
    """Contest number -> its tournament, in an order shuffled by seed, prompt and ids."""
    more = {"aggregate": config.aggregate} if config.chosen_strategy == "round_robin" else {}

    def start(k: int) -> Moves:
        ids = [row["id"] for row in contests[k].rows]
        order = hash_order(ids, seed, contests[k].prompt_id).tolist()
        return TOURNAMENTS[config.chosen_strategy](order, **more)

    return start


def _most(strategy: str) -> Callable[[int], int]:
    return lambda answers: most_comparisons(strategy, answers)


def _journal(config: Pairing, context: Context) -> VerdictJournal:
    """Verdicts kept in `verdict_cache`, else in the stage's folder; they stay when the stage is done."""
    path: Path | None = config.verdict_cache
    owner = ""
    if context.folder is not None:
        path = path or context.folder.path / JOURNAL
        owner = context.folder.running_key
    return VerdictJournal(path, owner)


def _outcome(group: Group, game: Played, places: Standing) -> Outcome:
    if game.final is None:
        return Outcome(reason="budget of judge calls spent")
    if game.final.reason:
        return Outcome(reason=game.final.reason)
    best, worst = (
        {**group.rows[i], "score": float(places.strength[i])} for i in (game.final.best, game.final.worst)
    )
    return Outcome([(best, worst)])


def _ranked(contest: Contest, game: Played, places: Standing) -> list[Row]:
    """One row per answer: rank 1 is the strategy's best, the last its worst, the others by the standing."""
    order = sorted(range(len(contest.rows)), key=lambda i: (places.key[i], -i), reverse=True)
    if game.final is not None:
        ends = (game.final.best, game.final.worst)
        order = [ends[0], *(i for i in order if i not in ends), ends[1]]
    tally = _records(len(contest.rows), game)
    return [
        {
            "prompt_id": contest.prompt_id,
            "id": contest.rows[i]["id"],
            "rank": rank,
            **tally[i],
            "copeland": tally[i]["wins"] - tally[i]["losses"],
            "strength": float(places.strength[i]),
            "strength_error": float(places.error[i]),
            "model": contest.rows[i].get("model"),
            "completion": contest.rows[i]["completion"],
        }
        for rank, i in enumerate(order, start=1)
    ]


def _records(answers: int, game: Played) -> list[dict[str, int]]:
    tally = [dict.fromkeys(("wins", "losses", "ties", "missing"), 0) for _ in range(answers)]
    for (a, b), outcome in game.outcomes.items():
        names = {"a": ("wins", "losses"), "b": ("losses", "wins"), "tie": ("ties", "ties")}
        mine, theirs = names.get(outcome, ("missing", "missing"))
        tally[a][mine] += 1
        tally[b][theirs] += 1
    return tally


def _cycles(
    main: Comparer,
    config: Pairing,
    seed: int,
    contests: Sequence[Contest],
    played: Sequence[Played],
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """Cycle figures: of a round robin itself, of a round-robin sample, or of the triples that happen to be complete.

    A sample also shows how often the strategy's best is the best of all comparisons. found: the figures so far.
    """
    free = config.judge is not None and config.judge.kind in FREE
    wanted = config.cycle_prompts if config.cycle_prompts is not None else CYCLE_PROMPTS * free
    recorded = config.judge is not None and config.judge.kind == "recorded"
    if recorded and config.cycle_prompts is None:
        wanted = len(contests)
    if config.chosen_strategy == "round_robin" or not wanted:
        whole = config.chosen_strategy == "round_robin"
        return {
            **cycle_figures(contests, played),
            "cycles_from": "all comparisons" if whole else "complete triples",
        }
    order = hash_order([contest.prompt_id for contest in contests], seed, "cycles")
    drawn = [k for k in order[:wanted].tolist() if len(contests[k].rows) > 2]
    sample = [contests[k] for k in drawn]
    budget = None if config.judge_calls is None else max(0, config.judge_calls - main.counts.calls)
    comparer = main.sibling(budget)
    rounds = comparer.run(
        sample, lambda k: round_robin(list(range(len(sample[k].rows)))), _most("round_robin")
    )
    agreed = winner_agreement(sample, [played[k] for k in drawn], rounds)
    figures = {
        **cycle_figures(sample, rounds),
        "cycles_from": f"round robin of {len(sample)} prompts",
        "cycle_calls": comparer.counts.calls,
        "winner_agreement": agreed,
    }
    if recorded and found["agreement"] is None:  # nothing else to agree with than the file's other verdicts
        figures |= {"agreement": agreed["known"]["mean"], "agreement_with": ALL_VERDICTS}
    return figures
