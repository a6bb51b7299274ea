"""The tables on laws of two variables fitted to groups of points, and on the best sizes for a budget."""

from collections.abc import Sequence

from cvfp_jax.report.formats import UNKNOWN, interval, significant
from cvfp_jax.report.page import Block, Bullets, Figure, Note, Paragraph, Table, Terms
from cvfp_jax.scaling.profile import Interval
from cvfp_jax.scaling.surface_analysis import SurfaceAnalysis, SurfaceRow
from cvfp_jax.scaling.surfaces import SURFACES

ISOFLOP_BIAS = (
    "Minima of parabolas in ln N are beside it as in Hoffmann et al.'s approach 2. They are biased: the true"
    " curve is steeper towards small models, so that a minimum moves with the sizes that were run."
)


def surface_blocks(
    analysis: SurfaceAnalysis, variables: Sequence[str], y: str, figure: Figure | None
) -> list[Block]:
    """Returns the blocks on one group: the verdict, a figure and tables."""
    blocks: list[Block] = [Paragraph(surface_line(analysis, variables, y)), Note(analysis.verdict)]
    blocks += [figure] if figure else []
    blocks.append(surfaces_table(analysis.rows))
    details = [f"{row['law']}: {row['status']}." for row in analysis.rows if ":" in row["status"]]
    blocks += [Bullets(details)] if details else []
    blocks += [table for table in surface_tables(analysis, variables) if table.rows]
    if analysis.minima:
        blocks.append(Paragraph(ISOFLOP_BIAS))
    return blocks


def surface_tables(analysis: SurfaceAnalysis, variables: Sequence[str]) -> list[Table]:
    """Returns the tables on parameters, predictions, best sizes and minima of budgets."""
    parameters = [
        [f"{row['law']}: {name}", significant(value), interval(row["intervals"].get(name))]
        for row in analysis.rows
        for name, value in row["params"].items()
    ]
    predictions = [
        [
            row["law"],
            " : ".join(f"{size:.4g}" for size in point["x"]),
            significant(point["y"]),
            interval(point["interval"]),
        ]
        for row in analysis.rows
        for point in row["predictions"]
    ]
    best = [
        [
            f"{law}, {each.budget:.3g}",
            significant(each.params),
            _interval(each.params_interval),
            significant(each.tokens),
            _interval(each.tokens_interval),
            significant(each.tokens / each.params),
            significant(each.y),
        ]
        for law, listed in analysis.best.items()
        for each in listed
    ]
    minima = [
        [f"{each.budget:.3g}", str(each.runs), *_or_none(each.found, each.params, each.y)]
        for each in analysis.minima
    ]
    if analysis.line is not None and analysis.line.fitted:
        line = analysis.line
        minima.append(["exponent of all", "", f"{line.alpha:.3f}", UNKNOWN])
    names = list(variables[:2])
    return [
        Table(["parameter", "value", "[95 %]"], parameters, "Parameters"),
        Table(["law", " : ".join(variables), "value", "law's [95 %]"], predictions, "Predictions"),
        Table(
            ["law, operations", f"best {names[0]}", "[95 %]", f"best {names[1]}", "[95 %]", "ratio", "value"],
            best,
            "The best sizes for a budget, by the law",
        ),
        Table(
            ["operations", "runs", f"best {names[0]}", "value"], minima, "Minima of the budgets that were run"
        ),
    ]


def _interval(found: Interval | None) -> str:
    return UNKNOWN if found is None else f"[{found.low:.4g}, {found.high:.4g}]"


def _or_none(found: bool, *values: float) -> list[str]:
    return [significant(value) if found else "not within them" for value in values]


def surface_line(analysis: SurfaceAnalysis, variables: Sequence[str], y: str) -> str:
    """Returns how many points there are, and over which sizes."""
    spans = [
        f"{name} from {min(column):.4g} to {max(column):.4g}"
        for name, column in zip(variables, analysis.group.variables, strict=False)
    ]
    return f"{y} against {' and '.join(variables)}, {len(analysis.group.y)} points: {', '.join(spans)}"


def surfaces_table(rows: Sequence[SurfaceRow]) -> Table:
    """How well each law fits, and predicts the largest sizes."""
    columns = ["law", "status", "k", "objective", "R2 of ln y", "AICc", "weight", "hold-out"]
    cells = [
        [
            row["law"],
            row["status"].partition(":")[0],
            str(row["k"]),
            UNKNOWN if row["objective_value"] is None else f"{row['objective_value']:.9g}",
            UNKNOWN if row["r2_log"] is None else f"{row['r2_log']:.4f}",
            significant(row["aicc"]),
            UNKNOWN if row["akaike_weight"] is None else f"{row['akaike_weight']:.3f}",
            significant(row["holdout_log_rmse"]),
        ]
        for row in rows
    ]
    caption = f"The laws; hold-out is the test at the {rows[0]['held_out']} points of the largest products"
    return Table(columns, cells, caption)


def surface_terms() -> Terms:
    """What the columns mean."""
    return Terms(
        [
            *((name, law.formula) for name, law in SURFACES.items()),
            ("k", "the number of parameters, the spread of the noise not counted"),
            ("objective", "half the sum of squares, or the sum of Huber's losses bent at 1e-3"),
            (
                "hold-out",
                "the root mean square error of ln y at the third of the points with the largest product of"
                " the two variables, predicted from the others",
            ),
            (
                "[95 %]",
                "by profile likelihood, or with Huber's loss from fits to points drawn with replacement",
            ),
        ]
    )
