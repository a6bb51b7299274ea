"""The forest plot of a sweep that compares with a base."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cvfp_jax.report import page
from cvfp_jax.report.contrast_sections import FIGURE, largest, ratio_text, shown
from cvfp_jax.report.contrasts import Contrast
from cvfp_jax.report.plotting import ShownFigure, plain_text, save, short, style


def forest_figure(contrasts: Sequence[Contrast], title: str) -> Figure:
    """The mean difference of each arm with its interval, and each seed's as a dot."""
    figure = ShownFigure(figsize=(5.6, 1.6 + 0.32 * len(contrasts)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="grey", linewidth=1)
    for row, contrast in enumerate(contrasts):
        mean, low, high = contrast.interval
        look = style(0 if not contrast.interval.told_from_zero else 2 if mean < 0 else 1)
        if contrast.interval.known:
            axes.plot([low, high], [row, row], color=look["color"], linewidth=2)
        axes.plot(
            list(contrast.differences.values()), [row] * len(contrast.differences), "|", color="#606060"
        )
        axes.plot(mean, row, linestyle="none", **look)
    base, tokens = contrasts[0].base, contrasts[0].train_tokens
    axes.set(
        title=short(title, 50),
        xlabel=f"ln PPL less that of {shown(base)}, at {tokens:,} tokens",
        yticks=range(len(contrasts)),
        yticklabels=[short(shown(contrast.name)) for contrast in contrasts],
        ylim=(len(contrasts) - 0.5, -0.5),
    )
    axes.grid(True, axis="x", alpha=0.25)
    return figure


@plain_text()
def save_contrast_figures(contrasts: Sequence[Contrast], title: str, folder: Path) -> dict[str, page.Figure]:
    """Draws the forest plot at the largest size; nothing where nothing is compared.

    Raises:
      OSError: a file cannot be written.
    """
    shown_here = largest(contrasts)
    if not shown_here:
        return {}
    texts = [f"{shown(each.name)} {ratio_text(each.interval.exp())}" for each in shown_here]
    return {
        FIGURE: save(
            forest_figure(shown_here, title),
            folder,
            f"{FIGURE}.png",
            f"Perplexity as a multiple of that of {shown(shown_here[0].base)}: {'; '.join(texts)}.",
            "Differences of ln PPL to the base with the same seed: their mean with the 95% interval (green:"
            " better, orange: worse, blue: not told apart), and each seed's as a stroke.",
        )
    }
