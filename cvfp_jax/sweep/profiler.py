"""A trace of three steps of each phase, written by JAX's profiler."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from cvfp_jax.checkpointing.checkpointer import Checkpointer, Facts, Make

FOLDER = "profile"
STEPS = 3
# What is traced, by the name under which work keeps it: the folder of its trace.
_FOLDERS = {"phase 1, block 1": "phase1", "phase 2": "phase2"}


def _options() -> jax.profiler.ProfileOptions:
    options = jax.profiler.ProfileOptions()
    # Python's own calls would take most of the file, and of the time.
    options.python_tracer_level = 0
    return options


class Profiler:
    """Traces the first steps of each phase that a launch makes, but for the very first, which compiles.

    Args:
      folder: where the traces go, a folder a phase.
      tell: is called with a line that says where each trace is.
    """

    def __init__(self, folder: Path, tell: Callable[[str], object]) -> None:
        """Nothing is traced yet."""
        self._folder, self._tell = folder, tell
        self._left = dict(_FOLDERS)
        self._part = ""  # that is being traced
        self._steps = 0
        self._step: jax.profiler.StepTraceAnnotation | None = None

    @property
    def is_tracing(self) -> bool:
        """Whether a trace is on the way."""
        return bool(self._part)

    def after_step(self, part: str, wait: Callable[[], object], is_last: bool) -> None:
        """Starts, goes on with or ends a trace.

        Args:
          part: what a step has been made of.
          wait: waits for that step.
          is_last: whether the part has no more steps.
        """
        if self.is_tracing and part != self._part:
            self.close()
        if self.is_tracing:
            wait()
            self._steps += 1
            self._end_step()
            if is_last or self._steps == STEPS:
                self.close()
            else:
                self._begin_step()
        elif part in self._left and not is_last:
            wait()
            jax.profiler.start_trace(self._folder / self._left[part], profiler_options=_options())
            self._part, self._steps = part, 0
            self._begin_step()

    def _begin_step(self) -> None:
        name = _FOLDERS[self._part]
        self._step = jax.profiler.StepTraceAnnotation(name, step_num=self._steps + 1)
        self._step.__enter__()

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def close(self) -> None:
        """Ends a trace that is on the way, however many steps it has."""
        if not self.is_tracing:
            return
        self._end_step()
        jax.profiler.stop_trace()
        part, self._part = self._part, ""
        if self._steps == 0:
            return  # the next cell's may have more
        traces = (self._folder / self._left.pop(part)).rglob("*.trace.json.gz")
        newest = max(traces, key=lambda path: path.stat().st_mtime)
        self._tell(f"traced {self._steps} of {STEPS} steps of {part}: {newest}")

    def missing(self) -> list[str]:
        """Returns what has not been traced, because no step followed a first one."""
        return list(self._left)

    def __enter__(self) -> "Profiler":
        """Starts nothing; steps do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends a trace that is on the way."""
        self.close()


class ProfilingCheckpointer(Checkpointer):
    """Keeps what another checkpointer keeps, and lets a profiler look in between steps.

    A trace should hold whole steps, so work is made to look up after each while it is traced; that changes
    no digit.
    """

    def __init__(self, checkpointer: Checkpointer, profiler: Profiler) -> None:
        """Takes the checkpointer that does the keeping."""
        self._checkpointer, self._profiler = checkpointer, profiler

    def facts(self, part: str) -> Facts | None:
        """Returns the saved facts of a part; None if it has none."""
        return self._checkpointer.facts(part)

    def restore(self, part: str, template: Any) -> Any:
        """Returns the saved arrays of a part."""
        return self._checkpointer.restore(part, template)

    def include(self, part: str, facts: Facts | Callable[[], Facts], arrays: Any = ()) -> None:
        """Has a part saved along from now on."""
        self._checkpointer.include(part, facts, arrays)

    def exclude(self, *parts: str) -> None:
        """Has parts saved no longer."""
        self._checkpointer.exclude(*parts)

    def maybe_save(self, part: str, make: Make, stage_end: bool = False) -> None:
        """Notes that a step has been made, then saves if it is time."""
        self._profiler.after_step(part, lambda: jax.block_until_ready(make()), stage_end)
        self._checkpointer.maybe_save(part, make, stage_end)

    def seconds_left(self) -> float:
        """Returns the time to the next save, or look of the profiler."""
        return 0.0 if self._profiler.is_tracing else self._checkpointer.seconds_left()
