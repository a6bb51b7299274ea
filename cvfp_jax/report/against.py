"""One sweep against another, series by series: perplexities at equal sizes, and exponents."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from cvfp_jax.errors import UserError
from cvfp_jax.report.formats import UNKNOWN, number, whole
from cvfp_jax.report.page import Block, Bullets, Figure, Heading, Note, Paragraph, Table
from cvfp_jax.report.summary import Summary
from cvfp_jax.scaling.derived import ExponentDifference, exponent_difference
from cvfp_jax.scaling.equal_sizes import Ratio, at_equal_sizes

# What else must agree for perplexities to be measured on the same thing.
_SAME = {
    "val_tokens": "the number of validation tokens",
    "vocab_size": "the size of the vocabulary",
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A series of each sweep."""

    first: Summary
    second: Summary
    ratios: list[Ratio]
    difference: ExponentDifference | None  # with its 95 % interval; None without two laws

    @property
    def name(self) -> str:
        """The series' common name, or both."""
        one, two = self.first.series, self.second.series
        return two if one == two else f"{two} against {one}"

    @property
    def compared(self) -> list[Ratio]:
        """The sizes at which both have a perplexity, measured or interpolated."""
        return [ratio for ratio in self.ratios if ratio.defined]


@dataclasses.dataclass(frozen=True)
class Against:
    """The sweep that a report is of, second, beside another, first."""

    first: str  # what the sweeps are called
    second: str
    pairs: list[Pair]
    unpaired: list[str]

    @functools.cached_property
    def findings(self) -> list[str]:
        """What the numbers support: of each pair the ratios, and the exponents' difference."""
        return [text for pair in self.pairs for text in _pair_findings(self, pair)]

    @functools.cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before trusting the comparison."""
        warnings = []
        for pair in self.pairs:
            warnings += [f"{pair.name}: {text}." for text in _differences(pair)]
            for name, summary in ((self.first, pair.first), (self.second, pair.second)):
                if summary.left_out:
                    warnings.append(
                        f"{summary.series} of {name}: failed cells left out, {len(summary.left_out)}."
                    )
        if self.unpaired:
            warnings.append(f"Without a partner, and not compared: {', '.join(self.unpaired)}.")
        return warnings

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison with every number in full precision."""
        return {
            "first": self.first,
            "second": self.second,
            "unpaired": self.unpaired,
            "findings": self.findings,
            "warnings": self.warnings,
            "pairs": [
                {
                    "first": pair.first.series,
                    "second": pair.second.series,
                    "ratios": [
                        {
                            "train_tokens": ratio.x,
                            "status": ratio.status,
                            "first_ppl": ratio.first if ratio.defined else None,
                            "second_ppl": ratio.second if ratio.defined else None,
                            "ratio": ratio.ratio if ratio.defined else None,
                        }
                        for ratio in pair.ratios
                    ],
                    "alpha_difference": pair.difference and pair.difference.change,
                    "alpha_difference_interval": pair.difference and list(pair.difference[1:]),
                }
                for pair in self.pairs
            ],
        }


def measured(summary: Summary) -> tuple[list[int], list[float]]:
    """Returns the sizes and mean losses of the points whose perplexity is a number."""
    points = [record for record in summary.points if record["val_ppl"] is not None]
    return [record["train_tokens"] for record in points], [record["val_loss"] for record in points]


def compare_sweeps(names: tuple[str, str], first: Sequence[Summary], second: Sequence[Summary]) -> Against:
    """Compares the series that two sweeps have in common.

    Series belong together by their names, then by a ``config_name`` that one series of each has; the
    single series of two sweeps belong together whatever their names.

    Args:
      names: what the sweeps are called.
      first: a sweep by series.
      second: the one that is compared with it.

    Returns:
      The pairs, in the order of the second, and the series that have no partner.

    Raises:
      UserError: no series of one belongs to one of the other.
    """
    partners = _partners(first, second)
    pairs = []
    for one, two in partners:
        fitted = one.law.fitted and two.law.fitted
        difference = exponent_difference(one.law, two.law) if fitted else None
        pairs.append(Pair(one, two, at_equal_sizes(measured(one), measured(two)), difference))
    if not pairs:
        listed = [", ".join(summary.series for summary in sweep) for sweep in (second, first)]
        raise UserError(
            f"--against: nothing to compare: {names[1]} has the series {listed[0]}, {names[0]} has"
            f" {listed[1]}; name sweeps with a configuration in common, or of one series each."
        )
    taken = {id(summary) for pair in partners for summary in pair}
    unpaired = [
        f"{summary.series} of {name}"
        for name, sweep in zip(names, (first, second), strict=True)
        for summary in sweep
        if id(summary) not in taken
    ]
    return Against(*names, pairs, unpaired)


def _partners(first: Sequence[Summary], second: Sequence[Summary]) -> list[tuple[Summary, Summary]]:
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    by_name = {summary.series: summary for summary in first}
    partner = {two.series: by_name[two.series] for two in second if two.series in by_name}
    rest = [
        [summary for summary in summaries if summary.series not in partner] for summaries in (first, second)
    ]
    counts = [Counter(_config_name(summary) for summary in summaries) for summaries in rest]
    single = {_config_name(one): one for one in rest[0] if counts[0][_config_name(one)] == 1}
    for two in rest[1]:
        if counts[1][_config_name(two)] == 1 and _config_name(two) in single:
            partner[two.series] = single[_config_name(two)]
    return [(partner[two.series], two) for two in second if two.series in partner]


def _config_name(summary: Summary) -> str:
    return str(summary.records[0]["config_name"])


def _pair_findings(against: Against, pair: Pair) -> Iterator[str]:
    ratios = sorted(ratio.ratio for ratio in pair.compared)
    if not ratios:
        yield f"{pair.name}: at no size do both have a perplexity, measured or between two measured."
    else:
        sizes = [ratio.x for ratio in pair.compared]
        below = sum(ratio < 1 for ratio in ratios)
        span = " to ".join(dict.fromkeys(f"{ratio:.3f}" for ratio in (ratios[0], ratios[-1])))
        yield (
            f"{pair.name}: at {len(ratios)} sizes from {min(sizes):,} to {max(sizes):,} tokens the perplexity"
            f" of {against.second} is {span} times that of {against.first}, and lower at {below} of them."
        )
    if pair.difference is None:
        return
    change, low, high = pair.difference
    head = f"{pair.name}: alpha of {against.second} less that of {against.first} is {change:+.4f}"
    interval = f"95% interval {low:+.4f} to {high:+.4f}"
    if not pair.difference.told_from_zero:
        yield f"{head} ({interval}): these points do not tell the exponents apart."
    else:
        steeper = against.second if change < 0 else against.first
        yield f"{head} ({interval}): the perplexity of {steeper} falls faster as the data grow."


def _differences(pair: Pair) -> Iterator[str]:
    """What else differs between the sweeps, so that the ratios compare it too."""
    first, second = pair.first.points, pair.second.points
    if not first or not second:
        return
    # The hash is of the texts, the split and the vocabulary, so each size has its own.
    hashes = [{r["num_samples"]: r["corpus_sha256"] for r in points} for points in (first, second)]
    shared = hashes[0].keys() & hashes[1].keys()
    if {r["corpus"] for r in first} != {r["corpus"] for r in second} or any(
        hashes[0][size] != hashes[1][size] for size in shared
    ):
        yield "the texts, their split or the vocabulary differ, so the ratios compare these too"
    elif not shared:
        yield "no number of samples in common, so nothing tells whether both read the same texts"
    for field, what in _SAME.items():
        one, two = (sorted({r[field] for r in points}) for points in (first, second))
        if one != two:
            values = ["; ".join(f"{value:,}" for value in sweep) for sweep in (one, two)]
            yield (
                f"{what} differs ({values[0]} in the first, {values[1]} in the second), so the ratios compare"
                " that too"
            )


def ratios_table(against: Against, pair: Pair) -> Table:
    """The perplexities of a pair at every size of either."""
    rows = [
        [
            whole(int(ratio.x)),
            number(ratio.first),
            number(ratio.second),
            f"{ratio.ratio:.4f}" if ratio.defined else UNKNOWN,
            ratio.status.partition(":")[0],
        ]
        for ratio in pair.ratios
    ]
    columns = ["tokens", f"PPL of {against.first}", f"PPL of {against.second}", "ratio", "how"]
    return Table(columns, rows, f"{pair.name} at equal sizes")


def against_blocks(against: Against, figures: Sequence[Figure]) -> list[Block]:
    """Returns the report's section on the comparison: a figure and a table a pair."""
    blocks: list[Block] = [
        Heading(2, f"Against {against.first}"),
        Paragraph(
            f"{against.second}, this report's sweep, beside {against.first}. A perplexity that was not"
            " measured at a size is read off the log-log line between its neighbours; none is extrapolated."
        ),
        Bullets(against.findings),
        Note(
            "The ratios carry no interval. Those of the exponents take the errors of both fits as"
            " independent, and hold for one pair at a time."
        ),
    ]
    if against.warnings:
        blocks.append(Bullets(against.warnings))
    for pair, figure in zip(against.pairs, figures, strict=True):
        blocks += [figure, ratios_table(against, pair)]
    return blocks
