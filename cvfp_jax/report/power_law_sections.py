"""The sections on the power laws of a sweep, each only where its records support it."""

from collections.abc import Mapping, Sequence

from cvfp_jax.report import power_law_tables
from cvfp_jax.report.formats import number
from cvfp_jax.report.inference import MOST_COMPARED, Inference
from cvfp_jax.report.page import Block, Bullets, Figure, Heading, Note, Paragraph
from cvfp_jax.report.summary import PREDICT_AT, Summary

Figures = Mapping[str, Figure]


def _drawn(figures: Figures, name: str) -> list[Block]:
    """A figure, where it was drawn."""
    return [figures[name]] if name in figures else []


def laws(summaries: Sequence[Summary], inference: Inference, figures: Figures) -> list[Block]:
    """The fitted laws, and how far their exponents differ."""
    sizes = [record["train_tokens"] for summary in summaries for record in summary.points]
    span = f"; measured from {min(sizes):,} to {max(sizes):,} tokens" if sizes else ""
    blocks: list[Block] = [
        Heading(2, "Power laws"),
        Paragraph(
            f"PPL = A tokens^alpha, least squares of ln PPL on ln tokens{span}. Standard errors and intervals"
            " assume independent errors of equal variance in ln PPL."
        ),
        power_law_tables.fits_table(summaries),
    ]
    if any(summary.num_seeds > 1 for summary in summaries):
        blocks.append(
            Note(
                "Replicates are points of their own, not sizes of their own. Where the points lie much"
                " farther off the law than seeds lie apart, the law itself misses: more seeds do not help,"
                " and the standard errors are too small."
            )
        )
    return [*blocks, *_drawn(figures, "exponents"), *_differences(inference)]


def _differences(inference: Inference) -> list[Block]:
    """Differences of exponents, of two to four laws."""
    count = len(inference.laws)
    if count < 2:
        return []
    if inference.comparisons:
        return [power_law_tables.differences_table(inference.comparisons)]
    return [
        Paragraph(
            f"{count} laws make {count * (count - 1) // 2} pairs: some would differ by chance, so pairs are"
            f" compared where there are {MOST_COMPARED} laws or fewer."
        )
    ]


def extrapolation(inference: Inference) -> list[Block]:
    """What the laws say of sizes that nobody measured, and what sizes they ask for."""
    laws = inference.laws
    if not laws:
        return []
    blocks: list[Block] = [Heading(2, "Extrapolation")]
    if any(law.predict(size) < 1 for law in laws.values() for size in PREDICT_AT):
        blocks.append(Note("A perplexity below 1 cannot be: before a law falls so far it has ended."))
    blocks.append(power_law_tables.predictions_table(laws, PREDICT_AT))
    if inference.targets:
        blocks.append(power_law_tables.targets_table(inference.targets))
    return blocks


def windows(inference: Inference, figures: Figures) -> list[Block]:
    """Whether exponents change along the sizes."""
    if not inference.windows:
        return []
    return [
        Heading(2, "Windows of sizes"),
        Paragraph(
            "The original calls a change of alpha below -0.01 IMPROVING, above 0.01 DEGRADING, and else"
            " STABLE. Windows share points; the standard error of the change takes that into account."
        ),
        Bullets([power_law_tables.trend_text(each) for each in inference.windows]),
        *_drawn(figures, "windows"),
        power_law_tables.windows_table(inference.windows),
    ]


def effective_rank(inference: Inference, figures: Figures) -> list[Block]:
    """How effective rank goes with perplexity, and what the original read off it."""
    if not inference.rank_correlations:
        return []
    errors, ratios = inference.rank_rule_errors, inference.ppl_per_million
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
        power_law_tables.correlations_table(inference.rank_correlations),
    ]


def _few(ratios: Mapping[str, float]) -> dict[str, float]:
    """All ratios, or where they are many the lowest and the highest."""
    if len(ratios) <= MOST_COMPARED:
        return dict(ratios)
    order = sorted(ratios, key=ratios.__getitem__)
    return {name: ratios[name] for name in (order[0], order[-1])}
