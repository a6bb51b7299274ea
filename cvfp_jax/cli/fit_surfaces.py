"""Laws of two variables fitted to the points of a file: what --x=params,tokens writes and says."""

import json
from collections.abc import Sequence

import numpy as np

from cvfp_jax.cli.fit_options import FitOptions
from cvfp_jax.errors import UserError
from cvfp_jax.report.checklist import checklist, held_out_errors
from cvfp_jax.report.page import Block, Bullets, Facts, Heading, Page
from cvfp_jax.report.surface_sections import (
    surface_blocks,
    surface_line,
    surface_tables,
    surface_terms,
    surfaces_table,
)
from cvfp_jax.scaling.objectives import OBJECTIVES
from cvfp_jax.scaling.points import Group, Points
from cvfp_jax.scaling.surface_analysis import SurfaceAnalysis, analyse_surface, surfaces_for
from cvfp_jax.scaling.surfaces import SURFACES


def check_surfaces(options: FitOptions, variables: int) -> tuple[str, ...]:
    """Returns the laws to fit.

    Raises:
      UserError: one takes other variables, a flag is of laws of one variable, or sizes are not pairs.
    """
    known = surfaces_for(variables)
    laws = options.laws or known
    for name in laws:
        if name not in known:
            raise UserError(
                f"--laws: {name!r} is no law of {variables} variables: choose of {', '.join(known)}."
            )
    if options.fix or options.bound:
        raise UserError("--fix and --bound are for laws of one variable: leave them out, or give one --x.")
    if any(len(size) != variables for size in options.predict):
        raise UserError(f"--predict needs {variables} sizes each, with colons: such as --predict=70B:1.4T.")
    return laws


def operations_of(options: FitOptions, points: Points) -> tuple[float | None, Points]:
    """Returns the operations for a parameter and a token, and the points without a column of budgets."""
    if options.compute is None:
        return None, points
    number = options.compute.upper().removesuffix("ND")
    if number != options.compute.upper():
        return float(number or 1), points
    groups, ratios = [], []
    for group in points.groups:
        *others, budgets = group.others
        N, D = np.log(group.x), np.log(others[0])
        ratios.append(np.log(budgets) - N - D)
        groups.append(Group(group.name, group.x, group.y, tuple(others), group.sigma, group.tests))
    operations = float(np.exp(np.concatenate(ratios).mean()))
    note = f"column {options.compute}: {operations:.4g} operations for a parameter and a token on average"
    return operations, Points(
        ", ".join(points.variables[:-1]), points.y, points.group, tuple(groups), points.left_out,
        (*points.notes, note), points.variables[:-1],
    )  # fmt: skip


def analyse_surfaces(options: FitOptions, points: Points, operations: float | None) -> list[SurfaceAnalysis]:
    """Fits the laws to each group."""
    laws = check_surfaces(options, len(points.variables))
    return [
        analyse_surface(group, laws, options.objective, options.predict, operations)
        for group in points.groups
    ]


def surfaces_page(
    options: FitOptions, points: Points, analyses: Sequence[SurfaceAnalysis], figures: Sequence
) -> Page:
    """Returns the document: a section a group, what was left out, and the terms."""
    facts = [
        ("points", f"{sum(len(group.y) for group in points.groups)} of {options.points.name}"),
        ("x", points.x),
        ("y", points.y),
        ("fitted by", OBJECTIVES[options.objective]),
    ]
    blocks: list[Block] = [Facts(facts)]
    for analysis, figure in zip(analyses, figures, strict=True):
        blocks += [
            Heading(2, analysis.group.name),
            *surface_blocks(analysis, points.variables, points.y, figure),
        ]
    for title, lines in (("Left out", points.left_out), ("Notes on the table", points.notes)):
        blocks += [Heading(2, title), Bullets(lines)] if lines else []
    rows = [row for analysis in analyses for row in analysis.rows]
    names = tuple(dict.fromkeys(row["law"] for row in rows))
    blocks += checklist(points, names, options.objective, (), held_out_errors(rows))
    return Page(f"Laws fitted to {options.points.name}", [*blocks, Heading(2, "Terms"), surface_terms()])


def surfaces_text(points: Points, analysis: SurfaceAnalysis) -> str:
    """Returns what the fits of a group say in a terminal."""
    tables = [surfaces_table(analysis.rows), *surface_tables(analysis, points.variables)]
    head = f"{analysis.group.name}: {surface_line(analysis, points.variables, points.y)}"
    formulas = "\n".join(f"{name}: {SURFACES[name].formula}" for name in analysis.fits)
    statuses = [f"{row['law']}: {row['status']}." for row in analysis.rows if ":" in row["status"]]
    parts = [head, formulas, *(table.text() for table in tables if table.rows), *statuses, analysis.verdict]
    return "\n\n".join(parts)


def surfaces_json(analyses: Sequence[SurfaceAnalysis]) -> str:
    """Returns fits.json: a row a law, with the best sizes for each budget."""
    rows = []
    for analysis in analyses:
        for row in analysis.rows:
            best = [
                {"operations": each.budget, "params": each.params, "tokens": each.tokens, "y": each.y}
                for each in analysis.best.get(row["law"], [])
            ]
            rows.append({**row, "best": best})
    return json.dumps(rows, indent=1, allow_nan=False) + "\n"
