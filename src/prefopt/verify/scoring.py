"""Rows in, scores out: the one place where verifiers of every kind are called, and where their failures are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.core.limits import OutOfTime, cpu_limit
from prefopt.core.plugins import digests, source_digest, told
from prefopt.verify.constraints.check import check_packages
from prefopt.verify.equality import extract_answer, gold_answer, same_answer
from prefopt.verify.function import BATCH_ROWS, find_check, run_function
from prefopt.verify.score import Failure, Score, as_score
from prefopt.verify.settings import VerifyConfig
from prefopt.verify.simple import schema_digest
from prefopt.verify.verifiers import ANSWER, FUNCTION, KIND, SUM, VERIFIERS

HOPELESS = 20  # where so many rows fail and none was scored before, the check itself is wrong


def score_rows(
    rows: Sequence[Mapping[str, Any]], config: VerifyConfig, *, may_all_fail: bool = False
) -> list[Score | Failure]:
    """What the verifier says of each completion's row, or why it says nothing.

    Raises:
        PrefoptError: it cannot be run at all, or (unless may_all_fail) fails on the first `HOPELESS` rows or on all of
            fewer; names file and line.
    """
    if may_all_fail:
        return _scores(rows, config)
    first = BATCH_ROWS if config.batch else HOPELESS
    found = _scores(rows[:first], config)
    failures = [one for one in found if isinstance(one, Failure)]
    if found and len(failures) == len(found):
        raise PrefoptError(failures[0].text)
    return found + _scores(rows[first:], config)


def _scores(rows: Sequence[Mapping[str, Any]], config: VerifyConfig) -> list[Score | Failure]:
    if config.kind == FUNCTION:
        return run_function(rows, config)
    if config.kind == SUM:
        return _sums(rows, config)
    if config.kind == ANSWER:
        return [_by_answer(row, config) for row in rows]
    return [_by_name(row, config) for row in rows]


def _by_name(row: Mapping[str, Any], config: VerifyConfig) -> Score | Failure:
    """One row by a verifier of the table, in this process, within its limit of computing time."""
    verifier = VERIFIERS[config.kind]
    try:
        with told(KIND, config.kind), cpu_limit(config.timeout_s):
            found = verifier.check(row["prompt"], row["completion"] or "", row, **config.options)
            return as_score(found, row.get("id"))
    except OutOfTime:
        reason = f"check took more than {config.timeout_s:g} s"
        return Failure(reason, f"verifier {config.kind!r}: {reason} (row {row.get('id')}); see timeout_s")
    except PrefoptError as error:
        if error.__cause__ is None:  # one of ours, which says how to mend it
            raise
        place, text = str(error).partition(": ")[0], str(error)
        return Failure(f"check raised {type(error.__cause__).__name__} ({place})", text)


def _by_answer(row: Mapping[str, Any], config: VerifyConfig) -> Score:
    """One row by its final answer: no verdict without a gold one."""
    answer = extract_answer(row["completion"] or "", config)
    gold = None if row.get("gold") is None else gold_answer(row["gold"], config)
    if gold is None:
        return Score(answer=answer)
    right = answer is not None and same_answer(answer, gold, config)
    return Score(right, float(right), answer)


def _sums(rows: Sequence[Mapping[str, Any]], config: VerifyConfig) -> list[Score | Failure]:
    """The weighted sum of the parts' scores; without a score where a part has none, a failure where a part fails."""
    columns = [_scores(rows, part) for part in config.parts]
    weights = [part.weight for part in config.parts]
    return [_sum(parts, weights, config.correct_at) for parts in zip(*columns, strict=True)]


def _sum(
    parts: Sequence[Score | Failure], weights: Sequence[float], correct_at: float | None
) -> Score | Failure:
    good: list[Score] = []
    for part in parts:
        if isinstance(part, Failure):
            return part
        good.append(part)
    scores = [part.score for part in good if part.score is not None]
    total = None
    if len(scores) == len(good):
        total = sum(weight * score for weight, score in zip(weights, scores, strict=True))
    verdicts = [part.is_correct for part in good if part.is_correct is not None]
    is_correct = all(verdicts) if verdicts else None
    if correct_at is not None:
        is_correct = None if total is None else total >= correct_at
    answer = next((part.answer for part in good if part.answer is not None), None)
    details = next((part.details for part in good if part.details is not None), None)
    return Score(is_correct, total, answer, details)


# ---- before anything is computed, and for the keys of stages


def _each(config: VerifyConfig) -> list[VerifyConfig]:
    return [config, *config.parts]


def check_ready(config: VerifyConfig, rows: Sequence[Mapping[str, Any]] = ()) -> None:
    """Raise `PrefoptError` where the verifier cannot work: no such file, a package that is missing, a wrong constraint.

    rows: prompts, of which constraints are looked at.
    """
    for one in _each(config):
        if one.kind == FUNCTION:
            find_check(one)
        if one.kind == "constraints":
            check_packages(rows)
            if rows and not any(row.get("constraints") or row.get("instruction_id_list") for row in rows):
                raise PrefoptError(
                    "verifier 'constraints': no row has any; give prompts with instruction_id_list and kwargs (IFEval's form)"
                )


def verifier_digests(config: VerifyConfig) -> list[str]:
    """Digests of the sources that the settings only name: plug-ins, files of checks, of schemas; for the key of a stage."""
    found = []
    for one in _each(config):
        found += digests(KIND, [one.kind])
        if one.kind == FUNCTION:
            found.append(source_digest(find_check(one)))
        if one.kind == "json_schema":
            found += schema_digest(one.options.get("schema"))
    return found
