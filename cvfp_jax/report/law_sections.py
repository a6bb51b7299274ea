"""The sections and tables on laws fitted to groups of points."""

from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from cvfp_jax.report.formats import UNKNOWN, interval, significant
from cvfp_jax.report.page import Block, Bullets, Figure, Heading, Note, Paragraph, Table, Terms
from cvfp_jax.report.summary import PREDICT_AT, Summary
from cvfp_jax.scaling.analysis import GroupAnalysis, LawRow, analyse_group
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.points import Group
from cvfp_jax.scaling.select import BASELINE

COLUMNS = "training tokens", "validation PPL"  # of a sweep
LEAST_SIZES = 5
_DRAWS = 200  # of a sweep's report, which is not to take minutes
_UNDEFINED = "undefined"
_UNBOUNDED = "unbounded"


def analyse_series(summaries: Sequence[Summary]) -> list[GroupAnalysis]:
    """Fits all laws to the perplexities of each series that has five sizes or more."""
    groups = []
    for summary in summaries:
        points = sorted((r["train_tokens"], r["val_ppl"]) for r in summary.points if r["val_ppl"] is not None)
        if len({size for size, _ in points}) >= LEAST_SIZES:
            x, y = zip(*points, strict=True)
            groups.append(Group(summary.series, tuple(map(float, x)), y))
    # Seen in a terminal only.
    shown = tqdm(groups, "laws of", leave=False, disable=None)
    return [analyse_group(group, predict=PREDICT_AT, draws=_DRAWS) for group in shown]


def which_law(analyses: Sequence[GroupAnalysis], figures: Sequence[Figure]) -> list[Block]:
    """The section of a sweep's report; nothing where no series has enough sizes."""
    if not analyses:
        return []
    blocks: list[Block] = [
        Heading(2, "Which law"),
        Paragraph(
            "Five laws and two baselines, fitted to validation perplexity against training tokens by least"
            f" squares of ln PPL, for each series of {LEAST_SIZES} sizes or more. The power law's a is -alpha"
            " of the section above."
        ),
    ]
    for analysis, figure in zip(analyses, figures, strict=True):
        blocks.append(Heading(3, analysis.group.name))
        blocks += law_blocks(analysis, *COLUMNS, figure)
    return [*blocks, law_terms()]


def law_blocks(analysis: GroupAnalysis, x: str, y: str, figure: Figure) -> list[Block]:
    """Returns the blocks on one group: the verdict, a figure, three tables, and statuses in full.

    Args:
      analysis: the group with its laws.
      x: what the sizes are called.
      y: what the measures are called.
      figure: of the group.
    """
    rows = analysis.rows
    blocks: list[Block] = [Paragraph(points_line(analysis.group, x, y)), Note(analysis.selection.verdict)]
    blocks += [figure, laws_table(rows)]
    details = status_details(rows)
    if details:
        blocks.append(Bullets(details))
    blocks += [Paragraph(note) for note in analysis.selection.notes]
    for table in (parameters_table(rows), predictions_table(rows), growth_table(analysis)):
        if table.rows:
            blocks.append(table)
    return blocks


def points_line(group: Group, x: str, y: str) -> str:
    """Returns how many points there are, and over which sizes.

    >>> points_line(Group("a", (1e3, 1e3, 2e3), (9.0, 9.1, 8.0)), "tokens", "PPL")
    'PPL against tokens, 3 points at 2 sizes from 1,000 to 2,000'
    """
    sizes = len(set(group.x))
    replicated = f" at {sizes} sizes" if sizes < len(group.x) else ""
    span = f"from {group.x[0]:,.12g} to {group.x[-1]:,.12g}"
    return f"{y} against {x}, {len(group.x)} points{replicated} {span}"


def status_details(rows: Sequence[LawRow]) -> list[str]:
    """Returns the statuses that a table's column cuts short."""
    return [f"{row['law']}: {row['status']}." for row in rows if ":" in row["status"]]


def laws_table(rows: Sequence[LawRow]) -> Table:
    """How well each law fits, and predicts what it was not fitted to; last the naive prediction."""
    held = ", ".join(f"{size:,.10g}" for size in rows[0]["holdout_sizes"])
    columns: list[tuple[str, Callable[[LawRow], str]]] = [
        ("law", lambda row: row["law"]),
        ("status", lambda row: row["status"].partition(":")[0]),
        ("k", lambda row: str(row["k"])),
        ("R2 of y", lambda row: _share(row["r2"])),
        ("R2 of ln y", lambda row: _share(row["r2_log"])),
        ("AICc", lambda row: _or_else(row, "aicc", _UNDEFINED)),
        ("weight", lambda row: UNKNOWN if row["akaike_weight"] is None else f"{row['akaike_weight']:.3f}"),
        ("leave-one-out", lambda row: significant(row["loo_log_rmse"])),
        ("hold-out", lambda row: significant(row["holdout_log_rmse"])),
        ("limit", lambda row: _or_else(row, "limit", _UNBOUNDED)),
    ]  # fmt: skip
    if any(row["lack_of_fit_p"] is not None for row in rows):
        columns.append(("lack of fit p", lambda row: significant(row["lack_of_fit_p"])))
    cells = [[write(row) for _, write in columns] for row in rows]
    names = [name for name, _ in columns]
    if rows[0]["baseline_log_rmse"] is not None:
        naive = {"law": BASELINE, "hold-out": significant(rows[0]["baseline_log_rmse"])}
        cells.append([naive.get(name, UNKNOWN) for name in names])
    caption = f"The laws{f'; hold-out is the test at {held}' if held else ''}"
    return Table(names, cells, caption)


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{round(value, 4) + 0.0:.4f}"  # no zero below zero


def _or_else(row: LawRow, name: str, text: str) -> str:
    """A number, or what its absence means for a fitted law."""
    return text if row["params"] and row[name] is None else significant(row[name])


def parameters_table(rows: Sequence[LawRow]) -> Table:
    """The parameters of each law with their intervals."""
    drawn = any(row["bootstrap_intervals"] for row in rows)
    columns = ["parameter", "value", "std err", "[95 %]", *["bootstrap [95 %]"] * drawn]
    cells = [
        [
            f"{row['law']}: {name}",
            significant(value),
            significant(row["std_errors"].get(name)),
            interval(row["intervals"].get(name)),
            *[interval((row["bootstrap_intervals"] or {}).get(name))] * drawn,
        ]
        for row in rows
        for name, value in row["params"].items()
    ]
    return Table(columns, cells, "Parameters")


def predictions_table(rows: Sequence[LawRow]) -> Table:
    """What each law predicts at the sizes asked for."""
    columns = ["law", "size", "value", "law's [95 %]", "one more run's [95 %]"]
    cells = [
        [
            row["law"],
            f"{point['x']:,.10g}",
            significant(point["y"]),
            interval(point["interval"]),
            interval(point["run_interval"]),
        ]
        for row in rows
        if row["params"]
        for point in row["predictions"]
    ]
    return Table(columns, cells, "Predictions")


def growth_table(analysis: GroupAnalysis) -> Table:
    """What each law that is left said of the next size when it was fitted to the sizes before."""
    columns = ["law, first sizes", "up to", "next", "measured", "predicted", "off by", "at the largest"]
    cells = [
        [
            f"{name}, {step.sizes}",
            f"{step.last:,.10g}",
            f"{step.next:,.10g}",
            significant(step.measured),
            significant(step.predicted),
            f"{100 * (step.predicted / step.measured - 1):+.2f}%",
            significant(step.at_largest),
        ]
        for name, steps in analysis.growth.items()
        for step in steps
    ]
    return Table(columns, cells, "Growing windows: the first sizes fitted, the next one predicted")


def held_out_table(analyses: Sequence[GroupAnalysis]) -> Table:
    """Returns the errors at rows that were held out, a group a line: of the law chosen and of each law."""
    names = list(dict.fromkeys(row["law"] for analysis in analyses for row in analysis.rows))
    lines: list[list[float | None]] = []
    cells = []
    for analysis in analyses:
        by_law = {row["law"]: row["test_log_rmse"] for row in analysis.rows}
        chosen = chosen_law(analysis)
        line = [by_law.get(chosen or ""), *(by_law.get(name) for name in names)]
        lines.append(line)
        cells.append([analysis.group.name, chosen or UNKNOWN, *(significant(value) for value in line)])
    means = []
    for column in zip(*lines, strict=True):
        known = [value for value in column if value is not None]
        means.append(f"{sum(known) / len(known):.4g} ({len(known)})" if known else UNKNOWN)
    cells.append(["mean (groups)", UNKNOWN, *means])
    columns = ["group", "chosen", "its error", *names]
    return Table(columns, cells, "Root mean square errors of ln y at the rows held out")


def chosen_law(analysis: GroupAnalysis) -> str | None:
    """Returns the simplest law that the verdict leaves, or where none is that of the least hold-out error."""
    if analysis.selection.standing:
        return analysis.selection.standing[0]
    tested = {
        row["law"]: row["holdout_log_rmse"] for row in analysis.rows if row["holdout_log_rmse"] is not None
    }
    return min(tested, key=tested.__getitem__) if tested else None


def law_terms() -> Terms:
    """What the columns of the laws' tables mean."""
    return Terms(list(_terms()))


def _terms() -> Iterator[tuple[str, str]]:
    for law in LAWS.values():
        unit = "" if law.unit_free else "; depends on the unit of x, so it takes no part in the conclusion"
        yield law.name, law.formula + unit
    yield "k", "the number of parameters, the spread of the noise not counted"
    yield (
        "AICc and weight",
        "Akaike's criterion corrected for few points, and the weights that follow from it; undefined with"
        " k + 1 points or fewer, or where nothing is left over",
    )
    yield (
        "leave-one-out",
        "the root mean square error of ln y at each size, predicted from the other sizes; 0.05 is about 5%",
    )
    yield (
        "hold-out",
        "the same at the largest sizes, predicted from the smaller ones; a law that does no better than"
        f" {BASELINE} does not extrapolate",
    )
    yield "limit", "what the law tends to as the size grows"
    yield (
        "lack of fit p",
        "how likely points so far off the law are, if it holds and the noise is that of the replicates",
    )
    yield (
        "[95 %]",
        "by profile likelihood, or with Huber's loss from a bootstrap; the law's holds the curve, one more"
        " run's a single new measurement; an interval holds if the law does",
    )
