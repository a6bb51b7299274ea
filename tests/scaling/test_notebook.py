import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cvfp_jax import scaling
from cvfp_jax.errors import UserError

X = np.geomspace(100, 1e5, 10)
Y = (2 + 50 * X**-0.5) * np.exp(0.01 * np.random.default_rng(0).normal(size=10))


def test_no_jax_is_imported():
    code = (
        "import sys; from cvfp_jax import scaling; f = scaling.fit('power', [1, 2, 4], [3, 2, 1.5]);"
        "f.summary(); f._repr_html_(); f.plot(); print(*sys.modules)"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"jax", "flax", "cvfp_jax.api"} & set(out.stdout.split())


def test_the_names_are_there():
    assert dir(scaling) == scaling.__all__
    assert all(getattr(scaling, name).__doc__ for name in scaling.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fti'"):
        scaling.fti  # noqa: B018


def test_a_frame_is_read_and_fitted():
    frame = pd.DataFrame({"tokens": X, "loss": Y, "arch": ["a"] * 9 + ["b"]})
    table = scaling.read(frame, x="tokens", y="loss", where="tokens<1e5")
    assert table.y.tolist() == Y[:9].tolist()
    assert "left out  1 row: not where tokens<1e5 (row 9)" in table.summary()
    fit = scaling.fit("saturating", table.x, table.y)
    assert fit.status == "converged"
    at = fit.interval(1e6)
    assert at.low < fit.predict(1e6) < at.high
    assert fit.interval("a") == fit.intervals["a"]
    assert f"ppl_min  {fit.params['ppl_min']:.6g} [" in fit.summary()
    assert "<th>ppl_min</th>" in fit._repr_html_()
    grouped = scaling.read(frame, x="tokens", y="loss", group="arch")
    assert list(grouped.groups) == ["a"]
    with pytest.raises(UserError, match="read has no argument 'wher'"):
        scaling.read(frame, x="tokens", y="loss", wher="a=b")


def test_a_plot_has_points_a_law_and_its_band():
    axes = scaling.fit("power", X, Y, "huber").plot(farthest=1e7)
    assert [len(line.get_xdata()) for line in axes.lines] == [10, 200]
    assert axes.lines[1].get_xdata()[-1] == pytest.approx(1e7)
    assert len(axes.collections) == 1
    assert scaling.fit("power", X, Y).plot(axes) is axes
    # Points in any order belong to their sizes.
    turned = scaling.fit("power", X[::-1], Y[::-1]).plot()
    assert turned.lines[0].get_ydata().tolist() == Y.tolist()


def test_limits_and_weights_reach_the_fit():
    fixed = scaling.fit("saturating", X, Y, fix={"ppl_min": 2.0})
    assert (fixed.params["ppl_min"], fixed.intervals["ppl_min"]) == (2.0, None)
    assert fixed.intervals["a"].low < 0.5 < fixed.intervals["a"].high
    with pytest.raises(UserError, match="power has no parameter 'b'"):
        scaling.fit("power", X, Y, bound={"b": (0, 1)})
    with pytest.raises(UserError, match=r"no law 'powr'.*of two variables chinchilla"):
        scaling.fit("powr", X, Y)


def test_two_variables():
    N, D = (each.ravel() for each in np.meshgrid([1e8, 1e9, 1e10], [1e9, 1e10, 1e11]))
    fit = scaling.fit("chinchilla", [N, D], 1.8 + 480 / N**0.35 + 2000 / D**0.37)
    assert fit.params["b"] == pytest.approx(0.37)
    assert fit.interval((7e10, 1.4e12)).low == pytest.approx(float(fit.predict(7e10, 1.4e12)), rel=1e-6)
    with pytest.raises(UserError, match="several variables"):
        fit.plot()


def test_a_law_of_the_users_own():
    law = scaling.OwnLaw(
        "saturating",
        "y = m + A x^-a",
        lambda x, m, A, a: m + A * x**-a,
        {"m": (0.0, np.inf), "A": (0.0, np.inf), "a": (0.0, 5.0)},
        ({"m": 1.0, "A": 10.0, "a": 0.3},),
    )
    own, ours = scaling.fit(law, X, Y), scaling.fit("saturating", X, Y)
    assert list(own.params.values()) == pytest.approx(list(ours.params.values()), rel=1e-5)
    assert own.aicc == pytest.approx(ours.aicc)
    for mine, theirs in (("m", "ppl_min"), ("a", "a")):
        assert own.interval(mine).low == pytest.approx(ours.interval(theirs).low, rel=1e-3)
    assert own.interval(1e6).high == pytest.approx(ours.interval(1e6).high, rel=1e-3)
    assert len(own.plot().lines) == 2


@pytest.mark.parametrize("law", ["power", "saturating", "variable_exponent"])
def test_many_series_are_fitted_as_each_alone(law):
    random = np.random.default_rng(1)
    series = {
        str(n): (X[n % 3 :], Y[n % 3 :] * np.exp(0.02 * random.normal(size=10 - n % 3))) for n in range(6)
    }
    found = scaling.fit_many(law, series)
    for name, (x, y) in series.items():
        assert found[name] == pytest.approx(scaling.fit(law, x, y).params, rel=1e-4)
    few = scaling.fit_many(law, {"few": (X[:2], Y[:2])})
    assert all(np.isnan(value) for value in few["few"].values())
    with pytest.raises(UserError, match="each size once"):
        scaling.fit_many(law, {"twice": ([1.0, 1.0], [1.0, 2.0])})


@pytest.mark.slow
def test_laws_are_compared():
    y = (2 + 50 * X**-0.5) * np.exp(0.01 * np.random.default_rng(2).normal(size=10))
    found = scaling.compare(X, y, predict=[1e6])
    assert "saturating" in found.selection.standing
    with pytest.raises(UserError, match="no law 'x'"):
        scaling.compare(X, Y, ["x"])
    with pytest.raises(UserError, match="finite and above 0"):
        scaling.compare([1, -1], [1, 1])
