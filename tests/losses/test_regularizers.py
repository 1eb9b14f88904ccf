"""The checks of budget-controlled regularization, on random rows and on a toy that trains."""

import numpy as np
import pytest
import torch

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.losses.links import LINKS, score

TOKENS = 30


def rows(seed=0, n=12):
    rng = np.random.default_rng(seed)
    data = {
        name: torch.tensor(-60 * rng.random(n))
        for name in ("chosen", "rejected", "ref_chosen", "ref_rejected")
    }
    data |= {
        name: torch.tensor(rng.integers(5, 40, n).astype(float))
        for name in ("chosen_tokens", "rejected_tokens")
    }
    return data


def value_and_slopes(spec, data):
    leaves = {name: x.clone().requires_grad_("tokens" not in name) for name, x in data.items()}
    out = build_loss(spec)(leaves)
    out.sum().backward()
    zero = torch.zeros(len(data["chosen"]), dtype=torch.float64)
    return out.detach(), {name: zero if x.grad is None else x.grad for name, x in leaves.items()}


BASES = [
    {"name": "dpo"},
    {"name": "cdpo"},
    {"name": "hinge", "beta": 0.02},
    {"name": "simpo"},
    {"name": "ipo"},
]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("delta", [1e9, float("inf")])
@pytest.mark.parametrize("base", BASES, ids=[b["name"] for b in BASES])
def test_endless_budget_is_the_base_loss_bit_for_bit(base, delta, inside):
    if inside and base["name"] in ("simpo", "ipo"):
        with pytest.raises(PrefoptError, match="margin h"):
            build_loss([base, {"name": "budget", "delta": delta, "scale": 3.0, "inside": True}])
        return
    data = rows()
    with_budget = value_and_slopes(
        [base, {"name": "budget", "delta": delta, "scale": 3.0, "inside": inside}], data
    )
    alone = value_and_slopes([base], data)
    assert torch.equal(with_budget[0], alone[0])
    for name, slope in alone[1].items():
        assert torch.equal(with_budget[1][name], slope), name


@pytest.mark.parametrize("unit", ["token", "response"])
def test_policy_at_the_reference_pays_nothing_and_is_not_pulled(unit):
    data = rows()
    data["ref_chosen"] = data["chosen"].clone()
    value, slopes = value_and_slopes({"name": "budget", "delta": 0.1, "unit": unit, "scale": 1.0}, data)
    assert value.tolist() == [0.0] * len(value)
    assert not slopes["chosen"].any()


@pytest.mark.parametrize("unit", ["token", "response"])
def test_only_pairs_over_budget_are_pulled_each_by_the_scale(unit):
    data = rows()
    value, slopes = value_and_slopes({"name": "budget", "delta": 0.2, "unit": unit, "scale": 0.7}, data)
    allowed = 0.2 * (data["chosen_tokens"] if unit == "token" else 1.0)
    over = data["ref_chosen"] - data["chosen"] > allowed
    assert 0 < int(over.sum()) < len(over)
    torch.testing.assert_close(slopes["chosen"], torch.where(over, -0.7, 0.0).to(torch.float64))
    excess = data["ref_chosen"] - data["chosen"] - allowed
    torch.testing.assert_close(value, torch.where(over, 0.7 * excess, 0.0))


def test_no_budget_is_the_dpop_hinge_outside():
    data = rows()
    zero = value_and_slopes({"name": "budget", "delta": 0.0, "scale": 0.4}, data)[0]
    assert torch.equal(zero, value_and_slopes({"name": "dpop_outside", "scale": 0.4}, data)[0])


def test_hinge_always_on_is_the_summed_nll():
    data = rows()
    data["ref_chosen"] = data["chosen"] + 100.0
    budget = value_and_slopes({"name": "budget", "delta": 0.1, "scale": 0.4}, data)
    nll = value_and_slopes({"name": "nll", "reduction": "sum", "scale": 0.4}, data)
    torch.testing.assert_close(budget[1]["chosen"], nll[1]["chosen"])
    shift = budget[0] - nll[0]
    constant = 0.4 * (data["ref_chosen"] - 0.1 * data["chosen_tokens"])
    torch.testing.assert_close(shift, constant)


def test_inside_is_the_formula_and_dpop_at_no_budget():
    data = rows()
    c, r, a, b = (data[name] for name in ("chosen", "rejected", "ref_chosen", "ref_rejected"))
    spec = [{"name": "dpo", "beta": 0.3}, {"name": "budget", "delta": 0.1, "scale": 5.0, "inside": True}]
    penalty = torch.clamp(a - c - 0.1 * data["chosen_tokens"], min=0)
    expected = torch.nn.functional.softplus(-0.3 * (c - r - a + b - 5.0 * penalty), threshold=1e9)
    torch.testing.assert_close(build_loss(spec)(data), expected, rtol=1e-12, atol=1e-12)
    spec[1]["delta"] = 0.0
    dpop = build_loss({"name": "dpop", "beta": 0.3, "lam": 5.0})(data)
    torch.testing.assert_close(build_loss(spec)(data), dpop, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("base", "scale"),
    [
        ({"name": "dpo", "beta": 0.3}, 0.6),
        ({"name": "cdpo", "beta": 0.3}, 0.6),
        ({"name": "hinge", "beta": 0.05}, 0.1),
        ({"name": "dpo", "beta": 0.3, "scale": 0.5}, 0.3),
        ({"name": "robust", "beta": 0.2, "label_smoothing": 0.25}, 2 * 0.2 * 0.75 / 0.5),
    ],
)
def test_default_scale_is_twice_the_slope(base, scale):
    assert build_loss([base, {"name": "budget"}]).terms[1].scale == pytest.approx(scale)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "hinge", "robust", "apo_zero"])
def test_declared_slope_bounds_the_measured_one(name):
    data = {
        key: value.repeat(40) * torch.linspace(0.01, 20, 480, dtype=torch.float64)
        for key, value in rows().items()
    }
    slopes = value_and_slopes({"name": name}, data)[1]["chosen"].abs()
    term = build_loss(name).terms[0]
    declared = term.loss.slope(term.hyper)
    assert float(slopes.max()) <= declared * (1 + 1e-12)
    assert float(slopes.max()) >= 0.85 * declared  # and not much too large


@pytest.mark.parametrize("base", ["simpo", "ipo", "nca_pair", {"name": "dpo", "link": "js"}])
def test_where_no_slope_is_known_the_scale_is_asked_for(base):
    with pytest.raises(PrefoptError, match="give `scale`"):
        build_loss([base, "budget"])
    with pytest.raises(PrefoptError, match="alone has no default scale"):
        build_loss("budget")


# ---- a toy: a bigram policy, answers that differ in 6 of 30 tokens, so that DPO pulls both down


def toy_logp(table, ids):
    return torch.log_softmax(table, -1)[ids[:, :-1], ids[:, 1:]].sum(-1)


def train_toy(spec, pairs=12, vocab=20, steps=300, lr=0.05, seed=0):
    """Worst drop of a chosen answer per token, and the mean margin, after training on `spec`."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, vocab, (pairs, TOKENS + 1))
    rejected = chosen.copy()
    for k in range(pairs):
        rejected[k, rng.choice(np.arange(1, TOKENS + 1), 6, replace=False)] = rng.integers(0, vocab, 6)
    chosen, rejected = torch.tensor(chosen), torch.tensor(rejected)
    table = torch.tensor(rng.normal(size=(vocab, vocab)), requires_grad=True)
    with torch.no_grad():
        fixed = {"ref_chosen": toy_logp(table, chosen), "ref_rejected": toy_logp(table, rejected)}
    fixed |= {name: torch.full((pairs,), float(TOKENS)) for name in ("chosen_tokens", "rejected_tokens")}
    loss, adam = build_loss(spec), torch.optim.Adam([table])
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * (1 - step / steps)
        adam.zero_grad()
        now = {"chosen": toy_logp(table, chosen), "rejected": toy_logp(table, rejected)}
        loss(now | fixed).mean().backward()
        adam.step()
    with torch.no_grad():
        r_w = toy_logp(table, chosen) - fixed["ref_chosen"]
        r_l = toy_logp(table, rejected) - fixed["ref_rejected"]
    return float((-r_w).max()) / TOKENS, float((r_w - r_l).mean())


def test_toy_keeps_its_budget_and_the_margin_grows_with_it():
    free_drop, free_margin = train_toy("dpo")
    margins = []
    for delta in (0.05, 0.2, 0.8):
        drop, margin = train_toy(["dpo", {"name": "budget", "delta": delta}])
        assert drop <= 1.2 * delta
        margins.append(margin)
    assert free_drop > 0.8  # without a budget the chosen answers do fall
    assert margins == sorted(margins)
    assert margins[-1] < free_margin


@pytest.mark.parametrize("link", ["js", "forward_kl", {"name": "alpha", "alpha": 0.4}])
@pytest.mark.parametrize("base", ["dpo", "cdpo", "hinge", "discopop"])
def test_inside_takes_the_penalty_from_h_whatever_the_link(base, link):
    data = rows()
    spec = [{"name": base, "link": link}, {"name": "budget", "delta": 0.05, "scale": 0.7, "inside": True}]
    found, _ = value_and_slopes(spec, data)
    fall = torch.relu(data["ref_chosen"] - data["chosen"] - 0.05 * data["chosen_tokens"])
    h = score(data["chosen"] - data["ref_chosen"], link) - score(
        data["rejected"] - data["ref_rejected"], link
    )
    zero = torch.zeros_like(h)
    wanted = build_loss(base)(
        {"chosen": h - 0.7 * fall, "rejected": zero, "ref_chosen": zero, "ref_rejected": zero}
    )
    assert (fall > 0).any()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("link", [*LINKS, {"name": "alpha", "alpha": -0.7}])
def test_links_begin_at_0(link):
    """At pi = ref every score is 0 and its slope 1, but for Jensen-Shannon, whose f is half as curved."""
    ratio = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    found = score(ratio, link)
    found.sum().backward()
    assert found.item() == pytest.approx(0.0, abs=1e-12)
    assert ratio.grad.item() == pytest.approx(0.5 if link == "js" else 1.0)


def test_inside_has_no_default_scale_where_the_links_slope_has_no_bound():
    budget = {"name": "budget", "inside": True}
    with pytest.raises(PrefoptError, match="give `scale`"):
        build_loss([{"name": "dpo", "link": "forward_kl"}, budget])
    assert build_loss([{"name": "dpo", "link": "js"}, budget]).terms[0].inside[0].scale == 2.0
