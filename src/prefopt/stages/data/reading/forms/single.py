"""Forms of single answers: one answer with a label (desired or not) or with a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefopt.stages.data.reading.dialogue import ROLES, TURNS, BadRow, Content, content, split_pair
from prefopt.stages.data.reading.forms.ask import CONVERSATIONS, first_of, numeric, take_gold, take_prompt
from prefopt.stages.data.reading.forms.ranked import SCORES
from prefopt.tables.records import Row

# the answer that a label or a score is about
ANSWERS = (
    *("completion", "response", "output", "generation", "reply", "model_response", "model_output"),
    *("generated_text", "bot_response", "assistant", "solution", "answer"),
)
LABELS = (
    *(
        "label",
        "kto_tag",
        "thumbs_up",
        "thumbs",
        "thumb",
        "thumbs_rating",
        "feedback",
        "user_feedback",
        "liked",
    ),
    *("like", "is_liked", "upvoted", "upvote", "vote", "desirable", "is_desirable", "desired", "is_good"),
    *(
        "accepted",
        "is_accepted",
        "is_preferred",
        "preferred",
        "reaction",
        "is_chosen",
        "binary_label",
        "approved",
    ),
)
SINGLE_SCORES = (
    *SCORES,
    *(
        "helpfulness",
        "quality",
        "quality_score",
        "stars",
        "reward_score",
        "response_score",
        "instruct_reward",
    ),
    *(
        "preference_score",
        "completion_score",
        "answer_score",
        "overall_rating",
        "human_rating",
        "user_rating",
    ),
)
MARKS = ("is_correct", "correct")
TRUTHS = {
    **dict.fromkeys(
        ("true", "1", "1.0", "yes", "good", "up", "thumbs up", "thumbs_up", "thumbsup", "positive", "like", "liked",
         "chosen", "accepted", "accept", "desirable", "desired", "preferred", "helpful", "👍", "+1"), True,
    ),
    **dict.fromkeys(
        ("false", "0", "0.0", "-1", "-1.0", "no", "bad", "down", "thumbs down", "thumbs_down", "thumbsdown", "negative",
         "dislike", "disliked", "rejected", "reject", "undesirable", "undesired", "dispreferred", "unhelpful", "👎"), False,
    ),
}  # fmt: skip


def truth(value: Any) -> bool:
    """true or false, from themselves, 1 and 0 (also -1), or words that people write for them (good, bad, thumbs up ...).

    Raises:
        BadRow: missing or anything else.
    """
    if value is None or value == "":
        raise BadRow("label is missing")
    found = TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise BadRow("label is not true or false", f"{value!r:.60}")
    return found


def is_truth(value: Any) -> bool:
    """Whether `truth` reads the value."""
    return isinstance(value, str | bool | int | float) and str(value).strip().lower() in TRUTHS


def is_talk(row: Mapping[str, Any]) -> bool:
    """Whether a conversation of the row ends with an answer."""
    talk = next((row[n] for n in (*CONVERSATIONS, "prompt") if isinstance(row.get(n), list)), None)
    last = talk[-1] if talk else None
    if not isinstance(last, dict):
        return False
    speaker = last.get("role", last.get("from"))
    of_both = any({asked, said} <= set(last) for asked, said in TURNS)
    return of_both or (isinstance(speaker, str) and ROLES.get(speaker.strip().lower()) == "assistant")


def label_name(row: Mapping[str, Any]) -> str | None:
    """The column that says whether the row's one answer is desired."""
    if first_of(row, ANSWERS) is None and not is_talk(row):
        return None
    named = next((name for name in LABELS[:2] if row.get(name) is not None), None)
    return named or next((name for name in LABELS[2:] if is_truth(row.get(name))), None)


def score_name(row: Mapping[str, Any]) -> str | None:
    """The column with the score, or the mark of being right, of the row's one answer."""
    if first_of(row, ANSWERS) is None and not is_talk(row):
        return None
    scored = next((name for name in SINGLE_SCORES if numeric(row.get(name)) is not None), None)
    return scored or next((name for name in MARKS if is_truth(row.get(name))), None)


def _take_answer(row: Row) -> tuple[Content, Content]:
    """Prompt and the one answer; a conversation's answer is its last message."""
    name = first_of(row, ANSWERS)
    said = content(row.pop(name), "completion") if name else None
    prompt = take_prompt(row)
    if said is None:
        if not isinstance(prompt, list) or prompt[-1]["role"] != "assistant" or len(prompt) < 2:
            raise BadRow("completion is missing")
        prompt, said = prompt[:-1], prompt[-1:]
    prompt, said, _ = split_pair(prompt, said, said)
    return prompt, said


def unpaired(row: Row) -> Row:
    """One answer and a label, true where it is desired; a conversation's answer is its last message (KTO data)."""
    row = dict(row)
    name = label_name(row) or next((n for n in LABELS if n in row), "label")
    label = truth(row.pop(name, None))
    prompt, said = _take_answer(row)
    return {**row, "prompt": prompt, "completion": said, "label": label}


def kto_tag(row: Row) -> Row:
    """LLaMA-Factory's KTO files: instruction, input, output (or a conversation), kto_tag."""
    return unpaired(row)


def scored(row: Row) -> Row:
    """One answer with a score (or a mark of being right): a recorded completion; rows of one prompt are put together."""
    row = dict(row)
    name = score_name(row)
    if name is None:
        raise BadRow("score is missing")
    value = row.pop(name)
    prompt, said = _take_answer(row)
    if isinstance(said, list):
        if len(said) != 1 or not isinstance(said[0]["content"], str):
            raise BadRow("completion is not text", f"{said!r:.60}")
        said = said[0]["content"]
    take_gold(row)
    entry: Row = {"completion": said}
    entry |= {"is_correct": truth(value)} if name in MARKS else {"score": numeric(value)}
    if name not in MARKS and entry["score"] is None:
        raise BadRow("score is not a finite number", f"{value!r:.60}")
    if isinstance(row.get("model"), str):
        entry["model"] = row.pop("model")
    return {**row, "prompt": prompt, "completions": [entry]}


def helpsteer2(row: Row) -> Row:
    """HelpSteer and HelpSteer2: a response with five ratings from 0 to 4; helpfulness is its score, the others travel along."""
    return scored(row)
