"""Strategies on every tie-free tournament of 2 to 5 answers, and on ties and missing verdicts."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.rules.standing import PRIOR, bradley_terry, standing
from prefopt.rules.tournament import (
    cycles,
    ipr,
    knockout,
    least_comparisons,
    most_comparisons,
    play,
    round_robin,
    wins_matrix,
)

STRATEGIES = {"ipr": ipr, "knockout": knockout, "round_robin": round_robin}


def tournaments(size):
    """Every assignment of winners to the pairs: dict (i, j) -> winner."""
    pairs = list(itertools.combinations(range(size), 2))
    for winners in itertools.product((0, 1), repeat=len(pairs)):
        yield {pair: pair[w] for pair, w in zip(pairs, winners, strict=True)}


def judge_of(winner):
    return lambda a, b: "a" if winner[min(a, b), max(a, b)] == a else "b"


def top_cycle(size, winner):
    """Answers that reach all others along wins (Smith set of a tournament)."""
    reach = np.eye(size, dtype=bool)
    for (i, j), best in winner.items():
        reach[best, i + j - best] = True
    for k in range(size):
        reach |= reach[:, [k]] & reach[[k], :]
    return {i for i in range(size) if reach[i].all()}


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_tournaments(size, strategy):
    seen = 0
    for winner in tournaments(size):
        seen += 1
        won = np.bincount(list(winner.values()), minlength=size)
        final, count = play(STRATEGIES[strategy](list(range(size))), judge_of(winner))
        assert least_comparisons(strategy, size) <= count <= most_comparisons(strategy, size)
        if (won == size - 1).any():
            assert final.best == won.argmax()
        if (won == 0).any():
            assert final.worst == won.argmin()
        assert final.best in top_cycle(size, winner)
        assert final.best != final.worst
        if strategy != "round_robin" and not final.reason:
            assert judge_of(winner)(final.best, final.worst) == "a"
    assert seen == 2 ** math.comb(size, 2)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_ipr_needs_2m_minus_3_comparisons_check_included_up_to_five_answers(size):
    counts = [play(ipr(list(range(size))), judge_of(w))[1] for w in tournaments(size)]
    assert max(counts) == 2 * size - 3
    assert size == 3 or min(counts) < max(counts)  # earlier verdicts are used again


@given(st.permutations(range(5)), st.integers(0, 1023))
def test_no_pair_is_asked_twice_in_any_order(order, number):
    winner = next(itertools.islice(tournaments(5), number, None))
    for start in STRATEGIES.values():
        asked = []

        def compare(a, b, asked=asked, winner=winner):
            asked.append(frozenset((a, b)))
            return judge_of(winner)(a, b)

        play(start(order), compare)
        assert len(asked) == len(set(asked))


def test_ties_and_missing_verdicts_keep_the_incumbent_and_make_no_pair():
    for start in (ipr, knockout):
        final, _ = play(start([2, 0, 1]), lambda a, b: "tie")
        # in a knockout the third one passes free and then stands first
        assert (final.best, final.worst) == ((2, 0) if start is ipr else (1, 2))
        assert final.reason == "best and worst tie"
        final, _ = play(start([2, 0, 1]), lambda a, b: "missing")
        assert final.reason == "no verdict on best against worst"
    final, count = play(round_robin([2, 0, 1]), lambda a, b: "tie")
    assert (final.reason, count) == ("all answers are equal", 3)
    # 0 > 1 > 2 > 0: whoever is king, the last check may go against it
    reasons = {play(ipr(o), judge_of({(0, 1): 0, (1, 2): 1, (0, 2): 2}))[0].reason for o in itertools.permutations(range(3))}  # fmt: skip
    assert reasons <= {"", "worst beats best"}


def test_cycles_counts_triples_with_three_winners():
    cycle = {(0, 1): "a", (1, 2): "a", (0, 2): "b"}
    assert cycles(3, cycle) == (1, 1)
    assert cycles(3, {**cycle, (0, 2): "a"}) == (0, 1)
    assert cycles(3, {**cycle, (0, 2): "tie"}) == (0, 0)
    assert cycles(4, {**cycle, (3, 0): "a"}) == (1, 1)
    both = {**cycle, (1, 0): "b", (2, 1): "b", (2, 0): "a"}
    assert cycles(3, both) == (1, 1)


def test_every_fourth_triple_is_cyclic_over_all_tournaments():
    total = np.sum(
        [cycles(4, {p: "a" if w == p[0] else "b" for p, w in t.items()}) for t in tournaments(4)], 0
    )
    assert total[0] / total[1] == 0.25


def test_wins_matrix_takes_each_pair_once():
    known = {(0, 1): "a", (1, 0): "b", (1, 2): "tie", (0, 2): "missing"}
    assert wins_matrix(3, known).tolist() == [[0, 1, 0], [0, 0, 0.5], [0, 0.5, 0]]


def test_bradley_terry_by_hand():
    # two answers, one win: the mode solves sigmoid(-2s) = prior s
    strength, error = bradley_terry(np.array([[0.0, 1.0], [0.0, 0.0]]))
    s = strength[0]
    assert 1 / (1 + math.exp(2 * s)) == pytest.approx(PRIOR * s, abs=1e-9)
    assert strength[1] == pytest.approx(-s)
    p = 1 / (1 + math.exp(-2 * s))
    information = np.array([[p * (1 - p) + PRIOR, -p * (1 - p)], [-p * (1 - p), p * (1 - p) + PRIOR]])
    assert error == pytest.approx(np.sqrt(np.diag(np.linalg.inv(information))))
    free, alone = bradley_terry(np.zeros((3, 3)))
    assert free == pytest.approx(np.zeros(3))
    assert alone == pytest.approx(np.full(3, PRIOR**-0.5))
    with pytest.raises(ValueError, match="prior"):
        bradley_terry(np.zeros((2, 2)), 0.0)


def test_bradley_terry_finds_known_strengths():
    truth = np.array([1.0, 0.3, -0.2, -1.1])
    wins = 2000.0 / (1 + np.exp(truth[None, :] - truth[:, None]))
    np.fill_diagonal(wins, 0.0)
    strength, error = bradley_terry(wins)
    assert strength == pytest.approx(truth, abs=0.01)
    assert np.all(error > 0)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=6, max_size=6))
def test_complete_tournaments_rank_alike_by_copeland_and_strength(values):
    wins = np.zeros((4, 4))
    for (i, j), value in zip(itertools.combinations(range(4), 2), values, strict=True):
        wins[i, j], wins[j, i] = value, 1 - value
    found = standing(wins)
    order = np.argsort(found.copeland, kind="stable")
    assert np.all(np.diff(found.strength[order]) >= -1e-6)
    assert found.copeland.sum() == pytest.approx(0)
    assert standing(wins, "bradley_terry").key[0] == found.key[0][::-1]


def test_a_star_does_not_make_its_hub_the_best():
    # hub 0 beats two of five and loses to three: it was compared five times, the others once
    wins = np.zeros((6, 6))
    wins[0, 1] = wins[0, 2] = wins[3, 0] = wins[4, 0] = wins[5, 0] = 1
    key = standing(wins).key
    assert key[3] > key[0] > key[1]


def test_the_prior_of_strengths_by_hand():
    """One win of two answers: s = -(-s), and the mode solves sigmoid(-2s) = prior s; the error is that of the Laplace form."""
    assert PRIOR == 0.25  # a standard deviation of 2 logits, as docs/ranking.md says
    for prior in (0.25, 1.0, 4.0):
        strength, error = bradley_terry(np.array([[0.0, 1.0], [0.0, 0.0]]), prior)
        assert strength[0] == pytest.approx(-strength[1], abs=1e-12)
        s = strength[0]
        assert 1.0 / (1.0 + np.exp(2.0 * s)) == pytest.approx(prior * s, abs=1e-9)
        c = np.exp(2 * s) / (1 + np.exp(2 * s)) ** 2
        hessian = np.array([[c + prior, -c], [-c, c + prior]])
        np.testing.assert_allclose(error, np.sqrt(np.diag(np.linalg.inv(hessian))), rtol=1e-9)
    strength, error = bradley_terry(np.zeros((3, 3)))
    np.testing.assert_allclose(strength, 0.0, atol=1e-12)
    np.testing.assert_allclose(error, PRIOR**-0.5)
