"""Figures of laws of two variables: the loss over both, and the best sizes for a budget."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cvfp_jax.report import page
from cvfp_jax.report.plotting import ShownFigure, legend, plain_text, save, short
from cvfp_jax.scaling.surface_analysis import SurfaceAnalysis


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def surface_figure(analysis: SurfaceAnalysis, variables: Sequence[str], y: str) -> Figure:
    """Points over both variables, the lines of equal loss of one law, and its best sizes with their band."""
    figure = ShownFigure(figsize=(5.6, 4.8), layout="constrained")
    axes = figure.subplots()
    N, D = (np.array(column) for column in analysis.group.variables[:2])
    points = axes.scatter(N, D, c=analysis.group.y, s=14, cmap="viridis", zorder=3, label="measured")
    figure.colorbar(points, ax=axes, label=short(y), shrink=0.8)
    law = shown_law(analysis)
    fit = analysis.fits[law] if law else None
    if fit is not None and fit.law.variables == 2:
        sizes = np.geomspace(N.min() / 2, N.max() * 2, 60), np.geomspace(D.min() / 2, D.max() * 2, 60)
        grid = np.meshgrid(*sizes)
        lines = axes.contour(*grid, fit.predict(*grid), levels=8, colors="grey", linewidths=0.7)
        axes.clabel(lines, fontsize="x-small")
    best = analysis.best.get(law or "", [])
    if best:
        params, tokens = ([getattr(each, name) for each in best] for name in ("params", "tokens"))
        axes.plot(params, tokens, color="#D55E00", linewidth=1.4, label=f"best sizes by {law}")
        ends = [
            (each.params_interval.low, each.params_interval.high, each.tokens)
            for each in best
            if each.params_interval is not None
        ]
        if ends:
            low, high, at = np.array(ends).T
            axes.fill_betweenx(at, low, high, color="#D55E00", alpha=0.15, linewidth=0, label="95% interval")
    found = [each for each in analysis.minima if each.found]
    if found and analysis.operations:
        axes.plot(
            [each.params for each in found],
            [each.budget / analysis.operations / each.params for each in found],
            "x",
            color="#333333",
            label="minima of budgets",
        )
    axes.set(xscale="log", yscale="log", xlabel=short(variables[0]), ylabel=short(variables[1]))
    axes.set_title(short(analysis.group.name, 50))
    axes.grid(True, which="major", alpha=0.25)
    legend(figure, axes)
    return figure


def shown_law(analysis: SurfaceAnalysis) -> str | None:
    """Returns the law that is drawn: the first that the verdict leaves and that has best sizes, or any."""
    fitted = [name for name, fit in analysis.fits.items() if fit.fitted]
    return next(
        (n for n in (*analysis.standing, *fitted) if n in analysis.best), fitted[0] if fitted else None
    )


@plain_text()
def save_surface_figures(
    analyses: Sequence[SurfaceAnalysis], variables: Sequence[str], y: str, folder: Path
) -> list[page.Figure]:
    """Draws a figure a group into a folder, which is made if it is missing."""
    return [
        save(
            surface_figure(analysis, variables, y),
            folder,
            f"fits-{n}.png",
            f"{analysis.group.name}: {len(analysis.group.y)} points over {' and '.join(variables[:2])},"
            f" coloured by {y} from {min(analysis.group.y):.4g} to {max(analysis.group.y):.4g}.",
            f"Points over both variables with lines of equal {y}"
            + (", and the best sizes for each budget." if analysis.best else "."),
            vector=True,
        )
        for n, analysis in enumerate(analyses, 1)
    ]
