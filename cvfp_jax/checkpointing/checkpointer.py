"""What training sees of checkpoints: it offers the parts of its state to be saved, and asks for them again.

A cell's state is a set of named *parts*, such as ``phase 2``. A part has *facts*, which are JSON (steps
made, ranks measured, seconds spent), and *arrays*, a pytree. A stage in progress offers its part after each
step, or every second or so, and the checkpointer saves it if that is due. A finished stage leaves its part
included, so that it is saved along with those after it.

A resumed cell runs from its start: a stage that finds its part takes over what is in it, and is then over or
goes on from the middle. Random numbers and batches are functions of seed, stage and step, so that no part
holds the state of a generator, and a resumed cell makes the same bits as one that was never stopped.
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
# Returns a part's facts and arrays; None if they are not worth saving.
MakePart = Callable[[], tuple[Facts, Any] | None]
# Compiled work returns to Python about so often: to show its progress, to be saved or interrupted.
_SECONDS_BETWEEN_LOOKS = 1.0


class FirstRows:
    """The first rows of an array, which are all that is saved of it; the rest is padding.

    bfloat16 numbers that are kept as their bits are saved as numbers.

    Args:
      array: [N, ...], on any devices.
      rows: how many of the N count.
    """

    def __init__(self, array: jax.Array, rows: int) -> None:
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
        """Has a part saved along with every other from now on.

        Args:
          part: its name.
          facts: its facts, or what returns them when it is saved.
          arrays: its arrays, which must not be donated afterwards.
        """

    def exclude(self, *parts: str) -> None:
        """Has parts saved no longer."""

    def maybe_save(self, part: str, make: MakePart, stage_end: bool = False) -> None:
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
        """Returns how long work may go on before it next offers its part."""
        if self._observer is not None and self._observer.wants_each_step:
            return 0.0
        return self._seconds_to_save()

    def _save_if_due(self, part: str, make: MakePart, stage_end: bool) -> None:
        del part, make, stage_end
        signals.check()

    def _seconds_to_save(self) -> float:
        return math.inf


class Pace:
    """How many steps of compiled work to make before the next return to Python.

    >>> pace = Pace()
    >>> with pace:
    ...     steps = pace.steps(seconds_left=60.0)
    >>> steps, pace.steps(seconds_left=60.0), pace.steps(seconds_left=0.0)
    (1, 2, 1)
    """

    def __init__(self) -> None:
        # A step's time is not known yet, so the first return is after one.
        self._steps = self._last = 1
        self._seconds = 0.0

    def steps(self, seconds_left: float) -> int:
        """Returns a number of steps: about a second's, at most twice the last, none beyond the next save."""
        seconds = min(_SECONDS_BETWEEN_LOOKS, max(0.0, seconds_left))
        if self._seconds > 0.0:
            self._steps = max(1, int(min(2 * self._last, seconds * self._last / self._seconds)))
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


class OfferFilter:
    """Which of many offers to consider: about one a second, and the same ones in all processes.

    Whether a save is due takes a message between processes, which would hold up work that offers after each
    step of a few milliseconds.
    """

    def __init__(self) -> None:
        self._pace, self._part, self._steps_left = Pace(), "", 0

    def is_due(self, part: str, seconds_left: float) -> bool:
        """Says whether to consider an offer of a part, with so many seconds left to the next save."""
        if part == self._part:
            self._steps_left -= 1
            if self._steps_left > 0:
                return False
            self._pace.__exit__()
        else:
            self._pace, self._part = Pace(), part
        self._steps_left = self._pace.steps(seconds_left)
        self._pace.__enter__()
        return True
