import math

import matplotlib.image
import numpy as np
import pytest

from cvfp_jax.report import power_law_figures
from cvfp_jax.report.inference import infer
from cvfp_jax.report.summary import summarise
from tests.report.made_records import law_records, record


def noisy(dim, alpha, **changes):
    """Cells near a power law, whose effective ranks differ."""
    return [
        record(dim, n, 9.0 + alpha * math.log(100 * n) + 0.02 * (-1) ** at,
               val_effective_rank=0.6 + 0.03 * at, **changes)
        for at, n in enumerate((50, 100, 200, 400))
    ]  # fmt: skip


def test_exponents_have_bars_of_their_intervals():
    summaries = summarise([*noisy(8, -0.3), *noisy(16, -0.5)])
    rows = [(summary.series, summary.law, index) for index, summary in enumerate(summaries)]
    (axes,) = power_law_figures.exponents_figure(rows).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["1L_8d_1tok (n = 4)", "1L_16d_1tok (n = 4)"]
    assert axes.get_xlabel() == "alpha (ln PPL per ln tokens)"
    for container, summary in zip(axes.containers, summaries, strict=True):
        (segment,) = container.lines[2][0].get_segments()
        assert segment[:, 0] == pytest.approx(summary.law.alpha_interval())


def test_windows_stand_at_the_middle_of_their_sizes_with_their_standard_errors():
    found = infer(summarise(noisy(8, -0.3))).windows
    (axes,) = power_law_figures.windows_figure(found, [0], "title").axes
    (container,) = axes.containers
    assert list(container.lines[0].get_xdata()) == pytest.approx([10_000, 20_000])
    for segment, window in zip(container.lines[2][0].get_segments(), found[0].windows, strict=True):
        line = window.line
        assert segment[:, 1] == pytest.approx([line.alpha - line.std_err, line.alpha + line.std_err])


def test_windows_of_several_series_stand_apart():
    found = infer(summarise([*noisy(8, -0.3), *noisy(16, -0.5), *noisy(32, -0.6)])).windows
    (axes,) = power_law_figures.windows_figure(found, [0, 1, 2], "title").axes
    firsts = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert firsts == pytest.approx([9_700, 10_000 * (0.97 * 1.03) ** 0.5, 10_300])


def test_every_cell_is_a_point_of_effective_rank_and_perplexity():
    summaries = summarise([*noisy(8, -0.3), *noisy(16, -0.5)])
    (axes,) = power_law_figures.rank_figure(infer(summaries).ranked, "title").axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    first, second, rule = axes.get_lines()
    np.testing.assert_allclose(first.get_xdata(), [60, 63, 66, 69])
    np.testing.assert_allclose(second.get_ydata(), [r["val_ppl"] for r in summaries[1].records])
    np.testing.assert_allclose(rule.get_ydata()[[0, -1]], [500 - 4 * 60, 500 - 4 * 69])


def test_only_what_the_records_support_is_drawn(tmp_path):
    def drawn(records):
        return list(power_law_figures.save_power_law_figures(infer(summarise(records)), "title", tmp_path))

    assert drawn([*noisy(8, -0.3), *noisy(16, -0.5)]) == ["exponents", "windows", "rank_ppl"]
    assert drawn(noisy(8, -0.3)) == ["windows", "rank_ppl"]
    assert drawn(law_records(8, -0.3, 9.0)) == ["rank_ppl"]
    assert drawn(law_records(8, -0.3, 9.0, (50, 100))) == []
    assert drawn([record(8, 400, None, status="failed: phase 1 was not finite")]) == []


def test_what_a_figure_shows_is_said_in_words(tmp_path):
    summaries = summarise([*noisy(8, -0.3), *noisy(16, -0.5, series="$x^{$")])
    made = power_law_figures.save_power_law_figures(infer(summaries), "$x^{$", tmp_path)
    low, high = summaries[0].law.alpha_interval()
    assert f"1L_8d_1tok: {summaries[0].law.alpha:.3f} ({low:.3f} to {high:.3f})" in made["exponents"].alt
    alphas = [window.line.alpha for window in infer(summaries).windows[0].windows]
    assert f"1L_8d_1tok: {alphas[0]:.3f}, {alphas[1]:.3f}" in made["windows"].alt
    assert "8 cells. 1L_8d_1tok: 60.0% to 69.0%, perplexity" in made["rank_ppl"].alt
    for figure in made.values():
        assert figure.caption
        assert matplotlib.image.imread(tmp_path / figure.name).std() > 0
