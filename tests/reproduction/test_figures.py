import math

import numpy as np
import pytest

from cvfp_jax.reproduction import figures, r5
from cvfp_jax.reproduction.source import law, load, sweeps
from cvfp_jax.scaling.windows import sliding_windows

SWEEPS = sweeps(load("R3"))


def test_points_laws_and_bands_are_drawn_where_they_are():
    points = load("R1").tables["points"]
    (axes,) = figures.laws_figure({"R1": points}, "title").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training tokens", "validation perplexity")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    drawn_law, drawn_points = axes.get_lines()
    np.testing.assert_allclose(drawn_points.get_ydata(), [point["val_ppl"] for point in points])
    x, y = drawn_law.get_data()
    np.testing.assert_allclose(y, [law(points).predict(size) for size in x])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices[:, 1]
    low, high = law(points).interval(points[0]["tokens"], new=False)
    assert any(math.isclose(end, low, rel_tol=1e-9) for end in corners)
    assert any(math.isclose(end, high, rel_tol=1e-9) for end in corners)


def test_versions_are_compared_point_by_point():
    (axes,) = figures.versions_figure(SWEEPS, [("768 v1", "768 v2")]).axes
    first = axes.get_lines()[0].get_ydata()
    np.testing.assert_allclose(first, [-15.777, -7.047, -2.750, -0.959], atol=1e-3)
    assert axes.get_ylabel() == "difference (%)"


def test_exponents_have_bars_of_their_intervals():
    (axes,) = figures.exponents_figure({"768 v3": SWEEPS["768 v3"]}, {"768 v3": 4}).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["768 v3 (n = 5)", "768 v3, window 1 (n = 4)", "768 v3, window 2 (n = 4)"]
    tokens = [point["tokens"] for point in SWEEPS["768 v3"]]
    log_y = [math.log(point["val_ppl"]) for point in SWEEPS["768 v3"]]
    lines = [law(SWEEPS["768 v3"]), *(window.line for window in sliding_windows(tokens, log_y, 4))]
    for container, line in zip(axes.containers, lines, strict=True):
        (segment,) = container.lines[2][0].get_segments()
        assert segment[:, 0] == pytest.approx(line.alpha_interval())


def test_five_laws_and_what_they_leave():
    source = load("R5")
    laws = r5.laws(source)
    above, below = figures.five_laws_figure(source.tables["points"], laws).axes
    labels = [text.get_text() for text in above.get_legend().get_texts()]
    assert labels == [*laws, "measured"]
    left = [line.get_ydata() for line in below.get_lines()[:5]]
    for each, law_ in zip(left, laws.values(), strict=True):
        assert np.sum(np.square(each)) == pytest.approx(law_.rss)
