"""Rows scored by a verifier that is named: stored in parts, so that a killed run asks nothing twice; failures are dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prefopt.core.notice import notice
from prefopt.tables.context import Context
from prefopt.tables.folder import map_parts
from prefopt.tables.records import Row, to_json
from prefopt.verify import Failure, Score, VerifyConfig, score_rows
from prefopt.verify.verifiers import ANSWER

PART_ROWS = 256  # rows between two stores; a multiple of the rows of a batch


def for_prompt(row: Mapping[str, Any], config: VerifyConfig) -> VerifyConfig:
    """The verifier of a prompt: `constraints` for one that has some and no gold answer, where nothing else is set."""
    has_own = bool(row.get("constraints")) and row.get("gold") is None
    return VerifyConfig(kind="constraints") if has_own and config.kind == ANSWER else config  # type: ignore[call-arg]


def scored_rows(
    rows: Sequence[Row],
    config: VerifyConfig,
    context: Context,
    dropped: dict[str, int],
    label: str = "check",
) -> dict[str, Score]:
    """Row id -> score. Rows on which the verifier fails are counted in `dropped`, the first of each reason is told.

    Raises:
        PrefoptError: the verifier cannot be run, or fails on every one of the first rows.
    """

    def work(chunk: Sequence[Row], start: int) -> list[Row]:
        found = score_rows(chunk, config, may_all_fail=start > 0)
        return [{"found": to_json({"failed": isinstance(one, Failure), **asdict(one)})} for one in found]

    stored = map_parts(rows, work, folder=context.folder, part_rows=PART_ROWS, label=label)
    scores: dict[str, Score] = {}
    for row, entry in zip(rows, stored, strict=True):
        found = json.loads(entry["found"])
        if not found.pop("failed"):
            scores[row["id"]] = Score(**found)
            continue
        if found["reason"] not in dropped:
            notice(f"{label}: {found['text']}; such rows are dropped and counted")
        context.drop(dropped, found["reason"], found["text"])
    return scores
