"""How a sweep runs, which changes no number of it."""

import dataclasses
from pathlib import Path

CONTEXTS_IN = ("auto", "memory", "disk")
KEEP = ("model", "all", "none")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a sweep runs.

    Args:
      checkpoint_minutes: the time between two saves of a cell's state; 0 saves after every step.
      force: run cells that are expected not to fit in memory.
      profile: trace the first steps of each phase.
      mesh: how devices share the work; all on ``data`` if none is given.
      contexts_in: ``memory``, ``disk`` or ``auto``; see ``contexts_go_to_disk``.
      keep: what a finished cell leaves beside its record; see ``CellResult.save``.
      tensorboard: write scalars of both phases for TensorBoard while they run.
      metrics: write the same as JSON Lines to this file.
    """

    checkpoint_minutes: float = 5.0
    force: bool = False
    profile: bool = False
    mesh: dict[str, int] | None = None
    contexts_in: str = "auto"
    keep: str = "model"
    tensorboard: bool = False
    metrics: Path | None = None
