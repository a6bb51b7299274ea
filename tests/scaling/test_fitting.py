import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.line import log_line
from cvfp_jax.scaling.objectives import OBJECTIVES
from cvfp_jax.scaling.solve import HUBER_DELTA

X = (100, 200, 400, 800, 1600)
PPL = (321.4, 253.1, 186.0, 155.8, 134.7)  # R5
WIDE = np.geomspace(50, 20_000, 9)


def noisy(law, params, x, spread, seed):
    return LAWS[law].value(params, x) * np.exp(spread * np.random.default_rng(seed).normal(size=len(x)))


def objective_of(fit, x, y):
    """The objective once more, from the law's own formula."""
    predicted = fit.predict(x)
    if fit.objective == "linear":
        return float(np.sum((y - predicted) ** 2) / 2)
    residuals = np.abs(np.log(y) - np.log(predicted))
    if fit.objective == "log":
        return float(np.sum(residuals**2) / 2)
    inside = residuals <= HUBER_DELTA
    return float(np.sum(np.where(inside, residuals**2 / 2, HUBER_DELTA * (residuals - HUBER_DELTA / 2))))


DRAWN = {
    "power": st.fixed_dictionaries({"A": st.floats(10, 1e6), "a": st.floats(0.05, 2.0)}),
    "saturating": st.fixed_dictionaries(
        {"ppl_min": st.floats(1, 200), "A": st.floats(1e3, 1e5), "a": st.floats(0.2, 1.2)}
    ),
    "log_corrected": st.fixed_dictionaries(
        {"A": st.floats(10, 1e5), "a": st.floats(0.05, 1.0), "b": st.floats(-2.0, 2.0)}
    ),
    "exponential_decay": st.fixed_dictionaries(
        {
            "ppl_min": st.floats(20, 200),
            "A": st.floats(200, 2e3),
            "b": st.floats(0.02, 0.2),
            "c": st.floats(0.3, 0.7),
        }
    ),
    "variable_exponent": st.fixed_dictionaries(
        {"A": st.floats(10, 1e6), "a0": st.floats(0.1, 1.5), "a1": st.floats(-0.1, 0.1)}
    ),
    "constant": st.fixed_dictionaries({"A": st.floats(1e-3, 1e6)}),
    "log_linear": st.fixed_dictionaries({"A": st.floats(500, 1e3), "B": st.floats(1, 45)}),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_law_without_noise_is_recovered(law, objective, data):
    params = data.draw(DRAWN[law])
    fit = fit_law(law, WIDE, LAWS[law].value(params, WIDE), objective)
    assert fit.status == "converged"
    for name, value in params.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=8, deadline=None)
@given(
    y=st.lists(st.floats(1e-3, 1e4), min_size=2, max_size=9),
    step=st.floats(1.01, 10.0),
    first=st.floats(0.01, 1e6),
)
def test_any_points_have_a_fit_or_a_status(law, objective, y, step, first):
    x = first * step ** np.arange(len(y))
    fit = fit_law(law, x, y, objective)
    if not fit.fitted:
        assert fit.status.startswith(("too few points: ", "not defined: "))
        assert np.isnan(fit.predict(x)).all()
        return
    finite = all(math.isfinite(value) for value in fit.params.values())
    assert finite or fit.status.startswith("not identifiable")
    assert all(error > 0 for error in fit.std_errors.values())
    if fit.status in ("converged",) or fit.status.startswith("on a bound"):
        assert not math.isnan(fit.rss)


@pytest.mark.parametrize("law", ["saturating", "exponential_decay", "log_linear", "log_corrected"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_other_search_finds_less(law, objective):
    """Of twenty random starts of SciPy's simplex on the law's own formula."""
    random = np.random.default_rng(3)
    y = noisy("saturating", {"ppl_min": 60.0, "A": 4e3, "a": 0.6}, WIDE, 0.05, 1)
    fit = fit_law(law, WIDE, y, objective)
    ours = objective_of(fit, WIDE, y)

    def theirs(theta):
        params = dict(zip(LAWS[law].names, theta, strict=True))
        bounds = zip(LAWS[law].parameters, theta, strict=True)
        if any(not parameter.lower <= value <= parameter.upper for parameter, value in bounds):
            return math.inf
        with np.errstate(all="ignore"):
            tried = objective_of(_Curve(LAWS[law], params, objective), WIDE, y)
        return tried if math.isfinite(tried) else math.inf

    best = math.inf
    for _ in range(20):
        start = np.array(list(fit.params.values())) * np.exp(random.normal(size=LAWS[law].k))
        if math.isfinite(theirs(start)):
            best = min(
                best, optimize.minimize(theirs, start, method="Nelder-Mead", options={"maxiter": 800}).fun
            )
    # Huber's loss is bent a little to have one optimum.
    assert ours <= best * (1 + (1e-6 if objective == "huber" else 1e-9))


class _Curve:
    def __init__(self, law, params, objective):
        self.law, self.params, self.objective = law, params, objective

    def predict(self, x):
        return self.law.value(self.params, x)


def test_a_power_law_in_logarithms_is_the_regression():
    fit, line = fit_law("power", X, PPL), log_line(X, np.log(PPL))
    assert fit.params["a"] == pytest.approx(-line.alpha, rel=1e-10)
    assert math.log(fit.params["A"]) == pytest.approx(line.log_A, rel=1e-10)
    assert fit.std_errors["a"] == pytest.approx(line.std_err, rel=1e-8)
    assert fit.r2_log == pytest.approx(line.r2, rel=1e-10)


def test_the_standard_errors_are_scipys():
    x = np.asarray(X, float)
    names = ("ppl_min", "A", "a")
    found, covariance = optimize.curve_fit(
        lambda x, m, A, a: m + A * x**-a, x, PPL, p0=(80, 3000, 0.5), xtol=1e-14, ftol=1e-14
    )
    fit = fit_law("saturating", X, PPL, "linear")
    assert [fit.params[name] for name in names] == pytest.approx(found.tolist(), rel=1e-6)
    assert [fit.std_errors[name] for name in names] == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-4)


def test_r5s_printed_fits_are_the_optima_in_ppl():
    printed = {
        "saturating": (111.86, 21.54),
        "exponential_decay": (41.17, 18.54),
        "variable_exponent": (117.23, 21.77),
    }
    for law, (rss, aic) in printed.items():
        fit = fit_law(law, X, PPL, "linear")
        assert (round(fit.rss, 2), round(fit.aic, 2)) == (rss, aic)
    corrected = fit_law("log_corrected", X, PPL, "linear")
    assert corrected.status == "on a bound: a = 0"
    # Two free parameters, so the error of the bound one is not stated.
    assert set(corrected.std_errors) == {"A", "b"}


def test_the_criteria_are_undefined_where_points_are_too_few():
    assert math.isnan(fit_law("exponential_decay", X, PPL).aicc)
    # With the noise counted three parameters are too many for five points as well.
    assert math.isnan(fit_law("saturating", X, PPL).aicc)
    two = fit_law("power", X, PPL, "linear")
    assert two.aicc == pytest.approx(two.aic + 2 + 24)
    assert (
        fit_law("exponential_decay", X[:4], PPL[:4]).status == "too few points: 4 sizes, 5 or more are needed"
    )
    assert (
        fit_law("power", [10, 10, 100], [3.0, 2.0, 1.0]).status
        == "too few points: 2 sizes, 3 or more are needed"
    )


def test_the_log_likelihood_is_that_of_the_noise():
    x, y = np.asarray(X, float), np.asarray(PPL)
    linear, log, huber = (fit_law("power", x, y, objective) for objective in ("linear", "log", "huber"))
    r = y - linear.predict(x)
    assert linear.log_likelihood == pytest.approx(stats.norm.logpdf(r, scale=np.sqrt(np.mean(r**2))).sum())
    r = np.log(y / log.predict(x))
    normal = stats.norm.logpdf(r, scale=np.sqrt(np.mean(r**2))).sum() - np.log(y).sum()
    assert log.log_likelihood == pytest.approx(normal)
    r = np.log(y / huber.predict(x))
    laplace = stats.laplace.logpdf(r, scale=np.mean(np.abs(r))).sum() - np.log(y).sum()
    assert huber.log_likelihood == pytest.approx(laplace, abs=0.1)


def test_sizes_of_one_or_less_have_no_logarithm_to_a_power():
    assert fit_law("log_corrected", np.divide(X, 1000), PPL).status.startswith("not defined: ")
    assert fit_law("power", np.divide(X, 1000), PPL).status == "converged"


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("law", [name for name, law in LAWS.items() if law.unit_free])
def test_the_unit_changes_nothing(law, objective):
    y = noisy("saturating", {"ppl_min": 60.0, "A": 4e3, "a": 0.6}, WIDE, 0.03, 2)
    one, other = fit_law(law, WIDE, y, objective), fit_law(law, WIDE * 1257.82, y * 1e-3, objective)
    assert other.status == one.status
    if one.status.startswith("not identifiable"):  # Huber's loss can be flat at its least
        assert other.optimum.cost == pytest.approx(one.optimum.cost, rel=1e-6)
        return
    np.testing.assert_allclose(other.predict(WIDE * 1257.82), one.predict(WIDE) * 1e-3, rtol=1e-5)
    assert other.r2_log == pytest.approx(one.r2_log, rel=1e-6)


def test_data_that_rise_put_falling_laws_on_their_bounds():
    fit = fit_law("saturating", X, PPL[::-1])
    assert fit.status.startswith("on a bound: ")
    assert fit.predict(X) == pytest.approx(math.exp(np.log(PPL).mean()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("straight", X, PPL), "no law 'straight'"),
        (("power", X, PPL, "mean"), "no objective 'mean'"),
        (("power", X, PPL[:3]), "shape"),
        (("power", (0, *X[1:]), PPL), "above zero"),
        (("power", X, (math.nan, *PPL[1:])), "finite"),
    ],
)
def test_arguments_that_are_none_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_law(*arguments)


def test_a_converged_flag_is_no_optimum():
    """The Chinchilla replication's lesson: a mean of Huber losses at SciPy's tolerances stops too early."""
    x = np.geomspace(1e7, 1e11, 60)
    truth = {"ppl_min": 1.7, "A": 400.0, "a": 0.35}
    y = noisy("saturating", truth, x, 0.01, 0)

    def mean_huber(theta):
        residuals = np.log(np.exp(theta[0]) + np.exp(theta[1]) * x ** -theta[2]) - np.log(y)
        size = np.abs(residuals)
        return np.mean(np.where(size <= HUBER_DELTA, size**2 / 2, HUBER_DELTA * (size - HUBER_DELTA / 2)))

    stopped = optimize.minimize(mean_huber, (0.0, 5.0, 0.5), method="L-BFGS-B")
    assert stopped.success
    fit = fit_law("saturating", x, y, "huber")
    assert fit.status == "converged"
    ours = objective_of(fit, x, y) / len(x)
    assert ours < stopped.fun * 0.99
    assert abs(stopped.x[2] - truth["a"]) > 5 * abs(fit.params["a"] - truth["a"])
