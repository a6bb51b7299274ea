import time

import jax
import jax.numpy as jnp
import pytest

from cvfp_jax.runtime import stopwatch
from cvfp_jax.runtime.stopwatch import Stopwatch

PREFIX = "/jax/core/compile/"


def test_spans_that_contain_each_other_count_once(monkeypatch):
    monkeypatch.setattr(stopwatch, "_counted_spans", [])
    with Stopwatch() as watch:
        for name, start, end in (
            ("jaxpr_trace", 1.0, 2.0),
            ("backend_compile", 2.5, 4.0),
            ("jaxpr_to_mlir_module", 0.5, 5.0),  # contains both
            ("backend_compile", 5.0, 7.0),
            ("something_else", 7.0, 9.0),
            ("backend_compile", 4.0, 4.5),  # after the clock was set back
        ):
            jax.monitoring.record_event_time_span(f"{PREFIX}{name}_duration", start, end)
    assert watch.compile_seconds == pytest.approx(7.0)


def test_tracing_lowering_and_compiling_are_no_work():
    def slow_to_trace(x):
        time.sleep(0.5)
        return x + 1

    with Stopwatch() as watch:
        jax.jit(slow_to_trace)(jnp.ones(3)).block_until_ready()
        time.sleep(0.1)
    assert watch.compile_seconds > 0.5
    # Of a busy machine, too; with the tracing it would be at least 0.6.
    assert 0.1 < watch.seconds < 0.6


def test_a_stopwatch_goes_on_from_what_was_spent_before():
    with Stopwatch(2.0, 3.0) as watch:
        time.sleep(0.01)
    assert watch.seconds >= 2.01
    assert watch.so_far == (watch.seconds, watch.compile_seconds)
    assert watch.compile_seconds == 3.0
