import dataclasses
import json
import math

import pytest

from cvfp_jax.config.grid import Grid, Search
from cvfp_jax.config.settings import DataConfig, RunConfig
from cvfp_jax.data import dataset
from cvfp_jax.report import records
from cvfp_jax.sweeps import runner
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


def test_what_is_said_of_a_text_before_cells_run(tmp_path):
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    lines = [json.dumps({"text": line}) for line in (text, "", "something else", text)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.zip").write_text("x")
    config = DataConfig(f"text:{tmp_path}", "2:3", skip_bad_rows=True)
    assert runner._said_of_text(dataset.load(config, [1, 2]), 2) == [
        f"text:{tmp_path}: 1 file, left out b.zip: not a text format",
        "rows left out by --skip_bad_rows: 1 blank",
        "warning: training holds 1 of 1 validation samples and 100.0% of the runs of 13 tokens of the"
        " validation text, so the perplexity says little of new text",
    ]
