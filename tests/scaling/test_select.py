import math
import time

import numpy as np
import pytest

from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.line import log_line
from cvfp_jax.scaling.objectives import OBJECTIVES
from cvfp_jax.scaling.select import akaike_weights, hold_out, leave_one_out, select
from tests.tiers import cases

X = (100, 200, 400, 800, 1600)
PPL = (321.4, 253.1, 186.0, 155.8, 134.7)  # R5
WIDE = np.geomspace(100, 100_000, 10)


def fits(x, y, objective="log"):
    return [fit_law(law, x, y, objective) for law in LAWS]


def drawn(law, params, seed, spread=0.01):
    return LAWS[law].value(params, WIDE) * np.exp(spread * np.random.default_rng(seed).normal(size=len(WIDE)))


def test_leaving_one_out_is_fitting_without_it():
    errors = []
    for gone in range(len(X)):
        rest = [i for i in range(len(X)) if i != gone]
        line = log_line([X[i] for i in rest], [math.log(PPL[i]) for i in rest])
        errors.append(math.log(line.predict(X[gone]) / PPL[gone]))
    assert leave_one_out(fit_law("power", X, PPL)) == pytest.approx(
        np.sqrt(np.mean(np.square(errors))), rel=1e-8
    )


@pytest.mark.parametrize(
    ("law", "objective"), [("variable_exponent", "log"), ("constant", "linear"), ("log_linear", "linear")]
)
def test_leverages_are_refits(law, objective):
    random = np.random.default_rng(5)
    x = np.repeat(WIDE, 2)[:-3]
    y = 500 * x**-0.2 * np.exp(0.05 * random.normal(size=len(x)))
    sigma = y * random.uniform(0.5, 2, len(x))
    fit = fit_law(law, x, y, objective, sigma=sigma)
    errors = []
    for size in np.unique(x):
        rest = x != size
        without = fit_law(law, x[rest], y[rest], objective, sigma=sigma[rest])
        errors += np.log(without.predict(x[~rest]) / y[~rest]).tolist()
    assert leave_one_out(fit) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-7)


def test_equal_hold_outs_decide_nothing_in_any_unit():
    # The floor is 0 on the first six sizes, so that both laws predict the same.
    y = (10, 8.2, 6.7, 5.45, 4.4, 3.55, 3.0, 2.7, 2.5)
    x = 1000 * 2.0 ** np.arange(9)
    found = [
        select([fit_law(law, unit * x, y) for law in ("power", "saturating")]) for unit in (1, 1e6, 1e-3)
    ]
    assert len({each.verdict for each in found}) == 1
    hold_outs = found[0].holdout
    assert hold_outs["power"] == pytest.approx(hold_outs["saturating"], rel=1e-6)


def test_the_noise_counts_as_a_parameter():
    # Six losses against operations: AICc without the noise spoke for the floor, by 15.6.
    x, y = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20), (3.522, 3.339, 3.154, 3.0, 2.848, 2.725)
    power, saturating = (fit_law(law, x, y).aicc for law in ("power", "saturating"))
    assert saturating - power == pytest.approx(4.4, abs=0.05)


@pytest.mark.slow
def test_fifty_thousand_points_take_seconds():
    x = 100.0 * np.arange(1, 50_001)
    y = (1.8 + 20 * x**-0.3) * (1 + 0.02 * (np.random.default_rng(0).random(50_000) - 0.5))
    start = time.perf_counter()
    found = select(fits(x, y))
    assert time.perf_counter() - start < 30
    assert found.standing == ("saturating",)
    assert "over 2,000 sizes" in found.notes[0]
    assert math.isfinite(found.loo["power"])


def test_replicates_are_left_out_together():
    x, y = [10, 10, 100, 100, 1000, 1000], [8.0, 8.0, 4.0, 4.0, 9.0, 9.0]
    single = leave_one_out(fit_law("power", x[::2], y[::2]))
    assert leave_one_out(fit_law("power", x, y)) == pytest.approx(single, rel=1e-8)


def test_the_largest_sizes_are_held_out():
    error, naive, sizes = hold_out(fit_law("power", X, PPL))
    line = log_line(X[:4], np.log(PPL[:4]).tolist())
    assert sizes == (1600.0,)
    assert error == pytest.approx(abs(math.log(line.predict(1600) / PPL[4])), rel=1e-8)
    assert naive == pytest.approx(math.log(PPL[3] / PPL[4]))
    assert hold_out(fit_law("power", WIDE, WIDE**-0.5))[2] == tuple(WIDE[-3:])


def test_too_few_points_have_no_test():
    fit = fit_law("exponential_decay", X, PPL)
    assert math.isfinite(hold_out(fit)[0])
    three = fit_law("saturating", X[:4], PPL[:4])
    assert math.isfinite(hold_out(three)[0])
    none = fit_law("saturating", X[:3], PPL[:3])
    assert math.isnan(hold_out(none)[0])
    assert math.isnan(leave_one_out(none))


def test_akaike_weights_are_relative_likelihoods():
    weights = akaike_weights({"a": -10.0, "b": -6.0, "c": math.nan})
    assert weights == pytest.approx({"a": 1 / (1 + math.exp(-2)), "b": math.exp(-2) / (1 + math.exp(-2))})
    assert akaike_weights({"a": math.nan, "b": 1.0}) == {}


def test_r5s_five_points_cannot_decide():
    found = select(fits(X, PPL))
    assert found.verdict == (
        "These points cannot decide between constant, power, saturating, variable_exponent and"
        " exponential_decay. Only power, saturating, variable_exponent and exponential_decay predict the"
        " largest sizes better than the last size's value does; of these the simplest is power."
    )
    # AICc is undefined: 3 and 4 parameters, and the spread of the noise, on 5 points.
    assert found.weights.keys() == {"constant", "power", "log_linear"}
    assert sum(found.weights.values()) == pytest.approx(1.0)


def test_a_clear_case_is_decided():
    found = select(fits(WIDE, drawn("saturating", {"ppl_min": 80.0, "A": 4e4, "a": 0.9}, 1)))
    assert found.verdict.startswith("These points speak for saturating: ")
    flat = select(fits(WIDE, drawn("constant", {"A": 100.0}, 2)))
    assert flat.verdict == (
        "These points cannot decide between constant, power, log_linear, saturating, variable_exponent and"
        " exponential_decay. Only constant, saturating and exponential_decay predict the largest sizes better"
        " than the last size's value does; of these the simplest is constant."
    )


def test_of_three_points_that_fall_the_simplest_law_that_predicts_is_named():
    # A constant alone has an AICc, which is no evidence for it.
    found = select(fits([1e5, 2e5, 4e5], [5.0, 4.0, 3.3]))
    assert found.weights == {}
    assert found.verdict == (
        "These points cannot decide between constant, power and log_linear. Only power and log_linear"
        " predict the largest sizes better than the last size's value does; of these the simplest are"
        " power and log_linear."
    )


def test_a_law_is_not_dismissed_for_having_more_parameters_than_points_can_judge():
    # AICc's correction takes over 12 from each law of three parameters on five points, whatever they say.
    excluded = 0
    x = 1.2e5 * 2.0 ** np.arange(5)
    u = np.log(x) - 13
    for seed in range(8):
        noise = 0.04 * np.random.default_rng(seed).normal(size=5)
        y = 200 * np.exp(-0.32 * u + 0.05 * u**2 + noise)  # a variable exponent
        some = [fit_law(law, x, y) for law in ("power", "saturating", "variable_exponent", "log_linear")]
        found = select(some)
        if found.verdict.startswith("These points cannot"):
            assert "variable_exponent" in found.verdict
        excluded += found.verdict.startswith("These points speak") and "variable" not in found.verdict
    assert excluded == 0


def test_a_law_that_predicts_no_better_than_the_last_value_is_said_so():
    y = [400.0, 200.0, 100.0, 100.1, 100.2, 100.0]
    verdict = select([fit_law(law, (*X, 3200), y) for law in ("power", "log_linear")]).verdict
    assert verdict.startswith("No law predicts the largest sizes better")
    assert "the last size's value" in verdict


def test_two_points_are_too_few_for_a_test():
    power = [fit_law("power", X[:2], PPL[:2])]
    assert select(power).verdict == "These points are too few to fit a law and to test it."
    verdict = select(fits(X[:2], PPL[:2])).verdict
    assert verdict.startswith("Constant, the only law to judge, predicts the largest sizes with")
    assert verdict.endswith("there is nothing to decide between.")


@pytest.mark.parametrize("objective", cases(OBJECTIVES, fast=["linear", "log"]))
@pytest.mark.parametrize(
    ("unit", "y"), [(1e-6, PPL[::-1]), (1257.82, (321.4, 200.0, 150.0, 145.0, 144.0))], ids=["rises", "bends"]
)
def test_the_unit_of_x_does_not_change_a_verdict(objective, unit, y):
    one, other = select(fits(X, y, objective)), select(fits(np.multiply(X, unit), y, objective))
    assert other.verdict == one.verdict
    for name in one.weights:
        assert other.weights[name] == pytest.approx(one.weights[name], rel=1e-4, abs=1e-9)


def test_a_law_that_depends_on_the_unit_takes_no_part():
    found = select(fits(X, PPL))
    assert "log_corrected" in found.loo
    assert "log_corrected" not in found.weights
    assert "log_corrected" not in found.verdict
