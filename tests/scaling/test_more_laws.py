"""The laws that are fitted where they are asked for, and the verdict on measures that rise, turn or bend."""

import numpy as np
import pytest

from cvfp_jax.scaling.analysis import analyse_group, laws_for
from cvfp_jax.scaling.coordinates import SHAPES
from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.laws import ALL_LAWS, LAWS
from cvfp_jax.scaling.objectives import OBJECTIVES
from cvfp_jax.scaling.points import Group
from cvfp_jax.scaling.residuals import serial_correlation_p

X = np.geomspace(1e3, 1e9, 25)
TRUE = {
    "broken": {"ppl_min": 0.3, "A": 20.0, "c0": 0.05, "c1": 0.45, "d": 1e6, "f": 0.3},
    "ceiling": {"ceiling": 0.9, "A": 5.0, "a": 0.3},
    "hill": {"ceiling": 0.9, "h": 1e5, "a": 0.5},
}
D = (1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7, 6.4e7)
ACCURACY = (0.31, 0.42, 0.55, 0.66, 0.74, 0.8, 0.835)


@pytest.mark.parametrize("law", TRUE)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_law_without_noise_comes_back(law, objective):
    fit = fit_law(law, X, ALL_LAWS[law].value(TRUE[law], X), objective)
    assert fit.params == pytest.approx(TRUE[law], rel=1e-5)
    assert fit.predict(1e12) == pytest.approx(ALL_LAWS[law].value(TRUE[law], np.array([1e12])), rel=1e-6)


@pytest.mark.parametrize("law", TRUE)
def test_slopes_are_those_of_the_values(law):
    h = 1e-5
    near = np.log(
        ALL_LAWS[law].value(TRUE[law], X * np.exp(h)) / ALL_LAWS[law].value(TRUE[law], X * np.exp(-h))
    )
    assert ALL_LAWS[law].local_exponent(TRUE[law], X) == pytest.approx(-near / (2 * h), rel=1e-5, abs=1e-9)
    shape = SHAPES[law]
    theta = shape.grid[len(shape.grid) // 2 :][:1] + 0.03
    u = np.linspace(-3, 3, 7)
    g, slopes = shape.value(theta, u, 1.0)
    assert shape.value(theta, np.zeros(1), 1.0)[0] == pytest.approx(1.0)
    for n in range(theta.shape[1]):
        moved = [shape.value(theta + sign * h * np.eye(theta.shape[1])[n], u, 1.0)[0] for sign in (1, -1)]
        assert slopes[..., n] == pytest.approx((moved[0] - moved[1]) / (2 * h), rel=1e-4, abs=1e-8 * g.max())


@pytest.mark.slow
def test_an_accuracy_rises_to_a_ceiling():
    group = Group("accuracy", D, ACCURACY)
    assert laws_for(group) == (*LAWS, "ceiling", "hill")
    found = analyse_group(group, laws_for(group), predict=[1e9], draws=0)
    assert "variable_exponent" in found.selection.turning
    assert "Variable_exponent is refused: it turns round at" in found.selection.verdict
    assert found.selection.standing == ("hill",)
    (hill,) = (row for row in found.rows if row["law"] == "hill")
    assert 0.835 < hill["predictions"][0]["y"] < 1
    few = analyse_group(
        group, ["power", "saturating", "log_linear", "variable_exponent"], predict=[1e9], draws=0
    )
    assert "speak for" not in few.selection.verdict
    near = analyse_group(group, ["variable_exponent", "power"], draws=0)
    assert "refused" not in near.selection.verdict


@pytest.mark.slow
def test_points_that_no_law_fits_are_said_so():
    x, y = X[::2], ALL_LAWS["broken"].value(TRUE["broken"], X[::2])
    found = analyse_group(Group("broken", tuple(x), tuple(y)), draws=0)
    assert found.selection.verdict.startswith(
        "No law here fits these points: the residuals of each run in waves"
    )
    assert found.selection.standing == ()
    found = analyse_group(Group("broken", tuple(x), tuple(y)), ["power", "saturating", "broken"], draws=0)
    assert found.selection.standing == ("broken",)


def test_the_waves_probability_is_evenly_spread_where_the_law_holds():
    random = np.random.default_rng(1)
    x = np.geomspace(1, 1e4, 9)
    found = [
        serial_correlation_p(
            fit_law("saturating", x, (1 + 9 * x**-0.5) * np.exp(0.01 * random.normal(size=9)), starts=2)
        )
        for _ in range(150)
    ]
    assert 0.4 < np.mean(found) < 0.6
    assert np.mean(np.array(found) < 0.1) < 0.18
    assert np.isnan(serial_correlation_p(fit_law("power", x[:5], x[:5])))
