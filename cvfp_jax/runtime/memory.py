"""How much memory a run may use."""

import os
from pathlib import Path

import jax

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> tuple[int, bool] | None:
    """Returns the bytes that arrays may take, and whether they are the host's.

    Of an accelerator its own memory. On a CPU what the system could give this process, including what it
    already has, within the limit of its control group.

    Returns:
      Bytes and whether they are the host's; None if neither the device nor the system says.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), False
    limits = [limit for limit in (_of_system(), _of_control_group()) if limit is not None]
    return (min(limits), True) if limits else None


def _of_system() -> int | None:
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024 + _own()
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _own() -> int:
    """The bytes that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _of_control_group() -> int | None:
    """The limit of a control group, less what others in it have; a container's is at the root."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # or "max": no limit
        fields = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - max(0, int(fields["anon"]) - _own())
    except (OSError, ValueError, KeyError, IndexError):
        return None
