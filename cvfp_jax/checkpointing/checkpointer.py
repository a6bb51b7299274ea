"""What long work tells about itself, so that it can be left and taken up again.

A cell's state is a set of named parts, each some facts (JSON) and some arrays. Work in progress offers
its part whenever it could be left; what it has finished is kept, to be saved along. Taken up again, a
cell runs from its start, and whatever finds its part is done at once or goes on in the middle. Random
numbers and batches are functions of seed, stage and step, so that parts hold no generators.
"""

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from cvfp_jax.core.matmul import numbers_type
from cvfp_jax.distributed import processes
from cvfp_jax.distributed.mesh import rows_on_host
from cvfp_jax.runtime import signals

Facts = dict[str, Any]
# Makes a part's facts and arrays; None if they are not worth saving.
Make = Callable[[], tuple[Facts, Any] | None]
# Work looks up about so often: to show how it goes, to be saved, to be interrupted.
_SECONDS_BETWEEN_LOOKS = 1.0


class FirstRows:
    """The first rows of an array: all that is saved of it, bits as numbers. The rest is padding."""

    def __init__(self, array: jax.Array, rows: int) -> None:
        """Takes the array, and how many of its rows count."""
        self.array, self.shape, self.dtype = array, (rows, *array.shape[1:]), numbers_type(array.dtype)
        self.size = math.prod(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The rows on the host."""
        return np.array(rows_on_host(self.array, self.shape[0]).view(self.dtype), dtype=dtype, copy=copy)


class StepObserver(Protocol):
    """What watches training step by step, such as a profiler."""

    @property
    def wants_each_step(self) -> bool:
        """Whether work should make one step at a time for now."""

    def after_step(self, part: str, wait: Callable[[], object], is_last: bool) -> None:
        """Is told that steps of a part have been dispatched.

        Args:
          part: what they belong to.
          wait: blocks until their arrays are computed.
          is_last: whether they ended a stage.
        """


class Checkpointer:
    """Saves nothing: for work that starts from the beginning each time.

    Args:
      observer: is told of each offer to save, which work makes between steps; changes no number.
    """

    def __init__(self, observer: StepObserver | None = None) -> None:
        self._observer = observer

    def facts(self, part: str) -> Facts | None:
        """Returns the saved facts of a part; None if it has none."""
        del part
        return None

    def restore(self, part: str, template: Any) -> Any:
        """Returns the saved arrays of a part.

        Args:
          part: one that has facts.
          template: a pytree of arrays or ``jax.ShapeDtypeStruct`` like what was saved.

        Returns:
          The pytree with the saved arrays in it.
        """
        raise KeyError(part)

    def include(self, part: str, facts: Facts | Callable[[], Facts], arrays: Any = ()) -> None:
        """Has a part saved along from now on: its facts, or what makes them, and arrays that stay."""

    def exclude(self, *parts: str) -> None:
        """Has parts saved no longer."""

    def maybe_save(self, part: str, make: Make, stage_end: bool = False) -> None:
        """Tells the observer of a step, saves the state if it is time, and ends the run if that is asked for.

        Args:
          part: what the step belongs to.
          make: returns the part's facts and arrays, or None if they are not worth saving.
          stage_end: whether the part has no more steps; such a state is saved a little earlier.
        """
        if self._observer is not None:
            self._observer.after_step(part, lambda: jax.block_until_ready(make()), stage_end)
        self._save_if_due(part, make, stage_end)

    def seconds_left(self) -> float:
        """Returns how long work may go on before its next offer to save."""
        if self._observer is not None and self._observer.wants_each_step:
            return 0.0
        return self._seconds_to_save()

    def _save_if_due(self, part: str, make: Make, stage_end: bool) -> None:
        del part, make, stage_end
        signals.check()

    def _seconds_to_save(self) -> float:
        return math.inf


class Pace:
    """How many steps of compiled work to make before looking up.

    >>> pace = Pace()
    >>> with pace:
    ...     steps = pace.steps(seconds_left=60.0)
    >>> steps, pace.steps(seconds_left=60.0), pace.steps(seconds_left=0.0)
    (1, 2, 1)
    """

    def __init__(self) -> None:
        """Nothing is known of a step's time, so the first look is after one."""
        self._steps = self._last = 1
        self._seconds = 0.0

    def steps(self, seconds_left: float) -> int:
        """Returns a number of steps: about a second's, at most twice the last, none beyond the next save."""
        free = min(_SECONDS_BETWEEN_LOOKS, max(0.0, seconds_left))
        if self._seconds > 0.0:
            self._steps = max(1, int(min(2 * self._last, free * self._last / self._seconds)))
        # Clocks differ, and all processes must make the same steps.
        self._steps = processes.broadcast(self._steps)
        self._last = self._steps
        return self._steps

    def __enter__(self) -> "Pace":
        """Starts to measure the steps."""
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Notes how long they took."""
        self._seconds = time.perf_counter() - self._began


class Looks:
    """Which of many offers to look up at, the same ones in all processes."""

    def __init__(self) -> None:
        """Nothing has been offered."""
        self._pace, self._offering, self._left = Pace(), "", 0

    def due(self, part: str, seconds_left: float) -> bool:
        """Says of an offer whether about a second has passed since the last look, or a save is due."""
        if part == self._offering:
            self._left -= 1
            if self._left > 0:
                return False
            self._pace.__exit__()
        else:
            self._pace, self._offering = Pace(), part
        self._left = self._pace.steps(seconds_left)
        self._pace.__enter__()
        return True
