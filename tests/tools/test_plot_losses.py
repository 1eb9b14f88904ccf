"""`prefopt losses plot`: a whole SVG, curves where they belong, mirror parts, errors in one line."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from command import command

from prefopt.core.errors import PrefoptError
from prefopt.losses import LOSSES, curve, export_mirror
from prefopt.losses.recipe import build_loss
from prefopt.tools.plot_losses import FORMS, mirror_panels, panels, plot_losses

SVG = "{http://www.w3.org/2000/svg}"


def titles(drawn: str) -> list[str]:
    root = ElementTree.fromstring(drawn)
    return [node.text or "" for node in root.iter(f"{SVG}text") if node.get("class") == "title"]


def test_it_stands_alone_and_shows_value_and_slope() -> None:
    drawn = plot_losses(["dpo", "hinge"])
    assert titles(drawn) == ["loss", "slope d loss / d margin"]
    assert not re.search(r"<script|href|url\((?!#)|@import", drawn)
    assert drawn == plot_losses(["dpo", "hinge"])
    assert "nan" not in drawn


def test_points_are_those_of_the_curve() -> None:
    value, slope = panels({"dpo": {"name": "dpo"}})
    margins = np.linspace(-60, 60, 401)
    expected = curve("dpo", margins)
    np.testing.assert_array_equal(value.lines[0].x, margins)
    np.testing.assert_array_equal(value.lines[0].y, expected[0])
    np.testing.assert_array_equal(slope.lines[0].y, expected[1])


def test_sums_and_means_have_axes_of_their_own() -> None:
    found = panels({name: {"name": name} for name in ("dpo", "simpo")})
    assert [panel.x_label for panel in found] == ["margin h, nats"] * 2 + ["margin h, nats per token"] * 2
    assert {line.colour for panel in found for line in panel.lines} == {0, 1}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_can_be_drawn(name: str) -> None:
    ElementTree.fromstring(plot_losses([name]))


def test_mirror_losses_show_their_parts_beside_known_ones(tmp_path) -> None:
    g = {"name": "logistic", "beta": 1.0}
    parts = {"phi_inv": "log_odds", "psi": "log", "g": g, "lam": 0.1, "reference": False}
    path = export_mirror(tmp_path / "found.json", parts, x="mean", provenance={})
    drawn = plot_losses(["orpo"], [path])
    assert titles(drawn)[2:] == ["phi_inv(x)", "psi(x)", "g(u)"]
    # the same member of the class: equal curves
    built = {
        "orpo": build_loss("orpo").terms[0],
        "found": build_loss({"name": "mirror", "file": str(path)}).terms[0],
    }
    for panel in mirror_panels(built, {"orpo": 0, "found": 1}):
        np.testing.assert_allclose(panel.lines[0].y, panel.lines[1].y, rtol=1e-12)
    assert titles(plot_losses(["orpo"])) == ["loss", "slope d loss / d margin"]


@pytest.mark.parametrize("name", [name for name in FORMS if name != "mirror"])
def test_known_forms_are_the_losses(name: str) -> None:
    """What is drawn of a known loss as a mirror loss has the known loss's value."""
    term = build_loss(name).terms[0]
    parts = FORMS[name](term.hyper)
    lam = term.hyper["lam"] if name == "orpo" else 1.0
    given = {"name": "mirror", "x": term.loss.x, "lam": lam, "reference": term.loss.needs_reference, **parts}
    margins = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(curve(given, margins)[0], curve(name, margins)[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("names", "says"),
    [([], "give 1 to 7 losses"), (["dop"], "unknown loss 'dop'"), (["dpo"] * 8, "give 1 to 7 losses, not 8")],
)
def test_bad_names_are_told(names: list[str], says: str) -> None:
    with pytest.raises(PrefoptError, match=says):
        plot_losses(names)


def test_the_command_lists_or_plots(tmp_path) -> None:
    listed = command("losses")
    assert listed.exit_code == 0
    assert "chipo" in listed.output
    target = tmp_path / "a" / "b.svg"
    drawn = command("losses", "plot", "dpo", "ipo", "--output", target)
    assert drawn.exit_code == 0
    assert target.read_text(encoding="utf-8") == plot_losses(["dpo", "ipo"])
