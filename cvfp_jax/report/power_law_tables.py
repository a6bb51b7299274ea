"""Tables of power laws: their parameters, and what follows from them."""

import math
from collections.abc import Mapping, Sequence

from cvfp_jax.report.formats import UNKNOWN, interval, number, percent, size
from cvfp_jax.report.inference import Comparison, Laws, SeriesWindows
from cvfp_jax.report.page import Table
from cvfp_jax.report.summary import Summary
from cvfp_jax.scaling.correlate import Correlation
from cvfp_jax.scaling.derived import CROSSES, TargetSize, reduction_per_doubling
from cvfp_jax.scaling.line import LogLine


def perplexity(value: float) -> str:
    """Returns a perplexity; a value below 1 cannot be one.

    >>> perplexity(370.26), perplexity(0.4)
    ('370.3', 'below 1')
    """
    return "below 1" if value < 1 else number(value)


def fits_table(summaries: Sequence[Summary]) -> Table:
    """The fitted laws."""
    replicated = any(summary.num_seeds > 1 for summary in summaries)
    columns = ["config", "points", "alpha", "std err", "95% interval", "p", "A", "R2", "less per doubling"]
    if replicated:
        columns[4:4] = ["off the law", "between seeds"]
    rows = []
    for summary in summaries:
        law = summary.law
        cells = [law.status] + [UNKNOWN] * 6
        if law.fitted:
            cells = [
                number(law.alpha, 4), number(law.std_err, 4), interval(law.alpha_interval(), 3),
                f"{law.p_value:.2g}", f"{law.A:.3e}", number(law.r2, 4), _per_doubling(law),
            ]  # fmt: skip
        if replicated:
            cells[2:2] = [number(math.sqrt(law.residual_variance), 4), number(summary.seed_spread, 4)]
        rows.append([summary.series, points_text(summary), *cells])
    caption = "Each doubling of the tokens lowers PPL by 1 - 2^alpha."
    if replicated:
        caption += " Off the law and between seeds: standard deviations of ln PPL."
    return Table(columns, rows, caption)


def _per_doubling(law: LogLine) -> str:
    """By how much a doubling of the size lowers the measure, with its interval."""
    low, high = (percent(reduction_per_doubling(alpha)) for alpha in reversed(law.alpha_interval()))
    return f"{percent(reduction_per_doubling(law.alpha))} ({low} to {high})"


def points_text(summary: Summary) -> str:
    """Returns how many points a law is fitted to; with replicates, how many sizes and seeds they have."""
    n, sizes, seeds = summary.law.n, summary.num_sizes, summary.num_seeds
    return f"{n}" if n == sizes else f"{n} ({sizes} sizes, {seeds} seeds)"


def predictions_table(laws: Laws, sizes: Sequence[float], x: str = "tokens") -> Table:
    """What each law predicts at some sizes, with intervals for one more run there."""
    rows = []
    for name, law in laws.items():
        cells = []
        for at in sizes:
            low, high = (perplexity(end) for end in law.interval(at))
            mark = " *" if law.extrapolates(at) else ""
            cells.append(f"{perplexity(law.predict(at))} ({low} to {high}){mark}")
        rows.append([name, size(law.last), *cells])
    caption = (
        "Validation perplexity and 95% interval of one more run, if the power law holds there."
        " * extrapolated: outside the sizes measured."
    )
    columns = ["series", f"largest {x}", *(f"PPL at {size(at)} {x}" for at in sizes)]
    return Table(columns, rows, caption)


def targets_table(targets: Sequence[tuple[str, TargetSize]], x: str = "tokens") -> Table:
    """The size at which each law reaches a target."""
    rows = []
    for name, target in targets:
        wanted = number(target.target, 0)
        if not target.reached:
            rows.append([name, wanted, UNKNOWN, UNKNOWN, target.status])
            continue
        ends = f"{size(target.low)} to {size(target.high)}"
        if math.isinf(target.high):
            ends = "none: alpha may be 0"
        where = "measured range"
        if target.extrapolated:
            where = f"extrapolated, {_times(target.times_last)} times the largest"
        rows.append([name, wanted, size(target.size), ends, where])
    caption = "Size at which the law reaches a perplexity, with Fieller's 95% interval for the law itself."
    return Table(["series", "target PPL", x, "95% interval", "where"], rows, caption)


def _times(ratio: float) -> str:
    """How many times a size is another."""
    return size(ratio) if ratio >= 100 else f"{ratio:.3g}"


def windows_table(series: Sequence[SeriesWindows], x: str = "tokens") -> Table:
    """Exponents of runs of consecutive sizes."""
    rows = [
        [
            each.series, str(window.index), f"{size(window.first)} to {size(window.last)}",
            f"{window.span:.1f}", str(window.line.n), number(window.line.alpha, 4),
            number(window.line.std_err, 4), f"{window.line.A:.4g}", number(window.line.r2, 4),
            f"{window.line.p_value:.2g}",
        ]
        for each in series
        for window in each.windows
    ]  # fmt: skip
    columns = ["series", "window", x, "span", "points", "alpha", "std err", "A", "R2", "p"]
    numbers = sorted({each.num_sizes for each in series})
    return Table(columns, rows, f"Windows of {' or '.join(map(str, numbers))} sizes.")


def trend_text(windows: SeriesWindows) -> str:
    """Returns a sentence on the first-to-last change of the exponent, as the original names it."""
    trend = windows.trend
    if not trend.compared:
        return f"{windows.series}: {trend.status}."
    text = (
        f"{windows.series}: {trend.name}, {trend.change:+.4f} ({trend.percent:+.1f}%) from the first window"
        f" to the last, p = {trend.p_value:.2g}"
    )
    if trend.warning:
        return f"{text}. {trend.warning}"
    return f"{text}, standard error {trend.std_err:.4f} with {trend.degrees_of_freedom} degrees of freedom."


def differences_table(comparisons: Sequence[Comparison]) -> Table:
    """Differences of exponents with intervals, and where the laws cross."""
    rows = []
    for pair in comparisons:
        change, low, high = pair.difference
        where = UNKNOWN
        if pair.crossover.status == CROSSES:
            inside = "measured range" if pair.crossover.measured else "extrapolated"
            where = f"{size(pair.crossover.size)} ({inside})"
        rows.append(
            [
                f"{pair.first} to {pair.second}",
                f"{change:+.4f}",
                interval((low, high), 3),
                "yes" if pair.difference.told_from_zero else "no",
                where,
            ]
        )
    columns = ["from, to", "alpha changes by", "95% interval", "told from zero", "laws cross at"]
    caption = (
        "Intervals for independent errors, with Welch's and Satterthwaite's degrees of freedom; each holds"
        " by itself, not all of them at once. Laws whose exponents are not told apart may cross anywhere."
    )
    return Table(columns, rows, caption)


def correlations_table(groups: Mapping[str, Correlation]) -> Table:
    """How effective rank goes with perplexity, by group of points."""
    rows = []
    for name, group in groups.items():
        cells = [UNKNOWN] * 3
        if group.defined:
            cells = [number(group.pearson, 2), f"{group.pearson_p:.2g}", number(group.spearman, 2)]
        rows.append([name, str(group.n), *cells, "" if group.defined else group.status])
    columns = ["points", "n", "Pearson", "p", "Spearman", "status"]
    if all(group.defined for group in groups.values()):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(columns, rows, "Validation effective rank against validation perplexity.")
