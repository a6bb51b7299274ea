"""The report's section on a sweep that compares with a base: arms, or architectures of one size."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from cvfp_jax.report.contrasts import BASES, Contrast, Interval, contrast_axis
from cvfp_jax.report.formats import UNKNOWN, interval, number, whole
from cvfp_jax.report.page import Block, Bullets, Figure, Heading, Note, Paragraph, Table
from cvfp_jax.report.records import Record, seconds
from cvfp_jax.report.summary import Summary

_NAMES = {"cvfp": "CVFP", "gru": "GRU", "transformer": "transformer", "bptt": "recurrence through time"}
FIGURE = "contrasts"  # its name among a report's figures


def shown(name: str) -> str:
    """Returns what a value of an axis is called.

    >>> shown("gru"), shown("lambda 0")
    ('GRU', 'lambda 0')
    """
    return _NAMES.get(name, name)


def ratio_text(ratio: Interval) -> str:
    """Returns a ratio with its interval.

    >>> ratio_text(Interval(0.9, 0.85, 0.95)), ratio_text(Interval(0.9, math.nan, math.nan))
    ('0.900 (0.850 to 0.950)', '0.900')
    """
    return f"{ratio.mean:.3f}" + (f" ({interval(ratio[1:], 3)})" if ratio.known else "")


def verdict(contrast: Contrast) -> str:
    """Returns a contrast in a sentence."""
    ratio, seeds = contrast.interval.exp(), len(contrast.differences)
    head = (
        f"{shown(contrast.name)}: {ratio.mean:.3f} times the perplexity of {shown(contrast.base)} at"
        f" {contrast.train_tokens:,} tokens"
    )
    if not ratio.known:
        return f"{head} (one seed, which tells nothing of another)."
    ends = f"95% interval {interval(ratio[1:], 3)}, {seeds} seeds"
    if not contrast.interval.told_from_zero:
        return f"{head} ({ends}): not told apart."
    return f"{head} ({ends}): {'better' if ratio.mean < 1 else 'worse'}."


def largest(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Returns the contrasts at the largest size."""
    most = max((contrast.train_tokens for contrast in contrasts), default=0)
    return [contrast for contrast in contrasts if contrast.train_tokens == most]


def against_trigram(records: Sequence[Record]) -> Interval | None:
    """Returns the mean of ln PPL less a trigram model's over some cells; None if that was not counted."""
    differences = [
        record["val_loss"] - math.log(record["kn3_ppl"])
        for record in records
        if record["kn3_ppl"] is not None and record["val_loss"] is not None
    ]
    return Interval.of(differences) if differences else None


def _mean(records: Sequence[Record], field: str) -> float | None:
    values = [record[field] for record in records if record.get(field) is not None]
    return fmean(values) if values else None


def models_table(summaries: Sequence[Summary]) -> Table:
    """What each architecture gets, and what it takes."""
    columns = [
        "model", "PPL at the most tokens", "PPL / trigram's", "alpha", "trained parameters", "operations",
        "seconds", "chosen",
    ]  # fmt: skip
    rows = []
    for summary in sorted(summaries, key=lambda each: list(_NAMES).index(_architecture(each))):
        most = max((record["train_tokens"] for record in summary.points), default=0)
        cells = [record for record in summary.points if record["train_tokens"] == most]
        trigram, law = against_trigram(cells), summary.law
        flops, params = _mean(cells, "train_flops"), _mean(cells, "params_trained")
        tuned = summary.records[0]["tuned"] or {}
        rows.append(
            [
                shown(_architecture(summary)),
                number(math.exp(fmean(record["val_loss"] for record in cells))) if cells else UNKNOWN,
                ratio_text(trigram.exp()) if trigram else UNKNOWN,
                f"{law.alpha:.3f} ({interval(law.alpha_interval(), 3)})" if law.fitted else UNKNOWN,
                whole(None if params is None else round(params)),
                UNKNOWN if flops is None else f"{flops:.2e}",
                number(fmean(seconds(record)[0] for record in cells) if cells else None),
                ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in tuned.items()) or UNKNOWN,
            ]
        )
    caption = (
        "Perplexities are geometric means over seeds; operations (of matrix products in training) and seconds"
        " of work are means of a cell at the most tokens; intervals are of 95%."
    )
    return Table(columns, rows, caption)


def _architecture(summary: Summary) -> str:
    return str(summary.records[0]["architecture"])


def contrasts_table(contrasts: Sequence[Contrast], what: str) -> Table:
    """The differences at each size, paired by seed."""
    rows = []
    for contrast in contrasts:
        mean, low, high = contrast.interval
        rows.append(
            [
                shown(contrast.name),
                whole(contrast.train_tokens),
                f"{len(contrast.differences)}",
                f"{mean:+.4f}",
                f"{low:+.4f} to {high:+.4f}" if contrast.interval.known else UNKNOWN,
                f"{contrast.interval.exp().mean:.3f}",
            ]
        )
    base = shown(contrasts[0].base)
    caption = (
        f"ln PPL less that of {base} with the same seed, its 95% interval over seeds, and the ratio of PPL"
    )
    return Table([what, "tokens", "seeds", "ln PPL", "95% interval", "ratio"], rows, caption)


def tables(records: Sequence[Record], summaries: Sequence[Summary], found: Sequence[Contrast]) -> list[Table]:
    """Returns the tables of a sweep that compares with a base; none of another."""
    axis = contrast_axis(records)
    if axis is None or not found:
        return []
    if axis == "architecture":
        return [models_table(summaries), contrasts_table(found, "model")]
    return [contrasts_table(found, "arm")]


def verdicts(summaries: Sequence[Summary], found: Sequence[Contrast]) -> list[str]:
    """Returns what the contrasts say at the largest size, and how architectures stand to a trigram."""
    sentences = [verdict(contrast) for contrast in largest(found)]
    if not found or found[0].base != BASES["architecture"]:
        return sentences
    for summary in summaries:
        most = max((record["train_tokens"] for record in summary.points), default=0)
        cells = [record for record in summary.points if record["train_tokens"] == most]
        trigram = against_trigram(cells)
        if trigram is not None:
            ratio = ratio_text(trigram.exp())
            sentences.append(
                f"{shown(_architecture(summary))}: {ratio} times the perplexity of a Kneser-Ney trigram at"
                f" {most:,} tokens."
            )
    return sentences


def contrast_blocks(
    records: Sequence[Record],
    summaries: Sequence[Summary],
    found: Sequence[Contrast],
    figures: Mapping[str, Figure],
) -> list[Block]:
    """Returns the section: verdicts, a forest plot and tables; nothing where nothing is compared."""
    made = tables(records, summaries, found)
    if not made:
        return []
    architectures = found[0].base == BASES["architecture"]
    intro = (
        "Models with as many trained parameters, the same frozen embedding and head, the same batches and the"
        " same early stopping; learning rate and dropout were chosen for each on development samples."
        if architectures
        else f"Each arm is {found[0].base} but for what its name says."
    )
    blocks: list[Block] = [
        Heading(2, "Models of one size" if architectures else "One change at a time"),
        Paragraph(intro),
        Bullets(verdicts(summaries, found)),
    ]
    if any(len(contrast.differences) < 3 for contrast in found):
        blocks.append(Note("With fewer than three seeds an interval is wide, and with one there is none."))
    return [*blocks, *([figures[FIGURE]] if FIGURE in figures else []), *made]
