"""Which of a prompt's N answers become (chosen, rejected); answers are positions 0..N-1, in order of their ids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNPARSED = -1
Pairs = list[tuple[int, int]]


def verify_pairs(
    correct: NDArray[np.bool_], classes: NDArray[np.int64], order: Sequence[int], limit: int
) -> Pairs:
    """At most `limit` distinct (right, wrong) pairs, [N] answers with their answer classes, seeded `order` of [N].

    Rejected answers go round the wrong classes (`spread`), chosen ones round the right answers in seeded order, so that
    no answer is used again before its like have been used.
    """
    right = [i for i in order if correct[i]]
    wrong = spread([i for i in order if not correct[i]], classes)
    if not right or not wrong:
        return []
    # both go round; after lcm steps the same pairs would come again, so the right ones move on by one
    lap = math.lcm(len(right), len(wrong))
    count = min(limit, len(right) * len(wrong))
    return [(right[(k + k // lap) % len(right)], wrong[k % len(wrong)]) for k in range(count)]


def matched_pairs(
    correct: NDArray[np.bool_], lengths: NDArray[np.float64], order: Sequence[int], limit: int
) -> Pairs:
    """At most `limit` distinct (right, wrong) pairs of like length, [N] answers with their lengths (any unit), `order` of [N].

    Where right answers are mostly the shorter ones, pairs drawn at random teach to be short; these do so as little as the
    samples allow. The next pair is the one whose answers were used least, then the nearest by ratio of lengths, then the
    first in seeded order.
    """
    right = [i for i in order if correct[i]]
    wrong = [i for i in order if not correct[i]]
    logs = np.log(np.maximum(lengths, 1.0))
    used = dict.fromkeys(order, 0)
    left = [(c, r) for c in right for r in wrong]
    pairs: Pairs = []
    while left and len(pairs) < limit:
        best = min(left, key=lambda pair: (used[pair[0]] + used[pair[1]], abs(logs[pair[0]] - logs[pair[1]])))
        left.remove(best)
        pairs.append(best)
        for i in best:
            used[i] += 1
    return pairs


def spread(answers: Sequence[int], classes: NDArray[np.int64]) -> list[int]:
    """The answers, one of each class in turn, the largest class first, the unparsed (class -1) last.

    Within a class the given order stays; classes of equal size follow the given order of their first answers.
    """
    groups: dict[int, list[int]] = {}
    for i in answers:
        groups.setdefault(int(classes[i]), []).append(i)
    rows = [groups[c] for c in sorted(groups, key=lambda c: (c == UNPARSED, -len(groups[c])))]
    longest = max((len(row) for row in rows), default=0)
    return [row[turn] for turn in range(longest) for row in rows if turn < len(row)]


def score_pairs(scores: NDArray[np.float64], limit: int, rejected_at: str = "min") -> Pairs:
    """At most `limit` pairs by scalar score: k-th best against k-th worst, or against the k-th nearest to mean - 2 sd.

    `rejected_at="mean-2sd"` (2502.16825) takes population mean and sd of the prompt's N scores. Ties go to the earlier
    position; a pair needs a strictly higher chosen score.
    """
    target = scores.mean() - 2.0 * scores.std() if rejected_at == "mean-2sd" else -np.inf
    distance = scores if target == -np.inf else np.abs(scores - target)
    best = np.argsort(-scores, kind="stable")
    worst = np.argsort(distance, kind="stable")
    pairs = [(int(c), int(r)) for c, r in zip(best[:limit], worst[:limit], strict=True)]
    return [(c, r) for c, r in pairs if scores[c] > scores[r]]
