import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.line import log_line
from cvfp_jax.scaling.profile import profile_intervals

X = (100, 200, 400, 800, 1600)
PPL = (321.4, 253.1, 186.0, 155.8, 134.7)  # R5
WIDE = np.geomspace(100, 100_000, 10)


@settings(max_examples=15, deadline=None)
@given(
    log_y=st.lists(st.floats(-3, 7), min_size=4, max_size=9).filter(lambda y: np.ptp(y) > 0.1),
    at=st.floats(1.0, 1e6),
)
def test_a_power_law_has_the_exact_intervals(log_y, at):
    x = 50.0 * 2.0 ** np.arange(len(log_y))
    line, fit = log_line(x.tolist(), log_y), fit_law("power", x, np.exp(log_y))
    exponent, value = profile_intervals(fit, ["a"], [at])
    high, low = line.alpha_interval()
    assert (-exponent.low, -exponent.high) == pytest.approx((low, high), rel=1e-4, abs=1e-4)
    assert (math.log(value.low), math.log(value.high)) == pytest.approx(
        np.log(line.interval(at, new=False)).tolist(), rel=1e-4, abs=1e-3
    )


def profile_by_hand(t):
    """The interval of a saturating law's exponent, its linear parameters in closed form for each value."""
    x, y = np.asarray(X, float), np.asarray(PPL)

    def rss(a):
        return optimize.nnls(np.stack([np.ones_like(x), x**-a], axis=1), y)[1] ** 2

    best = optimize.minimize_scalar(rss, bounds=(0.3, 1.0), method="bounded", options={"xatol": 1e-12})
    limit = best.fun * (1 + t**2 / (len(x) - 3))
    return [optimize.brentq(lambda a: rss(a) - limit, best.x, end) for end in (0.05, 5.0)]


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_a_saturating_laws_interval_is_that_of_its_likelihood(level):
    fit = fit_law("saturating", X, PPL, "linear")
    (found,) = profile_intervals(fit, ["a"], level=level)
    assert [found.low, found.high] == pytest.approx(
        profile_by_hand(stats.t.ppf(0.5 + level / 2, 2)), rel=1e-4
    )


def test_an_interval_ends_at_the_bound_that_the_points_do_not_exclude():
    (floor,) = profile_intervals(fit_law("saturating", X, PPL), ["ppl_min"])
    assert floor.low == 0.0
    assert 92 < floor.high < max(PPL)


@pytest.mark.parametrize("law", ["power", "saturating", "variable_exponent", "log_linear"])
@pytest.mark.parametrize("objective", ["log", "linear"])
def test_intervals_hold_their_estimates_and_widen_with_the_level(law, objective):
    random = np.random.default_rng(4)
    y = LAWS["saturating"].value({"ppl_min": 60.0, "A": 4e4, "a": 0.7}, WIDE) * np.exp(
        0.02 * random.normal(size=10)
    )
    fit = fit_law(law, WIDE, y, objective)
    values = [*fit.params.values(), *fit.predict([300.0, 2e5])]
    narrow, wide = (profile_intervals(fit, fit.law.names, [300.0, 2e5], level) for level in (0.5, 0.95))
    for value, inner, outer in zip(values, narrow, wide, strict=True):
        if inner is None:  # a prediction below zero has no logarithm
            assert value <= 0
            continue
        assert outer.low <= inner.low <= value <= inner.high <= outer.high


def test_the_unit_of_x_only_scales():
    fit, other = fit_law("saturating", X, PPL), fit_law("saturating", np.multiply(X, 1257.82), PPL)
    for one, same in zip(
        profile_intervals(fit, ["ppl_min", "a"], [5000.0]),
        profile_intervals(other, ["ppl_min", "a"], [5000.0 * 1257.82]),
        strict=True,
    ):
        assert (same.low, same.high) == pytest.approx((one.low, one.high), rel=1e-4, abs=1e-9)


def test_points_on_the_law_leave_nothing_open():
    fit = fit_law("power", X, [1000 * x**-0.5 for x in X])
    (found,) = profile_intervals(fit, ["a"])
    assert found.low == pytest.approx(0.5) == found.high


def test_there_is_no_interval_without_a_fit_or_a_square():
    assert profile_intervals(fit_law("power", X[:2], PPL[:2]), ["a"], [1e4]) == [None, None]
    assert profile_intervals(fit_law("power", X, PPL, "huber"), ["a"]) == [None]
    assert profile_intervals(fit_law("power", X, PPL)) == []


@pytest.mark.slow
def test_intervals_of_95_per_cent_hold_the_truth_in_93_to_97():
    law, params, names = LAWS["saturating"], {"ppl_min": 60.0, "A": 4e4, "a": 0.7}, ["a"]
    random, far, repeats = np.random.default_rng(7), 1e6, 1000
    truth = np.array([*(params[name] for name in names), law.value(params, np.array([far]))[0]])
    held = np.zeros(len(truth))
    for _ in range(repeats):
        y = law.value(params, WIDE) * np.exp(0.02 * random.normal(size=len(WIDE)))
        found = profile_intervals(fit_law(law.name, WIDE, y), names, [far])
        held += [end.low <= value <= end.high for end, value in zip(found, truth, strict=True)]
    assert np.all((held >= 0.93 * repeats) & (held <= 0.97 * repeats)), held / repeats
