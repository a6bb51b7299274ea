"""One launch at a time in a folder, and none shut out by a dead one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cvfp_jax import lock
from cvfp_jax.errors import UserError

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from cvfp_jax import lock
from cvfp_jax.errors import UserError
try:
    with lock.held(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def holder(folder):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, **pipes)


def test_a_second_holder_is_refused_with_the_firsts_number(tmp_path):
    folder = tmp_path / "new" / "folder"
    with lock.held(folder):
        refused = pytest.raises(UserError, match=f"{folder} is in use by process {os.getpid()}: wait")
        with refused as caught, lock.held(folder):
            pass
        assert caught.value.exit_code == 2
        assert (folder / lock.FILE_NAME).read_text() == f"{os.getpid()}\n", "the refused one changes nothing"
    with lock.held(folder):
        pass


def test_a_crashed_holders_lock_is_taken_over(tmp_path):
    with holder(tmp_path) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {first.pid}:"), lock.held(tmp_path):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (tmp_path / lock.FILE_NAME).read_text() == f"{first.pid}\n"
    with lock.held(tmp_path):
        assert (tmp_path / lock.FILE_NAME).read_text() == f"{os.getpid()}\n"


def test_of_many_that_race_one_wins(tmp_path):
    racers = [holder(tmp_path) for _ in range(4)]
    said = [racer.stdout.readline() for racer in racers]
    for racer in racers:
        racer.communicate("")
    assert said.count("held\n") == 1
    winner = racers[said.index("held\n")].pid
    assert sum(f"in use by process {winner}:" in line for line in said) == 3


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"x" * 1000])
def test_whatever_stands_in_the_file_is_no_obstacle(tmp_path, content):
    (tmp_path / lock.FILE_NAME).write_bytes(content)
    with lock.held(tmp_path):
        assert (tmp_path / lock.FILE_NAME).read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"use another --workdir"), lock.held(tmp_path / "file" / "inside"):
        pass
