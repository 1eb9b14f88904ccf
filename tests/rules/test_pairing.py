import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.rules.content import is_empty, same, text_of
from prefopt.rules.pairing import matched_pairs, score_pairs, spread, verify_pairs


def test_spread_goes_round_the_classes_largest_first_unparsed_last():
    classes = np.array([3, 1, 1, 2, 1, 2, -1, -1, -1, -1])
    assert spread(list(range(10)), classes) == [1, 3, 0, 6, 2, 5, 7, 4, 8, 9]


def test_four_pairs_reject_four_different_wrong_answers():
    classes = np.array([0, 0, 1, 1, 1, 2, 3, 4])
    correct = classes == 0
    pairs = verify_pairs(correct, classes, list(range(8)), 4)
    assert [int(classes[r]) for _, r in pairs] == [1, 2, 3, 4]
    assert [c for c, _ in pairs] == [0, 1, 0, 1]


@given(st.lists(st.tuples(st.booleans(), st.integers(-1, 3)), max_size=12), st.integers(1, 40), st.randoms())
def test_pairs_are_right_against_wrong_distinct_and_as_many_as_can_be(answers, limit, random):
    correct = np.array([c for c, _ in answers], dtype=bool)
    classes = np.array([0 if c else k for c, k in answers], dtype=np.int64)
    order = list(range(len(answers)))
    random.shuffle(order)
    pairs = verify_pairs(correct, classes, order, limit)
    right, wrong = int(correct.sum()), int((~correct).sum())
    assert len(pairs) == len(set(pairs)) == min(limit, right * wrong)
    assert all(correct[c] and not correct[r] for c, r in pairs)
    # nobody is used twice before everybody was used once
    for side, members in ((0, np.flatnonzero(correct)), (1, np.flatnonzero(~correct))):
        used = [pair[side] for pair in pairs]
        counts = [used.count(i) for i in members]
        assert not pairs or max(counts) - min(counts) <= 1


def test_matched_pairs_are_of_like_length():
    correct = np.array([True, True, False, False, False])
    lengths = np.array([10.0, 100.0, 90.0, 12.0, 400.0])
    assert matched_pairs(correct, lengths, list(range(5)), 2) == [(1, 2), (0, 3)]
    # the third answer is unused, so the next pair takes it; then the nearest of those used as often
    assert matched_pairs(correct, lengths, list(range(5)), 3)[2] == (1, 4)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=9), st.integers(1, 30), st.randoms())
def test_matched_pairs_are_right_against_wrong_distinct_and_as_many_as_can_be(answers, limit, random):
    correct = np.array([c for c, _ in answers], dtype=bool)
    order = list(range(len(answers)))
    random.shuffle(order)
    pairs = matched_pairs(correct, np.array([n for _, n in answers], dtype=float), order, limit)
    right, wrong = int(correct.sum()), int((~correct).sum())
    assert len(pairs) == len(set(pairs)) == min(limit, right * wrong)
    assert all(correct[c] and not correct[r] for c, r in pairs)


def test_score_pairs_by_hand():
    scores = np.array([0.2, 0.9, 0.1, 0.9, 0.5])
    assert score_pairs(scores, 1) == [(1, 2)]  # the tie at .9 goes to the earlier one
    assert score_pairs(scores, 2) == [(1, 2), (3, 0)]
    assert score_pairs(scores, 5) == [(1, 2), (3, 0)]  # the others are not better than what they face


def test_rejected_at_two_sd_below_the_mean():
    scores = np.array([2.0, 2.0, 0.0, -4.0, 0.0])  # mean 0, population sd 2.19: the target is -4.38
    assert score_pairs(scores, 1, "mean-2sd") == [(0, 3)]
    # an outlier far below the target is not taken
    many = np.array([1.0] * 60 + [0.0] * 60 + [-1.0] + [-9.0])
    target = many.mean() - 2 * many.std()
    assert abs(target + 1.0) < abs(target + 9.0)
    assert score_pairs(many, 1, "mean-2sd") == [(0, 120)]
    assert score_pairs(many, 1, "min") == [(0, 121)]


@pytest.mark.parametrize("rejected_at", ["min", "mean-2sd"])
def test_equal_scores_make_no_pair(rejected_at):
    assert score_pairs(np.ones(4), 3, rejected_at) == []


def test_content():
    call = [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]
    assert text_of(None) == ""
    assert text_of([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]) == "a\nb"
    assert is_empty(" \n")
    assert is_empty([{"role": "assistant", "content": " "}])
    assert not is_empty(call)
    assert same("a ", "a")
    assert not same(call, [{"role": "assistant", "content": ""}])
