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

    def __init__(self, seconds: float = 0.0, compile_seconds: float = 0.0) -> None:
        """Starts from zero, or from what an earlier launch has spent."""
        self._counted = seconds, compile_seconds
        self._began: tuple[float, float] | None = None

    @property
    def so_far(self) -> tuple[float, float]:
        """The seconds of work and of compiling, up to now."""
        seconds, compile_seconds = self._counted
        if self._began is None:
            return seconds, compile_seconds
        compiled = _compile_seconds - self._began[1]
        worked = time.perf_counter() - self._began[0] - compiled
        return seconds + max(0.0, worked), compile_seconds + compiled

    @property
    def seconds(self) -> float:
        """Seconds of work."""
        return self.so_far[0]

    @property
    def compile_seconds(self) -> float:
        """Seconds of compiling."""
        return self.so_far[1]

    def __enter__(self) -> "Stopwatch":
        """Starts counting."""
        self._began = time.perf_counter(), _compile_seconds
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops counting."""
        self._counted, self._began = self.so_far, None
