"""Learning rates: the first step trains, the warmup never covers the training, the rest is transformers' own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from prefopt.training.schedule import rate, warm_steps

NAMES = ("cosine", "linear", "constant_with_warmup")


@given(st.sampled_from(NAMES), st.integers(1, 300), st.one_of(st.floats(0, 0.99), st.integers(1, 500)))
def test_every_step_trains_and_the_peak_is_reached(name, steps, warmup):
    warm = warm_steps(warmup, steps)
    shares = [rate(name, step, steps, warm) for step in range(steps)]
    assert all(0.0 < share <= 1.0 for share in shares)
    assert max(shares) == pytest.approx(1.0)
    assert warm <= max(1, steps // 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warm", [0, 1, 7])
def test_after_the_warmup_it_is_transformers_schedule(name, warm):
    steps = 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warm, num_training_steps=steps)
    for step in range(steps):
        if step >= warm:
            assert rate(name, step, steps, warm) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        else:
            assert rate(name, step, steps, warm) == pytest.approx((step + 1) / warm)
        optimizer.step()
        scheduler.step()


def test_a_training_of_one_step_has_its_full_rate():
    assert rate("cosine", 0, 1, warm_steps(0.1, 1)) == 1.0
    assert rate("linear", 0, 1, warm_steps(500, 1)) == 1.0
