"""`prefopt judge-check`: what a pairwise judge is worth, on pairs whose better answer is known.

Every pair becomes one comparison (both orders, where the judge's orders matter). Agreement is measured on the pairs that
the judge decides, ties and gaps stand beside it, and so does the baseline that always takes the longer answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import Config
from prefopt.core.terminal import console as make_console
from prefopt.judges import PairwiseJudgeConfig, open_judge
from prefopt.rules.content import text_of
from prefopt.rules.intervals import share_interval
from prefopt.rules.tournament import Final, Moves, Outcome
from prefopt.stages.data.data import data
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.rank.comparer import Comparer, Contest, Played
from prefopt.stages.rank.quality import call_rates, kappa
from prefopt.stages.rank.verdict_journal import VerdictJournal
from prefopt.tables.context import Context
from prefopt.tables.lock import working_in
from prefopt.tables.ours import check_apart
from prefopt.tables.owned import Claims, OwnedFolder
from prefopt.tables.records import Row, digest, make_table, rows_of, write_json, write_table

SIDES = ("chosen", "rejected")
DECIDED = ("a", "b")
SHOWN = 80  # characters of a judge's words in an error line


class JudgeCheckConfig(Config):
    """Settings of the check of a judge."""

    judge: PairwiseJudgeConfig = Field(description="pairwise judge: its kind, or {kind: ..., ...}")
    group: str = Field("subset", description="column by whose values the figures are also given")
    limit: int | None = Field(None, ge=1, description="read at most this many rows (null = all)")
    columns: dict[str, str] = Field({}, description="your column names to ours, e.g. {question: prompt}")

    @field_validator("judge", mode="before")
    @classmethod
    def _judge_by_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Judged:
    """One pair after judging. outcome: of (a, b); gold: which of the two is chosen. group: value of the column, or None."""

    prompt_id: str
    outcome: Outcome
    gold: Outcome
    longer: Outcome
    group: str | None


@dataclass(frozen=True)
class JudgeCheck:
    """figures: what judge-check.json holds. verdicts: one row per call."""

    figures: dict[str, Any]
    verdicts: list[Row]


def judge_check(
    source: str, config: JudgeCheckConfig, context: Context | None = None, *, journal: Path | None = None
) -> JudgeCheck:
    """Run a judge over labelled pairs. `journal`: file in which verdicts are kept, so that a killed run goes on.

    Raises:
        PrefoptError: the file holds no pairs, the judge cannot be opened or gives up (what it answered is kept), or it
            has no verdict on any pair.
    """
    context = context or Context()
    settings = DataConfig(path=source, heldout=0.0, limit=config.limit, columns=config.columns)  # type: ignore[call-arg]
    output = data(None, settings, context)
    if output.quality["kind"] != "pairs":
        raise PrefoptError(
            f"{source}: holds {output.quality['kind']}; judge-check needs pairs whose better answer is known (columns "
            "prompt, chosen, rejected); for recorded completions take prefopt rank --judge"
        )
    rows = rows_of(output.table)
    contests = [_contest(row, context.seed) for row in rows]
    judge = open_judge(config.judge, context)
    check = getattr(judge, "check", None)  # a recorded judge finds out what the rows hold
    if check is not None:
        check([side for contest in contests for side in contest.rows])
    comparer = Comparer(
        judge,
        seed=context.seed,
        tie_band=config.judge.tie_band,
        journal=VerdictJournal(journal, "judge-check"),
    )
    played = comparer.run(contests, lambda k: _once(), lambda answers: 1)
    if none := _without_verdict(judge.name, comparer.verdicts, len(contests)):
        raise PrefoptError(f"{source}: {none}")
    judged = [
        _judged(row, contest, game, config.group)
        for row, contest, game in zip(rows, contests, played, strict=True)
    ]
    figures = {
        "file": source,
        "judge": judge.describe(),
        "seed": context.seed,
        "pairs": len(rows),
        "dropped": dict(sorted(output.dropped.items())),
        "calls": comparer.counts.calls,
        "calls_reused": comparer.counts.reused,
        **pair_figures(judged),
        **call_rates(comparer.verdicts, both_orders=judge.both_orders),
        "single_call_agreement": call_agreement(comparer.verdicts, contests),
        "unparsed": sum(row["winner"] == "unparsed" for row in comparer.verdicts),
        "group": config.group,
        "groups": _by_group(judged),
    }
    return JudgeCheck(figures, comparer.verdicts)


def _without_verdict(name: str, verdicts: Sequence[Mapping[str, Any]], pairs: int) -> str:
    """What is wrong, where not one call has a verdict, with what the judge said first; else empty."""
    from prefopt.tools.inspect import escape

    winners = {row["winner"] for row in verdicts}
    if not winners or winners - {"missing", "unparsed"}:
        return ""
    first = escape(str(verdicts[0]["text"])[:SHOWN])
    if winners == {"missing"}:
        said = f" ({first})" if first else ""
        return (
            f"judge {name!r} has no verdict on any of the {pairs} pairs{said}; see docs/judges.md for what it needs, "
            "or take another judge"
        )
    return (
        f"judge {name!r}: none of its {len(verdicts)} answers names a winner (the first: {first}); mend judge.prompt or "
        "raise judge.max_new_tokens"
    )


def _once() -> Moves:
    """The strategy of two answers: one comparison."""
    yield [(0, 1)]
    return Final(0, 1)


def _contest(row: Row, seed: int) -> Contest:
    """The pair as two completions, named so that no order (of asking or of names) tells which one is chosen."""
    names = ("a", "b") if int(digest("slot", seed, row["id"])[:8], 16) % 2 else ("b", "a")
    sides = [_completion(row, side, f"{row['id']}-{name}") for side, name in zip(SIDES, names, strict=True)]
    sides.sort(key=lambda side: str(side["id"]))
    reference = row.get("gold_completion") or row.get("gold")
    return Contest(row["id"], row["prompt"], sides, reference)


def _completion(row: Row, side: str, name: str) -> Row:
    """One side as a row of completions; columns `X_chosen` or `chosen_X` become X."""
    own: Row = {
        key.removesuffix(f"_{side}").removeprefix(f"{side}_"): value
        for key, value in row.items()
        if key.endswith(f"_{side}") or key.startswith(f"{side}_")
    }
    shared: Row = {
        key: row.get(key) for key in ("prompt_id", "prompt", "gold", "gold_completion") if key in row
    }
    return {**own, **shared, "id": name, "completion": text_of(row[side]), "side": side}


def _judged(row: Row, contest: Contest, game: Played, group: str) -> Judged:
    lengths = [len(side["completion"]) for side in contest.rows]
    longer: Outcome = "tie" if lengths[0] == lengths[1] else "a" if lengths[0] > lengths[1] else "b"
    gold: Outcome = "a" if contest.rows[0]["side"] == "chosen" else "b"
    value = row.get(group)
    name = None if value is None else str(value)
    return Judged(row["prompt_id"], game.outcomes[0, 1], gold, longer, name)


# ---- figures


def pair_figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """Agreement and length bias of the verdicts on pairs; rates are null where there is nothing to take them of.

    agreement: among pairs with a winner, with a 95% Wilson interval (prompts are the groups). accuracy: over all pairs
    with a verdict, a tie counts half. kappa (Cohen): ties are a third verdict. longer_wins: share of decided pairs whose
    winner is the longer answer; agreement_longer, agreement_shorter: where the longer, the shorter one is right.
    always_longest: what taking the longer answer would reach.
    """
    known = [pair for pair in judged if pair.outcome != "missing"]
    decided = [pair for pair in known if pair.outcome in DECIDED]
    uneven = [pair for pair in decided if pair.longer != "tie"]
    return {
        "agreement": _share(decided, lambda pair: float(pair.outcome == pair.gold)),
        "accuracy": _share(known, lambda pair: _half(pair.outcome, pair.gold)),
        "kappa": kappa([(pair.outcome, pair.gold) for pair in known]),
        "decided": len(decided),
        "ties": len(known) - len(decided),
        "tie_rate": (len(known) - len(decided)) / len(known) if known else None,
        "missing": len(judged) - len(known),
        "longer_wins": _share(uneven, lambda pair: float(pair.outcome == pair.longer)),
        "agreement_longer": _share(
            [pair for pair in uneven if pair.gold == pair.longer],
            lambda pair: float(pair.outcome == pair.gold),
        ),
        "agreement_shorter": _share(
            [pair for pair in uneven if pair.gold != pair.longer],
            lambda pair: float(pair.outcome == pair.gold),
        ),
        "always_longest": _share(judged, lambda pair: _half(pair.longer, pair.gold)),
    }


def _share(pairs: Sequence[Judged], outcome: Any) -> dict[str, Any]:
    return share_interval([outcome(pair) for pair in pairs], [pair.prompt_id for pair in pairs])


def _half(outcome: Outcome, gold: Outcome) -> float:
    return 0.5 if outcome == "tie" else float(outcome == gold)


def call_agreement(verdicts: Sequence[Mapping[str, Any]], contests: Sequence[Contest]) -> dict[str, Any]:
    """How often single calls with a winner name the chosen answer; the calls of one prompt's pairs are one group."""
    names = {
        contest.prompt_id: side["id"]
        for contest in contests
        for side in contest.rows
        if side["side"] == "chosen"
    }
    prompts = {contest.prompt_id: contest.rows[0].get("prompt_id", contest.prompt_id) for contest in contests}
    calls = []
    for row in verdicts:
        if row["winner"] in ("first", "second"):
            winner = row["first_id"] if row["winner"] == "first" else row["second_id"]
            calls.append((row["prompt_id"], float(winner == names[row["prompt_id"]])))
    return share_interval([right for _, right in calls], [prompts[name] for name, _ in calls])


def _by_group(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """The figures of each value of the column; null where it has fewer than two values."""
    found: dict[str, list[Judged]] = {}
    for pair in judged:
        if pair.group is not None:
            found.setdefault(pair.group, []).append(pair)
    if len(found) < 2:
        return None
    return {name: {"pairs": len(found[name]), **pair_figures(found[name])} for name in sorted(found)}


# ---- out

JOURNAL = "verdicts.jsonl"
CLAIMS = Claims("judge-check", ("judge-check.json", "verdicts.parquet"), loose=(JOURNAL,), lasting=(JOURNAL,))


def write_judge_check(found: JudgeCheck, output: Path) -> Path:
    """Write `judge-check.json` and `verdicts.parquet` into the folder `output`; returns the former's path."""
    path = output / "judge-check.json"
    with judge_check_folder(found.figures["file"], output) as folder:
        write_table(make_table(found.verdicts), output / "verdicts.parquet")
        write_json(path, found.figures)
        folder.close()
    return path


@contextmanager
def judge_check_folder(source: str, output: Path) -> Iterator[OwnedFolder]:
    """Context: one process works in the folder for figures and verdicts, which is new, empty or of an earlier check.

    Raises:
        PrefoptError: it holds other things or the input, or another process works there.
    """
    check_apart(output, [("input", Path(source))])
    folder = OwnedFolder(output, CLAIMS)
    folder.check()
    with working_in(output):
        folder.begin("judge-check")
        yield folder


def print_judge_check(figures: Mapping[str, Any]) -> None:
    """The figures on standard output: what the judge is worth beside always taking the longer answer, its biases, groups."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from prefopt.tools.inspect import escape as visible

    console = make_console()
    console.print(
        escape(f"{figures['file']}: {figures['pairs']} pairs, {figures['calls']} calls"), highlight=False
    )
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for label, value in _lines(figures):
        table.add_row(label, value)
    console.print(table, highlight=False)
    if figures["groups"]:
        groups = Table(box=box.SIMPLE_HEAD)
        groups.add_column(escape(visible(figures["group"])), overflow="fold", min_width=14)
        for title in ("pairs", "agreement", "ties", "longer wins", "baseline"):
            groups.add_column(title, justify="right", no_wrap=title == "agreement", min_width=5)
        for value, found in figures["groups"].items():
            cells = [_percent(found["agreement"]), _plain(found["tie_rate"])]
            cells += [_plain(found[name]["mean"]) for name in ("longer_wins", "always_longest")]
            groups.add_row(escape(visible(value)), str(found["pairs"]), *cells)
        console.print(groups, highlight=False)


def _lines(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    kappa_value = figures["kappa"]
    lines = [
        ("agreement on decided pairs", _percent(figures["agreement"])),
        ("accuracy on all pairs, a tie counts half", _percent(figures["accuracy"])),
        ("baseline: always the longer answer", _percent(figures["always_longest"])),
        ("Cohen's kappa, ties as a third verdict", "-" if kappa_value is None else f"{kappa_value:.3f}"),
        ("agreement of single calls", _percent(figures["single_call_agreement"])),
        ("ties (orders that disagree are ties)", _plain(figures["tie_rate"])),
        ("both orders name the same answer", _plain(figures["swap_consistency"])),
        ("calls that name the first answer", _plain(figures["first_slot_rate"])),
        ("verdicts for the longer answer", _percent(figures["longer_wins"])),
        ("agreement where the longer is right", _percent(figures["agreement_longer"])),
        ("agreement where the shorter is right", _percent(figures["agreement_shorter"])),
    ]
    extra = [("without a verdict", figures["missing"]), ("unreadable answers", figures["unparsed"])]
    return lines + [(label, str(count)) for label, count in extra if count]


def _percent(share: Mapping[str, Any]) -> str:
    if share["mean"] is None:
        return "-"
    if share["low"] is None:
        return f"{100 * share['mean']:.1f}%"
    return f"{100 * share['mean']:.1f}% \\[{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def _plain(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}%"
