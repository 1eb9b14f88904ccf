"""Losses of a whole step: what is a constant of the step carries no gradient."""

import numpy as np
import pytest
import torch

from prefopt.losses import build_loss

NAMES = ("chosen", "rejected", "ref_chosen", "ref_rejected")


def step(rows=5, seed=0):
    rng = np.random.default_rng(seed)
    return {name: torch.tensor(-40 + 6 * rng.normal(size=rows)) for name in NAMES}


def slopes(loss, data, wanted):
    leaves = {name: data[name].clone().requires_grad_() for name in wanted}
    loss(data | leaves).sum().backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def test_the_moment_of_bco_pair_carries_no_gradient():
    """By hand: d/dr_w of -log s(b r_w - D) - log s(D - b r_l) with D held is -b s(D - b r_w); no other row's enters."""
    data, beta = step(), 0.1
    found = slopes(build_loss({"name": "bco_pair", "beta": beta}), data, ("chosen", "rejected"))
    r_w = beta * (data["chosen"] - data["ref_chosen"])
    r_l = beta * (data["rejected"] - data["ref_rejected"])
    d = 0.5 * (r_w + r_l).mean()
    torch.testing.assert_close(found["chosen"], -beta * torch.sigmoid(d - r_w), rtol=1e-10, atol=0)
    torch.testing.assert_close(found["rejected"], beta * torch.sigmoid(r_l - d), rtol=1e-10, atol=0)


def test_the_moments_of_bco_carry_no_gradient():
    rng, beta = np.random.default_rng(1), 0.1
    label = torch.tensor([True, False, True, True, False])
    data = {
        "completion": torch.tensor(-30 + 5 * rng.normal(size=5)),
        "ref_completion": torch.tensor(-30 + 5 * rng.normal(size=5)),
        "label": label,
    }
    found = slopes(build_loss({"name": "bco", "beta": beta}), data, ("completion",))["completion"]
    reward = beta * (data["completion"] - data["ref_completion"])
    d = 0.5 * reward[label].mean() + 0.5 * reward[~label].mean()
    z = torch.where(label, reward - d, d - reward)
    torch.testing.assert_close(
        found, beta * (1.0 - 2.0 * label.double()) * torch.sigmoid(-z), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("name", ["bco_pair", "aot", "aot_unpaired"])
def test_the_order_of_rows_means_nothing(name):
    data = step(7)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    loss = build_loss(name)
    found = slopes(loss, data, ("chosen", "rejected"))
    turned = slopes(loss, {key: value[order] for key, value in data.items()}, ("chosen", "rejected"))
    for key, slope in found.items():
        torch.testing.assert_close(turned[key], slope[order], rtol=1e-10, atol=1e-15)


def test_aot_sorts_policy_and_reference_margins_each_by_itself():
    """By hand: policy margins 5, 1 and reference margins 0, 4 sort to 1 - 0 and 5 - 4, not to the rows' 5 and -3."""
    data = {"chosen": [-10.0, -20.0], "rejected": [-15.0, -21.0], "ref_chosen": [-11.0, -17.0], "ref_rejected": [-11.0, -21.0]}  # fmt: skip
    found = build_loss({"name": "aot", "beta": 0.5})({key: torch.tensor(v) for key, v in data.items()})
    torch.testing.assert_close(found, torch.nn.functional.softplus(torch.tensor([-0.5, -0.5])))


def test_aot_unpaired_sorts_the_log_ratios_of_each_side_by_itself():
    """By hand: r_w 1, -3 and r_l -4, 0 sort to -3 + 4 and 1 - 0, not to the rows' 5 and -3."""
    data = {"chosen": [-10.0, -20.0], "rejected": [-15.0, -21.0], "ref_chosen": [-11.0, -17.0], "ref_rejected": [-11.0, -21.0]}  # fmt: skip
    found = build_loss({"name": "aot_unpaired", "beta": 0.5})(
        {key: torch.tensor(v) for key, v in data.items()}
    )
    torch.testing.assert_close(found, torch.nn.functional.softplus(torch.tensor([-0.5, -0.5])))
