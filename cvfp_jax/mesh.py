"""The device mesh; the only file that names its axes."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh whose devices share the rows of each batch.

    Args:
      devices: the devices; JAX's first one if none are given.

    Returns:
      A mesh with one axis, ``data``.

    >>> dict(make_mesh().shape)
    {'data': 1}
    """
    chosen = list(devices) if devices else jax.devices()[:1]
    return jax.make_mesh((len(chosen),), (DATA,), axis_types=(AxisType.Auto,), devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: each device holds a range of its rows."""
    return NamedSharding(mesh, PartitionSpec(DATA))
