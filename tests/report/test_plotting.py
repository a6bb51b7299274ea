import matplotlib.image
import numpy as np
import pytest

from cvfp_jax.report import plotting
from cvfp_jax.scaling.line import log_line


def labels(low, high):
    """The labels of an axis over some sizes."""
    figure, axes = plotting.size_axes("title", "y")
    axes.plot([low, high], [1, 2])
    plotting.thin_ticks(axes.xaxis)
    figure.draw_without_rendering()
    ends = axes.get_xlim()
    ticks = axes.xaxis.get_major_ticks() + axes.xaxis.get_minor_ticks()
    return {t.label1.get_text() for t in ticks if ends[0] <= t.get_loc() <= ends[1]} - {""}


def test_a_wide_axis_has_fewer_labels():
    assert labels(3_000, 40_000) == {"3k", "4k", "5k", "7k", "10k", "20k", "30k", "40k"}
    assert labels(3_000, 200_000) == {"5k", "10k", "20k", "50k", "100k", "200k"}
    assert labels(3_000, 20_000_000) == {"10k", "100k", "1M", "10M"}


def test_perplexities_are_written_as_people_write_them():
    _, axes = plotting.size_axes("title", "y")
    axes.plot([1e3, 1e4], [300, 4000])
    plotting.log_y(axes)
    assert [axes.yaxis.get_major_formatter()(value) for value in (1000, 1e9)] == ["1,000", "1e+09"]


def test_a_law_is_drawn_where_there_can_be_perplexities():
    _, axes = plotting.size_axes("title", "y")
    axes.set_yscale("log")
    line = log_line([1e3, 1e4, 1e5], [800.0, 9.0, -7.0])
    plotting.draw_law(axes, line, "black", beyond=10)
    plotting.draw_bands(axes, [(line, "black")])
    drawn, beyond = axes.get_lines()
    assert min(drawn.get_ydata()) >= 1
    assert max(drawn.get_ydata()) <= 1e15
    assert len(beyond.get_ydata()) == 0
    (band,) = axes.collections
    assert np.isfinite(band.get_paths()[0].vertices).all()


def test_series_differ_by_colour_and_marker():
    looks = [plotting.style(index) for index in range(7)]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 7
    assert plotting.style(7) == looks[0]


def test_a_saved_figure_is_a_picture_with_words(tmp_path):
    figure, axes = plotting.size_axes("title", "y")
    axes.plot([1, 2], [1, 2])
    (tmp_path / "figures").mkdir()
    precious = tmp_path / "precious"
    precious.touch()
    for suffix in ("png", "svg", "pdf"):  # links are replaced, and not followed
        (tmp_path / "figures" / f"a.{suffix}").symlink_to(precious)
    block = plotting.save(figure, tmp_path / "figures", "a.png", "What it shows.", "Caption.", vector=True)
    assert precious.read_bytes() == b""
    for suffix, first in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert (tmp_path / "figures" / f"a.{suffix}").read_bytes().startswith(first)
    assert (block.name, block.alt, block.caption) == ("a.png", "What it shows.", "Caption.")
    assert matplotlib.image.imread(tmp_path / "figures" / "a.png").std() > 0


@pytest.mark.parametrize("name", ["$x^{$", "$\\frac{$", "a$b"])
def test_a_dollar_sign_is_no_formula(tmp_path, name):
    @plotting.plain_text()
    def draw():
        figure, _ = plotting.size_axes(name, name)
        return plotting.save(figure, tmp_path, "a.png", "", "")

    draw()
