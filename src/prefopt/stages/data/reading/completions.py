"""Recorded completions: a prompt with a list of them -> one row per completion, as the sample stage would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prefopt.core.errors import PrefoptError, nearest
from prefopt.stages.data.reading.checks import Placed, check_completion
from prefopt.stages.data.reading.dialogue import BadRow
from prefopt.tables.context import Context
from prefopt.tables.records import Row


def one_per_completion(
    placed: Sequence[Placed], gold_model: str | None, context: Context, dropped: dict[str, int]
) -> tuple[list[Row], dict[str, int]]:
    """Rows numbered within their prompt, and counts. The first text by `gold_model` becomes `gold_completion`.

    No completion by the gold model is a sample. Bad completions are dropped and counted one by one.
    """
    rows: list[Row] = []
    numbers: Counter[str] = Counter()
    entries_in = golds = 0
    for row, where in placed:
        asked = {name: value for name, value in row.items() if name != "completions"}
        entries_in += len(row["completions"])
        gold = [e for e in row["completions"] if gold_model is not None and e.get("model") == gold_model]
        golds += len(gold)
        texts = [
            e["completion"] for e in gold if isinstance(e["completion"], str) and e["completion"].strip()
        ]
        if texts:
            asked["gold_completion"] = texts[0]
        for number, entry in enumerate(row["completions"], start=1):
            if any(entry is other for other in gold):
                continue
            try:
                checked = check_completion(entry)
            except BadRow as bad:
                context.drop(dropped, bad.reason, f"{where}, completion {number} ({bad.detail})")
                continue
            rows.append(_completion_row(asked, checked, numbers[row["prompt_id"]]))
            numbers[row["prompt_id"]] += 1
    return rows, {"completions_in": entries_in, "gold_completions": golds}


def require_gold_model(placed: Sequence[Placed], gold_model: str, source: str) -> None:
    """Raise `PrefoptError`, naming the nearest model, when no completion is by `gold_model`."""
    models = {str(entry.get("model")) for row, _ in placed for entry in row["completions"]}
    if gold_model not in models:
        raise PrefoptError(
            f"{source}: no completion is by data.gold_model {gold_model!r}; {nearest(gold_model, models)}"
        )


def _completion_row(asked: Row, entry: Row, index: int) -> Row:
    own = {name: value for name, value in entry.items() if name not in asked}
    if "id" in entry:
        own["user_id"] = entry["id"]
    unknown = dict.fromkeys(("model", "finish_reason", "completion_tokens", "seed"))
    place = {"id": f"{asked['prompt_id']}-{index}", "completion_index": index}
    return {**unknown, **own, **asked, "completion": entry["completion"], **place}
