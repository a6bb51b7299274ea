import io
import math

import numpy as np
import pytest
from matplotlib.colors import same_color

from cvfp_jax.report.curve_figures import MOST_CELLS, cell_figure, save_curve_figures
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.plotting import style
from tests.report.made_records import record

LOSSES = [6.0, 5.5, 5.2, 5.4]


def curves_of(iterations=(5,), losses=LOSSES, change=0.5):
    """Curves of blocks of so many iterations, and of an epoch a loss."""
    steps = [np.arange(2, count + 2) for count in iterations]
    iteration = np.concatenate(steps)
    return Curves(
        {
            "phase1_block": np.repeat(np.arange(1, len(iterations) + 1), iterations),
            "phase1_iteration": iteration,
            "phase1_cvfp_loss": change ** iteration.astype(float),
            "phase1_converged_share": np.concatenate([np.linspace(0, 1, count) for count in iterations]),
            "phase2_val_loss": np.array(losses),
            "phase2_train_loss": np.array(losses) + 0.5,
        }
    )


def cells(count, **fields):
    return [(record(samples=50 * (index + 1), best_epoch=3, **fields), curves_of()) for index in range(count)]


def drawn(figure):
    """Draws a figure, which is when Matplotlib finds mistakes."""
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return figure


def test_a_cells_curves_are_those_of_both_phases():
    found = curves_of()
    figure = drawn(cell_figure(record(best_epoch=3), found))
    left, right, change = figure.axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("iteration", "converged tokens (%)")
    assert (right.get_xlabel(), change.get_ylabel()) == ("epoch", "mean squared change")
    share, last = left.get_lines()[:2]
    np.testing.assert_allclose(share.get_xydata(), np.c_[np.arange(2, 7), [0, 25, 50, 75, 100]])
    assert list(last.get_xdata()) == [6, 6]
    np.testing.assert_allclose(change.get_lines()[0].get_ydata(), found["phase1_cvfp_loss"])
    train, val, best = right.get_lines()
    np.testing.assert_allclose(train.get_ydata(), np.exp(found["phase2_train_loss"]))
    np.testing.assert_allclose(val.get_xydata(), np.c_[[1, 2, 3, 4], np.exp(LOSSES)])
    np.testing.assert_allclose(best.get_xydata(), [[3, math.exp(5.2)]])
    assert same_color(val.get_color(), style(3)["color"])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 6
    assert {"converged tokens (%)", "validation perplexity", "the best epoch"} <= set(labels)


def test_a_notebook_shows_a_figure():
    assert cell_figure(record(), curves_of())._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [1, 4])
def test_each_cell_has_a_panel(tmp_path, monkeypatch, count):
    figures = saved_figures(monkeypatch, cells(count), tmp_path)
    for name in ("convergence", "training"):
        panels = [axes for axes in figures[name].axes if axes.get_visible() and axes.get_title()]
        assert len(panels) == count
        assert panels[0].get_title() == "1L_8d_1tok, 50"
        # The first of each row has a label.
        assert [bool(axes.get_ylabel()) for axes in panels] == [at % 3 == 0 for at in range(count)]
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    empty = [axes for axes in figures["training"].axes if not axes.get_visible()]
    assert len(empty) == -count % min(count, 3)


def saved_figures(monkeypatch, shown, folder, draw=True):
    """The figures as Matplotlib has them when they are written, and what the page says of them."""
    kept = {}

    def save(figure, folder, name, alt, caption):
        kept[name.removesuffix(".png")] = figure
        kept[f"{name} alt"], kept[f"{name} caption"] = alt, caption
        if draw:
            folder.mkdir(exist_ok=True)
            figure.savefig(folder / name, dpi=40)

    monkeypatch.setattr("cvfp_jax.report.curve_figures.save", save)
    assert list(save_curve_figures(shown, folder)) == [name for name in kept if "." not in name]
    return kept


def test_of_very_many_cells_the_first_are_drawn(tmp_path, monkeypatch):
    figures = saved_figures(monkeypatch, cells(30), tmp_path, draw=False)
    panels = [axes for axes in figures["training"].axes if axes.get_title()]
    assert len(panels) == MOST_CELLS == 24
    assert figures["training.png caption"].endswith(" The first 24 of 30 cells.")
    assert "1L_8d_1tok, 1200 samples: 403" in figures["training.png alt"]


def test_each_block_has_curves_of_its_own():
    figure = drawn(cell_figure(record(), curves_of((5, 3, 8))))
    left, _, change = figure.axes
    shares, ends = left.get_lines()[0:6:2], left.get_lines()[1:6:2]
    assert [len(line.get_xdata()) for line in shares] == [5, 3, 8]
    assert [line.get_xdata()[0] for line in ends] == [6, 4, 9]
    assert [len(line.get_xdata()) for line in change.get_lines()] == [5, 3, 8]


def test_a_cell_whose_phase_2_never_ran_shows_phase_1(tmp_path, monkeypatch):
    broken = record(
        best_epoch=0, phase2_epochs=0, phase2_status="not run", phase1_status="non-finite",
        val_loss=None, val_ppl=None, status="failed: phase 1 was not finite at iteration 3",
    )  # fmt: skip
    found = curves_of((2,), losses=())
    left, right, _ = drawn(cell_figure(broken, found)).axes
    assert len(left.get_lines()[0].get_xdata()) == 2
    assert all(len(line.get_xdata()) == 0 for line in right.get_lines())
    assert "training" not in saved_figures(monkeypatch, [(broken, found)], tmp_path)
    both = saved_figures(monkeypatch, [(broken, found), *cells(1)], tmp_path / "both")
    assert len([axes for axes in both["training"].axes if axes.get_title()]) == 1
    assert len([axes for axes in both["convergence"].axes if axes.get_title()]) == 2


@pytest.mark.parametrize("change", [0.0, math.nan, math.inf, 1.0])
def test_changes_that_have_no_logarithm_are_left_out(change):
    drawn(cell_figure(record(), curves_of(change=change)))


def test_losses_too_large_for_a_perplexity_are_left_out():
    drawn(cell_figure(record(best_epoch=1), curves_of(losses=(800.0, math.nan, 5.0))))


def test_without_curves_there_are_no_figures(tmp_path):
    assert save_curve_figures([], tmp_path) == {}
    assert save_curve_figures([(record(), Curves({}))], tmp_path) == {}
