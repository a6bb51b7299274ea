"""Three steps of each phase, traced, in a cell that ends with the very same numbers."""

import collections
import gzip
import json

import jax
import numpy as np
import pytest

from cvfp_jax.checkpointing.checkpointer import Checkpointer
from cvfp_jax.checkpointing.orbax import OrbaxCheckpointer
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.sweeps import profiler
from cvfp_jax.sweeps.cell import run_cell
from cvfp_jax.sweeps.profiler import Profiler
from tests.sweeps.test_cell import CONFIG, TIMES, data_of


def run(checkpointer):
    return run_cell(CONFIG, data_of(), Runtime(checkpointer=checkpointer)).record


def events(folder):
    """The events of the only trace in a folder that have a name and a duration."""
    (path,) = folder.rglob("*.trace.json.gz")
    with gzip.open(path) as file:
        return [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]


def test_a_cell_is_traced_and_its_numbers_stay(quick_compilation, tmp_path):
    said = []
    with Profiler(tmp_path, said.append) as tracer:
        traced = run(Checkpointer(tracer))
    assert tracer.missing() == []
    assert [line.split(": ")[0] for line in said] == [
        "traced 3 of 3 steps of phase 1, block 1",
        "traced 3 of 3 steps of phase 2",
    ]
    plain = run(Checkpointer())
    assert {name for name in plain if traced[name] != plain[name]} <= set(TIMES)
    for phase, function in (("phase1", "advance_in_memory"), ("phase2", "_train_step")):
        found = events(tmp_path / phase)
        steps = [event for event in found if event["name"] == phase]
        assert [event["args"]["step_num"] for event in steps] == ["1", "2", "3"]
        # One call a step, and what it computed: nothing was compiled meanwhile.
        calls = [event for event in found if event["name"] == f"PjitFunction({function})"]
        for step in steps:
            assert any(step["ts"] <= call["ts"] <= step["ts"] + step["dur"] for call in calls)
        runs = collections.defaultdict(set)
        for event in found:
            arguments = event.get("args", {})
            if "hlo_module" in arguments:
                runs[arguments["hlo_module"]].add(arguments["run_id"])
        assert len(runs[f"jit_{function}"]) == 3
        assert not [event["name"] for event in found if "backend_compile" in event["name"]]


class Calls:
    """What a profiler has JAX do, in order."""

    def __init__(self, monkeypatch, tmp_path):
        self.made = []

        def start(folder, **_):
            self.made.append(f"start {folder.name}")
            self.folder = folder

        def stop():
            self.made.append("stop")
            (self.folder / "now").mkdir(parents=True)
            (self.folder / "now" / "x.trace.json.gz").touch()

        monkeypatch.setattr(jax.profiler, "start_trace", start)
        monkeypatch.setattr(jax.profiler, "stop_trace", stop)
        self.said = []
        self.tracer = Profiler(tmp_path, self.said.append)
        self.checkpointer = Checkpointer(self.tracer)

    def maybe_save(self, part, stage_end=False):
        self.checkpointer.maybe_save(part, lambda: self.made.append("wait"), stage_end)


@pytest.fixture
def calls(monkeypatch, tmp_path):
    return Calls(monkeypatch, tmp_path)


PHASE1 = "phase 1, block 1"


def test_the_first_step_is_left_out_and_then_every_step_is_waited_for(calls):
    assert calls.checkpointer.seconds_left() == np.inf
    calls.maybe_save(PHASE1)
    assert calls.made == ["wait", "start phase1"]
    for _ in range(3):
        assert calls.checkpointer.seconds_left() == 0.0, "work looks up after each step"
        calls.maybe_save(PHASE1)
    assert calls.made == ["wait", "start phase1", "wait", "wait", "wait", "stop"]
    assert calls.checkpointer.seconds_left() == np.inf
    calls.maybe_save(PHASE1)
    calls.maybe_save("phase 1, block 2")
    assert calls.made[-1] == "stop", "a phase is traced once"
    assert calls.tracer.missing() == ["phase 2"]


def test_a_phase_of_few_steps_is_traced_as_far_as_it_goes(calls):
    calls.maybe_save(PHASE1)
    calls.maybe_save(PHASE1, stage_end=True)
    assert calls.made[-1] == "stop"
    assert calls.said[0].startswith("traced 1 of 3 steps of phase 1, block 1: ")


def test_a_phase_of_one_step_leaves_the_trace_to_the_next_cell(calls):
    calls.maybe_save(PHASE1, stage_end=True)
    assert calls.made == []
    assert PHASE1 in calls.tracer.missing()
    with calls.tracer:
        calls.maybe_save("phase 2")
    assert calls.made == ["wait", "start phase2", "stop"]
    assert calls.said == []
    assert "phase 2" in calls.tracer.missing()


def test_a_trace_ends_with_its_part_and_with_the_cell(calls):
    calls.maybe_save(PHASE1)
    calls.maybe_save(PHASE1)
    calls.maybe_save("validation contexts, block 1")
    assert calls.made == ["wait", "start phase1", "wait", "stop"]
    calls.maybe_save("phase 2")
    calls.maybe_save("phase 2")
    with pytest.raises(KeyboardInterrupt), calls.tracer:
        raise KeyboardInterrupt
    assert calls.made[-1] == "stop"
    assert calls.tracer.missing() == []
    assert profiler.STEPS == 3


def test_a_traced_step_may_come_before_the_next_save(calls, tmp_path):
    with OrbaxCheckpointer(tmp_path / "cell", {}, 5, observer=calls.tracer) as checkpointer:
        assert 0 < checkpointer.seconds_left() <= 300
        checkpointer.maybe_save(PHASE1, lambda: calls.made.append("wait"))
        assert calls.made == ["wait", "start phase1"]
        assert checkpointer.seconds_left() == 0.0
        calls.tracer.close()
        assert checkpointer.seconds_left() > 0
