"""Difficulty weights from N-fold sampling (after 2412.20996): one weight per pair, multiplied outside of the loss.

[B] pairs. n, P_c (n_correct) and P_e (n_error) are counts of samples of the pair's prompt, as floats. A new scheme is one
function and one row of `SCHEMES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError, nearest
from prefopt.rules.describe import spearman
from prefopt.rules.order import hash_order

Rows = NDArray[np.float64]
Places = NDArray[np.int64]
MINMAX_HALF_WIDTH = 0.2  # GuardReasoner (2501.18492): weights within [1 - 0.2, 1 + 0.2]


def difficulty(n: Rows, n_correct: Rows, n_error: Rows, *, alpha: float, epsilon: float) -> Rows:
    """w = max(1, 1 + alpha P_e/P_c + epsilon/N), and 1 + alpha P_e/N where P_c = 0, [B] (2412.20996).

    With alpha, epsilon >= 0 the max never binds. It jumps at the first right sample: at N=16, alpha=0.5, an unsolved
    prompt weighs 1.5 and a once-solved one 8.5; alpha does not transfer between N (range 1 .. 1 + alpha (N-1)).
    """
    solved = n_correct > 0
    odds = np.divide(n_error, n_correct, out=np.zeros_like(n), where=solved)
    w_solved = np.maximum(1.0, 1.0 + alpha * odds + epsilon / n)
    return np.where(solved, w_solved, 1.0 + alpha * n_error / n)


def minmax(n: Rows, n_correct: Rows) -> Rows:
    """wrong - right, mapped to [0.8, 1.2] over the mixed prompts among the rows, [B] (GuardReasoner, 2501.18492).

    Prompts with no right or no wrong sample weigh 1, and so do all if the mixed ones are equally hard.
    """
    score = n - 2.0 * n_correct
    mixed = (n_correct > 0) & (n_correct < n)
    weight = np.ones_like(n)
    if not np.any(mixed):
        return weight
    low, high = score[mixed].min(), score[mixed].max()
    if high > low:
        weight[mixed] += MINMAX_HALF_WIDTH * (2.0 * (score[mixed] - low) / (high - low) - 1.0)
    return weight


def majority(n: Rows, n_majority: Rows, *, alpha: float, epsilon: float) -> Rows:
    """`difficulty` with the most frequent answer taken for the right one, [B]; needs no gold answer (ours)."""
    return difficulty(n, n_majority, n - n_majority, alpha=alpha, epsilon=epsilon)


def entropy(answer_entropy: Rows, *, alpha: float) -> Rows:
    """w = 1 + alpha H, H the entropy of the answer classes in nats, [B]; needs no gold answer (ours)."""
    return 1.0 + alpha * answer_entropy


@dataclass(frozen=True)
class Scheme:
    """A named way to weights: `weigh(columns, alpha, epsilon)` and the table's columns it needs.

    columns: row [B] (ones), n, n_correct, n_error, n_majority, answer_entropy, given. from_counts: a function of n,
    n_correct and n_error alone. by_errors: reads n_error, so the setting `errors` matters. shuffled: over prompts.
    """

    weigh: Callable[[Mapping[str, Rows], float, float], Rows]
    needs: tuple[str, ...]
    about: str
    from_counts: bool = False
    by_errors: bool = False
    shuffled: bool = False


def _difficulty(c: Mapping[str, Rows], alpha: float, epsilon: float) -> Rows:
    return difficulty(c["n"], c["n_correct"], c["n_error"], alpha=alpha, epsilon=epsilon)


def _minmax(c: Mapping[str, Rows], alpha: float, epsilon: float) -> Rows:
    return minmax(c["n"], c["n_correct"])


def _majority(c: Mapping[str, Rows], alpha: float, epsilon: float) -> Rows:
    return majority(c["n"], c["n_majority"], alpha=alpha, epsilon=epsilon)


def _entropy(c: Mapping[str, Rows], alpha: float, epsilon: float) -> Rows:
    return entropy(c["answer_entropy"], alpha=alpha)


def _uniform(c: Mapping[str, Rows], alpha: float, epsilon: float) -> Rows:
    return np.ones_like(c["row"])


def _given(c: Mapping[str, Rows], alpha: float, epsilon: float) -> Rows:
    return c["given"].copy()


COUNTS = ("n", "n_correct")
SCHEMES: dict[str, Scheme] = {
    "difficulty": Scheme(_difficulty, COUNTS, "hard prompts weigh more", from_counts=True, by_errors=True),
    "uniform": Scheme(_uniform, (), "every pair weighs 1"),
    "minmax": Scheme(_minmax, COUNTS, "wrong - right samples, mapped to [0.8, 1.2]", from_counts=True),
    "majority": Scheme(_majority, ("n", "majority_share"), "difficulty, the most frequent answer as right"),
    "entropy": Scheme(_entropy, ("answer_entropy",), "1 + alpha times the entropy of the answers"),
    "shuffled": Scheme(
        _difficulty,
        COUNTS,
        "control: difficulty, shuffled over prompts",
        from_counts=True,
        by_errors=True,
        shuffled=True,
    ),
    "column": Scheme(_given, (), "weights of the data, from `column`"),
}


def find_scheme(name: str) -> Scheme:
    """The scheme of this name; PrefoptError names the nearest known one."""
    if name not in SCHEMES:
        raise PrefoptError(f"unknown weight scheme {name!r}, {nearest(name, SCHEMES)}")
    return SCHEMES[name]


def shuffle_over_prompts(weights: Rows, prompt_ids: Sequence[str], ids: Sequence[str], seed: int) -> Rows:
    """Weights [B] permuted over prompts: all pairs of a prompt get those of one other prompt.

    A permutation of the prompts by seed, independent of the order of rows. Where giver and receiver differ in their
    number of pairs, the giver's weights (in order of pair id) repeat or end early.
    """
    order = np.array(sorted(range(len(ids)), key=lambda i: ids[i]), dtype=np.int64)
    names, numbers = np.unique(np.array(prompt_ids, dtype=object), return_inverse=True)
    return shuffle_numbered(weights, order, numbers, names.tolist(), seed)


def shuffle_numbered(weights: Rows, order: Places, prompts: Places, names: Sequence[str], seed: int) -> Rows:
    """`shuffle_over_prompts` on numbers, without an object per pair.

    order [B]: rows by id. prompts [B]: of each row the place of its prompt in `names` [P], which rise.
    """
    sizes = np.bincount(prompts, minlength=len(names))
    ends = np.cumsum(sizes)
    rows = order[np.argsort(prompts[order], kind="stable")]  # by prompt, those of one by id
    shuffled = np.empty_like(weights)
    for receiver, giver in enumerate(hash_order(names, seed, "shuffled weights")):
        own, given = (rows[ends[k] - sizes[k] : ends[k]] for k in (receiver, giver))
        shuffled[own] = np.resize(weights[given], len(own))
    return shuffled


def finish(
    weights: Rows,
    prompt_ids: Sequence[str] | Places,
    *,
    clip: float | None = None,
    per_prompt: bool = False,
    normalize: str = "mean1",
) -> Rows:
    """Raw weights [B] -> final ones: clip from above, divide by the prompt's number of rows, divide by the mean.

    The mean is exactly rounded, so it does not depend on the order of rows. `normalize="raw"` leaves the scale, which
    then multiplies the effective learning rate by the mean weight.

    Raises:
        PrefoptError: all weights are 0 under `mean1`.
    """
    if clip is not None:
        weights = np.minimum(weights, clip)
    if per_prompt:
        _, inverse, counts = np.unique(_comparable(prompt_ids), return_inverse=True, return_counts=True)
        weights = weights / counts[inverse]
    if normalize == "raw" or not len(weights):
        return weights
    mean = math.fsum(weights) / len(weights)
    if mean <= 0.0:
        raise PrefoptError("weight: all weights are 0, nothing would be learned; give positive weights")
    return weights / mean


def _comparable(prompt_ids: Sequence[str] | Places) -> NDArray[Any]:
    return prompt_ids if isinstance(prompt_ids, np.ndarray) else np.array(prompt_ids, dtype=object)


def half_split(
    prompt_ids: Sequence[str] | Places,
    sample_ids: Sequence[str],
    is_correct: NDArray[np.bool_],
    weigh: Callable[[Rows, Rows], Rows],
    seed: int,
) -> tuple[float | None, int]:
    """Spearman correlation over prompts of w from two disjoint halves of the samples [S], and the number of prompts.

    prompt_ids: names, or numbers that stand for them. `weigh(n, n_correct)` gives the weights of prompts. Halves are drawn by seed and sample id; prompts with a single
    sample are left out. At small N the odds P_e/P_c are noisy exactly where w is largest: this says how noisy.
    """
    names, numbers = np.unique(_comparable(prompt_ids), return_inverse=True)
    half_n = np.zeros((2, len(names)))
    half_correct = np.zeros((2, len(names)))
    seen = np.zeros(len(names), dtype=np.int64)
    for position in hash_order(sample_ids, seed, "halves"):
        prompt = numbers[position]
        half = seen[prompt] % 2
        seen[prompt] += 1
        half_n[half, prompt] += 1
        half_correct[half, prompt] += is_correct[position]
    both = seen >= 2
    halves = [weigh(half_n[h, both], half_correct[h, both]) for h in (0, 1)]
    return spearman(halves[0], halves[1]), int(both.sum())
