"""What every form shares: the question of a row, its gold answer, numbers that are texts, and names of columns.

Every converter takes one raw row and returns a new one; columns that it does not use travel along under their own name.
A row that cannot be used raises `BadRow`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.checks import number
from prefopt.stages.data.reading.dialogue import BadRow, Content, Message, content, user
from prefopt.tables.records import Row
from prefopt.verify.constraints.check import constraints_of

# columns that ask the question, by precedence; `input` is appended to an instruction, as in Alpaca
PROMPTS = ("prompt", "question", "query", "problem", "instruction")
CONVERSATIONS = ("conversations", "conversation", "messages")
# names that ask where none of those stands; `history` and `context` go in front of a question otherwise, or are left
OTHER_PROMPTS = (
    *(
        "input",
        "instructions",
        "user_input",
        "user_prompt",
        "user_query",
        "user_message",
        "user",
        "human",
        "ask",
    ),
    *(
        "task",
        "post",
        "query_text",
        "prompt_text",
        "question_text",
        "context",
        "history",
        "dialogue",
        "dialog",
    ),
)
SYSTEMS = ("system", "system_prompt", "system_message")
SOLUTIONS = ("gold_completion", "solution", "completion", "response", "output")
# texts within an object that stands for a question or an answer
TEXTS = ("text", "completion", "response", "content", "answer", "output", "solution", "full_text", "value")


def is_number(value: Any) -> bool:
    """An int or float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def numeric(value: Any) -> float | int | None:
    """A number as it is, or the number that a text writes (CSV has only texts); None for anything else."""
    if is_number(value):
        return value
    return number(value.strip()) if isinstance(value, str) and value.strip() else None


def first_of(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of `names` that the row has a value under."""
    return next((name for name in names if row.get(name) is not None), None)


def same_length(row: Row, name: str, texts: list[Any], wanted: str) -> list[Any] | None:
    """The list under `name` that stands beside `texts`, taken out of the row; None where there is none.

    Raises:
        BadRow: a list of another length.
    """
    values = row.get(name)
    if not isinstance(values, list):
        return None
    if len(values) != len(texts):
        raise BadRow(f"not as many {wanted} as answers", f"{len(values)} in {name!r}, {len(texts)} answers")
    return row.pop(name)


# ---- the question


def prompt_name(row: Mapping[str, Any]) -> str | None:
    """The column that asks the question."""
    name = first_of(row, (*PROMPTS, *CONVERSATIONS))
    if name is None and isinstance(row.get("turns"), list):
        return "turns"  # MT-Bench: the first of the user's turns is the prompt
    return name or first_of(row, OTHER_PROMPTS)


def take_prompt(row: Row) -> Content:
    """Take the prompt out of `row`: a text or messages, with earlier turns and the row's `system` text in front.

    Raises:
        BadRow: no question, or one that is neither text nor messages.
    """
    name = prompt_name(row)
    named = first_of(row, SYSTEMS)
    system = row.pop(named) if named and isinstance(row[named], str) else None
    if name is None:
        raise BadRow("prompt is missing")
    value = row.pop(name)
    if name == "turns":
        value = value[0] if value else None
    prompt = content(_text_of(value), "prompt")
    if name == "instruction" and isinstance(prompt, str) and isinstance(row.get("input"), str):
        prompt = "\n\n".join(part for part in (prompt, row.pop("input")) if part.strip())
    if name != "history" and isinstance(row.get("history"), list):
        prompt = _after(row.pop("history"), prompt)
    if system is None:
        return prompt
    asked = user(prompt) if isinstance(prompt, str) else prompt
    has_system = bool(asked) and asked[0]["role"] == "system"
    return asked if has_system or not system.strip() else [{"role": "system", "content": system}, *asked]


def _text_of(value: Any) -> Any:
    """The text of an object that is no message: WebGPT's question is `{full_text: ...}`."""
    if isinstance(value, dict) and not {"role", "from"} & set(value):
        name = next((n for n in ("full_text", "text", "prompt") if isinstance(value.get(n), str)), None)
        return value[name] if name else value
    return value


def _after(history: list[Any], prompt: Content) -> Content:
    """The question behind earlier turns: messages, or `[question, answer]` pairs (LLaMA-Factory)."""
    if not history:
        return prompt
    earlier: list[Message] = []
    if all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        for asked, said in history:
            earlier += [*content([{"role": "user", "content": asked}], "history")]  # type: ignore[list-item]
            earlier += [*content([{"role": "assistant", "content": said}], "history")]  # type: ignore[list-item]
    else:
        found = content(history, "history")
        assert isinstance(found, list)
        earlier = found
    asked_now = user(prompt) if isinstance(prompt, str) else prompt
    return earlier if earlier[-len(asked_now) :] == asked_now else [*earlier, *asked_now]


# ---- gold answers


def gold_text(value: Any) -> str | None:
    """A gold answer as text: 18.0 -> "18"; blank -> None.

    Raises:
        BadRow: neither text nor a number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise BadRow("gold answer is neither text nor a number", f"{value!r:.60}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRow("gold answer is not a finite number", repr(value))
        return str(int(value)) if value.is_integer() else repr(value)
    return None if value is None else str(value).strip() or None


def take_gold(row: Row) -> None:
    """`answer` -> `gold`; a GSM8K answer is split into solution and the number after its ####."""
    if row.get("gold") is not None:
        row["gold"] = gold_text(row["gold"])
    elif isinstance(row.get("answer"), str | int | float) and not isinstance(row["answer"], bool):
        value = row.pop("answer")
        if isinstance(value, str) and "####" in value:
            row.setdefault("gold_completion", value)
            value = value.rsplit("####", 1)[1].replace(",", "")
        row["gold"] = gold_text(value)


def questions(row: Row) -> Row:
    """A prompt, perhaps with a gold answer and a gold solution; a conversation loses its last answer to the latter."""
    row = {name: value for name, value in row.items() if name not in ("chosen", "rejected", "completions")}
    prompt = take_prompt(row)
    rule = row.get("reward_model")  # verl: the gold answer stands in the rule that checks it
    if isinstance(rule, dict) and isinstance(rule.get("ground_truth"), str | int | float):
        row.setdefault("gold", rule["ground_truth"])
    take_gold(row)
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant" and len(prompt) > 1:
        row.setdefault("gold_completion", prompt[-1]["content"])
        prompt = prompt[:-1]
    name = first_of(row, SOLUTIONS)
    if name and name != "gold_completion" and "gold_completion" not in row:
        said = row.pop(name)
        if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict):
            said = said[0].get("content", said[0].get("value"))
        row["gold_completion"] = said
    if not isinstance(row.get("gold_completion"), str | None):
        raise BadRow("gold solution is not text", f"{row['gold_completion']!r:.60}")
    return {**row, "prompt": prompt}


def constrained(row: Row) -> Row:
    """IFEval: the constraints of `instruction_id_list` and `kwargs` side by side become one column.

    Raises:
        BadRow: a kind or an argument that there is not.
    """
    try:
        found = constraints_of(row)
    except PrefoptError as error:
        raise BadRow("constraint is unknown or incomplete", str(error)) from None
    rest = {name: value for name, value in row.items() if name not in ("instruction_id_list", "kwargs")}
    return {**questions(rest), "constraints": found}
