"""What a chat template does to answers without a word: parts that it leaves out, and texts that change with the day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefopt.models.rendering import TemplateRefused, render

ROWS = 200  # of a table that are rendered
LEFT_OUT = 0.05  # share of answers from which on it is told
DATES = ("strftime_now", "datetime.now", "date_string")


def template_faults(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines to be told about the template and these rows of messages (prompt, and chosen, rejected or completion).

    The share is over the answers of the first rows, those that the template refuses apart.
    """
    found = []
    template = _template(tokenizer, rows)
    used = next((word for word in DATES[:2] if word in template), None)
    if used is not None:
        found.append(
            f"the chat template writes today's date ({used}): prompts of another day are other prompts, and stored log-probs "
            "belong to the day of their making; fix the date in a template of your own (data.chat_template)"
        )
    whole = [keeps for row in rows[:ROWS] for keeps in _kept(tokenizer, row)]
    lost = sum(not keeps for keeps in whole)
    if whole and lost > LEFT_OUT * len(whole):
        found.append(
            f"the chat template drops a part of {100 * lost / len(whole):.0f}% of the answers (thinking, most likely): what it "
            "leaves out is neither scored nor trained; see prefopt inspect, data.chat_template_kwargs and data.chat_template"
        )
    return found


def _template(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]]) -> str:
    own = (rows[0].get("chat_template_kwargs") or {}).get("chat_template") if rows else None
    return str(own or getattr(tokenizer, "chat_template", None) or "")


def _kept(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]) -> Iterator[bool]:
    """Whether each answer stands whole in what the template makes of it."""
    tools, kwargs = row.get("tools") or None, row.get("chat_template_kwargs") or {}
    for name in ("chosen", "rejected", "completion"):
        answer = row.get(name)
        if answer is None or isinstance(row["prompt"], str):
            continue
        messages = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        try:
            text = render(tokenizer, [*row["prompt"], *messages], tools, kwargs)
        except TemplateRefused:
            continue
        said = [m["content"].strip() for m in messages if m["role"] == "assistant" and m.get("content")]
        yield all(content in text for content in said)
