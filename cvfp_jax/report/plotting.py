"""What all figures share: axes, colours, labels of numbers, legends, laws with bands, files."""

import io
from collections.abc import Sequence
from contextlib import ContextDecorator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from cvfp_jax.report import page
from cvfp_jax.runtime.files import replacing
from cvfp_jax.scaling.line import LogLine

# Okabe and Ito's colours, which colour-blind readers can tell apart, each with a marker of its own.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_LARGEST = 1e15  # no axis has room for more
MOST_BANDS = 4  # more bands than that hide each other
WIDE = 30  # beyond this ratio an axis has room for few labels, beyond its square for whole decades only


class ShownFigure(Figure):
    """A figure that notebooks show, with and without pyplot's machinery."""

    def _repr_png_(self) -> bytes:
        """Returns the figure as a PNG file."""
        buffer = io.BytesIO()
        self.savefig(buffer, dpi=100)
        return buffer.getvalue()


def plain_text() -> ContextDecorator:
    """Returns a decorator of functions that draw names: a dollar sign in a name is no formula."""
    return matplotlib.rc_context({"text.parse_math": False})


def style(index: int) -> dict[str, Any]:
    """Returns the colour and the marker of a series."""
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}


def size_axes(title: str, y_label: str) -> tuple[Figure, Axes]:
    """Returns axes over training tokens, small enough that their letters can be read on a telephone too."""
    figure = ShownFigure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(title=short(title, 50), xlabel="training tokens", ylabel=y_label, xscale="log")
    plain_ticks(axes.xaxis, EngFormatter(sep=""))
    axes.tick_params(which="both", length=3, pad=3)
    axes.grid(True, which="both", alpha=0.25)
    return figure, axes


def short(name: str, most: int = 36) -> str:
    """Returns a name cut to a length that leaves the figure its space.

    >>> short("a very long name", 8)
    'a very \N{HORIZONTAL ELLIPSIS}'
    """
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def legend(figure: Figure, axes: Axes) -> None:
    """Puts the legend below the axes, which keep their size, in two columns where the names are short."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= 24 else 1
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")


def plain_ticks(axis: Axis, formatter: Formatter) -> None:
    """Labels a logarithmic axis with numbers as people write them, not with powers of ten."""
    axis.set_major_formatter(formatter)
    axis.set_minor_locator(LogLocator(subs=(2, 3, 4, 5, 7)))
    axis.set_minor_formatter(formatter)


def log_y(axes: Axes) -> None:
    """Makes the axis of a perplexity logarithmic; called when all is drawn."""
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, FuncFormatter(_perplexity))
    thin_ticks(axes.yaxis)


def _perplexity(value: float, _: float | None = None) -> str:
    """A tick's label, in powers of ten where it is huge."""
    return f"{value:,.0f}" if value < 1e7 else f"{value:.0e}"


def thin_ticks(axis: Axis) -> None:
    """Labels fewer numbers of a wide logarithmic axis; called when all is drawn."""
    low, high = axis.get_view_interval()
    if high / low > WIDE:
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
    if high / low > WIDE**2:
        axis.set_minor_formatter(NullFormatter())


def draw_law(axes: Axes, line: LogLine, colour: str, beyond: float = 1.0) -> None:
    """Draws a law over its sizes, and dashed up to so many times the largest."""
    parts = [(line.first, line.last, "-")] + [(line.last, beyond * line.last, "--")] * (beyond > 1)
    for first, last, dashes in parts:
        sizes = np.geomspace(first, last)
        values = np.array([line.predict(size) for size in sizes])
        shown = (values >= 1) & (values <= _LARGEST)  # below 1 is no perplexity
        axes.plot(sizes[shown], values[shown], dashes, color=colour, linewidth=1)


def draw_bands(axes: Axes, lines: Sequence[tuple[LogLine, str]], beyond: float = 1.0) -> None:
    """Draws the laws' own 95% bands behind what is there; called last, since the axes keep their range."""
    if len(lines) > MOST_BANDS:
        return
    ends = axes.get_ylim()
    for line, colour in lines:
        sizes = np.geomspace(line.first, beyond * line.last)
        low, high = np.clip([line.interval(size, new=False) for size in sizes], 1 / _LARGEST, _LARGEST).T
        axes.fill_between(sizes, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_ylim(ends)


def save(
    figure: Figure, folder: Path, name: str, alt: str, caption: str, vector: bool = False
) -> page.Figure:
    """Writes a figure and returns it for a page.

    Args:
      figure: what to write.
      folder: where the file goes; made if it is missing.
      name: of the file, ending in ``.png``.
      alt: what the figure shows, for readers who do not see it.
      caption: what it is.
      vector: whether to write it as .svg and .pdf too.

    Returns:
      The figure as a block.

    Raises:
      OSError: the file cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=200)
    # A palette makes the file a third as large, and a report with all its figures one that can be sent.
    palette = Image.open(drawn).convert("RGB").quantize(256)
    with replacing(folder / name) as file:
        palette.save(file, "PNG", optimize=True, dpi=(200, 200))
    for kind in ("svg", "pdf") if vector else ():
        with replacing((folder / name).with_suffix(f".{kind}")) as file:
            figure.savefig(file, format=kind)
    return page.Figure(name, alt, caption)
