import numpy as np
import pytest

from cvfp_jax.report.law_figures import banded_law, law_figure, save_law_figures
from cvfp_jax.report.plotting import style
from cvfp_jax.scaling.analysis import analyse_group
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.line import log_line
from cvfp_jax.scaling.points import Group

X = (122_795.0, 243_000.0, 485_000.0, 960_000.0, 1_920_992.0)
PPL = (321.4, 253.1, 186.0, 155.8, 134.7)


def analysis(x=X, y=PPL, laws=("power", "saturating"), predict=(), objective="log"):
    return analyse_group(Group("g", tuple(x), tuple(y)), laws, objective, predict, draws=0)


def test_curves_are_solid_where_sizes_were_measured_and_dashed_beyond():
    found = analysis(predict=(5e4, 8e6, 1e15))
    figure = law_figure(found, "tokens", "val_ppl")
    above, below = figure.axes
    assert (above.get_ylabel(), below.get_xlabel()) == ("val_ppl", "tokens")
    assert below.get_ylabel() == "residual of ln val_ppl (%)"
    curves = above.get_lines()[1:]
    assert [line.get_linestyle() for line in curves] == ["-", "--", "--"] * 2
    spans = [(line.get_xdata()[0], line.get_xdata()[-1]) for line in curves[:3]]
    # One so far beyond the data that they could not be seen is left to the table.
    np.testing.assert_allclose(spans, [(X[0], X[-1]), (5e4, X[0]), (X[-1], 8e6)])
    for at, law in enumerate(("power", "saturating")):
        fit = found.selection.fits[law]
        for line in curves[3 * at : 3 * at + 3]:
            assert line.get_color() == style(list(LAWS).index(law))["color"]
            np.testing.assert_allclose(line.get_ydata(), fit.predict(line.get_xdata()))
        residual = below.get_lines()[at]
        np.testing.assert_allclose(residual.get_ydata(), 100 * np.log(np.array(PPL) / fit.predict(X)))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["measured", "95% band of power", "power", "saturating"]


def test_the_band_of_a_power_law_is_its_exact_one():
    (band,) = law_figure(analysis(predict=(1e7,)), "x", "y").axes[0].collections
    line = log_line(X, np.log(PPL).tolist())
    corners = band.get_paths()[0].vertices
    for size in (corners[:, 0].min(), corners[:, 0].max()):
        ends = sorted(corners[corners[:, 0] == size][:, 1])
        np.testing.assert_allclose((ends[0], ends[-1]), line.interval(size, new=False), rtol=1e-3)


@pytest.mark.parametrize(
    ("laws", "y", "banded"),
    [
        (("saturating", "power"), PPL, "power"),
        (("saturating",), PPL, "saturating"),
        (("constant", "log_corrected"), PPL, "constant"),
        (("log_corrected",), PPL, None),
        (("power", "constant"), (100.0, 90.0, 120.0, 80.0, 80.0), "power"),
    ],
)
def test_the_law_with_a_band_is_the_simplest_that_is_left(laws, y, banded):
    found = analysis(y=y, laws=laws)
    assert banded_law(found) == banded


def test_huber_has_a_band_from_draws_and_replicates_no_lines():
    x = np.repeat(X, 2)
    y = np.array(PPL).repeat(2) * np.tile([1.01, 0.99], 5)
    figure = law_figure(analysis(x, y, ("power",), objective="huber"), "x", "y")
    above, below = figure.axes
    (band,) = above.collections
    assert band.get_paths()[0].vertices[:, 0].max() == pytest.approx(2 * X[-1])
    assert below.get_lines()[0].get_linestyle() == "None"


def test_figures_are_numbered_and_said_in_words(tmp_path):
    made = save_law_figures([analysis(), analysis(X[:2], PPL[:2])], "$x^{$", "y" * 90, tmp_path, "fits")
    assert [figure.name for figure in made] == ["fits-1.png", "fits-2.png"]
    assert "5 points from 321.4 at 122,795 to 134.7 at 1,920,992" in made[0].alt
    fit = analysis().selection.fits["power"]
    assert f"power {100 * np.sqrt(fit.rss_log / 5):.2g}%" in made[0].alt
    assert "no law could be fitted" in made[1].alt
    assert "95% interval of power's" in made[0].caption
    assert "band" not in made[1].caption
    for figure in made:
        assert (tmp_path / figure.name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 1.0), (2.0, 3.8e293)],
        [(1e-300, 1.0), (1.0, 2.0), (1e300, 1e-300)],
        [(1.0, 1e300), (1 + 1e-12, 1e-300)],
        [(2.0, 3.0), (3.0, 3.0), (4.0, 3.0), (5.0, 3.0)],
        [(1e18, 3e-9), (2e18, 2e-9), (3e19, 1e-9)],
    ],
)
def test_any_points_can_be_drawn(tmp_path, points):
    x, y = zip(*points, strict=True)
    found = analysis(x, y, ("power", "log_linear"), (1e-3, 1e300))
    (made,) = save_law_figures([found], "x", "y", tmp_path, "a")
    assert (tmp_path / made.name).read_bytes().startswith(b"\x89PNG")
