"""The sections of a report: a small function each, from the numbers to blocks of a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from cvfp_jax.data.leakage import RUN
from cvfp_jax.report import tables
from cvfp_jax.report.formats import percent
from cvfp_jax.report.page import Block, Bullets, Facts, Figure, Heading, Terms
from cvfp_jax.report.records import Record, failed
from cvfp_jax.report.summary import Summary

_SHARED = {
    "corpus": "corpus",
    "embedding": "embedding",
    "vocabulary": "vocabulary",
    "vocabulary size": "vocab_size",
    "embedding width": "embed_dim",
    "context width": "context_dim",
    "layers": "num_layers",
    "input tokens": "num_input_tokens",
    "samples": "num_samples",
    "training tokens": "train_tokens",
    "validation tokens": "val_tokens",
    "seed": "seed",
    "products of": "precision",
    "device": "device",
}
_MOST_LISTED = 6


def setting(records: Sequence[Record]) -> list[Block]:
    """What all cells share, and for what differs the values or their range."""
    num_failed = sum(map(failed, records))
    cells = f"{len(records)}, of which {num_failed} failed" if num_failed else f"{len(records)}"
    pairs = [(name, values([record[field] for record in records])) for name, field in _SHARED.items()]
    return [Facts([("cells", cells), *pairs, *_text_facts(records)])]


def _text_facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What validates, how much of it training holds in the worst cell, and which rows were left out."""
    facts = []
    own = [record["val_corpus"] for record in records if record["val_corpus"] is not None]
    if own:
        facts.append(("validation corpus", values(own)))
    measured = [record for record in records if record["val_samples_in_train"] is not None]
    if measured:
        most = max(
            measured, key=lambda record: (record["val_runs_in_train"] or 0, record["val_samples_in_train"])
        )
        shared = most["val_runs_in_train"]
        runs = "" if shared is None else f", {percent(shared)} of its runs of {RUN} tokens"
        copies = f"{most['val_samples_in_train']:,} of {most['val_whole_samples']:,} samples"
        facts.append(("validation text that training holds", f"{copies}{runs}"))
    skipped: dict[str, int] = next(
        (record["skipped_rows"] for record in reversed(records) if record["skipped_rows"]), {}
    )
    if skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        facts.append(("rows left out", reasons))
    return facts


def values(entries: Sequence[Any]) -> str:
    """Returns the distinct values among whole numbers or texts; of many numbers, their range.

    >>> values([42, 42]), values([100, 50, 100]), values(["gpt2", "spectral"])
    ('42', '50, 100', 'gpt2, spectral')
    >>> values([1_000 * size for size in range(1, 9)])
    '1,000 to 8,000 (8 values)'
    """
    distinct = sorted(set(entries))
    texts = [value if isinstance(value, str) else f"{value:,}" for value in distinct]
    if len(texts) > _MOST_LISTED and not isinstance(distinct[0], str):
        return f"{texts[0]} to {texts[-1]} ({len(texts)} values)"
    # A list with thousands marked by commas would not show where a number ends.
    return ("; " if any("," in text for text in texts) else ", ").join(texts)


def overview(summaries: Sequence[Summary], figures: Mapping[str, Figure]) -> list[Block]:
    """The table of all configurations, and the figures of what was measured."""
    drawn = [figures[name] for name in ("scaling", "effective_rank") if name in figures]
    return [Heading(2, "Summary"), tables.summary_table(summaries), *drawn]


def curves(figures: Mapping[str, Figure]) -> list[Block]:
    """How both phases went in each cell, where that was kept."""
    drawn = [figures[name] for name in ("convergence", "training") if name in figures]
    return [Heading(2, "Curves"), *drawn] if drawn else []


def conclusions(findings: Sequence[str], warnings: Sequence[str]) -> list[Block]:
    """What the numbers support, and what they do not."""
    return [
        Heading(2, "Findings"),
        Bullets(findings),
        Heading(2, "To keep in mind"),
        Bullets(warnings),
    ]


def cells(summary: Summary) -> list[Block]:
    """The cells of one configuration."""
    return [
        Heading(2, summary.series),
        tables.cells_table(summary),
        tables.diagnostics_table(summary),
        tables.times_table(summary),
    ]


def terms() -> list[Block]:
    """What the columns mean."""
    return [
        Heading(2, "Terms"),
        Terms(
            [
                ("PPL", "perplexity, the exponential of the mean loss in nats a token"),
                (
                    "train PPL",
                    "the mean over the batches of the best epoch, each measured before its step",
                ),
                (
                    "trigram PPL",
                    "that of a trigram model with modified Kneser-Ney smoothing of the same training tokens",
                ),
                ("unigram PPL", "that of an add-one unigram model of the same training tokens"),
                ("ER", "effective rank, in per cent of the context dimensions"),
                ("ER verdict", "the original's: over 80 % good, 75 to 80 % fair"),
                (
                    "P1, P2",
                    "phase 1, the fixed-point iteration of the contexts; phase 2, next-token training",
                ),
                ("compiling", "making programs for the device, or loading those that were kept; no work"),
                ("converged", "the share of the tokens whose context had stopped moving"),
                ("residual", "the mean squared change that one more pass at fixed parameters would make"),
                (
                    "trials",
                    "whether passes over the validation tokens, each from where the last one ended, agree"
                    " more and more; slope is the trend of their differences",
                ),
                ("norm, distance", "means over contexts and over pairs of them"),
                (
                    "std err",
                    "a single standard error of the least-squares fit, with as many degrees of freedom as"
                    " points less two; replicates are points of their own",
                ),
                (
                    "95% interval",
                    "Student's, of as many degrees of freedom; with three points it has one, and is wide",
                ),
            ]
        ),
    ]
