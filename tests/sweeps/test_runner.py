import dataclasses
import math

import pytest

from cvfp_jax.config.grid import Grid, Search
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.report import records
from cvfp_jax.sweeps.runner import cells_left

DIMS = (10, 20, 30, 40, 50)


def grid(**changes):
    axes = {"num_samples": (50, 100), "model.context_dim": DIMS}
    return dataclasses.replace(Grid(RunConfig(), axes, Search("model.context_dim", patience=2)), **changes)


def done(grid, losses):
    """Records of cells by size and width, with these losses."""
    found = {}
    for (size, dim), loss in losses.items():
        place = {"num_samples": size, "model.context_dim": dim, "seed": 42}
        found[records.cell_key(place)] = {"val_loss": loss, "cell": place}
    return found


def left(grid, losses):
    return [(cell.num_samples, cell.model.context_dim) for cell in cells_left(grid, done(grid, losses))]


def test_without_a_search_every_cell_without_a_record_is_left():
    plain = grid(search=None)
    assert left(plain, {}) == [(size, dim) for size in (50, 100) for dim in DIMS]
    assert left(plain, {(50, 10): 1.0, (100, 50): 9.0})[0] == (50, 20)
    assert len(left(plain, {(50, 10): 1.0, (100, 50): 9.0})) == 8


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], [10, 20, 30, 40, 50]),
        ([5.0, 4.0, 4.1], [40, 50]),
        ([5.0, 4.0, 4.1, 4.2], []),  # two in a row are no better than the best
        ([5.0, 4.0, 4.1, 3.9], [50]),
        ([5.0, 4.0, 4.0, 4.0], []),  # equal is no better
        ([5.0, None, None], []),  # a failed cell is no better
        ([5.0, 4.0, 4.1, 3.9, 4.0], []),
    ],
)
def test_a_search_ends_after_patience_values_without_a_gain(losses, expected):
    losses = {(50, dim): loss for dim, loss in zip(DIMS, losses, strict=False)}
    assert [dim for size, dim in left(grid(), losses) if size == 50] == expected
    assert [dim for size, dim in left(grid(), losses) if size == 100] == list(DIMS), (
        "each size searches alone"
    )


def test_a_loss_that_is_infinite_is_no_better():
    assert (50, 30) not in left(grid(), {(50, 10): math.inf, (50, 20): math.inf})
