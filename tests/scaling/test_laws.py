import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.scaling.laws import LAWS

EXAMPLES = {
    "power": {"A": 5e4, "a": 0.45},
    "saturating": {"ppl_min": 80.5, "A": 3167.7, "a": 0.558},
    "log_corrected": {"A": 3000.0, "a": 0.3, "b": 0.5},
    "exponential_decay": {"ppl_min": 132.5, "A": 473.4, "b": 0.0576, "c": 0.6},
    "variable_exponent": {"A": 5058.0, "a0": 0.768, "a1": 0.037},
    "constant": {"A": 7.0},
    "log_linear": {"A": 900.0, "B": 60.0},
}


def test_there_are_r5s_five_laws_and_two_baselines():
    assert list(LAWS) == list(EXAMPLES)
    assert {name: law.k for name, law in LAWS.items()} == {
        "power": 2, "saturating": 3, "log_corrected": 3, "exponential_decay": 4, "variable_exponent": 3,
        "constant": 1, "log_linear": 2,
    }  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=30, deadline=None)
@given(x=st.floats(2.0, 1e5))
def test_the_local_exponent_is_the_slope_of_the_logarithms(name, x):
    law, params = LAWS[name], EXAMPLES[name]
    step = 1e-5
    y = law.value(params, x * np.exp([-step, step]))
    if (y > 0).all():
        slope = -np.diff(np.log(y))[0] / (2 * step)
        assert law.local_exponent(params, np.array([x]))[0] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_r5s_printed_exponents_are_not_the_slopes():
    # a0 - a1 ln n, which R5 printed, is .597, .545 and .494.
    slopes = LAWS["variable_exponent"].local_exponent(
        {"A": 1.0, "a0": 0.768311, "a1": 0.0372129}, np.array([100.0, 400, 1600])
    )
    assert np.round(slopes, 3).tolist() == [0.426, 0.322, 0.219]


@pytest.mark.parametrize(
    ("name", "changes", "limit"),
    [
        ("power", {}, 0.0),
        ("power", {"a": 0.0}, 5e4),
        ("power", {"a": -0.1}, math.inf),
        ("saturating", {}, 80.5),
        ("saturating", {"a": 0.0}, 80.5 + 3167.7),
        ("log_corrected", {}, 0.0),
        ("log_corrected", {"a": 0.0, "b": -1.0}, 0.0),
        ("log_corrected", {"a": 0.0, "b": 0.0}, 3000.0),
        ("log_corrected", {"a": 0.0}, math.inf),
        ("exponential_decay", {}, 132.5),
        ("variable_exponent", {}, math.inf),
        ("variable_exponent", {"a1": -0.01}, 0.0),
        ("variable_exponent", {"a1": 0.0}, 0.0),
        ("constant", {}, 7.0),
        ("log_linear", {}, -math.inf),
        ("log_linear", {"B": 0.0}, 900.0),
    ],
)
def test_the_limit_is_where_the_law_goes(name, changes, limit):
    params = EXAMPLES[name] | changes
    assert LAWS[name].limit(params) == limit
    with np.errstate(over="ignore", under="ignore"):
        near, far = LAWS[name].value(params, np.array([1e30, 1e300]))
    if math.isfinite(limit):
        assert abs(far - limit) <= abs(near - limit)
    else:
        assert far * math.copysign(1, limit) > near * math.copysign(1, limit)


def test_only_the_log_corrected_law_depends_on_the_unit_of_x():
    assert [name for name, law in LAWS.items() if not law.unit_free] == ["log_corrected"]
