"""The figures of a sweep's summary: perplexity with its laws, and effective rank, against training tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from cvfp_jax.report import page
from cvfp_jax.report.formats import number, percent
from cvfp_jax.report.plotting import (
    MOST_BANDS,
    draw_bands,
    draw_law,
    legend,
    log_y,
    plain_text,
    save,
    short,
    size_axes,
    style,
    thin_ticks,
)
from cvfp_jax.report.summary import Summary

# Ordinary models of the same tokens: their names, and greys from light to dark.
_BASELINES = {
    "unigram_ppl": ("unigram", "#b0b0b0"),
    "kn2_ppl": ("Kneser-Ney bigram", "#8c8c8c"),
    "kn3_ppl": ("Kneser-Ney trigram", "#606060"),
    "kn4_ppl": ("Kneser-Ney 4-gram", "#303030"),
}
BEYOND = 3.0  # how many times the largest size the laws are drawn to


def points(summary: Summary, field: str) -> tuple[list[int], list[float]]:
    """Returns the sizes and one measure of the cells that have it."""
    records = [record for record in summary.records if record[field] is not None]
    return [record["train_tokens"] for record in records], [record[field] for record in records]


def scaling_figure(summaries: Sequence[Summary], title: str) -> Figure:
    """Validation perplexity against training tokens, with the fitted laws, and ordinary models."""
    figure, axes = size_axes(title, "validation perplexity")
    axes.set_yscale("log")
    baselines: dict[str, dict[int, float]] = {field: {} for field in _BASELINES}
    laws = []
    for index, summary in enumerate(summaries):
        look, law = style(index), summary.law
        label = short(summary.series)
        if law.fitted:
            label += f": alpha {law.alpha:.3f} (s.e. {law.std_err:.3f})"
            draw_law(axes, law, look["color"], BEYOND)
            laws.append((law, look["color"]))
        x, y = points(summary, "val_ppl")
        axes.plot(x, y, linestyle="none", label=label, **look)
        for field, by_size in baselines.items():
            by_size |= dict(zip(*points(summary, field), strict=True))
    for field, by_size in baselines.items():
        if by_size:
            name, shade = _BASELINES[field]
            # Marked, because a line through one point does not show.
            axes.plot(*zip(*sorted(by_size.items()), strict=True), ":.", color=shade, label=name)
    draw_bands(axes, laws, BEYOND)
    log_y(axes)
    thin_ticks(axes.xaxis)
    legend(figure, axes)
    return figure


def effective_rank_figure(summaries: Sequence[Summary], title: str) -> Figure:
    """Effective rank of training and validation contexts against training tokens."""
    figure, axes = size_axes(title, "effective rank (% of context dimensions)")
    for index, summary in enumerate(summaries):
        for field, line in (("train_effective_rank", "-"), ("val_effective_rank", ":")):
            x, shares = points(summary, field)
            name = f"{short(summary.series)}, {field.split('_')[0]}"
            look = style(index)
            by_size: dict[int, list[float]] = {}
            for size, share in zip(x, shares, strict=True):
                by_size.setdefault(size, []).append(100 * share)
            if len(by_size) < len(x):  # the line runs through the means of the replicates
                axes.plot(x, [100 * share for share in shares], linestyle="none", **look)
                axes.plot([], [], linestyle=line, label=name, **look)
                look, name = look | {"marker": None}, "_means"
            means = [fmean(group) for group in by_size.values()]
            axes.plot(list(by_size), means, linestyle=line, label=name, **look)
    thin_ticks(axes.xaxis)
    legend(figure, axes)
    return figure


@plain_text()
def save_figures(summaries: Sequence[Summary], title: str, folder: Path) -> dict[str, page.Figure]:
    """Draws the figures of a sweep's summary.

    Args:
      summaries: what to draw.
      title: the sweep's name.
      folder: where the files go; made if it is missing.

    Returns:
      The figures by name, for a page.
    """
    fitted = sum(summary.law.fitted for summary in summaries)
    laws = ""
    if fitted:
        laws = " Each line is a fitted law, dashed where it is extrapolated; s.e. is its standard error."
        laws += " Bands hold the law itself with 95% confidence." if fitted <= MOST_BANDS else ""
    return {
        "scaling": save(
            scaling_figure(summaries, title),
            folder,
            "scaling.png",
            f"Validation perplexity against training tokens, log-log. {_ends(summaries, 'val_ppl', number)}",
            f"Validation perplexity against training tokens, both on logarithmic axes. Grey and"
            f" dotted: ordinary models of the same tokens.{laws}",
        ),
        "effective_rank": save(
            effective_rank_figure(summaries, title),
            folder,
            "effective_rank.png",
            "Effective rank of the validation contexts against training tokens."
            f" {_ends(summaries, 'val_effective_rank', percent)}",
            "Effective rank in per cent of the context dimensions against training tokens: of the training"
            " contexts (solid) and of the validation contexts (dotted).",
        ),
    }


def _ends(summaries: Sequence[Summary], field: str, write: Callable[[float], str]) -> str:
    """What a figure shows, in words: of each series the measure at its least and its greatest size."""
    texts = []
    for summary in summaries:
        x, y = points(summary, field)
        if x:
            ends = dict.fromkeys(f"{write(y[end])} at {x[end]:,} tokens" for end in (0, -1))
            texts.append(f"{summary.series}: {' to '.join(ends)}")
    return "; ".join(texts) + "." if texts else "No cell was measured."
