from __future__ import annotations

import json
import re
from importlib import resources
from itertools import combinations
from pathlib import Path

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.recipes.instructions import task, words
from prefopt.verify.constraints.check import constraints_of, follows

FOLDER = Path(str(resources.files("prefopt.recipes"))) / "instructions"
SPLITS = tuple(task.SPLIT_SHARES)


def shipped(split):
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("split", SPLITS)
def test_the_shipped_prompts_are_those_of_the_script(split):
    assert shipped(split) == task.prompts(split, task.COUNTS[split])


def test_splits_share_no_subject_and_no_wording():
    subjects = {
        split: {subject for subject in words.SUBJECTS if task.split_of(subject) == split} for split in SPLITS
    }
    assert all(len(found) >= 15 for found in subjects.values())
    wordings = {
        split: {*words.FRAMES[split], *(text for kind in words.WORDINGS.values() for text in kind[split])}
        for split in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        assert not subjects[one] & subjects[other]
        assert not wordings[one] & wordings[other]
    assert len(set(words.SUBJECTS)) == len(words.SUBJECTS)


@pytest.mark.parametrize("split", SPLITS)
def test_every_constraint_is_one_that_can_be_checked_and_every_kind_is_asked(split):
    rows = shipped(split)
    for row in rows:
        asked = constraints_of(row)
        assert len(asked) == len(row["kinds"].split("+"))
        assert isinstance(follows("A short answer.", asked[0]), bool)
        assert not re.search(r"[{}]", row["prompt"])  # every slot of a wording is filled
    firsts = [row["kinds"].split("+")[0] for row in rows]
    counts = [firsts.count(kind) for kind in task.KINDS]
    assert max(counts) - min(counts) <= 1
    assert 0.2 < sum("+" in row["kinds"] for row in rows) / len(rows) < 0.4


def test_two_constraints_of_a_prompt_do_not_contradict():
    for row in shipped("train"):
        groups = [task.KINDS[kind].group for kind in row["kinds"].split("+")]
        assert len(set(groups)) == len(groups)


def test_unknown_split_names_the_nearest():
    with pytest.raises(PrefoptError, match="unknown split 'tests'"):
        task.prompts("tests", 3)
