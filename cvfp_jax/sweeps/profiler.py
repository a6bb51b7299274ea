"""Traces of three steps of each phase, written by JAX's profiler."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import jax

FOLDER = "profile"
STEPS = 3
# The folder of each part's trace, by the part's name in checkpoints.
_FOLDERS = {"phase 1, block 1": "phase1", "phase 2": "phase2"}


def _options() -> jax.profiler.ProfileOptions:
    options = jax.profiler.ProfileOptions()
    # Python's own calls would take most of the file, and of the time.
    options.python_tracer_level = 0
    return options


class Profiler:
    """Traces the first steps of each phase that a launch makes, but for the very first, which compiles.

    A ``StepObserver`` of ``Checkpointer``. A trace should hold whole steps, so that work makes one at a time
    while it is traced, and each is waited for; no number changes.

    Args:
      folder: where the traces go, a folder a phase.
      tell: is called with a line that says where each trace is.
    """

    def __init__(self, folder: Path, tell: Callable[[str], object]) -> None:
        self._folder, self._tell = folder, tell
        self._untraced = dict(_FOLDERS)
        self._traced_part = ""  # none
        self._steps = 0
        self._step: jax.profiler.StepTraceAnnotation | None = None

    @property
    def wants_each_step(self) -> bool:
        """Whether a trace has been started."""
        return bool(self._traced_part)

    def after_step(self, part: str, wait: Callable[[], object], is_last: bool) -> None:
        """Starts, continues or ends a trace; see ``StepObserver``."""
        if self._traced_part and part != self._traced_part:
            self.close()
        if self._traced_part:
            wait()
            self._steps += 1
            self._end_step()
            if is_last or self._steps == STEPS:
                self.close()
            else:
                self._begin_step()
        elif part in self._untraced and not is_last:
            wait()
            jax.profiler.start_trace(self._folder / self._untraced[part], profiler_options=_options())
            self._traced_part, self._steps = part, 0
            self._begin_step()

    def _begin_step(self) -> None:
        name = _FOLDERS[self._traced_part]
        self._step = jax.profiler.StepTraceAnnotation(name, step_num=self._steps + 1)
        self._step.__enter__()

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def close(self) -> None:
        """Ends a trace that has been started, however many steps it has."""
        if not self._traced_part:
            return
        self._end_step()
        jax.profiler.stop_trace()
        part, self._traced_part = self._traced_part, ""
        if self._steps == 0:
            return  # the next cell's may have more
        traces = (self._folder / self._untraced.pop(part)).rglob("*.trace.json.gz")
        newest = max(traces, key=lambda path: path.stat().st_mtime)
        self._tell(f"traced {self._steps} of {STEPS} steps of {part}: {newest}")

    def missing(self) -> list[str]:
        """Returns what has not been traced, because no step followed a first one."""
        return list(self._untraced)

    def __enter__(self) -> "Profiler":
        """Returns itself; the first step starts a trace."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends a trace that has been started."""
        self.close()
