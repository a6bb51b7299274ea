"""Figures of exponents, of windows of sizes, and of effective rank against perplexity."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from cvfp_jax.report import page
from cvfp_jax.report.formats import interval, number
from cvfp_jax.report.inference import Inference, RankedCell, SeriesWindows
from cvfp_jax.report.plotting import legend, log_y, plain_text, save, short, size_axes, style
from cvfp_jax.scaling.correlate import MIN_POINTS, rank_rule
from cvfp_jax.scaling.line import LogLine


def exponents_figure(rows: Sequence[tuple[str, LogLine, int]], x: str = "tokens") -> Figure:
    """Exponents with 95% intervals: a name, a law and the number of its look a row."""
    figure = Figure(figsize=(5.6, 0.36 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    for at, (_, line, look) in enumerate(rows):
        half = line.alpha - line.alpha_interval()[0]
        axes.errorbar(line.alpha, at, xerr=half, capsize=3, **style(look))
    axes.set_yticks(range(len(rows)), [f"{short(name, 24)} (n = {line.n})" for name, line, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(title="Exponents with 95% intervals", xlabel=f"alpha (ln PPL per ln {x})")
    axes.grid(True, axis="x", alpha=0.25)
    return figure


def windows_figure(series: Sequence[SeriesWindows], looks: Sequence[int], title: str) -> Figure:
    """The exponent of each window against the middle of its sizes, with standard errors."""
    figure, axes = size_axes(title, "alpha (ln PPL per ln tokens)")
    axes.set_xlabel("training tokens, middle of the window (geometric)")
    # Series stand a little apart, so that their bars do not hide each other.
    asides = np.geomspace(0.97, 1.03, len(series)) if len(series) > 1 else [1.0]
    for each, look, aside in zip(series, looks, asides, strict=True):
        lines = [window for window in each.windows if window.line.fitted]
        middles = [aside * math.sqrt(window.first * window.last) for window in lines]
        alphas = [window.line.alpha for window in lines]
        errors = [window.line.std_err for window in lines]
        label = f"{short(each.series)}, windows of {each.num_sizes}"
        axes.errorbar(middles, alphas, yerr=errors, capsize=3, linewidth=1, label=label, **style(look))
    legend(figure, axes)
    return figure


def rank_figure(ranked: Mapping[str, Sequence[RankedCell]], title: str) -> Figure:
    """Validation perplexity against effective rank, a point a cell by series, with the original's rule."""
    figure, axes = size_axes(title, "validation perplexity")
    axes.set(xscale="linear", xlabel="validation effective rank (% of context dimensions)")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for index, (series, cells) in enumerate(ranked.items()):
        ranks, ppl = [cell.rank for cell in cells], [cell.ppl for cell in cells]
        axes.plot(ranks, ppl, linestyle="none", label=short(series), **style(index))
    measured = [cell.rank for cells in ranked.values() for cell in cells]
    ends = np.linspace(min(measured), max(measured))
    axes.plot(ends, [rank_rule(rank) for rank in ends], "--", color="grey", label="500 - 4 ER")
    log_y(axes)
    legend(figure, axes)
    return figure


@plain_text()
def save_power_law_figures(inference: Inference, title: str, folder: Path) -> dict[str, page.Figure]:
    """Draws those figures that the records of a sweep support.

    Args:
      inference: what to draw.
      title: the sweep's name.
      folder: where the files go; made if it is missing.

    Returns:
      The figures by name, for a page: ``exponents`` of two laws or more, ``windows`` where a series has
      four sizes or more, ``rank_ppl`` where three cells have both measures.
    """
    figures = {}
    laws = inference.laws
    looks = {series: index for index, series in enumerate(inference.ranked)}
    if len(laws) > 1:
        values = "; ".join(
            f"{name}: {law.alpha:.3f} ({interval(law.alpha_interval(), 3)})" for name, law in laws.items()
        )
        figures["exponents"] = save(
            exponents_figure([(name, law, looks[name]) for name, law in laws.items()]),
            folder,
            "exponents.png",
            f"Scaling exponents with their 95% intervals. {values}.",
            "Exponents with Student's 95% intervals, of as many degrees of freedom as points less two.",
        )
    windows = inference.windows
    if windows:
        values = "; ".join(
            f"{each.series}: {', '.join(number(window.line.alpha, 3) for window in each.windows)}"
            for each in windows
        )
        figures["windows"] = save(
            windows_figure(windows, [looks[each.series] for each in windows], title),
            folder,
            "windows.png",
            f"Exponents of windows of consecutive sizes, from the smallest sizes on. {values}.",
            "Exponents of windows of consecutive sizes; a bar is one standard error to either side. Windows"
            " share points, and few points tell their own error badly. Series stand a little apart.",
        )
    count = sum(map(len, inference.ranked.values()))
    if count >= MIN_POINTS:
        values = "; ".join(_ranges(series, cells) for series, cells in inference.ranked.items() if cells)
        figures["rank_ppl"] = save(
            rank_figure(inference.ranked, title),
            folder,
            "rank_ppl.png",
            f"Validation perplexity against effective rank, {count} cells. {values}.",
            "Validation perplexity, on a logarithmic axis, against the effective rank of the validation"
            " contexts: a point a cell. The dashed line is the original's rule.",
        )
    return figures


def _ranges(series: str, cells: Sequence[RankedCell]) -> str:
    """The ranges of effective rank and perplexity of a series."""
    _, ranks, ppl = zip(*cells, strict=True)
    return (
        f"{series}: {number(min(ranks))}% to {number(max(ranks))}%,"
        f" perplexity {number(min(ppl))} to {number(max(ppl))}"
    )
