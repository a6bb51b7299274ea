"""Laws fitted to the points of a file: fits.json, and what it says in the terminal."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cvfp_jax.data.cache import write_atomic
from cvfp_jax.errors import UserError
from cvfp_jax.report.tables import UNKNOWN, Table
from cvfp_jax.scaling.analysis import analyse
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.points import Group, Points, read_points

FILE_NAME = "fits.json"
Fit = dict[str, Any]


def run_fit(
    path: Path,
    columns: tuple[str | None, str | None, str | None],
    laws: Sequence[str] | None,
    objective: str,
    predict: Sequence[float],
    workdir: Path,
) -> None:
    """Fits laws to the points of a file, writes fits.json and prints what it says.

    Args:
      path: the file of points.
      columns: those of sizes, measures and groups; None where the file's kind has a default.
      laws: names of ``LAWS``; None for all of them.
      objective: what the fits make least; ``log``, ``linear`` or ``huber``.
      predict: sizes to predict at.
      workdir: where fits.json goes, made if it is missing.

    Raises:
      UserError: the points, a law or the folder cannot be used.
    """
    names = list(LAWS) if laws is None else list(laws)
    for name in names:
        if name not in LAWS:
            raise UserError(f"--laws: {name!r} is no law: choose of {', '.join(LAWS)}.")
    points = read_points(path, *columns)
    count = sum(len(group.x) for group in points.groups)
    print(f"fitting {', '.join(names)} to {count} points of {path} ...", flush=True)
    target = workdir / FILE_NAME
    with _writing(target):
        workdir.mkdir(parents=True, exist_ok=True)  # now, so that no minutes of work are lost
    fits: list[Fit] = []
    for group in tqdm(points.groups, "groups", leave=False, disable=None):  # seen in a terminal only
        fits += analyse([group], names, objective, predict)
    with _writing(target):
        write_atomic(target, (json.dumps(fits, indent=1, allow_nan=False) + "\n").encode())
    for group in points.groups:
        print(f"\n{_group_text(points, group, [fit for fit in fits if fit['group'] == group.name])}")
    if points.left_out:
        print()
    for line in points.left_out:
        print(f"left out: {line}")
    print(f"\nwrote {target}")


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Says in one line that a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; use another --workdir.") from None


def _group_text(points: Points, group: Group, fits: Sequence[Fit]) -> str:
    """What the fits of a group say: a line on its points, two tables, what to mind, and the verdict."""
    sizes = len(set(group.x))
    replicated = f" at {sizes} sizes" if sizes < len(group.x) else ""
    head = (
        f"{group.name}: {points.y} against {points.x}, {len(group.x)} points{replicated}"
        f" from {group.x[0]:,.12g} to {group.x[-1]:,.12g}"
    )
    details = [f"{fit['law']}: {fit['status']}." for fit in fits if ":" in fit["status"]]
    verdicts = dict.fromkeys(fit["verdict"] for fit in fits)
    parts = [head, _fits_table(fits).text(), _parameters_table(fits).text(), "\n".join(details), *verdicts]
    return "\n\n".join(part for part in parts if part)


def _fits_table(fits: Sequence[Fit]) -> Table:
    """How well each law fits and foretells, and what it predicts."""
    sizes = dict.fromkeys(point["x"] for fit in fits for point in fit["predictions"])
    columns = ["law", "k", "R2 of y", "AICc", "leave-one-out", "hold-out"]
    columns += [f"at {size:.6g} [95 %]" for size in sizes]
    rows = []
    for fit in fits:
        points = {point["x"]: point for point in fit["predictions"]}
        rows.append(
            [
                f"{fit['law']} ({fit['status'].partition(':')[0]})",
                str(fit["k"]),
                *(_short(fit[name]) for name in ("r2", "aicc", "loo_log_rmse", "holdout_log_rmse")),
                *(_estimate(points[size]) if size in points else UNKNOWN for size in sizes),
            ]
        )
    return Table(columns, rows)


def _parameters_table(fits: Sequence[Fit]) -> Table:
    """The parameters of each law."""
    rows = [
        [
            f"{fit['law']}: {name}",
            _short(value),
            _short(fit["std_errors"].get(name)),
            _interval(fit["intervals"].get(name)),
        ]
        for fit in fits
        for name, value in fit["params"].items()
    ]
    return Table(["parameter", "value", "std err", "[95 %]"], rows)


def _estimate(point: dict[str, Any]) -> str:
    return UNKNOWN if point["y"] is None else f"{_short(point['y'])} {_interval(point['interval'])}"


def _short(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4g}"


def _interval(ends: Sequence[float | None] | None) -> str:
    return UNKNOWN if ends is None else f"[{', '.join(map(_short, ends))}]"
