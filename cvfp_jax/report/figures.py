"""Figures; the only module that imports matplotlib."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, NullFormatter, StrMethodFormatter

from cvfp_jax.report import page
from cvfp_jax.report.summary import Summary
from cvfp_jax.report.tables import number, percent

# Okabe and Ito's colours, which colour-blind readers can tell apart, each with a marker of its own.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_WIDE = 30  # beyond this ratio an axis has room for the labels of whole decades only


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}


def _axes(title: str, y_label: str) -> tuple[Figure, Axes]:
    # Small enough that its letters can be read on a telephone too.
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(title=_short(title, 50), xlabel="training tokens", ylabel=y_label, xscale="log")
    _plain_ticks(axes.xaxis, EngFormatter(sep=""))
    axes.tick_params(which="both", length=3, pad=3)
    axes.grid(True, which="both", alpha=0.25)
    return figure, axes


def _short(name: str, most: int = 36) -> str:
    """A name that leaves room for a figure beside it."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _legend(figure: Figure, axes: Axes) -> None:
    """Puts the legend below the axes, which keep their size, in two columns where the names are short."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= 24 else 1
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")


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
        label = _short(summary.series)
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
    _legend(figure, axes)
    return figure


def effective_rank_figure(summaries: Sequence[Summary], title: str) -> Figure:
    """Effective rank of training and validation contexts against training tokens."""
    figure, axes = _axes(title, "effective rank (% of context dimensions)")
    for index, summary in enumerate(summaries):
        for field, line in (("train_effective_rank", "-"), ("val_effective_rank", ":")):
            x, shares = _points(summary, field)
            name = f"{_short(summary.series)}, {field.split('_')[0]}"
            style = _style(index)
            by_size: dict[int, list[float]] = {}
            for size, share in zip(x, shares, strict=True):
                by_size.setdefault(size, []).append(100 * share)
            if len(by_size) < len(x):  # the line runs through the means of the replicates
                axes.plot(x, [100 * share for share in shares], linestyle="none", **style)
                axes.plot([], [], linestyle=line, label=name, **style)
                style, name = style | {"marker": None}, "_means"
            means = [fmean(group) for group in by_size.values()]
            axes.plot(list(by_size), means, linestyle=line, label=name, **style)
    _legend(figure, axes)
    return figure


def save_figures(summaries: Sequence[Summary], title: str, folder: Path) -> list[page.Figure]:
    """Draws the figures of a sweep.

    Args:
      summaries: what to draw.
      title: the sweep's name.
      folder: where the files go; made if it is missing.

    Returns:
      The figures, for a page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        page.Figure(
            "scaling.png",
            f"Validation perplexity against training tokens, log-log. {_trend(summaries, 'val_ppl', number)}",
            "Validation perplexity against training tokens, both on logarithmic axes. Each line is a fitted"
            " law, drawn over the sizes that it was fitted to; s.e. is its standard error.",
        ): scaling_figure,
        page.Figure(
            "effective_rank.png",
            "Effective rank of the validation contexts against training tokens."
            f" {_trend(summaries, 'val_effective_rank', percent)}",
            "Effective rank in per cent of the context dimensions against training tokens: of the training"
            " contexts (solid) and of the validation contexts (dotted).",
        ): effective_rank_figure,
    }
    # A dollar sign in a name is no formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        for figure, draw in made.items():
            draw(summaries, title).savefig(folder / figure.name, dpi=200)
    return list(made)


def _trend(summaries: Sequence[Summary], field: str, write: Callable[[float], str]) -> str:
    """What a figure shows, in words: of each series the measure at its least and its greatest size."""
    texts = []
    for summary in summaries:
        x, y = _points(summary, field)
        if x:
            ends = dict.fromkeys(f"{write(y[end])} at {x[end]:,} tokens" for end in (0, -1))
            texts.append(f"{summary.series}: {' to '.join(ends)}")
    return "; ".join(texts) + "." if texts else "No cell was measured."
