"""What MT-Bench asks and how it is judged, from files: questions, reference answers, prompts of the judge."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.stages.data.reading.readers import read_rows
from prefopt.tools.mt_bench.settings import MtBenchConfig

_SLOT = re.compile(r"\{(\w*)\}")
KINDS = {"single": ("answer", "answer_1", "answer_2"), "pairwise": ("answer_a", "answer_b", "answer_a_1", "answer_a_2",
                                                                  "answer_b_1", "answer_b_2")}  # fmt: skip
SHARED = ("question", "question_1", "question_2", "ref_answer_1", "ref_answer_2")


@dataclass(frozen=True)
class Question:
    """One question of one or two turns. reference: the answer to each turn; None where the category needs none."""

    id: Hashable
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] | None


@dataclass(frozen=True)
class Template:
    """A prompt of the judge: texts with slots."""

    name: str
    system: str
    text: str

    @property
    def slots(self) -> frozenset[str]:
        """Names in braces."""
        return frozenset(_SLOT.findall(self.text))

    def messages(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """Filled in one pass: braces within an answer stay text."""
        said = _SLOT.sub(lambda found: values[found[1]], self.text)
        first = [{"role": "system", "content": self.system}] if self.system.strip() else []
        return [*first, {"role": "user", "content": said}]


@dataclass(frozen=True)
class Bench:
    """Questions in order, and the judge's prompts by (turn, whether there is a reference)."""

    questions: Sequence[Question]
    templates: Mapping[tuple[int, bool], Template]


def read_bench(config: MtBenchConfig) -> Bench:
    """Everything that is asked.

    Raises:
        PrefoptError: a file that is not given or has not the form, a question whose reference is missing, or no prompt
            of the judge for a kind of question.
    """
    for name in ("questions", "judge_prompts"):
        if getattr(config, name) is None:
            raise PrefoptError(
                f"mt-bench: give --{name.replace('_', '-')} FILE (docs/evaluate.md says in which form)"
            )
    references = _references(config.references) if config.references is not None else {}
    questions = [_question(row, where, references, config) for row, where in read_rows(str(config.questions))]
    names = [question.id for question in questions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise PrefoptError(f"{config.questions}: question {twice} stands there twice")
    questions = questions[: config.limit]
    templates = [
        _template(row, where)
        for row, where in read_rows(str(config.judge_prompts))
        if row.get("type") == config.mode
    ]
    wanted = {(turn, q.reference is not None) for q in questions for turn in range(1, len(q.turns) + 1)}
    return Bench(questions, {key: _fitting(templates, *key, config) for key in sorted(wanted)})


def read_categories(path: Path) -> dict[Hashable, str]:
    """Question id -> category."""
    return {row.get("question_id"): str(row.get("category")) for row, _ in read_rows(str(path))}


def _question(
    row: Mapping[str, Any], where: str, references: Mapping[Hashable, tuple[str, ...]], config: MtBenchConfig
) -> Question:
    name, category = row.get("question_id"), row.get("category")
    turns = tuple(row["turns"]) if _texts(row.get("turns")) else ()
    if not isinstance(name, int | str) or not isinstance(category, str) or not 1 <= len(turns) <= 2:
        raise PrefoptError(f"{where}: a question needs question_id, category and one or two texts as turns")
    reference = None
    if category in config.reference_categories:
        reference = references.get(name)
        if reference is None or len(reference) < len(turns):
            raise PrefoptError(
                f"{where}: question {name} ({category}) needs a reference answer to each turn; give --references FILE, or take "
                "the category out of reference_categories"
            )
    return Question(name, category, turns, reference)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def turns_of(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The answers to the turns of a row in MT-Bench's form."""
    choices = row.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    turns = first.get("turns") if isinstance(first, Mapping) else None
    if not _texts(turns) or not isinstance(row.get("question_id"), int | str):
        raise PrefoptError(f"{where}: an answer needs question_id and texts under choices[0].turns")
    return tuple(turns)  # type: ignore[arg-type]


def _references(path: Path) -> dict[Hashable, tuple[str, ...]]:
    return {
        row["question_id"]: turns for row, where in read_rows(str(path)) if (turns := turns_of(row, where))
    }


def _template(row: Mapping[str, Any], where: str) -> Template:
    parts = [row.get(name) for name in ("name", "system_prompt", "prompt_template")]
    if not all(isinstance(part, str) for part in parts):
        raise PrefoptError(f"{where}: a judge prompt needs texts as name, system_prompt and prompt_template")
    found = Template(*map(str, parts))
    known = (*SHARED, *KINDS[str(row["type"])])
    if unknown := next((slot for slot in sorted(found.slots) if slot not in known), None):
        raise PrefoptError(f"{where}: unknown slot {{{unknown}}}, {nearest(unknown, known)}")
    return found


def _fitting(
    templates: Sequence[Template], turn: int, has_reference: bool, config: MtBenchConfig
) -> Template:
    fitting = [
        t for t in templates
        if ("question_2" in t.slots) == (turn == 2) and any(s.startswith("ref_answer") for s in t.slots) == has_reference
    ]  # fmt: skip
    if len(fitting) != 1:
        what = f"{config.mode} prompt for turn {turn} {'with' if has_reference else 'without'} reference"
        names = ", ".join(t.name for t in fitting)
        raise PrefoptError(
            f"{config.judge_prompts}: holds {f'several ({names})' if names else 'no'} {what}; leave exactly one"
        )
    return fitting[0]
