"""Near-duplicates: MinHash with LSH finds candidates, the exact Jaccard similarity of their shingles decides.

Shingles are runs of words. Permutations are seeded and a pair's fate depends on its two texts alone, so the result is
the same on every machine and does not change when other rows go.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.tools.check.items import words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERMUTATIONS = 128
MISSED = 1e-3  # chance that two texts exactly at the threshold are not compared
SEED = 1


def shingles(text: str, size: int, tag: str = "") -> NDArray[np.uint32]:
    """Sorted hashes (32 bits) of all runs of `size` words; a shorter text is one run. `tag` keeps fields apart."""
    words = words_of(text)
    runs = {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}
    start = zlib.crc32(tag.encode())
    return np.unique(np.array([zlib.crc32(run.encode(), start) for run in runs], dtype=np.uint32))


def jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    """Size of the intersection over size of the union."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def bands(threshold: float) -> tuple[int, int]:
    """LSH bands and rows per band: the most selective that miss a pair at the threshold with chance `MISSED` at most."""
    fitting = [r for r in range(1, 17) if (1 - threshold**r) ** (PERMUTATIONS // r) <= MISSED]
    rows = max(fitting, default=1)
    return PERMUTATIONS // rows, rows


@dataclass
class Sketcher:
    """Shingles and MinHash of texts, each made once."""

    size: int
    sets: dict[tuple[str, str], NDArray[np.uint32]] = field(default_factory=dict)
    hashes: dict[tuple[str, str], NDArray[np.uint32]] = field(default_factory=dict)
    _base: Any = None

    def shingles(self, tag: str, text: str) -> NDArray[np.uint32]:
        """The text's shingles under a tag."""
        found = self.sets.get((tag, text))
        if found is None:
            found = self.sets[tag, text] = shingles(text, self.size, tag)
        return found

    def sketch(self, fields: Mapping[str, str]) -> Any:
        """MinHash of all fields of a row together."""
        if self._base is None:
            self._base = _empty_sketch()
        parts = []
        for tag, text in fields.items():
            if (tag, text) not in self.hashes:
                one = self._base.copy()
                one.update_batch(self.shingles(tag, text).tolist())
                self.hashes[tag, text] = one.hashvalues
            parts.append(self.hashes[tag, text])
        whole = self._base.copy()
        whole.hashvalues = np.minimum.reduce(parts)
        return whole


def _empty_sketch() -> Any:
    try:
        from datasketch import MinHash
    except ModuleNotFoundError:
        raise PrefoptError("near-duplicates need the package 'datasketch'; pip install prefopt") from None
    return MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)


def near_groups(rows: Sequence[Mapping[str, str]], threshold: float, size: int) -> list[list[int]]:
    """Groups of rows (indices, ascending) joined by pairs whose every field has Jaccard >= threshold.

    rows: texts by field name, the same names in each. Groups of one are left out; groups are in order of their first row.
    """
    from datasketch import MinHashLSH

    sketcher = Sketcher(size)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
    parent = list(range(len(rows)))
    for number, fields in enumerate(rows):
        sketch = sketcher.sketch(fields)
        for other in sorted(int(found) for found in index.query(sketch)):
            if _root(parent, other) != _root(parent, number) and _is_near(
                fields, rows[other], sketcher, threshold
            ):
                parent[_root(parent, number)] = _root(parent, other)
        index.insert(number, sketch)
    return _groups(parent)


def _is_near(one: Mapping[str, str], other: Mapping[str, str], sketcher: Sketcher, threshold: float) -> bool:
    return all(
        text == other[tag]
        or jaccard(sketcher.shingles(tag, text), sketcher.shingles(tag, other[tag])) >= threshold
        for tag, text in one.items()
    )


def _root(parent: list[int], place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place


def _groups(parent: list[int]) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for place in range(len(parent)):
        members.setdefault(_root(parent, place), []).append(place)
    return sorted(group for group in members.values() if len(group) > 1)


# ---- contamination


def runs_of(text: str, size: int) -> set[str]:
    """All runs of `size` words; none in a shorter text."""
    words = words_of(text)
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}


@dataclass(frozen=True)
class TestPrompts:
    """An index of test prompts: by whole text, and by runs of words that few of them share."""

    __test__ = False  # no test class, whatever pytest makes of the name
    exact: Mapping[str, int]
    runs: Mapping[str, Sequence[int]]
    sizes: Sequence[int]
    size: int

    def lookup(self, text: str, share: float) -> tuple[int, bool] | None:
        """The test prompt (index) that a text repeats, and whether word for word; None where it repeats none.

        A part is repeated where at least `share` of the test prompt's runs stand in the text.
        """
        whole = self.exact.get(" ".join(words_of(text)))
        if whole is not None:
            return whole, True
        counts: dict[int, int] = {}
        for run in runs_of(text, self.size):
            for test in self.runs.get(run, ()):
                counts[test] = counts.get(test, 0) + 1
        best = max(counts, key=lambda test: (counts[test] / self.sizes[test], -test), default=None)
        return (best, False) if best is not None and counts[best] >= share * self.sizes[best] else None


def index_tests(prompts: Iterable[str], size: int) -> TestPrompts:
    """The index. Runs in more than 5% of the prompts (and in three) are a template's, and count for nothing."""
    texts = list(prompts)
    exact: dict[str, int] = {}
    for number, text in enumerate(texts):
        if words := words_of(text):
            exact.setdefault(" ".join(words), number)
    places: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        for run in runs_of(text, size):
            places.setdefault(run, []).append(number)
    most = max(2, len(texts) // 20)
    runs = {run: found for run, found in places.items() if len(found) <= most}
    sizes = [0] * len(texts)
    for found in runs.values():
        for number in found:
            sizes[number] += 1
    return TestPrompts(exact, runs, sizes, size)
