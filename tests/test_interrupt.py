"""Ctrl-C at any moment ends a run with 130 and one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from cvfp_jax import interrupt

ROOT = Path(__file__).parents[1]


def test_an_interruption_that_was_swallowed_is_remembered():
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupt.listen()
        interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.listen()
        interrupt.check()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_a_run_ends_wherever_it_is_struck(tmp_path, seconds):
    corpus = tiny.write_corpus(tmp_path / "corpus")
    endless = ["--config.phase2.epochs=100000", "--config.phase2.patience=100000"]
    flags = tiny.flags(corpus, f"--workdir={tmp_path / 'work'}", *endless)
    command = [sys.executable, "launch.py", *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        time.sleep(seconds)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    # Where Python itself had not finished starting, its own line is all there is.
    assert "the same command goes on" in said or seconds < 2
