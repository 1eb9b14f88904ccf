"""`prefopt rank --dry-run`: what ranking by a judge would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.rules.content import text_of
from prefopt.rules.tournament import least_comparisons, most_comparisons
from prefopt.stages.rank.judged import FREE
from prefopt.stages.rank.pairs import Tally, groups_of
from prefopt.tables.context import Context
from prefopt.tables.records import Row

if TYPE_CHECKING:
    from prefopt.judges import PairwiseJudgeConfig
    from prefopt.stages.rank.settings import RankConfig

CHARS_PER_TOKEN = 4.0  # English text
VERDICT_TOKENS = 150  # of a judge that writes a few sentences before its verdict


def estimate(rows: Sequence[Row], config: RankConfig, context: Context) -> dict[str, Any]:
    """What ranking `rows` would ask for, without a judge: comparisons, calls and tokens, least and most.

    Tokens are characters / 4 of prompt, both answers and the judge's own prompt; verdicts kept from earlier runs are not
    known here, retries not counted. `judge_calls` limits the calls.

    Raises:
        PrefoptError: no judge is set.
    """
    if config.judge is None:
        raise PrefoptError(
            f"rank: strategy {config.chosen_strategy} asks no judge and costs nothing; --dry-run is for a judge"
        )
    groups = [g for g in groups_of(rows, None, Tally(context)) if len(g.rows) > 1]
    orders = 1 if config.judge.kind in ("recorded", "verifier", "reward_model") else 2
    strategy = config.chosen_strategy
    counts = {
        name: [rule(strategy, len(group.rows)) for group in groups]
        for name, rule in (("least", least_comparisons), ("most", most_comparisons))
    }
    own = _own_characters(config.judge)
    read = dict.fromkeys(counts, 0.0)
    for name, numbers in counts.items():
        for group, number in zip(groups, numbers, strict=True):
            lengths = [len(text_of(row["completion"])) for row in group.rows]
            pair = 2 * sum(lengths) / len(lengths) + len(text_of(group.rows[0]["prompt"])) + own
            read[name] += number * orders * pair / CHARS_PER_TOKEN
    found: dict[str, Any] = {"strategy": strategy, "judge": config.judge.kind, "prompts": len(groups)}
    found["answers"] = sum(len(group.rows) for group in groups)
    writes = min(VERDICT_TOKENS, config.judge.max_new_tokens) if config.judge.kind == "server" else 0
    reads = 0 if config.judge.kind in FREE else 1
    for name, numbers in counts.items():
        calls = sum(numbers) * orders
        share = (
            1.0 if config.judge_calls is None or calls <= config.judge_calls else config.judge_calls / calls
        )
        found[f"comparisons_{name}"] = sum(numbers)
        found[f"calls_{name}"] = round(calls * share)
        found[f"tokens_read_{name}"] = round(reads * read[name] * share)
        found[f"tokens_written_{name}"] = round(calls * share) * writes
    return found


def _own_characters(config: PairwiseJudgeConfig) -> int:
    """Length of the judge's own prompt, its slots left out."""
    if config.kind not in ("server", "local"):
        return 0
    from prefopt.judges.prompt import DIRECT, REASONED, load_prompt

    return len(load_prompt(config, REASONED if config.kind == "server" else DIRECT).text)


def show_estimate(found: Mapping[str, Any]) -> str:
    """The estimate for reading."""
    lines = [
        f"{found['strategy']} with judge {found['judge']}: {found['prompts']} prompts with {found['answers']} answers"
    ]
    for name in ("comparisons", "calls", "tokens_read", "tokens_written"):
        least, most = found[f"{name}_least"], found[f"{name}_most"]
        lines.append(
            f"  {name.replace('_', ' ')}: {least:,} to {most:,}"
            if least != most
            else f"  {name.replace('_', ' ')}: {most:,}"
        )
    return "\n".join([*lines, "  (tokens: characters / 4; no judge was called)"])
