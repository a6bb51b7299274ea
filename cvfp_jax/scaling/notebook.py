"""The functions of a notebook: read any table, fit a law, compare laws; what they return shows itself."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.analysis import GroupAnalysis, analyse_group, laws_for
from cvfp_jax.scaling.bootstrap import bootstrap
from cvfp_jax.scaling.choice import Choice, read_conditions, read_derived
from cvfp_jax.scaling.coordinates import SHAPES
from cvfp_jax.scaling.fitting import Fit, fit_law, public_parameters
from cvfp_jax.scaling.laws import ALL_LAWS
from cvfp_jax.scaling.limits import Limits
from cvfp_jax.scaling.objectives import HUBER, LOG, OBJECTIVES
from cvfp_jax.scaling.own_law import OwnFit, OwnLaw, fit_own, own_intervals
from cvfp_jax.scaling.points import Columns, Group, Points, points_of_rows
from cvfp_jax.scaling.profile import Interval, profile_intervals
from cvfp_jax.scaling.rows import read_rows
from cvfp_jax.scaling.solve import Problem, minimise, own_limits
from cvfp_jax.scaling.surface_fit import SurfaceFit, fit_surface
from cvfp_jax.scaling.surface_intervals import surface_intervals
from cvfp_jax.scaling.surfaces import SURFACES

Values = Sequence[float] | np.ndarray
_STARTS = 12


class _Shown:
    """What shows itself as a table of two columns."""

    def facts(self) -> list[tuple[str, str]]:
        """Returns names and values."""
        raise NotImplementedError

    def summary(self) -> str:
        """Returns the table as text."""
        facts = self.facts()
        width = max(len(name) for name, _ in facts)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)

    def __repr__(self) -> str:
        """Returns the table as text."""
        return self.summary()

    def _repr_html_(self) -> str:
        """Returns the table as HTML, which notebooks show."""
        rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts())
        return f"<table>{''.join(rows)}</table>"


@dataclasses.dataclass(frozen=True, repr=False)
class Table(_Shown):
    """The points of a table."""

    points: Points

    @property
    def groups(self) -> dict[str, Group]:
        """The groups by name."""
        return {group.name: group for group in self.points.groups}

    @property
    def only(self) -> Group:
        """The only group.

        Raises:
          UserError: there are several.
        """
        if len(self.points.groups) > 1:
            raise UserError(f"several groups, {', '.join(self.groups)}: take one of .groups.")
        return self.points.groups[0]

    @property
    def x(self) -> np.ndarray:
        """The sizes [n] of the only group, or [v, n] of several variables."""
        variables = np.array(self.only.variables)
        return variables[0] if len(variables) == 1 else variables

    @property
    def y(self) -> np.ndarray:
        """The measures [n] of the only group."""
        return np.array(self.only.y)

    def facts(self) -> list[tuple[str, str]]:
        """Returns how many points there are, and what was left out."""
        counts = ", ".join(f"{group.name}: {len(group.y)}" for group in self.points.groups)
        facts = [("x", self.points.x), ("y", self.points.y), ("points", counts)]
        facts += [("left out", line) for line in self.points.left_out]
        return [*facts, *(("note", line) for line in self.points.notes)]


def read(table: Any, x: Columns = None, y: str | None = None, group: Columns = None, **how: Any) -> Table:
    """Reads the points of a table.

    Args:
      table: a path, a data frame, or columns by name.
      x: the column of sizes, or several.
      y: the column of measures.
      group: the columns whose values name groups.
      **how: ``where="arch=llama,params>1e8"``, ``holdout``, ``derive="D=C/6/N"``, ``sigma``, ``best``,
        ``min_x``, ``max_x`` and ``strict``, as the command line's flags.

    Raises:
      UserError: the table cannot be used.

    >>> read({"tokens": ["1M", "2M", "4M"], "loss": [4.0, None, 3.0]}, x="tokens", y="loss").x.tolist()
    [1000000.0, 4000000.0]
    """
    readers: dict[str, Any] = {"where": read_conditions, "holdout": read_conditions, "derive": read_derived}
    known = {field.name for field in dataclasses.fields(Choice)}
    for name in how.keys() - known:
        raise UserError(f"read has no argument {name!r}: choose of {', '.join(sorted(known))}.")
    choice = Choice(**{key: readers[key](value) if key in readers else value for key, value in how.items()})
    if isinstance(table, str | Path):
        path = Path(table).expanduser()
        return Table(points_of_rows(read_rows(path, choice.strict), str(path), x, y, group, choice))
    from cvfp_jax.scaling.frames import read_frame  # brings pandas, which files in text do without

    return Table(points_of_rows(read_frame(table), "the table", x, y, group, choice))


@dataclasses.dataclass(frozen=True, repr=False)
class FittedLaw(_Shown):
    """A law fitted to points, with 95 % intervals that are computed when they are asked for."""

    found: Fit | SurfaceFit | OwnFit
    y: np.ndarray

    @property
    def params(self) -> dict[str, float]:
        """The parameters by name; none if there are too few points."""
        return dict(self.found.params)

    @property
    def status(self) -> str:
        """How the search ended."""
        return self.found.status

    @property
    def aicc(self) -> float:
        """Akaike's criterion corrected for few points, the noise counted."""
        return self.found.aicc

    @cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """The parameters' intervals; None where there is none."""
        return dict(zip(self.found.params, self._intervals(()), strict=False))

    def predict(self, *x: Any) -> np.ndarray:
        """Returns the law's values at sizes above zero, of several variables an argument each."""
        return self.found.predict(*x)

    def interval(self, what: str | float | Sequence[float]) -> Interval | None:
        """Returns the interval of a parameter, by its name, or of the law's value at a size or a pair."""
        if isinstance(what, str):
            return self.intervals[what]
        return self._intervals((what,))[-1]

    def _intervals(self, at: Sequence[Any]) -> list[Interval | None]:
        found = self.found
        if not found.fitted:
            return [None] * len(at)
        if isinstance(found, SurfaceFit):
            return surface_intervals(found, at)
        if isinstance(found, OwnFit):
            return own_intervals(found, at)
        free = [name for name in found.law.names if name not in found.limits.fixed]
        if found.objective != HUBER:
            rows = profile_intervals(found, free, at)
        else:
            drawn = bootstrap(found)
            ends = drawn.curve_interval(np.asarray(at, float)).T if at else ()
            rows = [*map(drawn.interval, free), *(Interval(float(low), float(high)) for low, high in ends)]
        by_name = dict(zip(free, rows, strict=False))
        return [by_name.get(name) for name in found.law.names] + rows[len(free) :]

    def plot(self, ax: Any = None, farthest: float | None = None) -> Any:
        """Draws the points and the law with its band; returns the axes.

        Args:
          ax: axes of Matplotlib; new ones if there are none.
          farthest: the largest size that is drawn.

        Raises:
          UserError: the law has several variables.
        """
        from cvfp_jax.scaling.plot import draw  # brings Matplotlib

        if isinstance(self.found, SurfaceFit):
            raise UserError("a law of several variables is drawn by launch.py --experiment=fit --x=N,D.")
        return draw(self, ax, farthest)

    def facts(self) -> list[tuple[str, str]]:
        """Returns what the table says."""
        law, found = self.found.law, self.found
        rows = [("law", f"{law.name}: {law.formula}"), ("by", OBJECTIVES[found.objective])]
        rows.append(("status", found.status))
        for name, value in found.params.items():
            ends = self.intervals.get(name)
            shown = f" [{ends.low:.4g}, {ends.high:.4g}]" if ends else ""
            rows.append((name, f"{value:.6g}{shown}"))
        return [*rows, ("points", str(found.n)), ("AICc", f"{self.aicc:.4g}" if found.fitted else "-")]


def fit(
    law: str | OwnLaw,
    x: Any,
    y: Values,
    objective: str = LOG,
    *,
    fix: Mapping[str, float] | None = None,
    bound: Mapping[str, tuple[float, float]] | None = None,
    sigma: Values = (),
) -> FittedLaw:
    """Fits a law to points.

    Args:
      law: a name in ``laws.ALL_LAWS`` or ``surfaces.SURFACES``, or a law of your own.
      x: [n] sizes, above zero, or [v, n] of several variables.
      y: [n] measures, above zero.
      objective: ``log``, ``linear`` or ``huber``.
      fix: values of parameters, of laws of one variable.
      bound: least and greatest values of parameters, of laws of one variable.
      sigma: [n] errors of y.

    Raises:
      UserError: a name is unknown, or the points are none.

    >>> found = fit("power", [100, 200, 400, 800], [80, 40, 20, 10])
    >>> round(found.params["a"], 6), float(found.predict(1600).round(6))
    (1.0, 5.0)
    """
    measures, errors = np.asarray(y, float), np.asarray(sigma, float).tolist()
    try:
        if isinstance(law, OwnLaw):
            return FittedLaw(fit_own(law, x, measures.tolist(), objective), measures)
        if law in SURFACES:
            return FittedLaw(fit_surface(law, x, measures.tolist(), objective, sigma=errors), measures)
        limits = Limits(fix or {}, bound or {})
        for name in limits.pairs():
            if law in ALL_LAWS and name not in ALL_LAWS[law].names:
                raise ValueError(f"{law} has no parameter {name!r}: choose {', '.join(ALL_LAWS[law].names)}")
        found = fit_law(law, x, measures.tolist(), objective, _STARTS, limits, errors)
    except (TypeError, ValueError) as error:
        more = f"; of two variables {', '.join(SURFACES)}" if str(error).startswith("no law") else ""
        raise UserError(f"{error}{more}.") from None
    order = np.argsort(np.asarray(x, float), kind="stable")
    return FittedLaw(found, measures[order])


def compare(
    x: Values, y: Values, laws: Sequence[str] = (), objective: str = LOG, predict: Values = ()
) -> GroupAnalysis:
    """Fits laws to the same points, and says which of them predicts.

    Args:
      x: [n] sizes, above zero.
      y: [n] measures, above zero.
      laws: names; those that suit the points if there are none.
      objective: ``log``, ``linear`` or ``huber``.
      predict: sizes at which to evaluate them.

    Returns:
      ``selection.verdict`` is the sentence, ``rows`` has everything else.

    Raises:
      UserError: a name is unknown, or the points are none.

    >>> found = compare([1, 2, 4, 8, 16, 32], [80, 41, 20, 10, 5, 2.6], ["power", "constant"])
    >>> found.selection.standing
    ('power',)
    """
    for law in laws:
        if law not in ALL_LAWS:
            raise UserError(f"no law {law!r}: choose {', '.join(ALL_LAWS)}.")
    try:
        pairs = sorted(zip(map(float, x), map(float, y), strict=True))
    except (TypeError, ValueError) as error:
        raise UserError(f"x and y must be numbers in a row each: {error}.") from None
    if not pairs or not all(0 < number < math.inf for pair in pairs for number in pair):
        raise UserError("x and y must be finite and above 0, one or more of each.")
    group = Group("all", *(tuple(column) for column in zip(*pairs, strict=True)))
    return analyse_group(group, tuple(laws) or laws_for(group), objective, list(predict))


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def fit_many(
    law: str, series: Mapping[str, tuple[Values, Values]], objective: str = LOG
) -> dict[str, dict[str, float]]:
    """Fits a law of one variable to many series at once, each apart.

    Args:
      law: a name in ``laws.ALL_LAWS``.
      series: by name, sizes and measures; a size at most once a series.
      objective: ``log``, ``linear`` or ``huber``.

    Returns:
      The parameters by series; not numbers where a series has too few sizes.

    Raises:
      UserError: the name is unknown, a size is there twice, or a number is not above zero.

    >>> curves = {str(a): ([1.0, 10.0, 100.0], [8.0, 8 / 10**a, 8 / 100**a]) for a in (0.5, 1.0)}
    >>> {name: round(params["a"], 6) for name, params in fit_many("power", curves).items()}
    {'0.5': 0.5, '1.0': 1.0}
    """
    if law not in ALL_LAWS:
        raise UserError(f"no law {law!r}: choose {', '.join(ALL_LAWS)}.")
    columns = {name: (np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in series.items()}
    for name, (x, y) in columns.items():
        if x.shape != y.shape or len(np.unique(x)) < len(x) or not np.all((x > 0) & (y > 0)):
            raise UserError(f"series {name!r}: give a measure above 0 for each size, and each size once.")
    sizes = np.unique(np.concatenate([x for x, _ in columns.values()]))
    measures, weights = np.ones((len(columns), len(sizes))), np.zeros((len(columns), len(sizes)))
    y_ref = np.array([np.exp(np.log(y).mean()) for _, y in columns.values()])
    for n, (x, y) in enumerate(columns.values()):
        at = np.searchsorted(sizes, x)
        measures[n, at], weights[n, at] = y / y_ref[n], 1.0
    shape, log_x = SHAPES[law], np.log(sizes)
    log_ref = float(log_x.min() if shape.from_least else log_x.mean())
    lower, upper = own_limits(shape)
    if shape.inside is not None:
        place = int(shape.floor) + 1 + shape.inside
        lower[place], upper[place] = log_x[0] - log_ref, log_x[-1] - log_ref
    problem = Problem(shape, log_x - log_ref, log_ref, measures, weights, objective, (lower, upper))
    own = public_parameters(problem, minimise(problem, _STARTS).parameters, y_ref)  # type: ignore[arg-type]
    enough = weights.sum(axis=1) > ALL_LAWS[law].k
    rows = np.where(enough[:, None], own, math.nan)
    names = ALL_LAWS[law].names
    return {
        name: dict(zip(names, row.tolist(), strict=True)) for name, row in zip(columns, rows, strict=True)
    }
