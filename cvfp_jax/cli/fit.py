"""Laws fitted to the points of a file: fits.json, fits.md, fits.html, and what it says in the terminal."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from cvfp_jax.cli.fit_options import FitOptions
from cvfp_jax.cli.fit_table import fits_csv
from cvfp_jax.errors import UserError, file_error
from cvfp_jax.report.checklist import checklist, held_out_errors
from cvfp_jax.report.law_sections import (
    held_out_table,
    law_blocks,
    law_terms,
    laws_table,
    parameters_table,
    points_line,
    predictions_table,
    status_details,
)
from cvfp_jax.report.page import Block, Bullets, Facts, Figure, Heading, Page, markdown
from cvfp_jax.report.webpage import render
from cvfp_jax.runtime.files import write_atomic
from cvfp_jax.scaling.analysis import GroupAnalysis, analyse_group, laws_for
from cvfp_jax.scaling.bootstrap import DRAWS
from cvfp_jax.scaling.coordinates import SHAPES
from cvfp_jax.scaling.laws import ALL_LAWS, LAWS
from cvfp_jax.scaling.limits import Limits
from cvfp_jax.scaling.objectives import OBJECTIVES
from cvfp_jax.scaling.points import Group, Points, read_points

FILE_NAME = "fits.json"
_FEW_GROUPS, _FEW_DRAWS = 4, 100


def run_fit(options: FitOptions) -> None:
    """Fits laws to the points of a file, writes fits.json, a document of them, and prints what it says.

    Args:
      options: the file, what to fit to it, and where fits.json, fits.md, fits.html and figures/ go.

    Raises:
      UserError: the points, a law or the folder cannot be used.
    """
    workdir = options.workdir
    x = _columns(options)
    points = read_points(options.points, x, options.y, options.group, options.choice)
    if len(points.variables) > 1:
        _run_surfaces(options, points)
        return
    laws = options.laws or tuple(LAWS)
    for name in laws:
        if name not in ALL_LAWS:
            raise UserError(f"--laws: {name!r} is no law: choose of {', '.join(ALL_LAWS)}.")
    limits = _limits(options, laws)
    count = sum(len(group.x) for group in points.groups)
    print(f"fitting {', '.join(laws)} to {count} points of {options.points} ...", flush=True)
    target = workdir / FILE_NAME
    with _writing(target):
        workdir.mkdir(parents=True, exist_ok=True)  # now, so that no minutes of work are lost
    analyses = _analyse(points.groups, laws, options, limits)
    rows = [row for analysis in analyses for row in analysis.rows]
    with _writing(target):
        write_atomic(target, (json.dumps(rows, indent=1, allow_nan=False) + "\n").encode())
        write_atomic(workdir / "fits.csv", fits_csv(rows).encode(errors="backslashreplace"))
    _write_document(options, points, analyses)
    for analysis in analyses:
        print(f"\n{_group_text(points, analysis)}")
    if any(group.tests for group in points.groups):
        print(f"\n{held_out_table(analyses).text()}")
    _print_end(options, points)


def _columns(options: FitOptions) -> str | tuple[str, ...] | None:
    """The columns of sizes, and last that of operations."""
    if options.compute is None or options.compute.upper().endswith("ND") or options.x is None:
        return options.x
    return (*(part.strip() for part in options.x.split(",")), options.compute)


def _run_surfaces(options: FitOptions, points: Points) -> None:
    """Does the same for laws of two variables."""
    from cvfp_jax.cli import fit_surfaces

    operations, points = fit_surfaces.operations_of(options, points)
    laws = fit_surfaces.check_surfaces(options, len(points.variables))
    count = sum(len(group.y) for group in points.groups)
    print(f"fitting {', '.join(laws)} to {count} points of {options.points} ...", flush=True)
    with _writing(options.workdir / FILE_NAME):
        options.workdir.mkdir(parents=True, exist_ok=True)
    analyses = fit_surfaces.analyse_surfaces(options, points, operations)
    from cvfp_jax.report.surface_figures import save_surface_figures  # half a second, and only needed now

    folder = options.workdir / "figures"
    with _writing(folder):
        figures = save_surface_figures(analyses, points.variables, points.y, folder)
    page = fit_surfaces.surfaces_page(options, points, analyses, figures)
    texts = {
        FILE_NAME: fit_surfaces.surfaces_json(analyses),
        "fits.csv": fits_csv([row for analysis in analyses for row in analysis.rows]),
        "fits.md": markdown(page),
        "fits.html": render(page, folder),
    }
    for name, text in texts.items():
        with _writing(options.workdir / name):
            write_atomic(options.workdir / name, text.encode(errors="backslashreplace"))
    for analysis in analyses:
        print(f"\n{fit_surfaces.surfaces_text(points, analysis)}")
    _print_end(options, points)


def _print_end(options: FitOptions, points: Points) -> None:
    """What was left out, how the table was read, and where the files are."""
    if points.left_out or points.notes:
        print()
    for line in points.left_out:
        print(f"left out: {line}")
    for line in points.notes:
        print(f"note: {line}")
    print(f"\nwrote {options.workdir / 'fits.html'}, fits.md, {FILE_NAME} and figures/ beside it")


def _analyse(
    groups: Sequence[Group], laws: Sequence[str], options: FitOptions, limits: Limits
) -> list[GroupAnalysis]:
    """Fits the laws, with a bar in a terminal that counts a group's law each."""
    predict = [size for (size,) in options.predict]
    # The bar begins to move with the first law whose intervals are sought, and ends full.
    with tqdm(total=len(groups) * len(laws), unit="law", leave=False, disable=None) as bar:

        def progress(text: str) -> None:
            bar.set_description_str(text, refresh=False)
            bar.update()

        return [
            analyse_group(
                group,
                laws if options.laws else laws_for(group),
                options.objective,
                predict,
                progress=progress,
                limits=limits,
                draws=draws_for(len(groups)),
            )
            for group in groups
        ]


def draws_for(groups: int) -> int:
    """Returns the draws of each bootstrap: fewer where many groups would take minutes."""
    return DRAWS if groups <= _FEW_GROUPS else _FEW_DRAWS


def _limits(options: FitOptions, laws: Sequence[str]) -> Limits:
    """Which parameters are fixed and bounded; a name that no law has, or cannot limit, is a mistake."""
    limits = Limits(dict(options.fix), {name: (low, high) for name, low, high in options.bound})
    known = {name: None for law in laws for name in ALL_LAWS[law].names}
    for name in limits.pairs():
        flag = "fix" if name in limits.fixed else "bound"
        if name not in known:
            raise UserError(f"--{flag}: no law here has a parameter {name!r}: choose of {', '.join(known)}.")
        for law in laws:
            if limits.of(ALL_LAWS[law]).obstacle(ALL_LAWS[law], SHAPES[law]) == name:
                raise UserError(
                    f"--{flag}: {name} of {law} can be neither fixed nor bounded: leave {law} out of --laws."
                )
    return limits


def _write_document(options: FitOptions, points: Points, analyses: Sequence[GroupAnalysis]) -> None:
    """Writes fits.md, fits.html and a figure a group."""
    from cvfp_jax.report.law_figures import save_law_figures  # half a second, and only needed now

    folder = options.workdir / "figures"
    with _writing(folder):
        figures = save_law_figures(
            analyses, points.x, points.y, folder, "fits", vector=len(analyses) <= _FEW_GROUPS
        )
    page = fits_page(options, points, analyses, figures)
    for name, text in (("fits.md", markdown(page)), ("fits.html", render(page, folder))):
        with _writing(options.workdir / name):
            # Names of files may hold bytes that are no text.
            write_atomic(options.workdir / name, text.encode(errors="backslashreplace"))


def fits_page(
    options: FitOptions, points: Points, analyses: Sequence[GroupAnalysis], figures: Sequence[Figure]
) -> Page:
    """Returns the document of a file's fits: a section a group, what was left out, and the terms."""
    facts = [
        ("points", f"{sum(len(group.x) for group in points.groups)} of {options.points.name}"),
        ("x", points.x),
        ("y", points.y),
        *([("groups by", points.group)] if points.group else []),
        ("fitted by", OBJECTIVES[options.objective]),
    ]
    blocks: list[Block] = [Facts(facts)]
    for analysis, figure in zip(analyses, figures, strict=True):
        blocks.append(Heading(2, analysis.group.name))
        blocks += law_blocks(analysis, points.x, points.y, figure)
    if points.left_out:
        blocks += [Heading(2, "Left out"), Bullets(points.left_out)]
    if points.notes:
        blocks += [Heading(2, "Notes on the table"), Bullets(points.notes)]
    rows = [row for analysis in analyses for row in analysis.rows]
    if any(group.tests for group in points.groups):
        blocks += [Heading(2, "Held-out rows"), held_out_table(analyses)]
    names = tuple(dict.fromkeys(row["law"] for row in rows))
    given = [f"{name} = {value:g}" for name, value in options.fix]
    given += [f"{name} from {low:g} to {high:g}" for name, low, high in options.bound]
    blocks += checklist(
        points, names, options.objective, given, held_out_errors(rows), draws_for(len(analyses))
    )
    return Page(f"Laws fitted to {options.points.name}", [*blocks, Heading(2, "Terms"), law_terms()])


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Says in one line that a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise file_error(f"cannot write {target}: {error.strerror}; use another --workdir.", error) from None


def _group_text(points: Points, analysis: GroupAnalysis) -> str:
    """What the fits of a group say: a line on its points, tables, what to mind, and the verdict."""
    rows = analysis.rows
    head = f"{analysis.group.name}: {points_line(analysis.group, points.x, points.y)}"
    tables = [
        table.text()
        for table in (laws_table(rows), parameters_table(rows), predictions_table(rows))
        if table.rows
    ]
    formulas = "\n".join(f"{row['law']}: {row['formula']}" for row in rows)
    selection = analysis.selection
    return "\n\n".join([head, formulas, *tables, *status_details(rows), *selection.notes, selection.verdict])
