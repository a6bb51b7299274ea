"""Where work runs, where its contexts are kept, and what watches it: made once, passed once."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from cvfp_jax.checkpointing.checkpointer import Checkpointer
from cvfp_jax.checkpointing.row_file import RowFiles
from cvfp_jax.contexts.store import ContextStore, new_store
from cvfp_jax.distributed.mesh import line_mesh, single_device_mesh

# Takes the steps made and the trace so far.
Phase1Progress = Callable[[int, dict[str, np.ndarray]], None]
# Takes the epoch (from 1), the rows done in it and the mean loss of the latest batch.
Phase2Progress = Callable[[int, int, float], None]


class Progress(Protocol):
    """What shows how a cell goes."""

    def phase1(self, block_index: int, num_tokens: int) -> Phase1Progress:
        """Returns what is called about once a second while a block's contexts are iterated."""
        ...

    def phase2(self, num_tokens: int) -> Phase2Progress:
        """Returns what is called every few batches of training."""
        ...

    def epoch(self, number: int, measures: dict[str, float]) -> None:
        """Is told train_loss, val_loss and val_acc of each epoch, counted from 1, once it is over."""
        ...


class NoProgress:
    """Shows nothing."""

    def phase1(self, block_index: int, num_tokens: int) -> Phase1Progress:
        """Returns what does nothing."""
        del block_index, num_tokens
        return lambda steps, trace: None

    def phase2(self, num_tokens: int) -> Phase2Progress:
        """Returns what does nothing."""
        del num_tokens
        return lambda epoch, rows, loss: None

    def epoch(self, number: int, measures: dict[str, float]) -> None:
        """Does nothing."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where work runs and what watches it. No number depends on it, up to rounding.

    Args:
      mesh: the devices, which have a range of the tokens each; the process's first one by default.
      checkpointer: what work is saved by on its way, and taken up again from; by default it is not saved.
      files: where training's contexts are kept in files, of one device; by default they are kept in memory.
      progress: shows how work goes; nothing by default.

    >>> Runtime().mesh.size
    1
    """

    mesh: Mesh = dataclasses.field(default_factory=single_device_mesh)
    checkpointer: Checkpointer = dataclasses.field(default_factory=Checkpointer)
    files: RowFiles | None = None
    progress: Progress = dataclasses.field(default_factory=NoProgress)

    @property
    def line(self) -> Mesh:
        """The devices in a line."""
        return line_mesh(self.mesh)

    def on_one_device(self) -> "Runtime":
        """Returns a runtime of one device that keeps contexts in its memory: for short streams."""
        return dataclasses.replace(self, mesh=single_device_mesh(), files=None)

    def new_store(self, shape: tuple[int, int], dtype: Any, used_rows: int | None = None) -> ContextStore:
        """Returns an empty store of contexts; see ``store.new_store``."""
        return new_store(shape, dtype, self.line, self.files, used_rows)

    def saved_template(self, shape: tuple[int, int], dtype: Any) -> Any:
        """Returns what asks a checkpoint for contexts."""
        if self.files is not None:
            return self.files.make(shape, dtype)
        return jax.ShapeDtypeStruct(shape, dtype)
