"""Seconds of work and, apart from them, of compiling or of loading what was compiled before."""

import time
from types import TracebackType

import jax

# Spans that JAX reports: tracing, lowering, and compiling or loading what was compiled before.
_COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_compile_seconds = 0.0
_counted_spans: list[tuple[float, float]] = []


def _listen(event: str, start_time: float, end_time: float, **_: str | int) -> None:
    """Counts a span once: spans inside it ended before it, and their seconds are taken off again."""
    global _compile_seconds
    if event not in _COMPILE_EVENTS:
        return
    while _counted_spans and start_time <= _counted_spans[-1][0] and _counted_spans[-1][1] <= end_time:
        began, ended = _counted_spans.pop()
        _compile_seconds -= ended - began
    _counted_spans.append((start_time, end_time))
    _compile_seconds += end_time - start_time


jax.monitoring.register_event_time_span_listener(_listen)


class Stopwatch:
    """Adds up the time spent inside ``with`` blocks.

    Args:
      seconds: of work that an earlier launch has spent.
      compile_seconds: the same of compiling.

    >>> with Stopwatch() as watch:
    ...     _ = jax.jit(lambda x: x + 1)(1.0)
    >>> watch.seconds >= 0 and watch.compile_seconds > 0
    True
    """

    def __init__(self, seconds: float = 0.0, compile_seconds: float = 0.0) -> None:
        self._counted = seconds, compile_seconds
        self._began: tuple[float, float] | None = None

    @property
    def so_far(self) -> tuple[float, float]:
        """Seconds of work and of compiling, up to now."""
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
