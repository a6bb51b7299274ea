import numpy as np
import pytest

from cvfp_jax.scaling.analysis import analyse_group
from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.laws import ALL_LAWS
from cvfp_jax.scaling.limits import Limits
from cvfp_jax.scaling.points import Group

X = np.geomspace(100, 100_000, 9)
NOISE = np.exp(0.02 * np.random.default_rng(3).normal(size=9))
# Stack Overflow, question 16107884: whose best floor is below zero.
R = [0.015, 0.025, 0.035, 0.045, 0.055, 0.065, 0.075, 0.085, 0.095, 0.125, 0.175, 0.225, 0.275]
FALLEN = [5.6283728, 4.6240797, 3.7366643, 3.0668203, 2.5751866, 2.0815064, 1.7152655, 1.4686236, 1.2501921,
          0.8017831, 0.4337243, 0.2601231, 0.1939619]  # fmt: skip


@pytest.mark.parametrize(
    ("law", "name"),
    [("saturating", "ppl_min"), ("saturating", "A"), ("saturating", "a"), ("power", "A"), ("ceiling", "A"),
     ("variable_exponent", "a0"), ("hill", "h")],
)  # fmt: skip
def test_a_parameter_fixed_at_its_optimum_changes_nothing_else(law, name):
    y = (5 - 8 * X**-0.3 if law in ("ceiling", "hill") else 2 + 50 * X**-0.5) * NOISE
    free = fit_law(law, X, y)
    fixed = fit_law(law, X, y, limits=Limits({name: free.params[name]}))
    assert (fixed.k, fixed.status) == (free.k - 1, "converged")
    assert fixed.rss_log == pytest.approx(free.rss_log, rel=1e-9)
    assert fixed.params == pytest.approx(free.params, rel=1e-4)
    assert name not in fixed.std_errors
    other = fit_law(law, X, y, limits=Limits({name: 1.1 * free.params[name]}))
    assert other.params[name] == pytest.approx(1.1 * free.params[name])
    assert other.rss_log > free.rss_log


def test_a_bound_replaces_the_laws_own():
    free = fit_law("saturating", R, FALLEN, "linear")
    assert free.params["ppl_min"] == 0
    below = fit_law("saturating", R, FALLEN, "linear", limits=Limits(bounds={"ppl_min": (-10.0, 10.0)}))
    assert below.params["ppl_min"] == pytest.approx(-3.465, abs=1e-3)
    held = fit_law("saturating", R, FALLEN, "linear", limits=Limits(bounds={"ppl_min": (-2.0, 10.0)}))
    assert held.status == "on a bound: ppl_min = -2"


def test_a_fixed_parameter_has_no_interval_and_leaves_the_bootstrap_alone():
    group = Group("a", tuple(X), tuple((2 + 50 * X**-0.5) * NOISE))
    (row,) = analyse_group(group, ["saturating"], draws=50, limits=Limits({"ppl_min": 2.0})).rows
    assert row["intervals"]["ppl_min"] is None
    assert row["bootstrap_intervals"]["ppl_min"] == pytest.approx([2.0, 2.0])
    low, high = row["intervals"]["a"]
    assert low < row["params"]["a"] < high


def test_two_fixed_parameters_leave_a_line_through_one_size():
    fit = fit_law("saturating", [10.0, 20.0], [3.0, 2.5], limits=Limits({"ppl_min": 2.0, "A": 10.0}))
    assert (fit.k, fit.params["a"]) == (1, pytest.approx(1.0))


def test_what_cannot_be_limited_is_an_error():
    with pytest.raises(ValueError, match="B of log_linear can be neither fixed nor bounded"):
        fit_law("log_linear", X, NOISE, limits=Limits({"B": 1.0}))
    assert fit_law("power", X, NOISE, limits=Limits({"nothing": 1.0})).k == 2


def test_weights_are_those_of_errors():
    y = ALL_LAWS["power"].value({"A": 50.0, "a": 0.5}, X) * NOISE
    sigma = np.where(np.arange(9) % 2, 1e6, 0.01) * y
    some = fit_law("power", X[::2], y[::2])
    every = fit_law("power", X, y, sigma=sigma)
    assert every.params == pytest.approx(some.params, rel=1e-6)
    flat = fit_law("constant", X, y, "linear", sigma=1 + X)
    assert flat.params["A"] == pytest.approx(np.average(y, weights=(1 + X) ** -2.0), rel=1e-9)
    even = fit_law("saturating", X, y, sigma=0.3 * y)
    plain = fit_law("saturating", X, y)
    assert even.params == pytest.approx(plain.params, rel=1e-9)
    assert even.aic == pytest.approx(plain.aic, rel=1e-9)
    with pytest.raises(ValueError, match="errors of shape"):
        fit_law("power", X, y, sigma=[1.0])
