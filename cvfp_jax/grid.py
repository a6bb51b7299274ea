"""A sweep: a base config and the axes along which its cells differ."""

import dataclasses
import itertools
from typing import Any

from cvfp_jax.config import RunConfig
from cvfp_jax.errors import UserError
from cvfp_jax.fields import flat_fields, parse_changes, replace

AXIS_FLAGS = {"num_samples": "samples", "model.context_dim": "context_dims"}


@dataclasses.dataclass(frozen=True)
class Grid:
    """The cells of a sweep: every combination of the axes' values, the last axis running fastest.

    >>> grid = Grid(RunConfig(), {"model.context_dim": (768, 1200), "num_samples": (50, 100)})
    >>> [(cell.config_name, cell.num_samples) for cell in grid.cells()]
    [('1L_768d_1tok', 50), ('1L_768d_1tok', 100), ('1L_1200d_1tok', 50), ('1L_1200d_1tok', 100)]
    """

    base: RunConfig
    axes: dict[str, tuple[Any, ...]]

    def __post_init__(self) -> None:
        """Puts the base at the first cell, so that it is valid whenever that cell is."""
        object.__setattr__(self, "base", replace(self.base, _first(self.axes)))

    def cells(self) -> list[RunConfig]:
        """Returns the config of every cell."""
        combinations = itertools.product(*self.axes.values())
        return [replace(self.base, dict(zip(self.axes, values, strict=True))) for values in combinations]

    def resolve(self, axes: dict[str, tuple[int, ...]], changes: dict[str, str]) -> "Grid":
        """Returns the grid with some axes replaced and some fields of the base config changed.

        Args:
          axes: the new values of axes of this grid, by dotted field name.
          changes: the new text of fields that are no axes, by dotted field name.

        Returns:
          A grid of valid cells.

        Raises:
          UserError: a name, a value or a combination of values is not allowed.

        >>> grid = Grid(RunConfig(), {"num_samples": (50, 100)})
        >>> grid.resolve({"num_samples": (10,)}, {"data.val_samples": "10:20"}).cells()[0].num_samples
        10
        """
        for name, values in axes.items():
            _check_axis(AXIS_FLAGS[name], values)
        for name in self.axes.keys() & changes.keys():
            raise UserError(
                f"config.{name} is an axis of this sweep, with the values {self.axes[name]}:"
                f" replace them with --{AXIS_FLAGS[name]}={changes[name]}."
            )
        merged = {**self.axes, **axes}
        fields = {**parse_changes(self.base, changes), **_first(merged)}
        grid = Grid(replace(self.base, fields), merged)
        grid.cells()
        return grid

    def shared_fields(self) -> dict[str, Any]:
        """Returns what all cells have in common, by dotted field name: what identifies a sweep."""
        return {name: value for name, value in flat_fields(self.base).items() if name not in self.axes}


def _first(axes: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The axes' values at the first cell."""
    return {name: values[0] for name, values in axes.items()}


def _check_axis(flag: str, values: tuple[int, ...]) -> None:
    """Refuses an axis that is empty, not positive, or would repeat a cell."""
    if not values or any(value < 1 for value in values) or len(set(values)) < len(values):
        raise UserError(
            f"--{flag}={','.join(map(str, values))} is not a grid axis: write distinct whole numbers of at"
            f" least 1, for example --{flag}=50,100."
        )
