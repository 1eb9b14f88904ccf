"""The algebra of recipes: what a term may say, what the sum asks for, and how it computes."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from prefopt.core.errors import PrefoptError
from prefopt.losses import LOSSES, POSITIONAL, build_loss, discovered, find_loss, list_losses
from prefopt.losses.unpaired import z_ref

rng = np.random.default_rng(11)
N = 10
DATA = {name: -60 * rng.random(N) for name in POSITIONAL if "tokens" not in name}
DATA |= {name: rng.integers(3, 40, N).astype(float) for name in POSITIONAL if "tokens" in name}
for whole in ("chosen", "rejected", "ref_chosen", "ref_rejected"):
    DATA[f"{whole}_prefix"] = 0.6 * DATA[whole]
DATA |= {
    "label": rng.random(N) < 0.5,
    "kl": np.asarray(0.3),
    "progress": np.asarray(0.2),
    "wpo_weight": rng.random(N),
}


def test_name_mapping_and_list_are_one():
    for spec in ("dpo", {"name": "dpo"}, ["dpo"], [{"name": "dpo", "scale": 1}], ("sigmoid",)):
        np.testing.assert_array_equal(
            build_loss(spec)(DATA), LOSSES["dpo"](*(DATA[n] for n in LOSSES["dpo"].needs))
        )


def test_sum_is_the_weighted_sum_of_its_terms():
    loss = build_loss(
        [{"name": "dpo", "beta": 0.2}, {"name": "simpo", "scale": 0.5}, {"name": "nll", "scale": 2}]
    )
    assert loss.needs == (
        "chosen",
        "rejected",
        "ref_chosen",
        "ref_rejected",
        "chosen_tokens",
        "rejected_tokens",
    )
    pairs = [DATA[n] for n in ("chosen", "rejected", "ref_chosen", "ref_rejected")]
    per_token = [DATA["chosen"] / DATA["chosen_tokens"], DATA["rejected"] / DATA["rejected_tokens"]]
    expected = LOSSES["dpo"](*pairs, beta=0.2) + 0.5 * LOSSES["simpo"](*per_token) - 2 * per_token[0]
    np.testing.assert_allclose(loss(DATA), expected, rtol=1e-14)


@pytest.mark.parametrize("name", [row["name"] for row in list_losses()])
def test_the_sum_reduces_to_means_itself(name):
    loss = LOSSES[name]
    term = build_loss({"name": name, "scale": 1.0}).terms[0]
    counts = {"chosen": "chosen_tokens", "rejected": "rejected_tokens"}
    arrays = []
    for n in term.arguments:
        count = counts.get(n.removeprefix("ref_"))
        arrays.append(DATA[n] / DATA[count] if loss.x == "mean" and count else DATA[n])
    np.testing.assert_allclose(build_loss({"name": name, "scale": 1.0})(DATA), loss(*arrays), rtol=1e-14)


def test_supervised_fine_tuning_stands_alone():
    loss = build_loss([{"name": "nll"}])
    assert (loss.needs, loss.needs_reference, loss.couples, loss.kind) == (
        ("chosen", "chosen_tokens"),
        False,
        "none",
        "pairwise",
    )
    np.testing.assert_allclose(loss(DATA), -DATA["chosen"] / DATA["chosen_tokens"])
    assert build_loss("sft").describe() == loss.describe()


def test_ipo_of_sums_by_either_name():
    np.testing.assert_array_equal(build_loss({"name": "ipo", "x": "sum"})(DATA), build_loss("ipo_sum")(DATA))
    assert "chosen_tokens" in build_loss("ipo").needs
    with pytest.raises(PrefoptError, match="it takes sum"):
        build_loss({"name": "dpo", "x": "mean"})


def test_length_split():
    """ld_alpha = 1 is the loss itself, 0 the loss of the shared part; between them each log-prob is a blend."""
    plain = build_loss("dpo")(DATA)
    one = build_loss({"name": "dpo", "ld_alpha": 1.0})
    assert one.needs[4:] == ("chosen_prefix", "rejected_prefix", "ref_chosen_prefix", "ref_rejected_prefix")
    np.testing.assert_allclose(one(DATA), plain, rtol=1e-12)
    prefix = [DATA[f"{n}_prefix"] for n in LOSSES["dpo"].needs]
    np.testing.assert_allclose(
        build_loss({"name": "dpo", "ld_alpha": 0})(DATA), LOSSES["dpo"](*prefix), rtol=1e-12
    )
    half = [0.5 * (DATA[n] + DATA[f"{n}_prefix"]) for n in LOSSES["dpo"].needs]
    np.testing.assert_allclose(build_loss("ld_dpo")(DATA), LOSSES["dpo"](*half), rtol=1e-12)
    simpo = build_loss({"name": "simpo", "ld_alpha": 0.5})
    assert "ref_chosen_prefix" not in simpo.needs
    scaled = [0.8 * DATA[n] / DATA[f"{n}_tokens"] for n in ("chosen", "rejected")]
    np.testing.assert_allclose(simpo(DATA), LOSSES["simpo"](*scaled), rtol=1e-12)


def test_wpo_multiplies():
    loss = build_loss("wpo")
    assert loss.needs[-1] == "wpo_weight"
    np.testing.assert_allclose(loss(DATA), DATA["wpo_weight"] * build_loss("dpo")(DATA))


def test_couples_kind_and_weights():
    seen = {row["name"]: build_loss({"name": row["name"], "scale": 1.0}) for row in list_losses()}
    assert {n for n, loss in seen.items() if loss.couples == "step"} == {
        "kto",
        "bco",
        "bco_pair",
        "aot",
        "aot_unpaired",
        "dbaql",
        "aql",
        "aqfl",
    }
    assert {n for n, loss in seen.items() if loss.kind == "unpaired"} == {"kto", "apo_zero_unpaired", "bco"}
    assert {n for n, loss in seen.items() if not loss.weightable} == {"aot", "aot_unpaired"}
    free = {"simpo", "alphapo", "orpo", "cpo", "slic_hf", "nll"}
    free |= {row.name for row in discovered.rows() if not row.defaults["reference"]}
    assert {n for n, loss in seen.items() if not loss.needs_reference} == free


def test_coupled_losses_see_other_rows_and_the_rest_do_not():
    for row in list_losses():
        hyper = (
            {"tau": 100.0} if row["name"] in ("dbaql", "aqfl") else {}
        )  # else their sigmoids are 1 for any rows
        loss = build_loss({"name": row["name"], "scale": 1.0, **hyper})
        out = loss(DATA)
        half = {n: DATA[n][: N // 2] if DATA[n].ndim else DATA[n] for n in loss.needs}
        same = bool(np.array_equal(loss(half), out[: N // 2]))
        coupled = ("bco", "bco_pair", "aot", "aot_unpaired", "dbaql", "aql", "aqfl")
        sees = row["name"] in coupled  # kto's kl comes as an input
        assert same is not sees, row["name"]


def test_row_order_is_kept_by_all_but_the_sorting_losses():
    order = rng.permutation(N)
    for row in list_losses():
        loss = build_loss({"name": row["name"], "scale": 1.0})
        shuffled = loss({n: DATA[n][order] if DATA[n].ndim else DATA[n] for n in loss.needs})
        if loss.weightable:
            np.testing.assert_allclose(shuffled, loss(DATA)[order], rtol=1e-12)
        else:
            np.testing.assert_allclose(shuffled, loss(DATA), rtol=1e-12)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_fp32(half):
    loss = build_loss([{"name": "dpo"}, {"name": "nll", "scale": 0.1}])
    low = {n: torch.tensor(DATA[n]).to(half) for n in loss.needs}
    out = loss(low)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, loss({n: x.float() for n, x in low.items()}), rtol=0, atol=0)
    exact = loss({n: x.double() for n, x in low.items()})
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6)


def test_in_jax_under_jit_and_grad():
    loss = build_loss([{"name": "dpo"}, {"name": "budget", "scale": 0.2}, {"name": "orpo", "scale": 0.3}])
    with jax.enable_x64(True):
        given = {n: jnp.asarray(DATA[n]) for n in loss.needs}
        value = jax.jit(loss.__call__)(given)
        slopes = jax.grad(lambda d: loss(d).sum())(given)
    leaves = {n: torch.tensor(DATA[n], requires_grad=True) for n in loss.needs}
    loss(leaves).sum().backward()
    np.testing.assert_allclose(np.asarray(value), loss(DATA), rtol=1e-10)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(np.asarray(slopes[name]), leaf.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_pairs_of_terms_add_up():
    names = ["dpo", "ipo", "orpo", "cpo", "dpop", "nll"]
    for a, b in itertools.combinations(names, 2):
        both = build_loss([{"name": a, "scale": 0.3}, {"name": b, "scale": 1.7}])(DATA)
        np.testing.assert_allclose(both, 0.3 * build_loss(a)(DATA) + 1.7 * build_loss(b)(DATA), rtol=1e-12)


def test_describe_is_json_and_complete():
    spec = [
        {"name": "dpo", "beta": 0.2, "link": {"name": "alpha", "alpha": 0.3}, "ld_alpha": 0.5, "wpo": True},
        {"name": "budget", "delta": 0.05, "scale": 0.4, "inside": True},
        {"name": "mirror", "phi_inv": {"name": "tsallis", "q": 1.5}, "x": "sum", "scale": 0.1},
    ]
    with pytest.raises(PrefoptError, match="exactly one base loss"):
        build_loss(spec)
    (dpo,) = build_loss(spec[:2]).describe()
    assert dpo["hyperparameters"] == {"beta": 0.2, "link": {"name": "alpha", "alpha": 0.3}}
    assert (dpo["name"], dpo["scale"], dpo["paper"], dpo["x"]) == ("dpo", 1.0, "2305.18290", "sum")
    assert (dpo["ld_alpha"], dpo["wpo"]) == (0.5, True)
    assert dpo["inside"][0]["hyperparameters"] == {"delta": 0.05, "unit": "token"}
    assert json.loads(json.dumps([dpo])) == [dpo]
    (mirror,) = build_loss(spec[2]).describe()
    assert mirror["x"] == "sum"
    assert json.dumps(mirror)


def test_beta_for_the_reward_metric():
    assert build_loss([{"name": "nll"}, {"name": "dpo", "beta": 0.4}]).beta == 0.4
    assert build_loss("orpo").beta == 1.0


def test_z_ref_is_the_clamped_mean_without_gradient():
    policy = torch.tensor([1.0, -3.0, 5.0], requires_grad=True)
    assert float(z_ref(policy, torch.zeros(3))) == pytest.approx(1.0)
    assert float(z_ref(torch.zeros(3), policy)) == 0.0
    assert not z_ref(policy, torch.zeros(3)).requires_grad


def test_bco_with_one_kind_alone_is_finite():
    loss = build_loss("bco")
    for label in (np.ones(N, bool), np.zeros(N, bool)):
        assert np.all(np.isfinite(loss(DATA | {"label": label})))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("dppo", "did you mean 'dpo'"),
        ({"name": "dpo", "betta": 0.1}, "did you mean 'beta'"),
        ({"name": "dpo", "scal": 0.1}, "did you mean 'scale'"),
        ({"beta": 0.1}, "mapping with `name`"),
        ([], "a name, a mapping"),
        (None, "a name, a mapping"),
        (3, "a name, a mapping"),
        ([["dpo"]], "mapping with `name`"),
        ({"name": "dpo", "scale": -1}, "scale = -1"),
        ({"name": "dpo", "scale": "big"}, "scale = 'big'"),
        ({"name": "dpo", "scale": True}, "scale = True"),
        ({"name": "dpo", "ld_alpha": 1.5}, "ld_alpha = 1.5"),
        ({"name": "dpo", "wpo": "yes"}, "true or false"),
        ({"name": "dpo", "inside": True}, "for budget and dpop_outside"),
        ({"name": "dpo", "beta": 0}, "beta = 0"),
        ({"name": "dpo", "scale": 0}, "no term"),
        ({"name": "aot", "wpo": True}, "sorts its rows"),
        ({"name": "nll", "ld_alpha": 0.5}, "pairwise"),
        (["kto", "nll"], "split them"),
        (["kto", "dpo"], "split them"),
        ({"name": "simpo", "x": "sum"}, "it takes mean"),
        ({"name": "ipo", "x": "median"}, "sum or mean"),
        ([{"name": "budget", "scale": 1.0, "inside": True}], "no term with a scale above 0 outside"),
        (["dpo", "hinge", {"name": "budget", "inside": True}], "exactly one base loss"),
    ],
)
def test_bad_recipes_are_told(spec, says):
    with pytest.raises(PrefoptError, match=says):
        build_loss(spec)


def test_missing_inputs_are_named():
    with pytest.raises(PrefoptError, match="needs ref_chosen, ref_rejected"):
        build_loss("dpo")({"chosen": DATA["chosen"], "rejected": DATA["rejected"]})


def test_find_loss_and_the_listing():
    assert find_loss("rdpo") is LOSSES["robust"]
    with pytest.raises(PrefoptError, match="did you mean 'simpo'"):
        find_loss("simpoo")
    listed = list_losses()
    assert len(listed) >= 26
    assert json.dumps(listed)
    for row in listed:
        assert row["formula"]
        assert row["paper"]
        assert row["needs"] == list(LOSSES[row["name"]].needs)
        assert set(row["needs"]) <= set(POSITIONAL)


def test_the_guide_names_every_loss_and_hyperparameter():
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "losses.md").read_text(encoding="utf-8")
    text += (docs / "discovery.md").read_text(encoding="utf-8") if discovered.rows() else ""
    for row in list_losses():
        line = next((line for line in text.splitlines() if f"`{row['name']}`" in line and "|" in line), "")
        whole = (
            LOSSES[row["name"]].fn is LOSSES["mirror"].fn
        )  # of the mirror class, which has a section of its own
        assert f"`{row['name']}`" in text, row["name"]
        assert whole or all(key in line or "the same" in line for key in row["hyperparameters"]), row["name"]
        assert all(f"`{alias}`" in text for alias in row["aliases"])
