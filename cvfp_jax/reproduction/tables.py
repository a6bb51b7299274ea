"""Tables that only the rebuilt reports have: points and laws beside what was printed, two versions."""

from collections.abc import Mapping
from typing import Any

from cvfp_jax.report.formats import UNKNOWN, interval, number
from cvfp_jax.report.page import Table
from cvfp_jax.reproduction.source import Series, column, law, logs
from cvfp_jax.scaling.derived import reduction_per_doubling
from cvfp_jax.scaling.equal_sizes import at_equal_sizes

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
            number(line.alpha, 4), number(line.std_err, 4), interval(line.alpha_interval(), 3),
            f"{line.A:.4g}", number(line.r2, 4), f"{-100 * reduction_per_doubling(line.alpha):+.1f}%",
        ]  # fmt: skip
        shown = [_as_printed(known.get(name)) for name in ("alpha", "A", "r2")]
        rows.append([name, str(line.n), *fitted, *shown])
    caption = f"PPL = A {x}^alpha, least squares of ln PPL on ln {x}; per doubling is 2^alpha - 1."
    return Table(columns, rows, caption)


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
