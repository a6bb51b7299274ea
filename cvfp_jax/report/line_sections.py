"""The sections on the power laws of a sweep, each only where its records support it."""

from collections.abc import Mapping, Sequence

from cvfp_jax.report import inference, line_tables
from cvfp_jax.report.formats import number
from cvfp_jax.report.page import Block, Bullets, Figure, Heading, Note, Paragraph
from cvfp_jax.report.summary import PREDICT_AT, Summary

Figures = Mapping[str, Figure]


def _drawn(figures: Figures, name: str) -> list[Block]:
    """A figure, where it was drawn."""
    return [figures[name]] if name in figures else []


def laws(summaries: Sequence[Summary], figures: Figures) -> list[Block]:
    """The fitted laws, and how far their exponents differ."""
    sizes = [record["train_tokens"] for summary in summaries for record in summary.points]
    span = f"; measured from {min(sizes):,} to {max(sizes):,} tokens" if sizes else ""
    blocks: list[Block] = [
        Heading(2, "Power laws"),
        Paragraph(
            f"PPL = A tokens^alpha, least squares of ln PPL on ln tokens{span}. Standard errors and intervals"
            " assume independent errors of equal variance in ln PPL."
        ),
        line_tables.fits_table(summaries),
    ]
    if any(summary.num_seeds > 1 for summary in summaries):
        blocks.append(
            Note(
                "Replicates are points of their own, not sizes of their own. Where the points lie much"
                " farther off the law than seeds lie apart, the law itself misses: more seeds do not help,"
                " and the standard errors are too small."
            )
        )
    return [*blocks, *_drawn(figures, "exponents"), *_differences(inference.fitted(summaries))]


def _differences(fitted: line_tables.Laws) -> list[Block]:
    """Differences of exponents, of two to four laws."""
    if len(fitted) < 2:
        return []
    compared = inference.pairs(fitted)
    if compared:
        return [line_tables.differences_table(fitted, compared)]
    count = len(fitted) * (len(fitted) - 1) // 2
    return [
        Paragraph(
            f"{len(fitted)} laws make {count} pairs: some would differ by chance, so pairs are compared"
            f" where there are {inference.MOST_COMPARED} laws or fewer."
        )
    ]


def extrapolation(summaries: Sequence[Summary]) -> list[Block]:
    """What the laws say of sizes that nobody measured, and what sizes they ask for."""
    fitted = inference.fitted(summaries)
    if not fitted:
        return []
    targets = inference.sweep_targets(summaries)
    blocks: list[Block] = [Heading(2, "Extrapolation")]
    if any(law.predict(size) < 1 for law in fitted.values() for size in PREDICT_AT):
        blocks.append(Note("A perplexity below 1 cannot be: before a law falls so far it has ended."))
    blocks.append(line_tables.predictions_table(fitted, PREDICT_AT))
    return [*blocks, *([line_tables.targets_table(fitted, targets)] if targets else [])]


def windows(summaries: Sequence[Summary], figures: Figures) -> list[Block]:
    """Whether exponents change along the sizes."""
    found = inference.all_windows(summaries)
    if not found:
        return []
    return [
        Heading(2, "Windows of sizes"),
        Paragraph(
            "The original calls a change of alpha below -0.01 IMPROVING, above 0.01 DEGRADING, and else"
            " STABLE. Windows share points; the standard error of the change takes that into account."
        ),
        Bullets([line_tables.trend_text(each) for each in found]),
        *_drawn(figures, "windows"),
        line_tables.windows_table(found),
    ]


def effective_rank(summaries: Sequence[Summary], figures: Figures) -> list[Block]:
    """How effective rank goes with perplexity, and what the original read off it."""
    groups = inference.correlations(summaries)
    if not groups:
        return []
    errors = inference.rule_errors(summaries)
    ratios = inference.per_million(summaries)
    lines = [
        "Within a series the size drives both measures; series compare at equal sizes only.",
        f"The original's rule PPL = 500 - 4 ER% misses the perplexities measured here by"
        f" {100 * min(errors):+.0f}% to {100 * max(errors):+.0f}% ({len(errors)} cells).",
    ]
    if ratios:
        lines.append(
            "Perplexity per million context parameters, at the best cell: "
            + "; ".join(f"{name} {number(value, 0)}" for name, value in _few(ratios).items())
            + ". It falls with size for any models worth comparing, so it ranks nothing."
        )
    return [
        Heading(2, "Effective rank and perplexity"),
        Bullets(lines),
        *_drawn(figures, "rank_ppl"),
        line_tables.correlations_table(groups),
    ]


def _few(ratios: Mapping[str, float]) -> dict[str, float]:
    """All ratios, or where they are many the lowest and the highest."""
    if len(ratios) <= inference.MOST_COMPARED:
        return dict(ratios)
    order = sorted(ratios, key=ratios.__getitem__)
    return {name: ratios[name] for name in (order[0], order[-1])}
