"""How much memory there is to compute in."""

import os
from pathlib import Path

import jax

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> tuple[int, bool] | None:
    """Returns the bytes that arrays may take, and whether they are the host's; None if nobody knows.

    An accelerator's own memory; else what the system could give this process, what it has already
    included, and no more than its control group may.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), False
    found = [count for count in (_system(), _group()) if count is not None]
    return (min(found), True) if found else None


def _system() -> int | None:
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
        return free + _own()
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _own() -> int:
    """What this process holds already."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _group() -> int | None:
    """The limit of a control group, less what others in it hold; a container's is at the root."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" is no number: there is no limit
        fields = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - max(0, int(fields["anon"]) - _own())
    except (OSError, ValueError, KeyError, IndexError):
        return None
