"""The tables of docs/ranking.md from studies/results/ranking.json, each between its two markers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MEASURES = ("best", "worst", "inverted", "calls")


def write_tables(docs: Path, study: Mapping[str, Any]) -> None:
    """Replace what stands between `<!-- NAME: studies/ranking.py -->` and `<!-- end of NAME -->` for every part there is."""
    text = docs.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        start, end = f"<!-- {name}: studies/ranking.py -->", f"<!-- end of {name} -->"
        if name in study and start in text:
            head, rest = text.split(start)
            text = f"{head}{start}\n{table(study[name])}\n{end}{rest.split(end)[1]}"
    docs.write_text(text, encoding="utf-8")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _pm(value: Mapping[str, Any], digits: int = 3) -> str:
    return f"{value['mean']:.{digits}f} ± {value['error']:.{digits}f}"


def _ci(value: Mapping[str, Any], scale: float = 100.0, digits: int = 1) -> str:
    if value.get("mean") is None:
        return "-"
    middle = f"{scale * value['mean']:.{digits}f}"
    if value.get("low") is None:
        return middle
    return f"{middle} [{scale * value['low']:.{digits}f}, {scale * value['high']:.{digits}f}]"


def simulated(part: Mapping[str, Any]) -> str:
    """Scheme against found and expected figures."""
    rows = []
    for name, found in part["schemes"].items():
        wanted = found.get("expected")
        cells = [
            _pm(found[m], 3 if m != "calls" else 2) + (f" ({wanted[m]:g})" if wanted else "")
            for m in MEASURES
        ]
        rows.append([name, *cells])
    one = part["one_call"]
    note = (
        f"\n\n{part['trials']} trials, {part['seeds']} seeds; ± is the standard error over seeds, in brackets the specification's "
        f"value. A single call is right in {100 * one['right']['mean']:.1f}%, swap consistency {100 * one['swap_consistency']['mean']:.1f}%."
    )
    return _table(["scheme", "P(best)", "P(worst)", "P(pair inverted)", "calls"], rows) + note


def scalar(part: Mapping[str, Any]) -> str:
    """Inverted pairs by the error out of distribution."""
    schemes = list(next(iter(part["tau"].values())))
    head = ["error per answer, sd", *schemes]
    rows = [[tau, *(_pm(found[s]["inverted"]) for s in schemes)] for tau, found in part["tau"].items()]
    first = part["tau"]["0"]
    calls = ", ".join(f"{s} {first[s]['calls']['mean']:.1f}" for s in schemes)
    kept = [f"{tau}: {_pm(found['ipr']['kept_inverted'])}" for tau, found in part["tau"].items()][:1]
    note = (
        f"\n\nP(pair inverted), {part['trials']} trials, {part['seeds']} seeds. Calls per prompt at sd 0: {calls}. Of ipr's pairs, "
        f"{100 * first['ipr']['kept']['mean']:.0f}% pass the last best-against-worst check; among those the inverted share at sd {kept[0]}."
    )
    return _table(head, rows) + note


def recorded(part: Mapping[str, Any]) -> str:
    """One table per set."""
    blocks = []
    for name, found in part["sets"].items():
        rows = []
        for judge in ("all votes", "one vote"):
            for scheme, f in found.get(judge, {}).items():
                if scheme.endswith("bradley_terry"):
                    continue
                cells = [_ci(f[m]) for m in ("winner", "loser", "inverted", "pairs")]
                used = f"{f['comparisons']['mean']:.1f} ({100 * f['share_of_round_robin']['mean']:.0f}%)"
                rows.append([judge, scheme.replace(", copeland", ""), *cells, used])
        about = (
            f"**{name}**: {found['prompts']} prompts, {found['answers']:.1f} answers, {100 * found['known_share']:.0f}% of pairs "
            f"with a verdict, {100 * found['tie_share']:.0f}% of those ties; Condorcet winner in {100 * found['condorcet_share']:.0f}%; "
            f"a guess agrees in {100 * found['guess']:.0f}%."
        )
        head = [
            "judge",
            "strategy",
            "winner %",
            "loser %",
            "pair inverted %",
            "prompts with a pair %",
            "comparisons (of all)",
        ]
        blocks.append(f"{about}\n\n{_table(head, rows)}")
    return "\n\n".join(blocks)


def reward(part: Mapping[str, Any]) -> str:
    """Inverted pairs per domain trained on and read on."""
    rows = []
    for domain, found in part["trained_on"].items():
        for name, table in found["read_on"].items():
            for scheme, f in table.items():
                if scheme != "prompts":
                    cells = [_ci(f[m]) for m in ("inverted", "level", "winner", "pairs")]
                    where = f"{name}{' (own)' if name == domain else ''}, {table['prompts']} prompts"
                    rows.append([domain, where, scheme, *cells, f"{f['calls']['mean']:.1f}"])
    head = [
        "trained on",
        "read on",
        "scheme",
        "pair inverted %",
        "level %",
        "winner %",
        "prompts with a pair %",
        "calls",
    ]
    held = []
    for domain, found in part["trained_on"].items():
        for kind in ("scalar", "pairwise"):
            shares = [q["heldout_accuracy"]["mean"] for q in found["heldout"] if q["kind"] == kind]
            held.append(f"{domain} {kind} " + ", ".join(f"{100 * s:.1f}%" for s in shares))
    note = f"\n\n{part['pairs']} pairs of each domain, {part['seeds']} seeds. Held-out pair accuracy: {'; '.join(held)}."
    return _table(head, rows) + note


def quickstart(part: Mapping[str, Any]) -> str:
    """Accuracy and pairs per arm."""
    rows = []
    for arm in ("base", *part["arms"]):
        cells = [_ci(part[m][arm]) if m in part else "-" for m in ("accuracy", "greedy")]
        pairs = part["pairs"].get(arm)
        made = (
            [
                f"{pairs['pairs']['mean']:.0f}",
                *(f"{100 * pairs[n]['mean']:.1f}%" for n in ("right", "equal", "inverted")),
            ]
            if pairs
            else ["-"] * 4
        )
        rows.append([arm, *cells, *made])
    head = ["pairs by", "accuracy %", "greedy %", "pairs", "right against wrong", "of equals", "inverted"]
    said = "; ".join(f"{name}: {_ci(d['accuracy'])} points" for name, d in part["differences"].items())
    return (
        _table(head, rows)
        + f"\n\nSampled accuracy, difference by seed: {said} ({part['seeds']} seeds, 95% t interval)."
    )


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "simulated": simulated,
    "recorded": recorded,
    "scalar": scalar,
    "reward": reward,
    "quickstart": quickstart,
}
