"""Losses of the user's: what is registered, what is checked, and that the checks find what is wrong."""

import math

import array_api_compat
import numpy as np
import pytest
import torch

from prefopt.core.errors import PrefoptError
from prefopt.core.plugins import added, digests, remove_part
from prefopt.losses import LOSSES, build_loss, list_losses, loss_of, register_loss
from prefopt.losses import table as losses_table
from prefopt.losses.added import check_loss
from prefopt.losses.ops import logsigmoid


@pytest.fixture(autouse=True)
def _tidy():
    yield
    for name in added("loss"):
        remove_part("loss", name, losses_table._BY_NAME)


def plain_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1):
    """-log s(beta h), once more."""
    return -logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected))


def torch_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1):
    return -torch.nn.functional.logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected))


@pytest.mark.parametrize("fn", [plain_dpo, torch_dpo], ids=["array-api", "torch"])
def test_a_registered_loss_is_one_of_the_losses(fn):
    assert register_loss("mine")(fn) is fn
    mine, ours = build_loss({"name": "mine", "beta": 0.3}), build_loss({"name": "dpo", "beta": 0.3})
    assert mine.needs == ours.needs
    assert mine.needs_reference
    data = {name: torch.linspace(-9.0, -1.0, 5) + k for k, name in enumerate(mine.needs)}
    torch.testing.assert_close(mine(data), ours(data))
    assert next(row for row in list_losses() if row["name"] == "mine")["hyperparameters"] == {"beta": 0.1}
    assert len(digests("loss", ["mine", "dpo"])) == 1
    assert build_loss([{"name": "mine"}, {"name": "nll", "scale": 0.1}]).describe()[0]["name"] == "mine"


def test_a_function_is_a_loss_without_a_name():
    found, wanted = build_loss(plain_dpo), build_loss("dpo")
    data = {name: torch.tensor([-3.0, -1.0]) * (k + 1) for k, name in enumerate(found.needs)}
    torch.testing.assert_close(found(data), wanted(data))
    assert build_loss([{"name": plain_dpo, "beta": 0.5, "scale": 2.0}]).terms[0].hyper["beta"] == 0.5
    assert "plain_dpo" not in LOSSES


def test_hyperparameters_of_it_are_checked():
    register_loss("mine", ranges={"beta": (0, 1)})(plain_dpo)
    with pytest.raises(PrefoptError, match=r"beta = 2\.0 is outside"):
        build_loss({"name": "mine", "beta": 2.0})
    with pytest.raises(PrefoptError, match=r"no hyperparameter 'betta'.*'beta'"):
        build_loss({"name": "mine", "betta": 0.1})


def test_ours_pass_the_checks():
    held_back = {"bco", "bco_pair"}  # their moving mean carries no slope
    for row in {id(row): row for row in LOSSES.values() if row.needs_of is None}.values():
        check_loss(row, row.name, stops_gradient=row.name in held_back)


def wrong_shape(chosen, rejected):
    return (rejected - chosen).mean()


def wrong_slope(chosen, rejected):
    return (rejected - chosen.detach()) + 0.0 * chosen


def wrong_range(chosen, rejected):
    return array_api_compat.array_namespace(chosen).exp(rejected - chosen)


def wrong_rows(chosen, rejected):
    u = rejected - chosen
    return u - array_api_compat.array_namespace(u).mean(u)


def wrong_numpy(chosen, rejected):
    u = rejected - chosen
    return u + 1.0 if isinstance(u, np.ndarray) else u


def wrong_result(chosen, rejected):
    return chosen.tolist()


def wrong_graph(chosen, rejected):
    return (rejected - chosen).detach()


def wrong_inside(chosen, rejected):
    return chosen.no_such_thing


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (wrong_shape, r"gives shape \[\] for 6 rows"),
        (wrong_slope, "slope in chosen is 0, finite differences say -1"),
        (wrong_range, "value is inf at chosen"),
        (wrong_rows, "depends on other rows.*couples='step'"),
        (wrong_numpy, "numpy gives"),
        (wrong_result, "gives a list"),
        (wrong_graph, "nothing is trained"),
        (wrong_inside, "AttributeError: 'Tensor' object has no attribute 'no_such_thing'"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(fn, says):
    with pytest.raises(PrefoptError, match=says) as error:
        register_loss("bad")(fn)
    line = fn.__code__.co_firstlineno
    place = str(error.value).split(": ")[0]
    assert place.rpartition(":")[0].endswith("test_added.py")
    assert line <= int(place.rpartition(":")[2]) <= line + 3 or fn in (wrong_result, wrong_graph)
    assert "bad" not in LOSSES


def test_declared_exceptions_pass():
    register_loss("a", valid=(-300.0, 0.0))(wrong_range)
    register_loss("b", couples="step")(wrong_rows)
    register_loss("c", stops_gradient=True)(wrong_slope)
    assert {"a", "b", "c"} <= set(LOSSES)
    assert build_loss("b").couples == "step"


def unknown_input(chosen, rejcted):
    return rejcted - chosen


def hyper_without_default(chosen, *, beta):
    return -beta * chosen


def no_policy(ref_chosen):
    return ref_chosen


def of_both(chosen, completion):
    return chosen - completion


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (unknown_input, r"reads 'rejcted', which no loss is given, did you mean 'rejected'\?"),
        (hyper_without_default, "'beta' has no default"),
        (no_policy, "nothing is trained"),
        (of_both, "both pairs and single completions"),
        (lambda *rows: rows[0], "write out what it reads"),
    ],
)
def test_signatures_that_no_loss_has(fn, says):
    with pytest.raises(PrefoptError, match=rf"test_added\.py:\d+: loss .*{says}"):
        loss_of(fn)


@pytest.mark.parametrize(
    ("about", "says"),
    [({"x": "max"}, "sum or mean"), ({"kind": "pairs"}, "pairwise"), ({"weightabel": True}, "'weightable'")],
)
def test_arguments_that_are_none(about, says):
    with pytest.raises(PrefoptError, match=says):
        register_loss("bad", **about)(plain_dpo)


def test_unpaired_losses_and_means_per_token():
    def own(completion, ref_completion, label, *, beta=0.1):
        xp = array_api_compat.array_namespace(completion)
        r = beta * (completion - ref_completion)
        return xp.where(label, -logsigmoid(r), -logsigmoid(-r))

    register_loss("own")(own)
    assert build_loss("own").kind == "unpaired"
    register_loss("per_token", x="mean")(plain_dpo)
    data = {name: torch.tensor([-8.0]) for name in ("chosen", "ref_chosen", "ref_rejected")}
    counts = {"chosen_tokens": torch.tensor([4.0]), "rejected_tokens": torch.tensor([2.0])}
    found = build_loss("per_token")({"rejected": torch.tensor([-6.0]), **data, **counts})
    assert found.item() == pytest.approx(math.log(1 + math.exp(-0.1 * (-2 + 2 + 3 - 4))))
