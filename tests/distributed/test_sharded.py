"""Several devices compute what one does: each case of ``sharded`` in a process with eight virtual devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import quickly
from tests.tiers import cases

CASES = [
    "phase1_whole_batches",
    "phase1_starts",
    "phase1_pieces",
    "lagged_task",
    "contexts",
    "contexts_that_never_forget",
    "ranks",
    "phase2",
    "cell",
    "other_devices_go_on",
    "cost",
]


@pytest.mark.parametrize("case", cases(CASES, fast=["phase1_whole_batches"]))
def test_eight_devices_compute_what_one_does(case):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.distributed.sharded", case],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **quickly.environment(devices=8)},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "equal", run.stderr[-3000:]
