"""The figure of ``scaling``: time and memory against each size, log-log, with fitted power laws."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullLocator

from cvfp_jax.errors import file_error
from cvfp_jax.report.plotting import plain_text, plain_ticks, style, thin_ticks

_NAMES = {"N": "training tokens N", "D": "context width D", "K": "input tokens K", "V": "vocabulary V"}
_ROWS = (("time", "median", 1.0, "time (s)"), ("memory", "peak_rss_mb", 1e-3, "peak memory (GB)"))


def _draw(
    axes: Axes, summary: Mapping[str, Any], kind: str, key: str, scale: float, look: dict[str, Any]
) -> None:
    sizes = np.array([point["value"] for point in summary["points"]], float)
    measures = scale * np.array([point[key] for point in summary["points"]])
    axes.plot(sizes, measures, linestyle="none", **look)
    axes.set(xscale="log", yscale="log")
    exponent = summary[kind]["exponent"]
    if exponent is not None:
        middle = np.exp(np.mean(np.log(measures)) - exponent * np.mean(np.log(sizes)))
        axes.plot(sizes, middle * sizes**exponent, color=look["color"], linewidth=1)
        axes.set_title(f"exponent {exponent:.3f} (s.e. {summary[kind]['std_err']:.3f})", fontsize="medium")
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plain_ticks(axes.yaxis, FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = measures.min(), measures.max()
    # A measure that hardly grows must not look as if it did.
    axes.set_ylim(min(low / 1.3, (low * high) ** 0.5 / 2), max(high * 1.3, (low * high) ** 0.5 * 2))
    thin_ticks(axes.yaxis)
    axes.grid(True, which="both", alpha=0.25)


@plain_text()
def figure(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Returns a column of axes for each size, time above memory."""
    drawn = Figure(figsize=(3.2 * len(summaries), 5.6), layout="constrained")
    grid = drawn.subplots(len(_ROWS), len(summaries), squeeze=False)
    for column, (letter, summary) in enumerate(summaries.items()):
        for row, (kind, key, scale, label) in enumerate(_ROWS):
            axes = grid[row, column]
            _draw(axes, summary, kind, key, scale, style(column))
            axes.set_xlabel(_NAMES[letter])
            axes.set_ylabel(f"{label}\n{summary['what']}" if kind == "time" else label)
    return drawn


def save(summaries: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Writes the figure as a PNG."""
    try:
        figure(summaries).savefig(path, dpi=200, format="png")
    except OSError as error:
        raise file_error(f"cannot write {path}: {error.strerror}; choose another file.", error) from None
