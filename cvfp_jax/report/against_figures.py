"""The figures of one sweep against another."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cvfp_jax.report import page
from cvfp_jax.report.against import Against, Pair, measured
from cvfp_jax.report.plotting import draw_law, legend, log_y, plain_text, save, short, size_axes, style
from cvfp_jax.scaling.equal_sizes import MEASURED


def pair_figure(against: Against, pair: Pair) -> Figure:
    """The perplexities of both series with their power laws above, their ratio below."""
    figure, above = size_axes(pair.name, "validation perplexity")
    figure.set_figheight(5.6)
    grid = figure.add_gridspec(2, 1, height_ratios=[3, 2])
    above.set_subplotspec(grid[0])
    below = figure.add_subplot(grid[1], sharex=above)
    for index, (name, summary) in enumerate(((against.first, pair.first), (against.second, pair.second))):
        sizes, losses = measured(summary)
        label = short(name)
        if summary.law.fitted:
            label += f": alpha {summary.law.alpha:.3f} (s.e. {summary.law.std_err:.3f})"
            draw_law(above, summary.law, style(index)["color"])
        above.plot(sizes, np.exp(losses), linestyle="none", label=label, **style(index))
    change = {ratio.x: 100 * (ratio.ratio - 1) for ratio in pair.compared}
    below.plot(list(change), list(change.values()), linewidth=0.8, **style(2))
    hollow = [ratio.x for ratio in pair.compared if ratio.status != MEASURED]
    look = style(2) | {"markerfacecolor": "white"}
    below.plot(hollow, [change[size] for size in hollow], linestyle="none", **look)
    below.axhline(0, color="grey", linewidth=1)
    below.set(ylabel="difference (%)", xlabel=above.get_xlabel())
    below.grid(True, which="both", alpha=0.25)
    above.set_xlabel("")
    above.tick_params(labelbottom=False, which="both")
    log_y(above)
    legend(figure, above)
    return figure


@plain_text()
def save_against_figures(against: Against, folder: Path) -> list[page.Figure]:
    """Draws a figure a pair, ``against-1.png`` and so on.

    Raises:
      OSError: a file cannot be written.
    """
    return [
        save(
            pair_figure(against, pair),
            folder,
            f"against-{n}.png",
            f"{pair.name}: perplexity of {against.second} and of {against.first} against training tokens."
            f" {_ratios(pair)}",
            "Above, validation perplexities with their power laws; below, by how much"
            f" {against.second} differs from {against.first} at equal sizes, hollow where one of the"
            " two is interpolated.",
        )
        for n, pair in enumerate(against.pairs, 1)
    ]


def _ratios(pair: Pair) -> str:
    """What the lower panel shows, in words."""
    ends = [pair.compared[0], pair.compared[-1]] if pair.compared else []
    texts = dict.fromkeys(f"{100 * (ratio.ratio - 1):+.1f}% at {ratio.x:,} tokens" for ratio in ends)
    return f"The difference is {' and '.join(texts)}." if texts else "No size is compared."
