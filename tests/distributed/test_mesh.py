import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvfp_jax.distributed.layout import lay_out, with_overlap
from cvfp_jax.distributed.mesh import (
    line_mesh,
    make_mesh,
    over_rows,
    parse_mesh,
    replicated,
    resize_rows,
    single_device_mesh,
)
from cvfp_jax.errors import UserError
from cvfp_jax.runtime.compilation import reported


def test_a_mesh_of_one():
    mesh = single_device_mesh()
    assert dict(mesh.shape) == {"data": 1, "model": 1}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert over_rows(mesh).spec == jax.sharding.PartitionSpec("data")
    assert replicated(mesh).is_fully_replicated
    assert dict(line_mesh(mesh).shape) == {"batches": 1, "pieces": 1}


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data:8", {"data": 8, "model": 1}),
        ("model:2", {"data": 1, "model": 2}),
        ("model:2,data:4", {"data": 4, "model": 2}),
    ],
)
def test_shapes_are_read(text, shape):
    assert parse_mesh(text) == shape


@pytest.mark.parametrize(
    "text",
    ["", "data", "data:", "data:0", "data:-1", "data:1.5", "rows:2", "data:2,", "data:2,data:2", "data:2:2"],
)
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(UserError, match="write for example"):
        parse_mesh(text)


class Device:
    """Enough of a device to be counted."""


@pytest.mark.parametrize(
    ("shape", "devices", "nearest"),
    [
        ({"data": 3}, 8, "data:8,model:1"),
        ({"data": 2, "model": 3}, 8, "data:4,model:2"),
        ({"model": 8}, 6, "data:1,model:6"),
        ({"data": 2, "model": 2}, 9, "data:9,model:1"),
    ],
)
def test_the_nearest_mesh_is_named(shape, devices, nearest):
    with pytest.raises(UserError, match=f"there are {devices}: use --mesh={nearest}"):
        make_mesh(shape, [Device()] * devices)


class Line:
    """A mesh of so many devices."""

    def __init__(self, size):
        self.size = size


@pytest.mark.parametrize("devices", [1, 2, 6, 8, 64])
@pytest.mark.parametrize("num_rows", [1, 7, 16, 100, 1000])
@pytest.mark.parametrize("batch_size", [0, 1, 6, 16, 97])
def test_every_row_has_its_place(monkeypatch, devices, num_rows, batch_size):
    lines = []
    monkeypatch.setattr(
        "cvfp_jax.distributed.layout.line_mesh", lambda mesh, pieces: lines.append(pieces) or Line(mesh.size)
    )
    monkeypatch.setattr("cvfp_jax.distributed.layout.num_pieces", lambda line: lines[-1])
    layout = lay_out(Line(devices), num_rows, batch_size)
    assert layout.all_rows >= num_rows
    assert devices % layout.pieces == 0
    assert layout.pieces == 1 or layout.batches == 1
    if 0 < batch_size < num_rows:
        assert layout.batch_size == batch_size
        # No device has a micro-batch more than it must.
        assert layout.batches == -(-num_rows // batch_size // devices) or layout.pieces >= 1
    else:
        assert layout.batch_size == num_rows + -num_rows % devices


def test_ranges_overlap_by_what_stands_before_them():
    stream = np.arange(3 + 12)
    parts = with_overlap(stream, 3, 4, 3).reshape(3, 7)
    np.testing.assert_array_equal(parts[:, 3:].reshape(-1), stream[3:])
    np.testing.assert_array_equal(parts[1:, :3], parts[:-1, -3:])


def test_rows_are_filled_up_with_zeros_and_cut_off():
    array = jnp.ones((3, 2))
    assert resize_rows(array, 5, line_mesh(single_device_mesh())).tolist() == [[1, 1]] * 3 + [[0, 0]] * 2
    assert resize_rows(array, 2, line_mesh(single_device_mesh())).tolist() == [[1, 1]] * 2


def test_rows_are_cut_by_one_program_however_often():
    array, line, found = jnp.ones((7, 3)), line_mesh(single_device_mesh()), []
    with reported(found.append):
        for _ in range(3):
            resize_rows(array, 5, line)
    assert len(found) == 1, [compilation.name for compilation in found]
