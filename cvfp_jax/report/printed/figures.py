"""Figures of the rebuilt reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from cvfp_jax.report import page
from cvfp_jax.report.figures import _WIDE, _axes, _plain_ticks, _style
from cvfp_jax.report.printed.source import Points, column, law, logs
from cvfp_jax.scaling.compat import PrintedLaw
from cvfp_jax.scaling.windows import sliding_windows

Series = Mapping[str, Points]


def save(figure: Figure, folder: Path, name: str, alt: str, caption: str) -> page.Figure:
    """Writes a figure and returns it for a page."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"text.parse_math": False}):
        figure.savefig(folder / name, dpi=200)
    return page.Figure(name, alt, caption)


def _log_y(axes: Axes) -> None:
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis, StrMethodFormatter("{x:,.0f}"))
    low, high = axes.get_ylim()
    if high / low > _WIDE:
        axes.yaxis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, rows: int) -> None:
    """Puts the legend where it covers no point; the axes keep their size."""
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    figure.legend(loc="outside lower center", fontsize="small")


def laws_figure(series: Series, title: str, x: str = "tokens") -> Figure:
    """Points, power laws and the laws' own 95% bands, log-log."""
    figure, axes = _axes(title, "validation perplexity")
    axes.set_xlabel(f"training {x}")
    for index, (name, points) in enumerate(series.items()):
        line, look = law(points, x), _style(index)
        sizes = np.geomspace(line.first, line.last)
        ends = [line.interval(size, new=False) for size in sizes]
        label = f"{name}: alpha {line.alpha:.3f} (s.e. {line.std_err:.3f})"
        axes.plot(sizes, [line.predict(size) for size in sizes], color=look["color"], linewidth=1)
        if len(series) < 4:  # more bands than that hide each other
            low, high = zip(*ends, strict=True)
            axes.fill_between(sizes, low, high, color=look["color"], alpha=0.12, linewidth=0)
        axes.plot(column(points, x), column(points, "val_ppl"), linestyle="none", label=label, **look)
    _log_y(axes)
    _legend_below(figure, len(series))
    return figure


def versions_figure(series: Series, pairs: Sequence[tuple[str, str]]) -> Figure:
    """How much lower the second of each pair is than the first, at equal tokens."""
    figure, axes = _axes("Perplexity at equal training tokens", "difference (%)")
    for index, (first, second) in enumerate(pairs):
        ratios = [
            100 * (two["val_ppl"] / one["val_ppl"] - 1)
            for one, two in zip(series[first], series[second], strict=True)
        ]
        axes.plot(column(series[first], "tokens"), ratios, label=f"{second} against {first}", **_style(index))
    axes.axhline(0, color="grey", linewidth=1)
    axes.legend()
    return figure


def exponents_figure(series: Series, windows: Mapping[str, int], x: str = "tokens") -> Figure:
    """Exponents with 95% intervals: of each series and of the windows of some."""
    rows = [(name, law(points, x)) for name, points in series.items()]
    for name, window in windows.items():
        found = sliding_windows(column(series[name], x), logs(column(series[name], "val_ppl")), window)
        rows += [(f"{name}, window {each.index}", each.line) for each in found]
    figure = Figure(figsize=(5.6, 0.4 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    for at, (_, line) in enumerate(rows):
        half = line.alpha - line.alpha_interval()[0]
        axes.errorbar(line.alpha, at, xerr=half, capsize=3, **_style(0 if at < len(series) else 1))
    axes.set_yticks(range(len(rows)), [f"{name} (n = {line.n})" for name, line in rows])
    axes.invert_yaxis()
    axes.set(title="Exponents with 95% intervals", xlabel=f"alpha (ln PPL per ln {x})")
    axes.grid(True, axis="x", alpha=0.25)
    return figure


def five_laws_figure(points: Points, laws: Mapping[str, PrintedLaw]) -> Figure:
    """R5's five laws far beyond the points, and what they leave of the points."""
    figure = Figure(figsize=(5.6, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[2, 1])
    samples, ppl = np.array(column(points, "samples")), np.array(column(points, "val_ppl"))
    sizes = np.geomspace(samples.min(), 50_000, 200)
    for index, (name, found) in enumerate(laws.items()):
        look = _style(index)
        above.plot(sizes, [found.predict(size) for size in sizes], color=look["color"], label=name)
        left = [y - found.predict(size) for size, y in zip(samples, ppl, strict=True)]
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
        _plain_ticks(axes.xaxis, StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, alpha=0.25)
    _log_y(above)
    above.legend(fontsize="small")
    return figure
