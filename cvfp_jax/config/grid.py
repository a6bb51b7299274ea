"""A sweep: a base config and the axes along which its cells differ."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from cvfp_jax.config.overrides import flat_fields, parse_changes, replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.errors import UserError

# Axes that have a flag of their own; the others are replaced with --config.FIELD=VALUE,VALUE.
AXIS_FLAGS = {"num_samples": "samples", "model.context_dim": "context_dims", "seed": "seeds"}
# Axes that a config's short name or the size of its data tell already.
_NAMED = (
    "num_samples", "seed", "architecture", "model.context_dim", "model.num_layers", "model.num_input_tokens",
)  # fmt: skip
ARM = "arm"  # the axis of arms
Changes = Mapping[str, Any]  # values by dotted field name


@dataclasses.dataclass(frozen=True)
class Search:
    """An axis along which a sweep goes on only while the validation perplexity gets better."""

    axis: str
    patience: int  # values in a row without a better perplexity, after which the rest are left out


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Settings that are chosen on the development samples before a sweep's cells run.

    Each value of an axis has a search of its own, with as many trials as the others'.
    """

    axis: str
    options: dict[str, tuple[Any, ...]]  # the values to choose from, by dotted field name
    num_samples: int  # what a trial is trained on
    trials: int = 0  # combinations of the options that are tried, drawn at random; 0: all


@dataclasses.dataclass(frozen=True)
class Grid:
    """The cells of a sweep: every combination of the axes' values, the last axis running fastest.

    The seed is always an axis, so that replicates can be added. An axis ``arm`` has names, each of some
    changes of the base that are made together.

    >>> grid = Grid(RunConfig(), {"model.context_dim": (768, 1200), "num_samples": (50, 100)})
    >>> [(cell.config_name, cell.num_samples) for cell in grid.cells()]
    [('1L_768d_1tok', 50), ('1L_768d_1tok', 100), ('1L_1200d_1tok', 50), ('1L_1200d_1tok', 100)]
    >>> arms = {"base": {}, "short": {"phase1.max_iterations": 10}}
    >>> grid = Grid(RunConfig(), {"arm": tuple(arms), "num_samples": (50,)}, arms=arms)
    >>> [(grid.series(cell), cell.phase1.max_iterations) for cell in grid.cells()]
    [('1L_768d_1tok, base', 60), ('1L_768d_1tok, short', 10)]
    """

    base: RunConfig
    axes: dict[str, tuple[Any, ...]]
    search: Search | None = None
    arms: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # changes by name
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        """Puts the base at the first cell, so that it is valid whenever that cell is."""
        object.__setattr__(self, "axes", {**self.axes, "seed": self.axes.get("seed", (self.base.seed,))})
        object.__setattr__(self, "base", replace(self.base, _first(self.axes)))

    def cells(self) -> list[RunConfig]:
        """Returns the config of every cell.

        Raises:
          UserError: a cell is not valid, or an arm is unknown.
        """
        combinations = itertools.product(*self.axes.values())
        cells = [self._cell(dict(zip(self.axes, values, strict=True))) for values in combinations]
        if self.tuning is not None:
            for cell in cells:
                cell.check_development()
        return cells

    def _cell(self, place: dict[str, Any]) -> RunConfig:
        """The cell at some values of the axes; what its arm changes comes last."""
        arm = place.get(ARM, self.base.arm)
        if arm and arm not in self.arms:
            choices = f"choose {', '.join(self.arms)}" if self.arms else "this experiment has none"
            raise UserError(f"arm {arm!r} is unknown: {choices}.")
        return replace(self.base, {**place, **self.arms.get(arm, {})})

    def place(self, cell: RunConfig) -> dict[str, Any]:
        """Returns a cell's value on each axis, which tells it from the other cells.

        >>> grid = Grid(RunConfig(), {"num_samples": (50, 100)})
        >>> grid.place(grid.cells()[1])
        {'num_samples': 100, 'seed': 42}
        """
        fields = flat_fields(cell)
        return {name: fields[name] for name in self.axes}

    def series(self, cell: RunConfig) -> str:
        """Returns the name of the cells that differ from this one by size and seed only.

        >>> grid = Grid(RunConfig(), {"phase1.diversity": ("MCDL", "ODCM"), "num_samples": (50,)})
        >>> grid.series(grid.cells()[1])
        '1L_768d_1tok, diversity=ODCM'
        """
        place = self.place(cell)
        more = [
            str(value) if name == ARM else f"{name.rpartition('.')[2]}={value}"
            for name, value in place.items()
            if name not in _NAMED
        ]
        return ", ".join([cell.config_name, *more])

    def resolve(self, axes: dict[str, tuple[int, ...]], changes: dict[str, str]) -> "Grid":
        """Returns the grid with some axes replaced and some fields of the base config changed.

        Args:
          axes: the new values of axes of this grid, by dotted field name.
          changes: the new text of fields, by dotted field name; of an axis, a list with commas.

        Returns:
          A grid of valid cells.

        Raises:
          UserError: a name, a value or a combination of values is not allowed.

        >>> grid = Grid(RunConfig(), {"phase1.diversity": ("MCDL",), "num_samples": (50, 100)})
        >>> changed = grid.resolve({"num_samples": (10,)}, {"phase1.diversity": "SDL,NUC"})
        >>> [changed.series(cell) for cell in changed.cells()]
        ['1L_768d_1tok, diversity=SDL', '1L_768d_1tok, diversity=NUC']
        """
        for name, values in axes.items():
            _check_axis(AXIS_FLAGS[name], values)
        for name in axes.keys() & changes.keys():
            raise UserError(
                f"--{AXIS_FLAGS[name]} and --config.{name}={changes[name]} set the same axis: give one."
            )
        options = {} if self.tuning is None else self.tuning.options
        for name in options.keys() & changes.keys():
            raise UserError(
                f"--config.{name}={changes[name]} has no effect: the search of this experiment chooses it"
                f" among {', '.join(map(str, options[name]))}; leave the flag out."
            )
        lists = {
            name: _parse_list(self.base, name, changes[name]) for name in self.axes.keys() & changes.keys()
        }
        others = {name: text for name, text in changes.items() if name not in lists}
        merged = {**self.axes, **lists, **axes}
        fields = {**parse_changes(self.base, others), **_first(merged)}
        grid = dataclasses.replace(self, base=replace(self.base, fields), axes=merged)
        grid.cells()
        return grid

    def shared_fields(self) -> dict[str, Any]:
        """Returns what all cells have in common, by dotted field name: what identifies a sweep."""
        shared = {name: value for name, value in flat_fields(self.base).items() if name not in self.axes}
        shared |= {f"{ARM}s.{name}": dict(changes) for name, changes in self.arms.items()}
        return shared if self.tuning is None else {**shared, "tuning": dataclasses.asdict(self.tuning)}


def _first(axes: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The axes' values at the first cell."""
    return {name: values[0] for name, values in axes.items()}


def _parse_list(base: RunConfig, name: str, text: str) -> tuple[Any, ...]:
    values = tuple(parse_changes(base, {name: part})[name] for part in text.split(","))
    if len(set(values)) < len(values):
        raise UserError(f"--config.{name}={text} names a value twice: an axis needs distinct values.")
    return values


def _check_axis(flag: str, values: tuple[int, ...]) -> None:
    """Refuses an axis that is empty, not positive, or would repeat a cell."""
    least = 0 if flag == "seeds" else 1
    if not values or any(value < least for value in values) or len(set(values)) < len(values):
        raise UserError(
            f"--{flag}={','.join(map(str, values))} is not a grid axis: write distinct whole numbers of at"
            f" least 1, for example --{flag}=50,100."
        )
