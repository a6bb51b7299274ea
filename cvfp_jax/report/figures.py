"""Figures; the only module that imports matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, NullFormatter, StrMethodFormatter

from cvfp_jax.report.summary import Summary

# Okabe and Ito's colours, which colour-blind readers can tell apart, each with a marker of its own.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_WIDE = 30  # beyond this ratio an axis has room for the labels of whole decades only


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}


def _axes(title: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="training tokens", ylabel=y_label, xscale="log")
    _plain_ticks(axes.xaxis, EngFormatter(sep=""))
    axes.grid(True, which="both", alpha=0.25)
    return figure, axes


def _plain_ticks(axis: Axis, formatter: Formatter) -> None:
    """Labels a logarithmic axis with numbers as people write them, not with powers of ten."""
    axis.set_major_formatter(formatter)
    axis.set_minor_locator(LogLocator(subs=(2, 3, 4, 5, 7)))
    axis.set_minor_formatter(formatter)


def _points(summary: Summary, field: str) -> tuple[list[int], list[float]]:
    records = [record for record in summary.records if record[field] is not None]
    return [record["train_tokens"] for record in records], [record[field] for record in records]


def scaling_figure(summaries: Sequence[Summary], title: str) -> Figure:
    """Validation perplexity against training tokens, with the fitted laws and the unigram baseline."""
    figure, axes = _axes(title, "validation perplexity")
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis, StrMethodFormatter("{x:,.0f}"))
    baseline: dict[int, float] = {}
    for index, summary in enumerate(summaries):
        x, y = _points(summary, "val_ppl")
        style = _style(index)
        label = summary.series
        if summary.law.fitted:
            label += f": alpha {summary.law.alpha:.3f} (s.e. {summary.law.std_err:.3f})"
            sizes = [record["train_tokens"] for record in summary.points]
            line = np.geomspace(min(sizes), max(sizes))
            axes.plot(line, [summary.law.predict(size) for size in line], color=style["color"])
        axes.plot(x, y, linestyle="none", label=label, **style)
        baseline |= dict(zip(*_points(summary, "unigram_ppl"), strict=True))
    # Marked, because a line through one point does not show.
    axes.plot(*zip(*sorted(baseline.items()), strict=True), "--.", color="grey", label="unigram baseline")
    low, high = axes.get_ylim()
    if high / low > _WIDE:
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend()
    return figure


def effective_rank_figure(summaries: Sequence[Summary], title: str) -> Figure:
    """Effective rank of training and validation contexts against training tokens."""
    figure, axes = _axes(title, "effective rank (% of context dimensions)")
    for index, summary in enumerate(summaries):
        for field, line in (("train_effective_rank", "-"), ("val_effective_rank", ":")):
            x, shares = _points(summary, field)
            name = f"{summary.series}, {field.split('_')[0]}"
            axes.plot(x, [100 * share for share in shares], linestyle=line, label=name, **_style(index))
    figure.legend(loc="outside lower center", ncols=min(4, len(summaries)))
    return figure


def save_figures(summaries: Sequence[Summary], title: str, folder: Path) -> dict[str, str]:
    """Draws the figures of a sweep.

    Args:
      summaries: what to draw.
      title: the sweep's name.
      folder: where the files go; made if it is missing.

    Returns:
      File name to a description for readers who do not see it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "scaling.png": (scaling_figure, "Validation perplexity against training tokens, log-log, with fits."),
        "effective_rank.png": (effective_rank_figure, "Effective rank in per cent against training tokens."),
    }
    for name, (draw, _) in made.items():
        draw(summaries, title).savefig(folder / name, dpi=150)
    return {name: description for name, (_, description) in made.items()}
