"""Ctrl-C and SIGTERM at any moment end a run with 130 or 143 and one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import launch
from cvfp_jax.errors import UserError
from cvfp_jax.runtime import signals
from tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def listening():
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    signals.listen()
    yield
    signals.listen()
    signal.set_wakeup_fd(-1)
    signals._wakeup.close()
    signals._wakeup = None
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interruption_that_was_swallowed_is_remembered(listening, number, code):
    signals.check()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    with pytest.raises(KeyboardInterrupt):
        signals.check()
    assert signals.exit_code() == code
    signals.listen()
    signals.check()


def test_what_was_ignored_at_the_start_stays_ignored_but_ctrl_c(listening):
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signals.listen()
    os.kill(os.getpid(), signal.SIGHUP)  # as a terminal that is closed does to nohup's command
    os.kill(os.getpid(), signal.SIGTERM)
    signals.check()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_work_that_saves_itself_is_asked_and_not_struck(listening):
    with signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.asked()
        signals.check()
    with pytest.raises(KeyboardInterrupt):
        signals.check()


def test_what_an_interruption_was_made_into_is_one(listening, monkeypatch, capsys):
    def struck_while_importing(argv, experiments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("a compiled module failed to import") from None

    monkeypatch.setattr("cvfp_jax.cli.main.read_request", struck_while_importing)
    assert launch.main([]) == 143
    assert capsys.readouterr().err.startswith("interrupted: ")


def test_what_fails_after_an_interruption_is_told(listening, monkeypatch, capsys):
    def asked_and_then_fails(error):
        def read_request(argv, experiments):
            with signals.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                raise error

        return read_request

    monkeypatch.setattr("cvfp_jax.cli.main.read_request", asked_and_then_fails(UserError("cannot save")))
    assert launch.main([]) == UserError("").exit_code
    assert capsys.readouterr().err == "error: cannot save\n"
    signals.listen()
    monkeypatch.setattr("cvfp_jax.cli.main.read_request", asked_and_then_fails(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        launch.main([])


SECOND = """
import os, signal, sys, time
from cvfp_jax.runtime import signals
signals.listen()
if sys.argv[1] == "compiled":
    import hashlib
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # many minutes of C, in which no handler runs
else:
    with signals.deferred():
        print("ready", flush=True)
        while True:
            time.sleep(1)
"""


@pytest.mark.parametrize("where", ["compiled", "deferred"])
def test_a_second_signal_ends_at_once(where):
    command = [sys.executable, "-c", SECOND, where]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"ready\n"
        time.sleep(0.5)  # the next line has begun
        run.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert run.poll() is None, "the first only asks"
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=10) == 143


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "number"), [(1.0, signal.SIGINT), (7.0, signal.SIGTERM)])
def test_a_run_ends_wherever_it_is_struck(tmp_path, seconds, number):
    corpus = tiny.write_corpus(tmp_path / "corpus")
    endless = ["--config.phase2.epochs=100000", "--config.phase2.patience=100000"]
    flags = tiny.flags(corpus, f"--workdir={tmp_path / 'work'}", *endless)
    command = [sys.executable, "launch.py", *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        time.sleep(seconds)
        run.send_signal(number)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + number, said
    # Where Python itself had not finished starting, its own line is all there is.
    assert "the same command goes on" in said or seconds < 2
