"""The instructions task: a request about a subject, with one or two constraints that a program can check (2311.07911).

    Tell me about volcanoes. Use fewer than 16 words. Do not use commas.
    [{"id": "length_constraints:number_words", "kwargs": {...}}, {"id": "punctuation:no_comma", "kwargs": {}}]

Each subject belongs to exactly one split, decided by a hash of its text, and each wording (of request and constraint) to
one split too: test prompts ask about unseen subjects in unseen words. The kinds of constraints are the same in all.

    python -m prefopt.recipes.instructions.task DIR        # writes train.jsonl, tuning.jsonl, test.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.recipes.instructions.words import AVOIDED, ENDINGS, FRAMES, SUBJECTS, USED, WORDINGS

SPLIT_SHARES = {"train": 60, "tuning": 12, "test": 28}  # of the subjects, in hundredths of the hash space
COUNTS = {"train": 640, "tuning": 96, "test": 240}
SEED = 0
SHARE_OF_TWO = 0.3  # of the prompts that have two constraints

Constraint = dict[str, Any]
Drawn = tuple[Constraint, dict[str, str]]  # the constraint, and what its wording says


@dataclass(frozen=True)
class Kind:
    """How one kind of constraint is drawn. group: no prompt has two kinds of one group (they could contradict)."""

    draw: Callable[[random.Random], Drawn]
    group: str


def _constraint(name: str, **kwargs: Any) -> Constraint:
    return {"id": name, "kwargs": kwargs}


def _words(relation: str, sizes: tuple[int, ...]) -> Callable[[random.Random], Drawn]:
    def draw(rng: random.Random) -> Drawn:
        n = rng.choice(sizes)
        return _constraint("length_constraints:number_words", num_words=n, relation=relation), {"n": str(n)}

    return draw


def _sentences(relation: str, sizes: tuple[int, ...]) -> Callable[[random.Random], Drawn]:
    def draw(rng: random.Random) -> Drawn:
        n = rng.choice(sizes)
        found = _constraint("length_constraints:number_sentences", num_sentences=n, relation=relation)
        return found, {"n": str(n)}

    return draw


def _use(rng: random.Random) -> Drawn:
    word = rng.choice(USED)
    return _constraint("keywords:existence", keywords=[word]), {"word": word}


def _use_two(rng: random.Random) -> Drawn:
    word, other = rng.sample(USED, 2)
    return _constraint("keywords:existence", keywords=[word, other]), {"word": word, "other": other}


def _avoid(rng: random.Random) -> Drawn:
    words = rng.choice(AVOIDED)
    quoted = " or ".join(f'"{word}"' for word in words)
    told = f"the word{'s' * (len(words) > 1)} {quoted}"
    return (
        _constraint("keywords:forbidden_words", forbidden_words=list(words)),
        {"words": told, "Words": told[0].upper() + told[1:]},
    )


def _repeat(rng: random.Random) -> Drawn:
    word, n = rng.choice(USED), rng.choice((2, 3))
    found = _constraint("keywords:frequency", keyword=word, frequency=n, relation="at least")
    return found, {"word": word, "n": str(n)}


def _end(rng: random.Random) -> Drawn:
    phrase = rng.choice(ENDINGS)
    return _constraint("startend:end_checker", end_phrase=phrase), {"phrase": phrase}


def _counted(name: str, argument: str, sizes: tuple[int, ...]) -> Callable[[random.Random], Drawn]:
    def draw(rng: random.Random) -> Drawn:
        n = rng.choice(sizes)
        return _constraint(name, **{argument: n}), {"n": str(n)}

    return draw


def _plain(name: str, **kwargs: Any) -> Callable[[random.Random], Drawn]:
    return lambda rng: (_constraint(name, **kwargs), {})


KINDS = {
    "short": Kind(_words("less than", (8, 10, 13, 16, 20)), "length"),
    "long": Kind(_words("at least", (25, 30, 35)), "length"),
    "one_sentence": Kind(_sentences("less than", (2,)), "length"),
    "sentences": Kind(_sentences("at least", (2, 3)), "length"),
    "use": Kind(_use, "words"),
    "use_two": Kind(_use_two, "words"),
    "avoid": Kind(_avoid, "words"),
    "repeat": Kind(_repeat, "words"),
    "no_comma": Kind(_plain("punctuation:no_comma"), "comma"),
    "end": Kind(_end, "end"),
    "quote": Kind(_plain("startend:quotation"), "end"),
    "title": Kind(_plain("detectable_format:title"), "form"),
    "bullets": Kind(_counted("detectable_format:number_bullet_lists", "num_bullets", (2, 3)), "form"),
    "postscript": Kind(_plain("detectable_content:postscript", postscript_marker="P.S."), "end"),
    "highlight": Kind(_counted("detectable_format:number_highlighted_sections", "num_highlights", (1, 2)), "form"),
}  # fmt: skip


def split_of(subject: str) -> str:
    """The one split that a subject belongs to, a pure function of its text."""
    bucket = int.from_bytes(hashlib.sha256(f"subject {subject}".encode()).digest()[:8], "big") % 100
    for split, share in SPLIT_SHARES.items():
        if bucket < share:
            return split
        bucket -= share
    raise AssertionError("split shares must add up to 100")


def prompts(split: str, count: int, seed: int = SEED) -> list[dict[str, Any]]:
    """`count` distinct prompts of a split: {"id", "prompt": text, "constraints": [{"id", "kwargs"}], "kinds": text}.

    Kinds take turns, so that each is the first constraint of as many prompts as any other.

    Raises:
        PrefoptError: an unknown split.
    """
    if split not in SPLIT_SHARES:
        raise PrefoptError(
            f"unknown split {split!r} of the instructions task; {nearest(split, SPLIT_SHARES)}"
        )
    rng = random.Random(f"{split}:{seed}")
    subjects = [subject for subject in SUBJECTS if split_of(subject) == split]
    names = list(KINDS)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        if len(rows) % len(names) == 0:
            rng.shuffle(names)
        chosen = [names[len(rows) % len(names)]]
        if rng.random() < SHARE_OF_TWO:
            chosen.append(rng.choice([name for name in KINDS if KINDS[name].group != KINDS[chosen[0]].group]))
        row = _prompt(split, rng.choice(subjects), chosen, rng)
        rows.setdefault(row["prompt"], row)
    return [{"id": f"{split}-{index:04d}", **row} for index, row in enumerate(rows.values())]


def _prompt(split: str, subject: str, chosen: list[str], rng: random.Random) -> dict[str, Any]:
    parts, constraints = [rng.choice(FRAMES[split]).format(x=subject)], []
    for name in chosen:
        constraint, told = KINDS[name].draw(rng)
        constraints.append(constraint)
        parts.append(rng.choice(WORDINGS[name][split]).format(**told))
    return {"prompt": " ".join(parts), "constraints": constraints, "kinds": "+".join(chosen)}


def main() -> None:
    """Writes the three files."""
    parser = argparse.ArgumentParser(description="write the prompts of the instructions task")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in prompts(split, count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
