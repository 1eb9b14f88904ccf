"""How a raw row of each known form becomes a row of ours; `formats.py` says which function reads which file.

Every function takes one raw row and returns a new one; columns that it does not use travel along under their own name.
A row that cannot be used raises `BadRow`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from prefopt.stages.data.reading.dialogue import BadRow, Content, common_text, content, split_pair, user
from prefopt.tables.records import Row

# columns that ask the question, by precedence; `input` is appended to an instruction, as in Alpaca
PROMPTS = ("prompt", "question", "query", "problem", "instruction")
CONVERSATIONS = ("conversations", "conversation", "messages")
SOLUTIONS = ("gold_completion", "solution", "completion", "response", "output")
TEXTS = ("text", "completion", "response", "content", "output", "solution")
SCORES = ("score", "overall_score", "rating", "reward")
# the answer that a label is about
LABELLED = ("completion", "response", "output")
PAIR_SCORES = ("{}_score", "{}_rating", "{}-rating", "{}-score", "rating_{}", "reward_{}")


def is_number(value: Any) -> bool:
    """An int or float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


# ---- the question


def take_prompt(row: Row) -> Content:
    """Take the prompt out of `row`: a text or messages, with the row's `system` text in front."""
    name = next((n for n in (*PROMPTS, *CONVERSATIONS) if row.get(n) is not None), None)
    if name is None and isinstance(row.get("turns"), list):
        name = "turns"  # MT-Bench: the first of the user's turns is the prompt
    system = row.pop("system") if isinstance(row.get("system"), str) else None
    if name is None:
        raise BadRow("prompt is missing")
    value = row.pop(name)
    if name == "turns":
        value = value[0] if value else None
    prompt = content(value, "prompt")
    if name == "instruction" and isinstance(prompt, str) and isinstance(row.get("input"), str):
        prompt = "\n\n".join(part for part in (prompt, row.pop("input")) if part.strip())
    if system is None:
        return prompt
    asked = user(prompt) if isinstance(prompt, str) else prompt
    has_system = bool(asked) and asked[0]["role"] == "system"
    return asked if has_system or not system.strip() else [{"role": "system", "content": system}, *asked]


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


# ---- pairs


def preference(row: Row) -> Row:
    """Chosen and rejected, as text, messages or ShareGPT entries, and the prompt that they answer."""
    row = dict(row)
    return _pair(row, take_prompt(row))


def implicit(row: Row) -> Row:
    """Chosen and rejected that begin with the prompt."""
    return _pair(dict(row), None)


def _pair(row: Row, prompt: Content | None) -> Row:
    sides = [content(row.pop(name, None), f"{name} answer") for name in ("chosen", "rejected")]
    take_gold(row)
    _pair_scores(row)
    prompt, chosen, rejected = split_pair(prompt, *sides)
    return {**row, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _pair_scores(row: Row) -> None:
    for side in ("chosen", "rejected"):
        name = f"score_{side}"
        other = next((n for n in (p.format(side) for p in PAIR_SCORES) if n in row), None)
        if name not in row and other is not None and is_number(row[other]):
            row[name] = row.pop(other)
        elif name not in row and is_number(row.get(f"rank_{side}")):
            row[name] = -row[f"rank_{side}"]  # rank 0 is the best


def transcripts(row: Row) -> Row:
    """Two whole texts with two scores (HH-RLHF); the higher score is chosen."""
    row = dict(row)
    texts, scores = row.pop("text", None), row.pop("score", None)
    if not (_is_two(texts) and _is_two(scores) and all(is_number(s) for s in scores)):
        raise BadRow("expected two texts and two scores", f"{texts!r:.40} {scores!r:.40}")
    if scores[0] == scores[1]:
        raise BadRow("no preference (tie)")
    best = 0 if scores[0] > scores[1] else 1
    sides = [content(texts[i], f"{n} answer") for i, n in ((best, "chosen"), (1 - best, "rejected"))]
    if not all(isinstance(s, str) for s in sides):
        prompt, chosen, rejected = split_pair(None, *sides)
    else:
        prompt, chosen, rejected = common_text(*sides)  # type: ignore[arg-type]
    pair = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {**row, **pair, "score_chosen": scores[best], "score_rejected": scores[1 - best]}


def judged(row: Row, first: str, second: str, models: Sequence[str], verdict: Callable[[Row], float]) -> Row:
    """Two answers and a verdict: `verdict(row)` is the share (0..1) of judgment for the second answer."""
    row = dict(row)
    share = verdict(row)
    if share == 0.5:
        raise BadRow("no preference (tie)")
    order = (first, second) if share < 0.5 else (second, first)
    names = tuple(models) if share < 0.5 else tuple(models)[::-1]
    chosen, rejected = (
        content(row.pop(n, None), f"{s} answer") for n, s in zip(order, ("chosen", "rejected"), strict=True)
    )
    prompt, chosen, rejected = split_pair(take_prompt(row), chosen, rejected)
    for side, name in zip(("chosen_model", "rejected_model"), names, strict=False):
        if isinstance(row.get(name), str):
            row[side] = row.pop(name)
    score = max(share, 1 - share)
    scores = {"score_chosen": score, "score_rejected": 1 - score}
    return {**row, "prompt": prompt, "chosen": chosen, "rejected": rejected, **scores}


def alpaca_eval(row: Row) -> Row:
    """AlpacaEval annotations: preference runs from 1 (first answer) to 2 (second); 0, 1.5 and null are ties."""

    def verdict(row: Row) -> float:
        value = row.get("preference")
        if value in (None, 0):
            raise BadRow("no preference (tie)")
        if (
            not is_number(value) or not 0.999 <= value <= 2.001
        ):  # the log-prob sums of AlpacaEval reach 1 - 1e-9
            raise BadRow("preference is not a number from 1 to 2", f"{value!r:.60}")
        return min(max(value - 1.0, 0.0), 1.0)

    return judged(row, "output_1", "output_2", ("generator_1", "generator_2"), verdict)


def pandalm(row: Row) -> Row:
    """PandaLM test set: annotators say 1 or 2 for the better response, 0 for a tie; the majority decides."""

    def verdict(row: Row) -> float:
        names = [name for name in row if name.startswith("annotator") and name[9:].isdigit()]
        votes = [row[name] for name in names]
        ones, twos = (sum(v in (n, str(n)) and not isinstance(v, bool) for v in votes) for n in (1, 2))
        if max(ones, twos) * 2 <= len(votes):
            raise BadRow("no preference (tie)")
        return twos / len(votes) if twos > ones else 1 - ones / len(votes)

    return judged(row, "response1", "response2", (), verdict)


# ---- completions


def tournament(row: Row) -> Row:
    """A prompt and a list of completions: texts, or objects with text, model, is_correct, score or rank."""
    row = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    values = row.pop("completions", None)
    prompt = take_prompt(row)
    take_gold(row)
    if not isinstance(values, list):
        raise BadRow("completions is not a list")
    if not values:
        raise BadRow("no completions")
    return {**row, "prompt": prompt, "completions": [_completion(value) for value in values]}


def _completion(value: Any) -> Row:
    """One completion under our names; a text that is none is kept for the checks to count."""
    if not isinstance(value, dict):
        return {"completion": value}
    entry = dict(value)
    name = next((n for n in TEXTS if n in entry), None)
    said = entry.pop(name) if name else None
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict):
        said = said[0].get("content", said[0].get("value"))
    name = next((n for n in SCORES if is_number(entry.get(n))), None)
    if name is not None:
        entry["score"] = entry.pop(name)
    elif is_number(entry.get("rank")):
        entry["score"] = -entry["rank"]  # rank 0 is the best
    return {**entry, "completion": said}


def solutions(row: Row) -> Row:
    """GSM8K example solutions: one column per model, each {is_correct, solution}; ground_truth is a text."""
    names = [name for name, value in row.items() if isinstance(value, dict) and "solution" in value]
    truth = row.get("ground_truth")
    entries = [{"model": "ground_truth", "text": truth, "is_correct": True}] if isinstance(truth, str) else []
    entries += [{"model": name, **row[name]} for name in names]
    rest = {k: v for k, v in row.items() if k not in names and k != "ground_truth"}
    if isinstance(truth, str) and "\nA:" in truth and rest.get("answer") is None:
        rest["answer"] = truth.rsplit("\nA:", 1)[1]
    return tournament({**rest, "completions": entries})


# ---- unpaired completions


def unpaired(row: Row) -> Row:
    """One answer and a label, true where it is desired; a conversation's answer is its last message (KTO data)."""
    row = dict(row)
    label = truth(row.pop("label", None))
    name = next((n for n in LABELLED if row.get(n) is not None), None)
    said = content(row.pop(name), "completion") if name else None
    prompt = take_prompt(row)
    if said is None:
        if not isinstance(prompt, list) or prompt[-1]["role"] != "assistant" or len(prompt) < 2:
            raise BadRow("completion is missing")
        prompt, said = prompt[:-1], prompt[-1:]
    prompt, said, _ = split_pair(prompt, said, said)
    return {**row, "prompt": prompt, "completion": said, "label": label}


def truth(value: Any) -> bool:
    """true or false, from themselves, 1 and 0 (also -1), or their texts.

    Raises:
        BadRow: missing or anything else.
    """
    known = {
        "true": True,
        "1": True,
        "1.0": True,
        "false": False,
        "0": False,
        "0.0": False,
        "-1": False,
        "-1.0": False,
    }
    if value is None or value == "":
        raise BadRow("label is missing")
    found = known.get(str(value).strip().lower())
    if found is None:
        raise BadRow("label is not true or false", f"{value!r:.60}")
    return found


# ---- prompts


def questions(row: Row) -> Row:
    """A prompt, perhaps with a gold answer and a gold solution; a conversation loses its last answer to the latter."""
    row = {name: value for name, value in row.items() if name not in ("chosen", "rejected", "completions")}
    prompt = take_prompt(row)
    take_gold(row)
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant" and len(prompt) > 1:
        row.setdefault("gold_completion", prompt[-1]["content"])
        prompt = prompt[:-1]
    name = next((n for n in SOLUTIONS if row.get(n) is not None), None)
    if name and name != "gold_completion" and "gold_completion" not in row:
        said = row.pop(name)
        if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict):
            said = said[0].get("content", said[0].get("value"))
        row["gold_completion"] = said
    if not isinstance(row.get("gold_completion"), str | None):
        raise BadRow("gold solution is not text", f"{row['gold_completion']!r:.60}")
    return {**row, "prompt": prompt}
