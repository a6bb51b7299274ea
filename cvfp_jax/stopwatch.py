"""Seconds of work and, apart from them, seconds of compiling."""

import time
from types import TracebackType

import jax

# What JAX reports about one compilation, without the parts that contain each other.
_COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_compile_seconds = 0.0


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    global _compile_seconds
    if event in _COMPILE_EVENTS:
        _compile_seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


class Stopwatch:
    """Adds up the time spent inside ``with`` blocks.

    >>> with Stopwatch() as watch:
    ...     _ = jax.jit(lambda x: x + 1)(1.0)
    >>> watch.seconds >= 0 and watch.compile_seconds > 0
    True
    """

    def __init__(self) -> None:
        """Starts from zero."""
        self.seconds = 0.0
        self.compile_seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        """Starts counting."""
        self._began, self._compiled = time.perf_counter(), _compile_seconds
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops counting."""
        compiled = _compile_seconds - self._compiled
        self.compile_seconds += compiled
        self.seconds += max(0.0, time.perf_counter() - self._began - compiled)
