"""Figures of the rebuilt reports."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from cvfp_jax.report import power_law_figures
from cvfp_jax.report.plotting import (
    draw_bands,
    draw_law,
    legend,
    log_y,
    plain_ticks,
    size_axes,
    style,
    thin_ticks,
)
from cvfp_jax.reproduction.compat import PrintedLaw
from cvfp_jax.reproduction.source import Points, Series, column, law, laws, windows


def laws_figure(series: Series, title: str, x: str = "tokens") -> Figure:
    """Points, power laws and the laws' own 95% bands, log-log."""
    figure, axes = size_axes(title, "validation perplexity")
    axes.set(xlabel=f"training {x}", yscale="log")
    drawn = []
    for index, (name, points) in enumerate(series.items()):
        line, look = law(points, x), style(index)
        label = f"{name}: alpha {line.alpha:.3f} (s.e. {line.std_err:.3f})"
        draw_law(axes, line, look["color"])
        axes.plot(column(points, x), column(points, "val_ppl"), linestyle="none", label=label, **look)
        drawn.append((line, look["color"]))
    draw_bands(axes, drawn)
    log_y(axes)
    thin_ticks(axes.xaxis)
    legend(figure, axes)
    return figure


def versions_figure(series: Series, pairs: Sequence[tuple[str, str]]) -> Figure:
    """How much lower the second of each pair is than the first, at equal tokens."""
    figure, axes = size_axes("Perplexity at equal training tokens", "difference (%)")
    for index, (first, second) in enumerate(pairs):
        ratios = [
            100 * (two["val_ppl"] / one["val_ppl"] - 1)
            for one, two in zip(series[first], series[second], strict=True)
        ]
        axes.plot(column(series[first], "tokens"), ratios, label=f"{second} against {first}", **style(index))
    axes.axhline(0, color="grey", linewidth=1)
    axes.legend()
    return figure


def exponents_figure(series: Series, in_windows: Mapping[str, int], x: str = "tokens") -> Figure:
    """Exponents with 95% intervals: of each series and of the windows of some."""
    rows = [(name, line, 0) for name, line in laws(series, x).items()]
    for name, window in in_windows.items():
        fitted = windows(name, series[name], window, x).windows
        rows += [(f"{name}, window {each.index}", each.line, 1) for each in fitted]
    return power_law_figures.exponents_figure(rows, x)


def five_laws_figure(points: Points, laws: Mapping[str, PrintedLaw]) -> Figure:
    """R5's five laws far beyond the points, and what they leave of the points."""
    figure = Figure(figsize=(5.6, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[2, 1])
    samples, ppl = np.array(column(points, "samples")), np.array(column(points, "val_ppl"))
    sizes = np.geomspace(samples.min(), 50_000, 200)
    for index, (name, fit) in enumerate(laws.items()):
        look = style(index)
        above.plot(sizes, [fit.predict(size) for size in sizes], color=look["color"], label=name)
        left = [y - fit.predict(size) for size, y in zip(samples, ppl, strict=True)]
        below.plot(samples, left, linewidth=0.8, **look)
    above.plot(samples, ppl, "ko", label="measured")
    above.axvspan(samples.max(), 50_000, color="grey", alpha=0.12, linewidth=0)
    above.set(
        title="Five laws through the same five points (grey: extrapolated)", ylabel="validation perplexity"
    )
    below.set(ylabel="measured less law (PPL)", xlabel="training samples")
    below.axhline(0, color="grey", linewidth=1)
    for axes in (above, below):
        axes.set_xscale("log")
        plain_ticks(axes.xaxis, StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, alpha=0.25)
    log_y(above)
    above.legend(fontsize="small")
    return figure
