"""The curves of cells: how phase 1 converged and how phase 2 learned, a small panel a cell."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvfp_jax.report import page
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.formats import number
from cvfp_jax.report.plotting import log_y, plain_text, save, short, style
from cvfp_jax.report.records import Record, label
from cvfp_jax.runtime.floats import exp

Cell = tuple[Record, Curves]

MOST_CELLS = 24  # panels of a figure; more would be a wall
_COLUMNS = 3
_RATE, _RESIDUAL = style(0)["color"], style(1)["color"]
_TRAIN, _VAL = style(2)["color"], style(3)["color"]


def _draw_convergence(axes: Axes, record: Record, curves: Curves) -> Axes:
    """The share of converged tokens (left) and the mean squared change (right) by iteration."""
    residual_axes = axes.twinx()
    blocks = curves["phase1_block"]
    for block in np.unique(blocks):
        own = blocks == block
        iterations = curves["phase1_iteration"][own]
        change = curves["phase1_cvfp_loss"][own]
        axes.plot(iterations, 100 * curves["phase1_converged_share"][own], color=_RATE)
        residual_axes.plot(iterations, np.where(change > 0, change, np.nan), "--", color=_RESIDUAL)
        axes.axvline(iterations[-1], color="grey", linewidth=1, linestyle=":")
    axes.set(ylim=(-4, 104))
    residual_axes.set_yscale("log")
    axes.text(
        0.98, 0.5, record["phase1_status"], transform=axes.transAxes, ha="right", fontsize=7, color="grey"
    )
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return residual_axes


def _draw_training(axes: Axes, record: Record, curves: Curves) -> None:
    """Training and validation perplexity by epoch."""
    best = record["best_epoch"]
    for name, colour, line in (("train", _TRAIN, "--"), ("val", _VAL, "-")):
        perplexities = [exp(loss) for loss in curves[f"phase2_{name}_loss"]]
        epochs = np.arange(1, len(perplexities) + 1)
        axes.plot(epochs, perplexities, line, color=colour, marker=".", markersize=3)
    if best > 0:
        value = exp(curves["phase2_val_loss"][best - 1])
        axes.plot([best], [value], "*", color=_VAL, markersize=9)
    log_y(axes)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _legend(figure: Figure, entries: Sequence[tuple[str, str, str]]) -> None:
    """A legend below all panels, of labels, colours and lines."""
    axes = figure.axes[0]
    handles = [axes.plot([], [], line, color=colour, label=text)[0] for text, colour, line in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(2, len(handles)), fontsize="small")


_CONVERGENCE = [
    ("converged tokens (%)", _RATE, "-"),
    ("mean squared change (right axis)", _RESIDUAL, "--"),
    ("the last iteration", "grey", ":"),
]
_TRAINING = [
    ("training perplexity", _TRAIN, "--"),
    ("validation perplexity", _VAL, "-"),
    ("the best epoch", _VAL, "*"),
]


def cell_figure(record: Record, curves: Curves) -> Figure:
    """Returns both phases of one cell side by side."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    residual_axes = _draw_convergence(left, record, curves)
    left.set(title="phase 1", xlabel="iteration", ylabel="converged tokens (%)")
    residual_axes.set_ylabel("mean squared change")
    _draw_training(right, record, curves)
    right.set(title="phase 2", xlabel="epoch", ylabel="perplexity")
    _legend(figure, [*_CONVERGENCE, *_TRAINING])
    return figure


def _panels(cells: Sequence[Cell], draw: Callable[[Axes, Record, Curves], object]) -> Figure:
    """A panel a cell."""
    columns = min(_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(max(3.4, 2.5 * columns), 0.6 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (record, curves) in zip(grid, cells, strict=False):
        draw(axes, record, curves)
        axes.set_title(short(label(record), 34), fontsize=7)
        axes.tick_params(which="both", labelsize=7, length=2, pad=2)
    for axes in figure.axes:
        axes.tick_params(which="both", labelsize=7, length=2, pad=2)
    for axes in grid[len(cells) :]:
        axes.set_visible(False)
    return figure


@plain_text()
def save_curve_figures(cells: Sequence[Cell], folder: Path) -> dict[str, page.Figure]:
    """Draws the curves of cells.

    Args:
      cells: records with their curves.
      folder: where the files go; made if it is missing.

    Returns:
      The figures by name, for a page; none if no cell has curves.
    """
    shown = cells[:MOST_CELLS]
    left_out = f" The first {len(shown)} of {len(cells)} cells." if len(cells) > len(shown) else ""
    converging = [cell for cell in shown if len(cell[1]["phase1_iteration"])]
    learning = [cell for cell in shown if len(cell[1]["phase2_val_loss"])]
    figures = {}
    if converging:
        figure = _panels(converging, _draw_convergence)
        figure.supxlabel("iteration", fontsize=8)
        figure.supylabel("converged tokens (%)", fontsize=8)
        _legend(figure, _CONVERGENCE)
        ends = [f"{label(record)}: {record['phase1_iterations']} iterations" for record, _ in converging]
        figures["convergence"] = save(
            figure,
            folder,
            "convergence.png",
            f"Convergence of phase 1, a panel a cell. {'; '.join(ends)}.",
            "Phase 1 by iteration: the share of tokens whose context has stopped moving, and the mean squared"
            f" change of all contexts (logarithmic).{left_out}",
        )
    if learning:
        figure = _panels(learning, _draw_training)
        figure.supxlabel("epoch", fontsize=8)
        figure.supylabel("perplexity", fontsize=8)
        _legend(figure, _TRAINING)
        best = [f"{label(record)}: {number(record['val_ppl'])}" for record, _ in learning]
        figures["training"] = save(
            figure,
            folder,
            "training.png",
            f"Perplexity by epoch, a panel a cell. Best validation perplexities: {'; '.join(best)}.",
            "Phase 2 by epoch: perplexity of training (while the weights change) and of validation, on a"
            f" logarithmic axis.{left_out}",
        )
    return figures
