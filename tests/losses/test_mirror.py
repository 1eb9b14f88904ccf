"""The members of the mirror class that are known losses, temporal awareness, and learned maps."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from prefopt.core.errors import PrefoptError
from prefopt.losses import LOSSES, build_loss, export_mirror, load_mirror
from prefopt.losses import mirror as m
from prefopt.losses.mirror_file import VERSION, fit_closed_form

rng = np.random.default_rng(3)
SUMS = [-60 * rng.random(40) - 0.1 for _ in range(4)]
MEANS = [-3 * rng.random(40) - 0.01 for _ in range(4)]


def zero_units(n, **extra):
    return {key: np.zeros((6, n)).tolist() for key in ("v", "w", "b")} | extra


LEARNED_ORPO = {"name": "learned", "a": 0.0, "c": 1.0, "d": 1.0, "units": zero_units(21)}

# spec: method | mirror hyperparameters | factor | the named loss's hyperparameters | log-probs
RECOVERIES = [
    (
        "dpo",
        {"phi_inv": lambda lx, t: 1 + lx, "g": {"name": "logistic", "beta": 0.1}},
        1.0,
        {"beta": 0.1},
        SUMS,
    ),
    (
        "dpo",
        {"phi_inv": "negative_entropy", "g": {"name": "logistic", "beta": 0.1}},
        1.0,
        {"beta": 0.1},
        SUMS,
    ),
    ("sigmoid_norm", {"g": {"name": "logistic", "beta": 2.0}}, 1.0, {"beta": 2.0}, MEANS),
    ("orpo", {"phi_inv": "log_odds", "psi": "log", "lam": 0.3, "reference": False}, 1.0, {"lam": 0.3}, MEANS),
    (
        "orpo",
        {"phi_inv": LEARNED_ORPO, "psi": "log", "lam": 0.3, "reference": False},
        1.0,
        {"lam": 0.3},
        MEANS,
    ),
    (
        "orpo",
        {
            "phi_inv": LEARNED_ORPO,
            "psi": {"name": "learned", "c": 1.0, "units": zero_units(4)},
            "g": {"name": "learned", "k0": 1.0},
            "lam": 0.3,
            "reference": False,
        },
        1.0,
        {"lam": 0.3},
        MEANS,
    ),
    (
        "simpo",
        {"g": {"name": "logistic", "beta": 2.5, "gamma": 0.8}, "reference": False},
        1.0,
        {"beta": 2.5, "gamma": 0.8},
        MEANS,
    ),
    (
        "alphapo",
        {
            "phi_inv": {"name": "power", "alpha": 0.25},
            "g": {"name": "logistic", "beta": 2.5, "gamma": 1.0},
            "reference": False,
        },
        1.0,
        {},
        MEANS,
    ),
    (  # lam = 1 / alpha, and the whole alpha times: psi and g trade places
        "cpo",
        {"psi": "log", "lam": 1 / 0.4, "g": {"name": "logistic", "beta": 0.1}, "reference": False},
        0.4,
        {"beta": 0.1, "alpha": 0.4, "reduction": "sum"},
        SUMS,
    ),
    ("ipo", {"g": {"name": "square", "beta": 0.3}}, 1.0, {"beta": 0.3}, MEANS),
    ("ipo_sum", {"g": {"name": "square", "beta": 0.3}}, 1.0, {"beta": 0.3}, SUMS),
    (
        "slic_hf",
        {"psi": {"name": "log", "k": 0.2}, "g": {"name": "hinge", "delta": 1.5}, "reference": False},
        1.0,
        {"delta": 1.5, "k": 0.2},
        SUMS,
    ),
    ("hinge", {"g": {"name": "hinge", "beta": 0.1}}, 1.0, {"beta": 0.1}, SUMS),
    ("discopop", {"g": {"name": "discopop", "beta": 0.05}}, 1.0, {"beta": 0.05}, SUMS),
    (
        "cdpo",
        {"g": {"name": "logistic", "beta": 0.1, "label_smoothing": 0.2}},
        1.0,
        {"beta": 0.1, "label_smoothing": 0.2},
        SUMS,
    ),
    (
        "robust",
        {"g": {"name": "robust", "beta": 0.1, "label_smoothing": 0.2}},
        1.0,
        {"beta": 0.1, "label_smoothing": 0.2},
        SUMS,
    ),
]


@pytest.mark.parametrize("row", RECOVERIES, ids=[f"{k}-{row[0]}" for k, row in enumerate(RECOVERIES)])
def test_recovers_the_named_loss(row):
    name, parts, factor, hyper, data = row
    loss = LOSSES[name]
    named = {"chosen_tokens": np.ones(40)} | dict(
        zip(("chosen", "rejected", "ref_chosen", "ref_rejected"), data, strict=True)
    )
    expected = loss(*(named[n] for n in loss.needs), **hyper)
    got = factor * m.mirror(*data, **parts)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def naive(name, c, r, a, b):
    """The losses of the table written out with x itself, so that the two sides share no code."""
    x_w, x_l = np.exp(c), np.exp(r)
    h = c - r - a + b
    if name == "orpo":
        u = np.log(x_w / (1 - x_w)) - np.log(x_l / (1 - x_l))
        return -np.log(x_w) + 0.3 * np.log1p(np.exp(-u))
    if name == "discopop":
        v = 0.05 * h
        blend = 1 / (1 + np.exp(-v / 0.05))
        return (1 - blend) * np.log1p(np.exp(-v)) + blend * np.exp(-v)
    if name == "robust":
        return (0.8 * np.log1p(np.exp(-0.1 * h)) - 0.2 * np.log1p(np.exp(0.1 * h))) / 0.6
    return np.log1p(np.exp(-0.1 * h))


@pytest.mark.parametrize("k", [1, 3, 13, 15])
def test_recoveries_against_formulas_written_out(k):
    name, parts, factor, _, data = RECOVERIES[k]
    np.testing.assert_allclose(factor * m.mirror(*data, **parts), naive(name, *data), rtol=1e-12, atol=1e-12)


def test_tsallis_limits():
    log_x = np.linspace(-5, -0.01, 9)
    np.testing.assert_allclose(m.tsallis(log_x, 0.0, q=1.0), log_x)
    two = m.tsallis(log_x, 0.0, q=2.0)
    np.testing.assert_allclose(np.diff(two), 2 * np.diff(np.exp(log_x)), rtol=1e-12)


@pytest.mark.parametrize("name", ["negative_entropy", "euclidean", "tsallis", "log_odds", "power"])
def test_maps_increase(name):
    log_x = np.linspace(-20, -1e-6, 200)
    assert np.all(np.diff(m.apply(m.MAPS, name, log_x, 0.0)) > 0)


def random_learned(seed, q=False):
    source = np.random.default_rng(seed)
    units = {key: source.normal(size=(6, 21)) for key in ("v", "w", "b")}
    if q:
        units["q"] = source.normal(size=(6, 21))
    return {"name": "learned", "units": units, "a": 0.2, "c": 0.5, "d": 0.1}


@pytest.mark.parametrize("seed", range(4))
def test_learned_map_increases_whatever_its_raw_parameters(seed):
    log_x = np.linspace(-12, -1e-6, 300)
    assert np.all(np.diff(m.apply(m.MAPS, random_learned(seed), log_x, 0.0)) > 0)


def test_one_unit_by_hand():
    units = zero_units(1)
    units["v"][2][0], units["w"][2][0], units["b"][2][0] = 3.0, 4.0, 5.0
    got = m.learned(np.asarray([math.log(0.25)]), 0.0, units=units, c=0.0)
    assert got[0] == pytest.approx(3 * math.sqrt(4 * 0.25 + 5), rel=1e-12)


def test_raw_parameters_are_rectified_and_start_without_a_slope_of_nan():
    x = torch.tensor([-1.0, -2.0, 0.0], dtype=torch.float64, requires_grad=True)
    raw = {key: torch.zeros(6, 21, dtype=torch.float64, requires_grad=True) for key in ("v", "w", "b")}
    out = m.learned(x, 0.0, units=raw, c=1.0, d=1.0)
    out.sum().backward()
    torch.testing.assert_close(out.detach(), m.odds(x.detach(), 0.0), rtol=0, atol=0)
    assert all(bool(torch.isfinite(p.grad).all()) for p in (x, *raw.values()))
    below = {key: torch.full((6, 21), -3.0, dtype=torch.float64) for key in raw}
    torch.testing.assert_close(m.learned(x, 0.0, units=below, c=1.0, d=1.0), out, rtol=0, atol=0)


def test_gradient_reaches_the_parameters_in_jax_and_under_vmap():
    @jax.jit
    def loss(raw):
        phi = {"name": "learned", "units": raw, "c": 1.0}
        return m.mirror(*(jnp.asarray(v) for v in MEANS), phi_inv=phi).sum()

    raw = {key: jnp.ones((6, 4)) * 0.1 for key in ("v", "w", "b")}
    grads = jax.jit(jax.grad(loss))(raw)
    assert all(float(jnp.abs(g).sum()) > 0 for g in grads.values())
    population = {key: jnp.stack([value, 2 * value, 0 * value]) for key, value in raw.items()}
    stacked = jax.vmap(loss)(population)
    alone = [loss({key: value[k] for key, value in population.items()}) for k in range(3)]
    np.testing.assert_allclose(np.asarray(stacked), np.asarray(alone), rtol=1e-5)


# ---- temporal awareness


def test_coefficients_move_with_time():
    x = np.zeros(2)
    assert m.coefficient([1.0, -2.0], 0.25, x) == pytest.approx(0.5)
    assert m.coefficient([1.0, -2.0], 0.75, x) == 0.0
    assert m.coefficient(3.0, 0.9, x) == 3.0


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_hand_made_control(t):
    """J_t = (1-t) log x_w + t lam g(u)."""
    spec = {
        "name": "mirror",
        "phi_inv": "log_odds",
        "psi": {"name": "log", "k": [1, -1]},
        "lam": [0, 0.4],
        "reference": False,
    }
    loss = build_loss(spec)
    assert "progress" in loss.needs
    ones = np.ones(40)
    inputs = {"chosen": MEANS[0], "rejected": MEANS[1], "chosen_tokens": ones, "rejected_tokens": ones}
    got = loss(inputs | {"progress": np.asarray(t)})
    u = m.odds(MEANS[0], 0) - m.odds(MEANS[1], 0)
    np.testing.assert_allclose(
        got, -(1 - t) * MEANS[0] + t * 0.4 * np.log1p(np.exp(-u)), rtol=1e-12, atol=1e-12
    )


def test_units_move_with_time_by_q_of_any_sign():
    units = zero_units(1, q=[[0.0]] * 6)
    units["v"][0][0], units["w"][0][0], units["b"][0][0], units["q"] = 1.0, 1.0, 0.5, [[-2.0], *[[0.0]] * 5]
    got = m.learned(np.asarray([math.log(0.3)]), 0.25, units=units, c=0.0)
    assert got[0] == pytest.approx((0.3 + 0.5 - 0.5) ** 3)
    assert m.is_temporal({"phi_inv": {"name": "learned", "units": units}, "psi": "none", "lam": 1.0})
    assert not m.is_temporal({"phi_inv": "log_odds", "psi": "none", "lam": 1.0})


def test_needs_follow_the_hyperparameters():
    assert build_loss({"name": "mirror", "x": "sum"}).needs == (
        "chosen",
        "rejected",
        "ref_chosen",
        "ref_rejected",
    )
    free = build_loss({"name": "mirror", "reference": False})
    assert free.needs == ("chosen", "rejected", "chosen_tokens", "rejected_tokens")
    assert not free.needs_reference


def test_sum_and_mean_are_declared():
    inputs = dict(zip(("chosen", "rejected", "ref_chosen", "ref_rejected"), SUMS, strict=True))
    counts = {"chosen_tokens": np.full(40, 4.0), "rejected_tokens": np.full(40, 8.0)}
    g = {"name": "logistic", "beta": 0.7}
    whole = build_loss({"name": "mirror", "x": "sum", "g": g})(inputs)
    per_token = build_loss({"name": "mirror", "g": g})(inputs | counts)
    c, r, a, b = SUMS
    np.testing.assert_allclose(whole, np.log1p(np.exp(-0.7 * (c - r - a + b))), rtol=1e-12)
    np.testing.assert_allclose(per_token, np.log1p(np.exp(-0.7 * ((c - a) / 4 - (r - b) / 8))), rtol=1e-12)
    with pytest.raises(PrefoptError, match="per token"):
        build_loss({"name": "mirror", "x": "sum", "phi_inv": {"name": "learned"}})
    assert build_loss({"name": "mirror", "g": g}).beta == 0.7


# ---- files


def learned_parts():
    return {
        "phi_inv": random_learned(5, q=True),
        "psi": {"name": "learned", "c": 0.7, "units": None},
        "g": {"name": "learned", "k0": 0.9, "k1": 0.05, "k2": 0.1},
        "lam": np.asarray([0.2, 0.5]),
        "reference": True,
    }


def test_export_and_load_give_the_same_loss(tmp_path):
    parts = learned_parts()
    path = export_mirror(tmp_path / "found.json", parts, x="mean", provenance={"seed": 3, "fitness": 0.71})
    loss = build_loss([{"name": "mirror", "file": str(path)}])
    counts = {"chosen_tokens": np.ones(40), "rejected_tokens": np.ones(40), "progress": np.asarray(0.4)}
    inputs = dict(zip(("chosen", "rejected", "ref_chosen", "ref_rejected"), MEANS, strict=True)) | counts
    expected = m.mirror(*MEANS, np.asarray(0.4), **parts)
    np.testing.assert_allclose(loss(inputs), expected, rtol=1e-12)
    as_torch = loss({key: torch.tensor(value, dtype=torch.float64) for key, value in inputs.items()})
    np.testing.assert_allclose(as_torch.numpy(), expected, rtol=1e-10)
    with jax.enable_x64(True):
        in_jax = jax.jit(loss.__call__)({key: jnp.asarray(value) for key, value in inputs.items()})
    np.testing.assert_allclose(np.asarray(in_jax), expected, rtol=1e-10)
    (shown,) = loss.describe()
    assert shown["hyperparameters"]["provenance"] == {"seed": 3, "fitness": 0.71}
    assert len(shown["hyperparameters"]["sha256"]) == 64
    assert json.dumps(shown)


def test_exported_values_are_the_rectified_ones_and_exports_are_equal(tmp_path):
    first = export_mirror(tmp_path / "a.json", learned_parts(), x="mean", provenance={})
    second = export_mirror(tmp_path / "b.json", learned_parts(), x="mean", provenance={})
    assert first.read_bytes() == second.read_bytes()
    body = json.loads(first.read_text())
    assert min(min(row) for row in body["phi_inv"]["units"]["v"]) == 0.0
    assert min(min(row) for row in body["phi_inv"]["units"]["q"]) < 0.0
    again = {key: body[key] for key in ("phi_inv", "psi", "g", "lam", "reference")}
    third = export_mirror(tmp_path / "c.json", again, x="mean", provenance={})
    assert third.read_bytes() == first.read_bytes()
    assert list(tmp_path.glob("*.partial")) == []


def test_closed_form_names_what_was_found():
    fit = fit_closed_form({"name": "learned", "a": 0.3, "c": 0.8, "d": 0.5})
    assert [fit["x"], fit["log_x"], fit["minus_log_1_minus_x"]] == pytest.approx([0.3, 0.8, 0.5], abs=1e-9)
    assert fit["rms"] < 1e-9 < fit["spread"]
    cubic = zero_units(1)
    cubic["v"][0][0] = cubic["w"][0][0] = 2.0
    assert fit_closed_form({"name": "learned", "c": 0.0, "units": cubic})["rms"] > 0.05


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": "other"}, "no loss of schema"),
        ({"version": VERSION + 1}, "update prefopt"),
        ({"version": None}, "export again"),
        ({"x": "median"}, "x = sum or mean"),
        ({"g": "logistik"}, "did you mean 'logistic'"),
        ({"phi_inv": {"name": "learned", "c": -1}}, "at least 0"),
        ({"phi_inv": {"name": "learned", "units": {"v": [[1]], "w": [[1]], "b": [[1]]}}}, "6"),
        ({"lam": "high"}, "lam = 'high'"),
        ({"reference": "yes"}, "true or false"),
    ],
)
def test_bad_files_are_told_with_their_path(tmp_path, change, says):
    path = export_mirror(tmp_path / "f.json", learned_parts(), x="mean", provenance={})
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PrefoptError, match=says) as caught:
        build_loss({"name": "mirror", "file": str(path)})
    assert "f.json" in str(caught.value)


def test_unreadable_files_are_told(tmp_path):
    with pytest.raises(PrefoptError, match="cannot be read"):
        load_mirror(tmp_path / "none.json")
    (tmp_path / "nan.json").write_text('{"schema": "prefopt.mirror", "lam": NaN}')
    with pytest.raises(PrefoptError, match="NaN is not a number"):
        load_mirror(tmp_path / "nan.json")
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(PrefoptError, match="not JSON"):
        load_mirror(tmp_path / "half.json")
    (tmp_path / "lacks.json").write_text(
        json.dumps({"schema": "prefopt.mirror", "version": VERSION, "x": "mean"})
    )
    with pytest.raises(PrefoptError, match="lacks phi_inv"):
        load_mirror(tmp_path / "lacks.json")
    with pytest.raises(PrefoptError, match="exclude each other"):
        build_loss({"name": "mirror", "file": "f.json", "lam": 1.0})
    with pytest.raises(PrefoptError, match="takes no file"):
        build_loss({"name": "dpo", "file": "f.json"})
    with pytest.raises(PrefoptError, match="not functions"):
        export_mirror(tmp_path / "f.json", {"g": lambda u: u}, x="mean", provenance={})
