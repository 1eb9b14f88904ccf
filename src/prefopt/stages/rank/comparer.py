"""The comparer: plays the tournaments of all prompts at once and asks the judge in rounds.

A round is one batch: every prompt's strategy names the pairs that it wants next, each pair becomes one call or two (both
orders), and the outcomes go back. Verdicts are kept by content, so that a pair is paid for once, whatever strategy asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefopt.judges import TIE_BAND, Comparison, PairwiseJudge, Verdict, winner_of
from prefopt.rules.tournament import FLIPPED, Final, Moves, Outcome, Pair
from prefopt.stages.rank.verdict_journal import VerdictJournal
from prefopt.tables.progress import progress
from prefopt.tables.records import Row, digest

CHUNK = 256  # calls between two writes of the journal, for judges that keep no journal of their own
ATTEMPTS = 2  # an unparsable verdict is asked for once more


@dataclass(frozen=True)
class Contest:
    """One prompt and the answers that compete: rows of completions, named by their positions."""

    prompt_id: str
    prompt: str | list[dict[str, Any]]
    rows: Sequence[Row]
    reference: str | None = None


@dataclass
class Played:
    """A contest's end (None: the budget did not reach) and the outcome of each comparison (a, b) that was made."""

    final: Final | None = None
    outcomes: dict[Pair, Outcome] = field(default_factory=dict)


@dataclass
class Counts:
    """calls: paid for by this run (before a kill too). reused: answered by verdicts kept from other runs."""

    comparisons: int = 0
    calls: int = 0
    reused: int = 0
    rounds: int = 0
    retried: int = 0


@dataclass
class _Live:
    """A contest in play: where it stands, and the pairs that it waits for."""

    index: int
    moves: Moves
    wanted: list[Pair]


class Comparer:
    """Asks `judge`; verdict rows gather in `verdicts`, latencies (seconds) in `timings`, numbers in `counts`.

    seed: of the judge. tie_band: for judges whose two calls are averaged. journal: verdicts kept by content. budget: calls
    at most (None: no limit).
    """

    def __init__(
        self,
        judge: PairwiseJudge,
        *,
        seed: int = 0,
        tie_band: float = TIE_BAND,
        journal: VerdictJournal | None = None,
        budget: int | None = None,
    ) -> None:
        self.judge = judge
        self.seed = seed
        self.tie_band = tie_band
        self.journal = VerdictJournal(None, "") if journal is None else journal
        self.budget = budget
        self.counts = Counts()
        self.verdicts: list[Row] = []
        self.timings: list[Row] = []
        self._about = digest(judge.describe())
        self._counted: set[str] = set()
        self._ceiling = 0  # calls that may be needed for all that has been let in
        # a judge that keeps answers as they arrive and asks again by itself gets whole rounds
        self._whole = bool(getattr(judge, "keeps_answers", False))

    def sibling(self, budget: int | None) -> Comparer:
        """A comparer with tables and counts of its own that pays only for what this one has not paid for."""
        made = Comparer(
            self.judge, seed=self.seed, tie_band=self.tie_band, journal=self.journal, budget=budget
        )
        made._counted = self._counted
        return made

    @property
    def orders(self) -> int:
        """Calls of a comparison: 2 where both orders are asked."""
        return 2 if self.judge.both_orders else 1

    def run(
        self, contests: Sequence[Contest], start: Callable[[int], Moves], most: Callable[[int], int]
    ) -> list[Played]:
        """Play all contests: `start(k)` gives the strategy of contest k, `most(answers)` its largest number of comparisons.

        With a budget, contests are let in by order as long as their largest cost is covered, so those that start also
        end; what they leave over lets in further ones. A contest that is never let in has no final.

        Raises:
            PrefoptError: from the judge; what it answered before is kept.
        """
        played = [Played() for _ in contests]
        waiting = list(range(len(contests)))
        with progress("compare", len(contests)) as advance, self.journal:
            while waiting:
                admitted = self._admit(waiting, contests, most)
                if not admitted:
                    break
                waiting = waiting[len(admitted) :]
                self._play([(k, start(k)) for k in admitted], contests, played, advance)
        return played

    def _admit(
        self, waiting: Sequence[int], contests: Sequence[Contest], most: Callable[[int], int]
    ) -> list[int]:
        if self.budget is None:
            return list(waiting)
        self._ceiling = self.counts.calls
        admitted = []
        for k in waiting:
            cost = most(len(contests[k].rows)) * self.orders
            if self._ceiling + cost > self.budget:
                break
            self._ceiling += cost
            admitted.append(k)
        return admitted

    def _play(
        self,
        started: Sequence[tuple[int, Moves]],
        contests: Sequence[Contest],
        played: Sequence[Played],
        advance: Callable[[int], None],
    ) -> None:
        live = [_Live(k, moves, []) for k, moves in started]
        live = [game for game in live if self._step(game, None, played, advance)]
        while live:
            self.counts.rounds += 1
            pairs = [(contests[game.index], pair) for game in live for pair in game.wanted]
            outcomes = iter(self._compare(pairs))
            answers = [[next(outcomes) for _ in game.wanted] for game in live]
            for game, found in zip(live, answers, strict=True):
                played[game.index].outcomes.update(zip(game.wanted, found, strict=True))
            live = [g for g, a in zip(live, answers, strict=True) if self._step(g, a, played, advance)]

    def _step(
        self,
        game: _Live,
        answers: list[Outcome] | None,
        played: Sequence[Played],
        advance: Callable[[int], None],
    ) -> bool:
        """Move a contest on; False when it has ended."""
        try:
            game.wanted = next(game.moves) if answers is None else game.moves.send(answers)
        except StopIteration as end:
            played[game.index].final = end.value
            advance(1)
            return False
        return True

    def _compare(self, pairs: Sequence[tuple[Contest, Pair]]) -> list[Outcome]:
        """Outcomes of one round's comparisons."""
        calls = []
        turned = [self.orders == 1 and c.rows[a]["id"] > c.rows[b]["id"] for c, (a, b) in pairs]
        for (contest, (a, b)), turn in zip(pairs, turned, strict=True):
            # where order means nothing a pair is asked in one order, whoever asks
            for first, second in [(b, a)] if turn else [(a, b), (b, a)][: self.orders]:
                calls.append(
                    Comparison(
                        contest.prompt_id,
                        contest.prompt,
                        contest.rows[first],
                        contest.rows[second],
                        contest.reference,
                    )
                )
        verdicts = self._ask(calls, 0)
        attempts = [[verdict] for verdict in verdicts]
        unread = [i for i, verdict in enumerate(verdicts) if verdict.winner == "unparsed"]
        if unread and not self._whole:
            if self.budget is not None:
                unread = unread[: max(0, self.budget - self._ceiling)]
                self._ceiling += len(unread)
            self.counts.retried += len(unread)
            for i, verdict in zip(unread, self._ask([calls[i] for i in unread], 1), strict=True):
                attempts[i].append(verdict)
        self.counts.comparisons += len(pairs)
        outcomes = []
        for number, turn in enumerate(turned):
            span = slice(number * self.orders, (number + 1) * self.orders)
            outcome = outcome_of(
                [tried[-1] for tried in attempts[span]], averages=self.judge.averages, tie_band=self.tie_band
            )
            self._note(calls[span], attempts[span], outcome)
            outcomes.append(FLIPPED[outcome] if turn else outcome)
        return outcomes

    def _ask(self, calls: Sequence[Comparison], attempt: int) -> list[Verdict]:
        """Verdicts from the journal where there are any, else from the judge; equal calls are made once."""
        keys = [self._key(call, attempt) for call in calls]
        found: dict[str, Verdict] = {}
        todo: dict[str, Comparison] = {}
        for key, call in zip(keys, calls, strict=True):
            kept = self.journal.get(key) if self.judge.cacheable and key not in found else None
            if kept is not None:
                found[key], own = kept
                if key not in self._counted:
                    self._counted.add(key)
                    self.counts.calls += own
                    self.counts.reused += not own
            elif key not in found:
                todo.setdefault(key, call)
        names = list(todo)
        size = len(names) if self._whole else CHUNK
        for at in range(0, len(names), max(size, 1)):
            chunk = names[at : at + size]
            made = self.judge.compare([todo[key] for key in chunk], self.seed + attempt)
            for key, verdict in zip(chunk, made, strict=True):
                found[key] = verdict
                self._counted.add(key)
                self.counts.calls += 1
                if verdict.latency_s is not None:
                    self._time(todo[key], verdict)
            # a missing verdict may be there tomorrow
            if self.judge.cacheable:
                self.journal.put({key: found[key] for key in chunk if found[key].winner != "missing"})
        return [found[key] for key in keys]

    def _key(self, call: Comparison, attempt: int) -> str:
        if not self.judge.cacheable:  # verdicts depend on more than the texts
            return "\0".join([call.prompt_id, str(call.first["id"]), str(call.second["id"]), str(attempt)])
        facts = [
            [row["completion"], row.get("gold"), row.get("is_correct")] for row in (call.first, call.second)
        ]
        return digest(self._about, call.prompt, facts, call.reference, attempt)

    def _time(self, call: Comparison, verdict: Verdict) -> None:
        where = {
            "prompt_id": call.prompt_id,
            "first_id": call.first["id"],
            "second_id": call.second["id"],
        }
        self.timings.append({**where, "seconds": verdict.latency_s})

    def _note(
        self, calls: Sequence[Comparison], attempts: Sequence[Sequence[Verdict]], outcome: Outcome
    ) -> None:
        """One row per call; `winner_id` is the winner of the comparison as a whole."""
        ends = {"a": calls[0].first["id"], "b": calls[0].second["id"]}
        for call, tried in zip(calls, attempts, strict=True):
            for attempt, verdict in enumerate(tried):
                self.verdicts.append({
                    "judge": self.judge.name,
                    "prompt_id": call.prompt_id,
                    "round": self.counts.rounds,
                    "first_id": call.first["id"],
                    "second_id": call.second["id"],
                    "winner": verdict.winner,
                    "probability": verdict.probability,
                    "outcome": "won" if outcome in ends else outcome,
                    "winner_id": ends.get(outcome),
                    "attempt": attempt,
                    "text": verdict.text,
                    "prompt_tokens": verdict.prompt_tokens,
                    "completion_tokens": verdict.completion_tokens,
                })  # fmt: skip


def outcome_of(verdicts: Sequence[Verdict], *, averages: bool, tie_band: float = TIE_BAND) -> Outcome:
    """The outcome of a against b from the call(s) (a first), (b first).

    averages: by the mean probability of a and the tie band. Else a wins where every call names it, b likewise; all else,
    an unparsable verdict too, is a tie. Missing where any call has no verdict.
    """
    if any(verdict.winner == "missing" for verdict in verdicts):
        return "missing"
    seen = [verdicts[0], *map(flipped, verdicts[1:])]
    if averages and all(verdict.probability is not None for verdict in seen):
        mean = sum(verdict.probability or 0.0 for verdict in seen) / len(seen)
        winners = {winner_of(mean, tie_band)}
    else:
        winners = {verdict.winner for verdict in seen}
    if winners == {"first"}:
        return "a"
    return "b" if winners == {"second"} else "tie"


def flipped(verdict: Verdict) -> Verdict:
    """The verdict as if the answers had stood in the other order."""
    winner = {"first": "second", "second": "first"}.get(verdict.winner, verdict.winner)
    probability = None if verdict.probability is None else 1.0 - verdict.probability
    return replace(verdict, winner=winner, probability=probability)  # type: ignore[arg-type]
