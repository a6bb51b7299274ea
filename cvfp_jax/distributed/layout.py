"""Where the tokens of a stream lie in phase 1: each device has a range of them.

Shapes: N tokens, rows of micro-batches.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from cvfp_jax.distributed.mesh import line_mesh, num_pieces


@dataclasses.dataclass(frozen=True)
class Layout:
    """Ranges of equal length, each of whole micro-batches or a piece of one."""

    mesh: Mesh  # the devices in a line
    rows: int  # of a micro-batch, or of a device's piece of it
    batches: int  # micro-batches of a device, 1 where devices share one

    @property
    def pieces(self) -> int:
        """How many devices share a micro-batch."""
        return num_pieces(self.mesh)

    @property
    def batch_size(self) -> int:
        """The rows of a micro-batch."""
        return self.rows * self.pieces

    @property
    def own_rows(self) -> int:
        """The rows of a device."""
        return self.rows * self.batches

    @property
    def all_rows(self) -> int:
        """The rows of all devices."""
        return self.own_rows * self.mesh.size


def lay_out(mesh: Mesh, num_rows: int, batch_size: int) -> Layout:
    """Returns the layout of a stream over devices, by the rule of ``range_of_device``.

    Args:
      mesh: the devices.
      num_rows: the room for the stream's tokens.
      batch_size: of a micro-batch; 0 makes one of all tokens.

    Returns:
      A layout of at least so many rows.

    >>> from cvfp_jax.distributed.mesh import single_device_mesh
    >>> layout = lay_out(single_device_mesh(), num_rows=10, batch_size=4)
    >>> layout.rows, layout.batches, layout.all_rows
    (4, 3, 12)
    """
    rows, batches, pieces = range_of_device(mesh.size, num_rows, batch_size)
    return Layout(line_mesh(mesh, pieces), rows, batches)


def with_overlap(array_M: np.ndarray, before: int, own_rows: int, devices: int) -> np.ndarray:
    """Returns each device's range of a stream with what stands right before it, one after the other.

    Args:
      array_M: the stream, preceded by so many entries, with as many rows as all devices have.
      before: the entries before a range that belong to it.
      own_rows: the rows of a device.
      devices: their number.

    >>> with_overlap(np.arange(5), 1, 2, 2).tolist()
    [0, 1, 2, 2, 3, 4]
    """
    parts = [array_M[number * own_rows : (number + 1) * own_rows + before] for number in range(devices)]
    return np.concatenate(parts)


class DeviceRange(NamedTuple):
    """A range of equal length on each device."""

    rows: int  # of a micro-batch, or of a device's piece of it
    batches: int  # micro-batches of a device, 1 where devices share one
    pieces: int  # how many devices share a micro-batch


def range_of_device(devices: int, num_rows: int, batch_size: int) -> DeviceRange:
    """Returns the range of a device.

    Every device has the same number of micro-batches. Where there are fewer micro-batches than devices, each
    is shared by as many devices as can have equal pieces of it.

    Args:
      devices: their number.
      num_rows: the room for the stream's tokens.
      batch_size: of a micro-batch; 0 makes one of all tokens.

    >>> range_of_device(devices=1, num_rows=10, batch_size=4)
    DeviceRange(rows=4, batches=3, pieces=1)
    >>> range_of_device(devices=8, num_rows=10, batch_size=4)
    DeviceRange(rows=2, batches=1, pieces=2)
    """
    if not 0 < batch_size < num_rows:
        batch_size = num_rows + -num_rows % devices
    count = -(-num_rows // batch_size)
    shares = range(1, devices // count + 1)
    pieces = max((n for n in shares if devices % n == 0 and batch_size % n == 0), default=1)
    return DeviceRange(batch_size // pieces, 1 if pieces > 1 else -(-count // devices), pieces)
