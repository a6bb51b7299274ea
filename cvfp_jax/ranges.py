"""Which tokens of a stream each of some devices has in phase 1: arithmetic, so that plans need no JAX."""

from typing import NamedTuple


class DeviceRange(NamedTuple):
    """A range of equal length on each device."""

    rows: int  # of a micro-batch, or of a device's piece of it
    batches: int  # micro-batches of a device, 1 where devices share one
    pieces: int  # how many devices share a micro-batch


def range_of_device(devices: int, num_rows: int, batch_size: int) -> DeviceRange:
    """Returns the range of a device.

    Each device has as many micro-batches as any other; where there are fewer micro-batches than devices,
    as many devices share one as can have equal pieces of it.

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
