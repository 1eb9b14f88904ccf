"""Plans of packed rows: every answer once, budgets kept, nothing random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.scoring.packing import (
    Group,
    first_fit_decreasing,
    group_tokens,
    make_groups,
    make_row,
    pack_sequences,
)

TOKENS = st.lists(st.integers(3, 9), min_size=1, max_size=8)
# few different prompts, so that some are shared
SEQUENCES = st.lists(
    st.tuples(st.sampled_from([[1, 2], [1], [2, 1, 1], [4, 4, 4, 4, 4]]), TOKENS), min_size=1, max_size=30
)


def sequences_of(rows):
    """(place, prompt, answer) read back from the rows' columns alone."""
    found = []
    for row in rows:
        starts = np.cumsum([0, *row.lengths])
        for place, start, end in zip(row.places, starts[:-1], starts[1:], strict=True):
            owner = row.groups[row.columns[start]]
            prompt = row.input_ids[(row.groups == owner) & (row.segments == 0)]
            found.append((place, prompt.tolist(), row.targets[start:end].tolist()))
    return sorted(found)


@given(SEQUENCES, st.integers(1, 60), st.sampled_from([1, 8]))
def test_every_answer_is_there_once_with_its_prompt(sequences, budget, pad_to):
    rows = pack_sequences(sequences, budget, pad_to=pad_to)
    assert sequences_of(rows) == [(place, *sequence) for place, sequence in enumerate(sequences)]


@given(SEQUENCES, st.integers(1, 60))
def test_budgets_are_kept_except_by_a_sequence_alone(sequences, budget):
    for row in pack_sequences(sequences, budget):
        assert len(row.input_ids) <= budget or len(row.lengths) == 1


@given(SEQUENCES, st.integers(1, 60))
def test_same_input_same_plan(sequences, budget):
    first, again = (pack_sequences(sequences, budget) for _ in range(2))
    as_arrays = pack_sequences([(np.asarray(p, dtype=np.int32), np.asarray(a)) for p, a in sequences], budget)
    for other in (again, as_arrays):
        for a, b in zip(first, other, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


@given(SEQUENCES, st.integers(1, 60))
def test_positions_restart_and_every_target_follows_its_column(sequences, budget):
    """The token after a column in position, within the answer or its prompt, is the target itself."""
    for row in pack_sequences(sequences, budget):
        start = 0
        for segment_start, length in zip(np.cumsum([0, *row.lengths]), row.lengths, strict=False):
            columns = row.columns[segment_start : segment_start + length]
            prompt = len(row.input_ids[(row.groups == row.groups[columns[0]]) & (row.segments == 0)])
            assert row.position_ids[columns].tolist() == list(range(prompt - 1, prompt - 1 + length))
            # tokens that are read are the answer without its last
            assert row.input_ids[columns[1:]].tolist() == row.targets[start : start + length - 1].tolist()
            start += length


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 80))
def test_first_fit_decreasing_holds_every_item_once_in_few_rows(sizes, budget):
    rows = first_fit_decreasing(sizes, budget)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    assert all(len(row) == 1 or sum(sizes[i] for i in row) <= budget for row in rows)
    # two rows never fit into one, so rows are more than half full on average
    loads = sorted(sum(sizes[i] for i in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > budget


def test_plan_of_a_hand_made_case():
    """6 | 5+1 | 4+2 with a budget of 6: largest first, ties by index."""
    assert first_fit_decreasing([1, 4, 6, 2, 5], 6) == [[2], [4, 0], [1, 3]]
    assert first_fit_decreasing([7, 3, 3], 6) == [[0], [1, 2]]
    assert group_tokens(4, [3, 1]) == 6


def test_row_of_a_hand_made_case():
    row = make_row([Group([5, 6], ([7, 8, 9], [7]), (0, 1)), Group([4], ([3, 3],), (2,))], pad_to=8, pad_id=1)
    assert row.input_ids.tolist() == [5, 6, 7, 8, 4, 3, 1, 1]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 0]
    assert row.groups.tolist() == [0, 0, 0, 0, 1, 1, -1, -1]
    assert row.segments.tolist() == [0, 0, 1, 1, 0, 1, 0, 0]
    assert row.columns.tolist() == [1, 2, 3, 1, 4, 5]
    assert row.targets.tolist() == [7, 8, 9, 7, 3, 3]
    assert row.lengths == (3, 1, 2)


def test_a_prompt_with_many_answers_is_computed_once_per_row():
    sequences = [([1, 2, 3], [5, k]) for k in range(8)]
    assert [group.places for group in make_groups(sequences, 100)] == [tuple(range(8))]
    assert [group.places for group in make_groups(sequences, 6)] == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert [group.places for group in make_groups(sequences, 1)] == [(k,) for k in range(8)]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one prompt token"):
        pack_sequences([([], [1])], 8)
    with pytest.raises(ValueError, match="at least one prompt token"):
        pack_sequences([([1], [])], 8)
    with pytest.raises(ValueError, match="not 0"):
        first_fit_decreasing([1], 0)


@pytest.mark.parametrize("place", [0, 3, 4, 20, 39])
def test_prompts_that_differ_anywhere_are_not_joined(place):
    """Chat templates let all prompts begin alike: the whole prompt decides, and its length."""
    prompt = list(range(5, 45))
    other = prompt.copy()
    other[place] += 1
    groups = make_groups([(prompt, [1, 2]), (other, [3]), (prompt[:-1], [4]), (prompt.copy(), [5])], 500)
    assert [list(group.prompt) for group in groups] == [prompt, other, prompt[:-1]]
    assert [group.places for group in groups] == [(0, 3), (1,), (2,)]
