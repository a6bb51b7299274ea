"""The curves of cells: how phase 1 converged and how phase 2 learned, a small panel a cell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from cvfp_jax.report import page
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.formats import number
from cvfp_jax.report.plotting import ShownFigure, log_y, plain_text, save, short, style
from cvfp_jax.report.records import Record, label
from cvfp_jax.runtime.floats import exp

Cell = tuple[Record, Curves]

_SMALL: dict[str, Any] = {"fontsize": 7, "color": "grey"}
MOST_CELLS = 24  # panels of a figure; more would be a wall
_COLUMNS = 3
_RATE, _CHANGE = style(0)["color"], style(1)["color"]
_TRAIN, _VAL = style(2)["color"], style(3)["color"]


def _draw_convergence(axes: Axes, record: Record, curves: Curves) -> Axes:
    """The share of converged tokens (left) and the mean squared change (right) by iteration."""
    change_axes = axes.twinx()
    change_axes.set_yscale("log")
    blocks = curves["phase1_block"]
    for block in np.unique(blocks):
        own = blocks == block
        iterations, change = curves["phase1_iteration"][own], curves["phase1_cvfp_loss"][own]
        axes.plot(iterations, 100 * curves["phase1_converged_share"][own], color=_RATE)
        change_axes.plot(iterations, np.where(change > 0, change, np.nan), "--", color=_CHANGE)
        axes.axvline(iterations[-1], color="grey", linewidth=1, linestyle=":")
    axes.set(ylim=(-4, 104))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.annotate(record["phase1_status"], (0.97, 0.5), xycoords="axes fraction", ha="right", **_SMALL)
    return change_axes


def _label_changes(every: Sequence[Axes], labelled: Sequence[Axes]) -> None:
    """Gives the axes of mean squared changes one range, and some of them labels."""
    ends = [axes.get_ylim() for axes in every]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    # Two labels at least: whole decades, or parts of one.
    subs = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
    for axes in every:
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
        shown = axes in labelled
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}") if shown else NullFormatter())


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
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), fontsize=7)


_CONVERGENCE = [
    ("converged tokens (%)", _RATE, "-"),
    ("mean squared change (right axis)", _CHANGE, "--"),
    ("the last iteration", "grey", ":"),
]
_TRAINING = [
    ("training perplexity", _TRAIN, "--"),
    ("validation perplexity", _VAL, "-"),
    ("the best epoch", _VAL, "*"),
]


@plain_text()
def cell_figure(record: Record, curves: Curves) -> Figure:
    """Returns both phases of one cell side by side."""
    figure = ShownFigure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    change_axes = _draw_convergence(left, record, curves)
    _label_changes([change_axes], [change_axes])
    left.set(title="phase 1", xlabel="iteration", ylabel="converged tokens (%)")
    change_axes.set_ylabel("mean squared change")
    _draw_training(right, record, curves)
    right.set(title="phase 2", xlabel="epoch", ylabel="perplexity")
    _legend(figure, [*_CONVERGENCE, *_TRAINING])
    return figure


def _panels(cells: Sequence[Cell]) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a cell, and their axes, of one range."""
    columns = min(_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(max(3.4, 2.3 * columns), 0.7 + 1.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(cells) :]:
        axes.set_visible(False)
    return figure, list(grid[: len(cells)])


def _finish(figure: Figure, panels: Sequence[Axes], cells: Sequence[Cell], x: str, y: str) -> None:
    """Titles and labels, the latter at the figure's edge only."""
    columns = min(_COLUMNS, len(cells))
    for index, (axes, (record, _)) in enumerate(zip(panels, cells, strict=True)):
        axes.set_title(short(label(record).replace(" samples", ""), 26), fontsize=7)
        if index % columns == 0:
            axes.set_ylabel(y, fontsize=7)
        if index + columns >= len(cells):
            axes.set_xlabel(x, fontsize=7)
    for axes in figure.axes:
        axes.tick_params(which="both", labelsize=6, length=2, pad=2)


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
        figure, panels = _panels(converging)
        pairs = zip(panels, converging, strict=True)
        changes = [_draw_convergence(axes, *cell) for axes, cell in pairs]
        rightmost = [
            axes for index, axes in enumerate(changes, 1) if index % _COLUMNS == 0 or index == len(changes)
        ]
        _label_changes(changes, rightmost)
        _finish(figure, panels, converging, "iteration", "converged (%)")
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
        figure, panels = _panels(learning)
        for axes, cell in zip(panels, learning, strict=True):
            _draw_training(axes, *cell)
        _finish(figure, panels, learning, "epoch", "perplexity")
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
