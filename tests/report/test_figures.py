import numpy as np
import pytest

from cvfp_jax.report import figures
from cvfp_jax.report.summary import summarise
from tests.report.made_records import law_records, record


def test_figures_have_labelled_axes_points_laws_and_a_baseline():
    summaries = summarise([*law_records(8, -0.3, 9.0), *law_records(16, -0.5, 11.0)])
    figure = figures.scaling_figure(summaries, "title")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training tokens", "validation perplexity")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    lines = axes.get_lines()
    assert len(lines) == 9
    np.testing.assert_allclose(lines[2].get_xdata(), [5000, 10000, 20000])
    # The law runs through the points that it was made from, and dashed beyond them.
    for line, dashes, ends in ((lines[0], "-", (5_000, 20_000)), (lines[1], "--", (20_000, 60_000))):
        law_x, law_y = line.get_data()
        assert line.get_linestyle() == dashes
        assert (law_x[0], law_x[-1]) == pytest.approx(ends)
        np.testing.assert_allclose(law_y, np.exp(9.0 - 0.3 * np.log(law_x)), rtol=1e-6)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("alpha -0.300" in label for label in labels)
    # Two lines a law, its points, and an ordinary model each; none that was not measured.
    assert labels[-3:] == ["unigram", "Kneser-Ney bigram", "Kneser-Ney trigram"]
    assert list(lines[-1].get_ydata()) == [250.0] * 3
    (axes,) = figures.effective_rank_figure(summaries, "title").axes
    assert axes.get_ylabel() == "effective rank (% of context dimensions)"
    assert axes.get_lines()[0].get_ydata().tolist() == [80.0] * 3


def test_bands_hold_the_law_and_leave_the_axes_alone():
    noisy = [record(8, n, loss) for n, loss in ((50, 6.0), (100, 5.5), (200, 5.3))]
    (summary,) = summarise(noisy)
    (axes,) = figures.scaling_figure([summary], "title").axes
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for size in (5_000, 60_000):
        for end in summary.law.interval(size, new=False):
            assert np.any(np.isclose(corners, [size, end], rtol=1e-9).all(axis=1))
    # The band of three points is far wider than what was measured.
    _, high = axes.get_ylim()
    assert high < 2_000 < corners[:, 1].max()
    many = summarise([found for dim in range(1, 6) for found in law_records(dim, -0.3, 9.0)])
    (axes,) = figures.scaling_figure(many, "title").axes
    assert not axes.collections


def test_the_effective_rank_runs_through_the_means_of_replicates():
    made = [record(8, n, seed=seed, train_effective_rank=rank)
            for n in (50, 100) for seed, rank in ((42, 0.7), (43, 0.8))]  # fmt: skip
    (axes,) = figures.effective_rank_figure(summarise(made), "title").axes
    points, _, means, *_ = axes.get_lines()
    assert points.get_ydata().tolist() == [70.0, 80.0, 70.0, 80.0]
    np.testing.assert_allclose(means.get_data(), [[5000, 10000], [75.0, 75.0]])


def test_what_a_figure_shows_is_said_in_words(tmp_path):
    made = figures.save_figures(summarise(law_records(8, -0.5, 10.0)), "title", tmp_path / "figures")
    assert {name: figure.name for name, figure in made.items()} == {
        "scaling": "scaling.png",
        "effective_rank": "effective_rank.png",
    }
    assert "1L_8d_1tok: 311.5 at 5,000 tokens to 155.8 at 20,000 tokens." in made["scaling"].alt
    assert "1L_8d_1tok: 70.0% at 5,000 tokens to 70.0% at 20,000 tokens." in made["effective_rank"].alt
    assert "Bands" in made["scaling"].caption
    for figure in made.values():
        assert figure.caption
        assert (tmp_path / "figures" / figure.name).read_bytes().startswith(b"\x89PNG")


def test_nothing_measured_is_drawn_and_said_too(tmp_path):
    broken = record(8, 400, None, val_effective_rank=None, status="failed: phase 1 was not finite")
    made = figures.save_figures(summarise([broken]), "title", tmp_path)
    assert "No cell was measured." in made["scaling"].alt
    assert "law" not in made["scaling"].caption


def test_a_name_is_no_formula(tmp_path):
    made = law_records(8, -0.5, 10.0, series="1L_8d, corpus=text:$\\frac{$.txt")
    assert len(figures.save_figures(summarise(made), "$x^{$", tmp_path)) == 2


def test_many_long_names_leave_the_axes_their_size(tmp_path):
    made = [found for n in range(8) for found in law_records(8, -0.5, 10.0, series=f"{n}{'long' * 30}")]
    few, many = (figures.scaling_figure(summarise(records), "t" * 200) for records in (made[:3], made))
    for figure in (few, many):
        figure.savefig(tmp_path / "f.png")
    (few_axes,), (many_axes,) = few.axes, many.axes
    assert many_axes.bbox.height == pytest.approx(few_axes.bbox.height, rel=0.05)
    assert many_axes.bbox.width == pytest.approx(few_axes.bbox.width, rel=0.05)
