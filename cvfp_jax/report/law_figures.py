"""Figures of laws fitted to points: curves above, residuals below."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from cvfp_jax.report import page
from cvfp_jax.report.plotting import WIDE, ShownFigure, legend, plain_text, plain_ticks, save, short, style
from cvfp_jax.scaling.analysis import GroupAnalysis
from cvfp_jax.scaling.bootstrap import bootstrap
from cvfp_jax.scaling.fitting import Fit
from cvfp_jax.scaling.laws import ALL_LAWS
from cvfp_jax.scaling.objectives import HUBER
from cvfp_jax.scaling.profile import profile_intervals

# How many times the largest size the curves go where nothing is predicted, and where something is at most.
_BEYOND, _FARTHEST = 2.0, 1000.0
_BAND_SIZES = 13  # at which a band is computed: each takes a search
_BAND_DRAWS = 200
_INK = "#333333"  # of the points


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def law_figure(analysis: GroupAnalysis, x: str, y: str) -> Figure:
    """Points with the fitted laws, and one law's 95 % band, above; the residuals of ln y below."""
    group = analysis.group
    figure = ShownFigure(figsize=(5.6, 6.0), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    fits = [fit for fit in analysis.selection.fits.values() if fit.fitted]
    sizes = _sizes(analysis)
    above.plot(group.x, group.y, "o", color=_INK, label="measured", zorder=3)
    banded = banded_law(analysis)
    band = _band(analysis.selection.fits[banded], sizes) if banded else None
    if banded and band:
        colour = _look(banded)["color"]
        above.fill_between(*band, color=colour, alpha=0.15, linewidth=0, label=f"95% band of {banded}")
    for fit in fits:
        _curve(above, fit, sizes)
        left = 100 * (np.log(group.y) - np.log(_positive(fit.predict(group.x))))
        line = "-" if len(set(group.x)) == len(group.x) else "none"
        below.plot(group.x, left, linestyle=line, linewidth=0.7, markersize=4, **_look(fit.law.name))
    shown = analysis.selection.fits[banded].predict(sizes) if banded else np.empty(0)
    for axes in (above, below):
        axes.set_xscale("log")
        axes.tick_params(which="both", length=3, pad=3)
        axes.grid(True, which="both", alpha=0.25)
    above.set(title=short(group.name, 50), ylabel=short(y), yscale="log", ylim=_limits(group.y, shown))
    below.set(xlabel=short(x), ylabel=f"residual of ln {short(y, 20)} (%)")
    below.axhline(0, color="grey", linewidth=1)
    _ticks(above.yaxis, *above.get_ylim())
    _ticks(below.xaxis, *below.get_xlim())
    legend(figure, above)
    return figure


def banded_law(analysis: GroupAnalysis) -> str | None:
    """Returns the law that has a band: the simplest that the verdict leaves, or else the power law."""
    fits = analysis.selection.fits
    fallback = ("power",) if "power" in fits and fits["power"].fitted else ()
    return next(iter((*analysis.selection.standing, *fallback)), None)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
@plain_text()
def save_law_figures(
    analyses: Sequence[GroupAnalysis], x: str, y: str, folder: Path, stem: str, vector: bool = False
) -> list[page.Figure]:
    """Draws a figure a group.

    Args:
      analyses: the groups with their laws.
      x: what the sizes are called.
      y: what the measures are called.
      folder: where the files go; made if it is missing.
      stem: what their names begin with; they are numbered from 1.
      vector: whether to write them as .svg and .pdf too.

    Returns:
      The figures, for a page.

    Raises:
      OSError: a file cannot be written.
    """
    return [
        save(
            law_figure(analysis, x, y),
            folder,
            f"{stem}-{n}.png",
            _alt(analysis, x, y),
            _caption(analysis),
            vector,
        )
        for n, analysis in enumerate(analyses, 1)
    ]


def _look(law: str) -> dict[str, str]:
    """A law's colour and marker, the same in all figures."""
    return style(list(ALL_LAWS).index(law))


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, math.nan)


def _sizes(analysis: GroupAnalysis) -> np.ndarray:
    """The sizes at which curves are drawn, those measured at its ends among them."""
    first, last = min(analysis.group.x), max(analysis.group.x)
    wanted = [point["x"] for row in analysis.rows for point in row["predictions"]]
    wanted = [size for size in wanted if first / _FARTHEST <= size <= last * _FARTHEST]
    low, high = min([first, *wanted]), max([last, *wanted] if wanted else [last * _BEYOND])
    low, high = max(low, 1e-300), min(high, 1e300)
    return np.unique([*np.geomspace(low, high, 200), first, last])


def _curve(axes: Axes, fit: Fit, sizes: np.ndarray) -> None:
    """A law, dashed where no size was measured."""
    values = _positive(fit.predict(sizes))
    first, last = fit.x[0], fit.x[-1]
    inside = (sizes >= first) & (sizes <= last)
    colour = _look(fit.law.name)["color"]
    axes.plot(sizes[inside], values[inside], color=colour, linewidth=1.2, label=fit.law.name)
    for part in (sizes <= first, sizes >= last):
        axes.plot(sizes[part], values[part], "--", color=colour, linewidth=1.2)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _band(fit: Fit, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Sizes with the lower and upper ends of the law's interval there; None if it has none."""
    if not fit.rss > 0 or fit.n <= fit.k:
        return None
    at = np.geomspace(sizes[0], sizes[-1], _BAND_SIZES)
    if fit.objective == HUBER:
        low, high = bootstrap(fit, draws=_BAND_DRAWS).curve_interval(at)
        return at, low, high
    intervals = profile_intervals(fit, (), at.tolist())
    ends = np.array([(i.low, i.high) if i else (math.nan, math.nan) for i in intervals]).T
    return at, ends[0], np.minimum(ends[1], 1e300)


def _limits(y: Sequence[float], law: np.ndarray) -> tuple[float, float]:
    """The range of an axis: of a law it shows no more than the points' own range to either side."""
    span = math.exp(min(max(math.log(max(y)) - math.log(min(y)), 0.1), 200.0))
    law = law[(law > min(y) / span) & (law < max(y) * span)]
    low, high = min([*y, *law]), max([*y, *law])
    return max(low / span**0.3, 1e-300), min(high * span**0.2, 1e300)


def _ticks(axis: Axis, low: float, high: float) -> None:
    """Labels a logarithmic axis of any unit."""
    ratio = 10 ** (math.log10(high) - math.log10(low)) if high < 1e15 and low > 1e-15 else math.inf
    if ratio < 4:  # too few of 1, 2, 3, 4, 5 and 7 lie within
        axis.set_major_locator(MaxNLocator(5))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
        return
    large = 1e4 <= high < 1e15 and low >= 1
    plain_ticks(axis, EngFormatter(sep="") if large else StrMethodFormatter("{x:,.6g}"))
    if ratio > WIDE:
        axis.set_minor_formatter(NullFormatter())


def _alt(analysis: GroupAnalysis, x: str, y: str) -> str:
    """What the figure shows, in words."""
    group = analysis.group
    texts = [
        f"{group.name}: {y} against {x}, {len(group.x)} points from {group.y[0]:.4g} at {group.x[0]:,.10g} to"
        f" {group.y[-1]:.4g} at {group.x[-1]:,.10g}, with fitted laws. Root mean square residuals of ln y:"
    ]
    left = [
        f"{row['law']} {100 * math.sqrt(row['rss_log'] / row['n']):.2g}%"
        for row in analysis.rows
        if row["rss_log"] is not None
    ]
    return f"{texts[0]} {', '.join(left) or 'none, as no law could be fitted'}."


def _caption(analysis: GroupAnalysis) -> str:
    banded = banded_law(analysis)
    band = f" The band is the 95% interval of {banded}'s own curve, for each size alone." if banded else ""
    return (
        "Points and fitted laws on logarithmic axes; curves are dashed beyond the sizes measured."
        f"{band} Below: ln y less the logarithm of each law, in per cent."
    )
