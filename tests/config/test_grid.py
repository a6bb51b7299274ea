import pytest

from cvfp_jax.config.grid import Grid, Tuning
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.errors import UserError

GRID = Grid(RunConfig(), {"model.context_dim": (768, 1200), "num_samples": (50, 100, 200)})


def test_cells_are_all_combinations_the_last_axis_fastest():
    cells = [(cell.model.context_dim, cell.num_samples) for cell in GRID.cells()]
    assert cells == [(768, 50), (768, 100), (768, 200), (1200, 50), (1200, 100), (1200, 200)]


def test_axes_and_fields_are_replaced_together():
    changed = GRID.resolve(
        {"num_samples": (7, 3)}, {"data.val_samples": "7:9", "phase1.max_iterations": "20"}
    )
    assert [cell.num_samples for cell in changed.cells()] == [7, 3, 7, 3]
    assert {cell.phase1.max_iterations for cell in changed.cells()} == {20}
    assert GRID.base == RunConfig()


@pytest.mark.parametrize("values", [(), (0,), (-1, 2), (5, 5)])
def test_an_axis_that_is_none_is_refused(values):
    with pytest.raises(UserError, match=r"--samples=.* is not a grid axis"):
        GRID.resolve({"num_samples": values}, {})


def test_an_axis_is_replaced_by_its_field_too_but_only_once():
    changed = GRID.resolve({}, {"model.context_dim": "5,7", "seed": "1,2"})
    assert changed.axes["model.context_dim"] == (5, 7)
    assert [(c.model.context_dim, c.seed) for c in changed.cells()][:3] == [(5, 1), (5, 2), (5, 1)]
    with pytest.raises(
        UserError, match=r"--context_dims and --config\.model\.context_dim=5 set the same axis"
    ):
        GRID.resolve({"model.context_dim": (5,)}, {"model.context_dim": "5"})
    with pytest.raises(UserError, match="names a value twice"):
        GRID.resolve({}, {"model.context_dim": "5,5"})
    with pytest.raises(UserError, match=r"config.model.context_dim=x is not allowed"):
        GRID.resolve({}, {"model.context_dim": "5,x"})


def test_a_cells_place_and_series():
    grid = Grid(RunConfig(), {"phase1.diversity": ("MCDL", "SDL"), "num_samples": (50, 100), "seed": (1, 2)})
    cells = grid.cells()
    assert len({str(grid.place(cell)) for cell in cells}) == len(cells) == 8
    assert {grid.series(cell) for cell in cells} == {
        "1L_768d_1tok, diversity=MCDL",
        "1L_768d_1tok, diversity=SDL",
    }
    assert GRID.series(GRID.cells()[0]) == "1L_768d_1tok"
    assert GRID.place(GRID.cells()[0]) == {"model.context_dim": 768, "num_samples": 50, "seed": 42}


def test_every_cell_is_validated():
    with pytest.raises(UserError, match="0:2000 overlap"):
        GRID.resolve({"num_samples": (50, 2000)}, {})


def test_shared_fields_leave_the_axes_out():
    shared = GRID.shared_fields()
    assert "num_samples" not in shared
    assert "seed" not in shared
    assert "model.context_dim" not in shared
    assert shared["model.embed_dim"] == 768


ARMS = {"base": {}, "short": {"phase1.max_iterations": 10}, "zero": {"phase2.contexts": "zero"}}


def test_an_arm_is_a_name_for_changes_that_are_made_together():
    grid = Grid(RunConfig(), {"arm": tuple(ARMS), "num_samples": (50, 100)}, arms=ARMS)
    cells = grid.cells()
    assert [(cell.arm, cell.phase1.max_iterations, cell.phase2.contexts) for cell in cells[::2]] == [
        ("base", 60, "trained"),
        ("short", 10, "trained"),
        ("zero", 60, "zero"),
    ]
    assert grid.place(cells[2]) == {"arm": "short", "num_samples": 50, "seed": 42}
    assert grid.series(cells[2]) == "1L_768d_1tok, short"
    some = grid.resolve({}, {"arm": "zero,short", "phase1.max_iterations": "20"})
    assert [cell.phase1.max_iterations for cell in some.cells()[::2]] == [20, 10]


def test_an_unknown_arm_is_refused():
    grid = Grid(RunConfig(), {"arm": ("base",), "num_samples": (50,)}, arms=ARMS)
    with pytest.raises(UserError, match="arm 'long' is unknown: choose base, short, zero"):
        grid.resolve({}, {"arm": "long"})
    with pytest.raises(UserError, match="arm 'zero' is unknown: this experiment has none"):
        GRID.resolve({}, {"arm": "zero"})


def test_what_a_search_chooses_cannot_be_set():
    tuning = Tuning("num_samples", {"phase2.dropout": (0.0, 0.1)}, num_samples=10)
    grid = Grid(RunConfig(), {"num_samples": (50,)}, tuning=tuning)
    with pytest.raises(UserError, match=r"--config\.phase2\.dropout=0\.3 has no effect.* among 0\.0, 0\.1;"):
        grid.resolve({}, {"phase2.dropout": "0.3"})
