import numpy as np
import pytest

from cvfp_jax.scaling.bootstrap import PAIRS, RESIDUAL, bootstrap
from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.profile import Interval

X = (100, 200, 400, 800, 1600)
PPL = (321.4, 253.1, 186.0, 155.8, 134.7)  # R5
WIDE = np.geomspace(100, 100_000, 10)
POWER = {"A": 5e4, "a": 0.45}


def noisy(seed, spread=0.02, x=WIDE):
    return LAWS["power"].value(POWER, x) * np.exp(spread * np.random.default_rng(seed).normal(size=len(x)))


def test_draws_are_the_same_for_the_same_seed():
    fit = fit_law("saturating", X, PPL)
    one, same, other = (bootstrap(fit, draws=50, seed=seed).params for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("objective", ["log", "linear"])
def test_residual_draws_scatter_as_the_standard_errors_say(objective):
    x = np.geomspace(100, 1e5, 40)
    y = (
        noisy(3, x=x)
        if objective == "log"
        else LAWS["power"].value(POWER, x) + np.random.default_rng(3).normal(size=40)
    )
    fit = fit_law("power", x, y, objective)
    drawn = bootstrap(fit, RESIDUAL, 1000)
    for name in ("A", "a"):
        assert drawn.std_error(name) == pytest.approx(fit.std_errors[name], rel=0.1)


def test_each_draws_own_error_is_that_of_a_fit_of_it():
    fit = fit_law("saturating", WIDE, noisy(0) + 60.0)
    drawn = bootstrap(fit, draws=30, seed=5)
    assert np.isfinite(drawn.std_errors).all()
    # The draws are around the fit, and so are their errors around its own.
    errors = np.array([fit.std_errors[name] for name in fit.law.names])
    np.testing.assert_allclose(np.median(drawn.std_errors, axis=0), errors, rtol=0.5)


def test_pairs_leave_out_what_a_draw_misses():
    fit = fit_law("exponential_decay", X, PPL)
    drawn = bootstrap(fit, PAIRS, 500)
    # A draw has all five sizes, and no more than four parameters' worth, in 5! / 5^5 of the cases.
    assert drawn.asked == 500
    assert len(drawn.params) == pytest.approx(500 * 120 / 3125, rel=0.5)


def test_pairs_draw_a_size_with_all_its_replicates():
    x = np.repeat(WIDE, 3)
    y = LAWS["power"].value(POWER, x) * np.exp(np.repeat(0.1 * np.random.default_rng(0).normal(size=10), 3))
    drawn = bootstrap(fit_law("power", x, y), PAIRS, 400)
    # Replicates that agree tell nothing new: the error is that of ten points, not of thirty.
    means = fit_law("power", WIDE, y[::3])
    assert drawn.std_error("a") == pytest.approx(means.std_errors["a"], rel=0.35)


@pytest.mark.parametrize("objective", ["log", "huber"])
def test_bands_hold_the_law_and_widen_outside_the_points(objective):
    fit = fit_law("power", WIDE, noisy(1), objective)
    x = np.array([30.0, 3000.0, 1e7])
    low, high = bootstrap(fit, draws=300).curve_interval(x)
    assert np.all((low <= fit.predict(x)) & (fit.predict(x) <= high))
    width = np.log(high / low)
    assert width[1] < width[0] < width[2]


def test_intervals_stay_within_what_the_law_allows():
    fit = fit_law("saturating", WIDE, noisy(2, 0.05))
    interval = bootstrap(fit).interval("ppl_min")
    assert 0.0 <= interval.low <= interval.high < np.inf
    # The draws reach the bounds that keep the search from steps: no ends of the points'.
    decay = bootstrap(fit_law("exponential_decay", X, PPL))
    assert decay.interval("c") == Interval(-np.inf, np.inf)
    assert decay.interval("ppl_min").low == 0.0
    # Data that rise leave a saturating law's exponent anywhere that the search lets it be.
    assert bootstrap(fit_law("saturating", X, PPL[::-1])).interval("a") == Interval(0.0, np.inf)


def test_what_has_no_residuals_is_an_error():
    with pytest.raises(ValueError, match="more points than parameters"):
        bootstrap(fit_law("power", X[:2], PPL[:2]))
    with pytest.raises(ValueError, match="no bootstrap 'jackknife'"):
        bootstrap(fit_law("power", X, PPL), "jackknife")


@pytest.mark.slow
def test_intervals_of_95_per_cent_hold_the_truth_in_93_to_97():
    repeats, held = 1000, 0
    for seed in range(repeats):
        interval = bootstrap(fit_law("power", WIDE, noisy(seed)), draws=300, seed=seed).interval("a")
        held += interval.low <= POWER["a"] <= interval.high
    assert 0.93 * repeats <= held <= 0.97 * repeats, held / repeats
