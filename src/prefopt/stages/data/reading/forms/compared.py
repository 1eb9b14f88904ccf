"""Forms of comparisons: two answers side by side and a verdict that says which of them is better, or that neither is."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefopt.stages.data.reading.dialogue import BadRow, content, split_pair
from prefopt.stages.data.reading.forms.ask import numeric, take_gold, take_prompt
from prefopt.stages.data.reading.forms.pairs import ABOUT, ANSWER_WORDS, words
from prefopt.tables.records import Row

TIE = "no preference (tie)"
Share = Callable[[Row], float]  # how much of the judgment speaks for the second answer, 0 to 1; .5 is a tie
# endings of the names of two answers, `response_a` / `response_b`
ENDINGS = (("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"), ("one", "two"))
VERDICTS = (
    *(
        "winner",
        "preference",
        "preferred",
        "verdict",
        "better",
        "better_response",
        "label",
        "labels",
        "choice",
    ),
    *(
        "chosen",
        "selected",
        "vote",
        "overall_preference",
        "overall_pref",
        "preference_label",
        "judgment",
        "result",
    ),
    *("human_preference", "best", "winning", "preferred_response", "preferred_answer", "annotation", "win"),
)
_TIES = frozenset(
    {
        "tie",
        "ties",
        "tied",
        "both",
        "both_bad",
        "bothbad",
        "both_good",
        "equal",
        "same",
        "draw",
        "none",
        "neither",
    }
)


def judged(
    row: Row,
    first: str,
    second: str,
    models: Sequence[str],
    verdict: Share,
    scores: Sequence[float] | None = None,
) -> Row:
    """Two answers and a verdict: `verdict(row)` is the share (0..1) of judgment for the second answer.

    scores: of the two answers in the file's order; None: the share itself.

    Raises:
        BadRow: a tie, or an answer that cannot be used.
    """
    row = dict(row)
    share = verdict(row)
    if share == 0.5:
        raise BadRow(TIE)
    swap = share > 0.5
    order = (second, first) if swap else (first, second)
    names = tuple(models)[::-1] if swap else tuple(models)
    answers = [
        content(row.pop(n, None), f"{s} answer") for n, s in zip(order, ("chosen", "rejected"), strict=True)
    ]
    is_whole = all(isinstance(said, list) and said[0]["role"] != "assistant" for said in answers)
    prompt, chosen, rejected = split_pair(None if is_whole else take_prompt(row), *answers)
    take_gold(row)
    for side, name in zip(("chosen_model", "rejected_model"), names, strict=False):
        if isinstance(row.get(name), str):
            row[side] = row.pop(name)
    better, worse = (1 - share, share) if scores is None else tuple(scores)
    if swap:
        better, worse = worse, better
    found = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {**row, **found, "score_chosen": better, "score_rejected": worse}


# ---- verdicts in any words


@functools.lru_cache(maxsize=64)
def _two_answers(names: tuple[str, ...]) -> tuple[str, str, str, str] | None:
    by_words = {words(_split_ending(name)): name for name in reversed(names)}
    for name in names:
        *stem, ending = words(_split_ending(name)) or ("",)
        if (
            not (stem and set(stem) <= ANSWER_WORDS | {"model"})
            or ABOUT - {"model"} & set(stem)
            or stem == ["model"]
        ):
            continue
        for first, second in ENDINGS:
            other = by_words.get((*stem, second))
            if ending == first and other is not None and other != name:
                return name, other, first, second
    return None


def _split_ending(name: str) -> str:
    """`response1` and `outputA` as `response_1` and `output_A`."""
    return re.sub(r"(?<=[a-z])(\d|[AB])$", r"_\1", name)


def two_answers(row: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
    """Columns of two answers that differ in their ending alone, and the two endings; None where there are none."""
    return _two_answers(tuple(name for name, value in row.items() if isinstance(value, str | list)))


def verdict_name(row: Mapping[str, Any], sides: tuple[str, str, str, str]) -> str | None:
    """The column that says in words which of the two answers is better."""
    for name in VERDICTS:
        value = row.get(name)
        if value is not None and name not in sides and side_of(value, sides) is not None:
            return name
    return None


def side_of(value: Any, sides: tuple[str, str, str, str]) -> float | None:
    """0 for the first answer, 1 for the second, .5 for a tie; None where the value says none of them.

    It may name the column (`response_a`), its ending (`a`, or the number 1 of `response1`), `model_a`, or say so in
    words ("A is slightly better", "tie (bothbad)").
    """
    first, second, *endings = sides
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and (written := numeric(value)) is not None:
        value = written
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    said = "_".join(words(str(value)))
    if said in {"_".join(words(first)), first.lower()}:
        return 0.0
    if said in {"_".join(words(second)), second.lower()}:
        return 1.0
    parts = words(_split_ending(str(value)))
    if parts and (said in _TIES or parts[0] in _TIES or parts[-1] == "tie"):
        return 0.5
    named = [ending in parts for ending in endings]
    known = (
        ANSWER_WORDS | set(endings) | {"is", "better", "clearly", "slightly", "much", "significantly", "wins"}
    )
    if sum(named) == 1 and set(parts) <= known:
        return float(named[1])
    return None


def compared(row: Row) -> Row:
    """Two answers with equal names up to their ending, and a verdict that names one of them."""
    sides = two_answers(row)
    if sides is None:
        raise BadRow("expected two answers")
    name = next((n for n in VERDICTS if row.get(n) is not None and n not in sides[:2]), None)
    if name is None:
        raise BadRow("verdict is missing")

    def verdict(row: Row) -> float:
        share = side_of(row.pop(name), sides)
        if share is None:
            raise BadRow("verdict names neither answer")
        return share

    return judged(row, *sides[:2], tuple(f"model_{e}" for e in sides[2:]), verdict)


# ---- public forms


def arena(row: Row) -> Row:
    """Chatbot Arena: two conversations and the winner, model_a, model_b or a tie."""
    sides = ("conversation_a", "conversation_b", "a", "b")

    def verdict(row: Row) -> float:
        share = side_of(row.pop("winner", None), sides)
        if share is None:
            raise BadRow("verdict names neither answer")
        return share

    return judged(row, *sides[:2], ("model_a", "model_b"), verdict)


def arena_kaggle(row: Row) -> Row:
    """Arena as one row per battle with three flags; prompt and responses are texts or JSON lists of turns."""
    row = dict(row)
    turns = {name: _turns(row.pop(name, None)) for name in ("prompt", "response_a", "response_b")}
    flags = [numeric(row.pop(f"winner_{name}", None)) for name in ("model_a", "model_b", "tie")]
    if sum(flag == 1 for flag in flags) != 1:
        raise BadRow("verdict names neither answer")
    if not len({len(texts) for texts in turns.values()}) == 1:
        raise BadRow("prompt and responses differ in their turns")
    talks = {}
    for side in ("response_a", "response_b"):
        talk = []
        for asked, said in zip(turns["prompt"], turns[side], strict=True):
            talk += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        talks[side] = talk
    share = (0.0, 1.0, 0.5)[[flag == 1 for flag in flags].index(True)]
    return judged({**row, **talks}, "response_a", "response_b", ("model_a", "model_b"), lambda _: share)


def _turns(value: Any) -> list[Any]:
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            found = json.loads(value)
        except ValueError:
            return [value]
        return (
            found if isinstance(found, list) and all(isinstance(v, str) for v in found) and found else [value]
        )
    return value if isinstance(value, list) and value else [value]


def shp(row: Row) -> Row:
    """SHP: a post, two comments, `labels` 1 where the first has the higher score."""
    return _by_label(row, "human_ref_A", "human_ref_B", "labels", "score_A", "score_B")


def halos(row: Row) -> Row:
    """HALOs: output_A and output_B, `label` 1 where the first is better, rewards of both."""
    return _by_label(row, "output_A", "output_B", "label", "reward_A", "reward_B")


def _by_label(row: Row, first: str, second: str, label: str, *scores: str) -> Row:
    row = dict(row)
    said = numeric(row.pop(label, None))
    if said not in (0, 1):
        raise BadRow("verdict names neither answer")
    return judged(row, first, second, (), lambda _: float(1 - said), _scores(row, scores))


def _scores(row: Row, names: Sequence[str]) -> list[float] | None:
    values = [numeric(row.get(name)) for name in names]
    if None in values:
        return None
    for name in names:
        del row[name]
    return values  # type: ignore[return-value]


def webgpt(row: Row) -> Row:
    """WebGPT comparisons: two answers and two scores of opposite sign; equal scores are a tie."""
    row = dict(row)
    scores = _scores(row, ("score_0", "score_1"))
    if scores is None:
        raise BadRow("expected two scores")
    share = 0.5 if scores[0] == scores[1] else float(scores[1] > scores[0])
    return judged(row, "answer_0", "answer_1", (), lambda _: share, scores)


def pku(row: Row) -> Row:
    """PKU-SafeRLHF: two responses, `better_response_id` says which is more helpful (`safer_response_id` travels along)."""

    def verdict(row: Row) -> float:
        said = numeric(row.pop("better_response_id", None))
        if said not in (0, 1):
            raise BadRow(TIE if said == -1 else "verdict names neither answer")
        return float(said)

    return judged(row, "response_0", "response_1", ("response_0_source", "response_1_source"), verdict)


def helpsteer(row: Row) -> Row:
    """HelpSteer2 preference and HelpSteer3: two responses and a strength from -3 (the first) to 3 (the second)."""
    row = dict(row)
    first, second = ("response1", "response2") if "response1" in row else ("response_1", "response_2")
    name = next((n for n in ("overall_preference", "preference_strength") if n in row), "")
    value = numeric(row.pop(name, None))
    if value is None or not -3 <= value <= 3:
        raise BadRow(f"{name or 'preference'} is not a number from -3 to 3", f"{value!r:.60}")
    return judged(row, first, second, ("model1", "model2"), lambda _: (value + 3) / 6)


def alpaca_eval(row: Row) -> Row:
    """AlpacaEval annotations: preference runs from 1 (first answer) to 2 (second); 0, 1.5 and null are ties."""

    def verdict(row: Row) -> float:
        given = row.get("preference")
        value = numeric(given)
        if given in (None, "") or value == 0:
            raise BadRow(TIE)
        # the log-prob sums of AlpacaEval reach 1 - 1e-9
        if value is None or not 0.999 <= value <= 2.001:
            raise BadRow("preference is not a number from 1 to 2", f"{given!r:.60}")
        return min(max(value - 1.0, 0.0), 1.0)

    return judged(row, "output_1", "output_2", ("generator_1", "generator_2"), verdict)


def pandalm(row: Row) -> Row:
    """PandaLM test set: annotators say 1 or 2 for the better response, 0 for a tie; the majority decides."""

    def verdict(row: Row) -> float:
        names = [name for name in row if name.startswith("annotator") and name[9:].isdigit()]
        votes = [row[name] for name in names]
        ones, twos = (sum(v in (n, str(n)) and not isinstance(v, bool) for v in votes) for n in (1, 2))
        if max(ones, twos) * 2 <= len(votes):
            raise BadRow(TIE)
        return twos / len(votes) if twos > ones else 1 - ones / len(votes)

    return judged(row, "response1", "response2", (), verdict)
