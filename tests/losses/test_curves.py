import numpy as np
import pytest

from prefopt.core.errors import PrefoptError
from prefopt.losses import curve, list_losses

MARGINS = np.linspace(-8, 8, 17) + 0.01


def test_dpo_by_its_derivative():
    value, slope = curve("dpo", MARGINS, beta=0.7)
    np.testing.assert_allclose(value, np.log1p(np.exp(-0.7 * MARGINS)), rtol=1e-9)
    np.testing.assert_allclose(slope, -0.7 / (1 + np.exp(0.7 * MARGINS)), atol=1e-8)


def test_per_token_margins():
    value, slope = curve("ipo", MARGINS, beta=0.25)
    np.testing.assert_allclose(value, (MARGINS - 2) ** 2, rtol=1e-9)
    np.testing.assert_allclose(slope, 2 * (MARGINS - 2), atol=1e-7)


def test_kto_shows_a_desired_completion():
    value, _ = curve("kto", MARGINS, beta=0.3)
    np.testing.assert_allclose(value, 1 / (1 + np.exp(0.3 * MARGINS)), rtol=1e-9)


@pytest.mark.parametrize("name", [row["name"] for row in list_losses()])
def test_every_loss_has_a_curve(name):
    value, slope = curve(name, MARGINS)
    assert value.shape == slope.shape == MARGINS.shape
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(slope))


def test_bad_margins():
    for bad in ([], [[1.0]], [np.nan]):
        with pytest.raises(PrefoptError, match="margins"):
            curve("dpo", bad)
