"""Verdicts from a file as a judge: votes, majorities, preferences of several judges; pairs without a verdict are missing.

Two forms of a prompt's `judgments` are read. Long: one entry per judge and pair with `judge`, `model_a`, `model_b` and
`winner` or `preference_b`. Wide: one entry per pair with a column per judge and, where people voted, `human_votes` and
`majority`. Where a file has no judgments, the completions' own `rank` (0 = best), `score` or `is_correct` decides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.judges import Comparison, PairwiseJudgeConfig, Verdict, Winner
from prefopt.tables.records import Row

if TYPE_CHECKING:
    from prefopt.tables.context import Context

MAJORITY = "majority"
COLUMNS = {"rank": -1.0, "score": 1.0, "is_correct": 1.0}  # sign that makes the higher value the better
SHARES = {"a": 1.0, "model_a": 1.0, "b": 0.0, "model_b": 0.0, "tie": 0.5, "tie (inconsistent)": 0.5}
_PLACES = {"model_a", "model_b", "human_votes", "judge", "winner", "preference_b"}
EDGE = 1e-6  # a preference is taken within [EDGE, 1 - EDGE] where its logit is formed


@dataclass
class Votes:
    """Verdicts on one pair, seen from its first model: shares 1 (won), 0.5 (tie), 0; preferences P(first better)."""

    shares: list[float] = field(default_factory=list)
    preferences: list[float] = field(default_factory=list)

    def add(self, share: float, preference: float | None) -> None:
        """One more vote."""
        self.shares.append(share)
        self.preferences.append(share if preference is None else preference)

    @property
    def winner(self) -> Winner:
        """The verdict with most votes; a tie where two have as many."""
        counts = Counter(self.shares).most_common()
        if len(counts) > 1 and counts[0][1] == counts[1][1]:
            return "tie"
        return {1.0: "first", 0.0: "second"}.get(counts[0][0], "tie")  # type: ignore[return-value]

    @property
    def preference(self) -> float:
        """Mean P(first better)."""
        return math.fsum(self.preferences) / len(self.preferences)


Table = dict[tuple[str, str], Votes]


class RecordedJudge:
    """`source`: a judge's name or a unique part of it, `majority` (default), or rank, score, is_correct.

    The file does not say which answer its judge saw first, so a pair is asked once. hub: a pair without a verdict is
    compared by the preferences of both over common third answers (sum of logits, as Bradley-Terry would).
    """

    both_orders = False
    averages = False
    cacheable = False

    def __init__(self, source: str | None, *, hub: bool = False) -> None:
        self.source = source or MAJORITY
        self.hub = hub
        self.column: str | None = self.source if self.source in COLUMNS else None
        self._tables: dict[str, Table] = {}

    @property
    def name(self) -> str:
        """As it stands in the verdicts: which judge, and whether gaps are filled."""
        return f"recorded:{self.source}" + (" complete=hub" if self.hub else "")

    def check(self, rows: Iterable[Row]) -> None:
        """Find what the rows hold and settle the name.

        Raises:
            PrefoptError: no recorded verdict, or none by the judge of that name.
        """
        rows = list(rows)
        names = {name for row in rows for entry in _entries(row) for name in judges_in(entry)}
        if not names and self.column is None:
            present = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
            if not present or self.source != MAJORITY:
                raise PrefoptError(
                    f"judge recorded: the input has no judgments by {self.source!r}; give rows with `judgments`, "
                    "or with `rank`, `score` or `is_correct` of every completion"
                )
            self.source = self.column = present[0]
        elif self.column is None and self.source not in {*names, MAJORITY}:
            like = [name for name in names if self.source.lower() in name.lower()]
            if len(like) != 1:
                raise PrefoptError(
                    f"judge recorded: no judge is named {self.source!r}; {nearest(self.source, [*names, MAJORITY])}"
                )
            self.source = like[0]

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call; `check` has been called."""
        return [self._by_column(call) if self.column else self._by_votes(call) for call in batch]

    def _by_column(self, call: Comparison) -> Verdict:
        name = self.column or ""
        values = [row.get(name) for row in (call.first, call.second)]
        if any(value is None for value in values):
            return Verdict("missing")
        difference = COLUMNS[name] * (float(values[0]) - float(values[1]))  # type: ignore[arg-type]
        return Verdict("tie" if difference == 0 else "first" if difference > 0 else "second")

    def _by_votes(self, call: Comparison) -> Verdict:
        table = self._table(call)
        one, other = models_of(call.first), models_of(call.second)
        found = Votes()
        for votes in (table.get((a, b)) for a in one for b in other):
            if votes is not None:
                found.shares += votes.shares
                found.preferences += votes.preferences
        if found.shares:
            return Verdict(found.winner, found.preference)
        return self._by_hub(table, one, other) if self.hub else Verdict("missing")

    def _by_hub(self, table: Table, one: Sequence[str], other: Sequence[str]) -> Verdict:
        over = [{hub: v for (a, hub), v in table.items() if a in side} for side in (one, other)]
        hubs = sorted(over[0].keys() & over[1].keys())
        if not hubs:
            return Verdict("missing")
        logit = math.fsum(_logit(over[0][hub].preference) - _logit(over[1][hub].preference) for hub in hubs)
        winner: Winner = "tie" if logit == 0 else "first" if logit > 0 else "second"
        probability = 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, logit))))
        return Verdict(winner, probability, f"over {', '.join(hubs)}")

    def _table(self, call: Comparison) -> Table:
        if call.prompt_id not in self._tables:
            self._tables[call.prompt_id] = votes_of(_entries(call.first), self.source)
        return self._tables[call.prompt_id]

    def describe(self) -> dict[str, Any]:
        """Kind, source of the verdicts and how gaps are filled."""
        return {"kind": "recorded", "source": self.source, "complete": "hub" if self.hub else "none"}


def models_of(row: Row) -> list[str]:
    """Who wrote this text: `model`, and the models of equal texts that were left out (`same_text`)."""
    return [name for name in (row.get("model"), *(row.get("same_text") or ())) if name is not None]


def judges_in(entry: Mapping[str, Any]) -> list[str]:
    """Names of the judges that one entry has verdicts by."""
    if entry.get("judge") is not None:
        return [str(entry["judge"])]
    return [
        name
        for name, value in entry.items()
        if name not in _PLACES and isinstance(value, str) and value in SHARES
    ]


def votes_of(entries: Iterable[Mapping[str, Any]], source: str = MAJORITY) -> Table:
    """(model, other model) -> votes, for both orders of every pair that `source` has a verdict on."""
    table: Table = {}
    for entry in entries:
        if entry.get("judge") is not None:
            wanted = source in (MAJORITY, entry["judge"])
            votes = [(entry.get("winner"), entry.get("preference_b"))] if wanted else []
        elif source != MAJORITY:
            votes = [(entry.get(source), None)]
        elif MAJORITY in entry:
            votes = [(entry[MAJORITY], None)]
        else:
            names = entry.get("human_votes") or [entry[name] for name in judges_in(entry)]
            votes = [(vote, None) for vote in names]
        pair = (str(entry.get("model_a")), str(entry.get("model_b")))
        for winner, preference_b in votes:
            share = _share(winner, preference_b)
            if share is None or pair[0] == pair[1]:
                continue
            preference = None if preference_b is None else 1.0 - float(preference_b)
            table.setdefault(pair, Votes()).add(share, preference)
            table.setdefault(pair[::-1], Votes()).add(
                1.0 - share, None if preference is None else 1 - preference
            )
    return table


def _share(winner: Any, preference_b: Any) -> float | None:
    """1: the first won, 0.5: tie, 0: the second won; None: no verdict."""
    if isinstance(winner, str) and winner in SHARES:
        return SHARES[winner]
    if isinstance(preference_b, bool) or not isinstance(preference_b, int | float):
        return None
    if not 0.0 <= preference_b <= 1.0:
        return None
    return 0.5 if preference_b == 0.5 else float(preference_b < 0.5)


def _entries(row: Row) -> list[Mapping[str, Any]]:
    found = row.get("judgments")
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _logit(p: float) -> float:
    p = min(max(p, EDGE), 1 - EDGE)
    return math.log(p / (1 - p))


def open_judge(config: PairwiseJudgeConfig, context: Context) -> RecordedJudge:
    """The recorded verdicts of `config.name`."""
    return RecordedJudge(config.name, hub=config.complete == "hub")
