"""Tables that the rebuilt reports share: points, laws, what follows from them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cvfp_jax.report.printed.source import Points, column, interval, law, logs, size
from cvfp_jax.report.tables import UNKNOWN, Table, number
from cvfp_jax.scaling.compare import at_equal_sizes
from cvfp_jax.scaling.correlate import correlate
from cvfp_jax.scaling.derived import crossover, exponent_difference, reduction_per_doubling, size_for
from cvfp_jax.scaling.windows import sliding_windows, window_trend

Series = Mapping[str, Points]
# Field of a point, its heading, decimals.
_MEASURES = (
    ("samples", "samples", 0), ("tokens", "tokens", 0), ("phase1_iterations", "P1 iterations", 0),
    ("train_er", "train ER %", 1), ("val_er", "val ER %", 1), ("train_ppl", "train PPL", 1),
    ("val_ppl", "val PPL", 1), ("val_acc", "accuracy %", 1), ("minutes", "minutes", 1),
)  # fmt: skip


def points_table(series: Series) -> Table:
    """Every measure that the report printed of its cells."""
    fields = [
        each for each in _MEASURES if any(each[0] in point for points in series.values() for point in points)
    ]
    rows = [
        [name, *(number(point.get(field), digits) for field, _, digits in fields)]
        for name, points in series.items()
        for point in points
    ]
    return Table(["series", *(heading for _, heading, _ in fields)], rows, "As printed.")


def _as_printed(value: float | None) -> str:
    """Returns a printed number without digits that were not printed."""
    return UNKNOWN if value is None else f"{value:,.10g}"


def fits_table(series: Series, printed: Mapping[str, Mapping[str, Any]], x: str = "tokens") -> Table:
    """The power law of each series beside what the report printed of it."""
    columns = ["series", "points", "alpha", "std err", "95% interval", "A", "R2", "per doubling"]
    columns += ["alpha printed", "A printed", "R2 printed"]
    rows = []
    for name, points in series.items():
        line, known = law(points, x), printed.get(name, {})
        fitted = [
            number(line.alpha, 4), number(line.std_err, 4), interval(*line.alpha_interval(), 3),
            f"{line.A:.4g}", number(line.r2, 4), f"{-100 * reduction_per_doubling(line.alpha):+.1f}%",
        ]  # fmt: skip
        shown = [_as_printed(known.get(name)) for name in ("alpha", "A", "r2")]
        rows.append([name, str(line.n), *fitted, *shown])
    caption = f"PPL = A {x}^alpha, least squares of ln PPL on ln {x}; per doubling is 2^alpha - 1."
    return Table(columns, rows, caption)


def predictions_table(series: Series, sizes: Sequence[int], x: str = "tokens") -> Table:
    """What each law says of sizes beyond its points, with intervals for one more run there."""
    rows = []
    for name, points in series.items():
        line = law(points, x)
        cells = []
        for at in sizes:
            low, high = line.interval(at)
            beyond = "" if line.extrapolates(at) else ", measured range"
            cells.append(f"{number(line.predict(at))} ({interval(low, high)}{beyond})")
        rows.append([name, size(line.last), *cells])
    caption = "Validation perplexity and 95% interval of one more run, if the power law holds so far out."
    columns = ["series", f"largest {x}", *(f"PPL at {size(at)}" for at in sizes)]
    return Table(columns, rows, caption)


def targets_table(series: Series, targets: Sequence[float], x: str = "tokens") -> Table:
    """The size at which each law reaches a target."""
    rows = []
    for name, points in series.items():
        for target in targets:
            found = size_for(law(points, x), target)
            if not found.reached:
                rows.append([name, number(target, 0), found.status, "-", "-"])
                continue
            ends = f"{size(found.low)} to {size(found.high)}"
            if math.isinf(found.high):
                ends = "none: alpha may be 0"
            where = "measured range"
            if found.extrapolated:
                where = f"extrapolated, {found.times_last:.3g} times the largest"
            rows.append([name, number(target, 0), size(found.size), ends, where])
    caption = "Size at which the law reaches a perplexity, with Fieller's 95% interval for the law itself."
    return Table(["series", "target PPL", x, "95% interval", "where"], rows, caption)


def windows_table(name: str, points: Points, window: int, x: str = "tokens") -> tuple[Table, str]:
    """Exponents of runs of consecutive sizes, and a sentence on the first-to-last change."""
    sizes, log_y = column(points, x), logs(column(points, "val_ppl"))
    rows = [
        [
            str(each.index), f"{size(each.first)} to {size(each.last)}", f"{each.span:.1f}", str(each.line.n),
            number(each.line.alpha, 4), number(each.line.std_err, 4), f"{each.line.A:.4g}",
            number(each.line.r2, 4), f"{each.line.p_value:.2g}",
        ]
        for each in sliding_windows(sizes, log_y, window)
    ]  # fmt: skip
    columns = ["window", x, "span", "points", "alpha", "std err", "A", "R2", "p"]
    trend = window_trend(sizes, log_y, window)
    if not trend.compared:
        return Table(columns, rows, name), f"{name}: {trend.status}."
    text = (
        f"{name}: {trend.name}, {trend.change:+.4f} ({trend.percent:+.1f}%) from the first window"
        " to the last,"
        f" standard error {trend.std_err:.4f} with {trend.degrees_of_freedom} degrees of freedom, p ="
        f" {trend.p_value:.2g}. {trend.warning}"
    )
    return Table(columns, rows, f"{name}, windows of {window} sizes."), text.rstrip()


def versions_table(first: str, second: str, series: Series, x: str = "tokens") -> Table:
    """Two series at equal sizes only."""
    pairs = [(column(series[name], x), logs(column(series[name], "val_ppl"))) for name in (first, second)]
    rows = [
        [
            number(row.x, 0), number(row.first), number(row.second),
            f"{100 * (row.ratio - 1):+.1f}%" if row.defined else "-",
            row.status.split(":")[0],
        ]
        for row in at_equal_sizes(*pairs)
    ]  # fmt: skip
    return Table([x, first, second, "difference", "how"], rows, f"{second} against {first} at equal {x}.")


def differences_table(series: Series, pairs: Sequence[tuple[str, str]], x: str = "tokens") -> Table:
    """Differences of exponents with intervals, and where the laws cross."""
    rows = []
    for first, second in pairs:
        one, two = law(series[first], x), law(series[second], x)
        change, low, high = exponent_difference(one, two)
        meets = crossover(one, two)
        where = "-"
        if meets.status == "crosses":
            where = f"{size(meets.size)} ({'measured range' if meets.measured else 'extrapolated'})"
        told = "no" if low <= 0 <= high else "yes"
        rows.append([f"{first} to {second}", f"{change:+.4f}", interval(low, high, 3), told, where])
    columns = ["from, to", "alpha changes by", "95% interval", "told from zero", "laws cross at"]
    return Table(
        columns,
        rows,
        "Intervals for independent errors, with Welch's and Satterthwaite's degrees of freedom.",
    )


def correlations_table(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]], measure: str) -> Table:
    """Effective rank against another measure, by group of points."""
    rows = []
    for name, (ranks, values) in groups.items():
        found = correlate(ranks, values)
        cells = [number(value, 2) for value in (found.pearson, found.pearson_p, found.spearman)]
        rows.append([name, str(found.n), *cells, "" if found.defined else found.status])
    columns = ["points", "n", "Pearson", "p", "Spearman", "status"]
    return Table(columns, rows, f"Validation effective rank against {measure}.")
