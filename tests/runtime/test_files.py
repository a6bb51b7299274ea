import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cvfp_jax.errors import UserError
from cvfp_jax.runtime import files


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomic(path, b"old")

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_a_file_is_what_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        files.write_atomic(tmp_path / "file", b"private")
        with files.locked(tmp_path):
            pass
    finally:
        os.umask(before)
    for name in ("file", files.LOCK_NAME):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_links_that_others_placed_are_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("file", files.LOCK_NAME):
        (tmp_path / name).symlink_to(precious)
    files.write_atomic(tmp_path / "file", b"new")
    with pytest.raises(UserError, match=r"cannot write .*lock: Too many levels"), files.locked(tmp_path):
        pass
    assert (precious.read_text(), (tmp_path / "file").read_text()) == ("precious", "new")


ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from cvfp_jax.runtime import files
from cvfp_jax.errors import UserError
try:
    with files.locked(Path(sys.argv[1])):
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
    with files.locked(folder):
        refused = pytest.raises(UserError, match=f"{folder} is in use by process {os.getpid()}: wait")
        with refused as caught, files.locked(folder):
            pass
        assert caught.value.exit_code == 2
        assert (folder / files.LOCK_NAME).read_text() == f"{os.getpid()}\n", "the refused one changes nothing"
    with files.locked(folder):
        pass


def test_a_crashed_holders_lock_is_taken_over(tmp_path):
    with holder(tmp_path) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {first.pid}:"), files.locked(tmp_path):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (tmp_path / files.LOCK_NAME).read_text() == f"{first.pid}\n"
    with files.locked(tmp_path):
        assert (tmp_path / files.LOCK_NAME).read_text() == f"{os.getpid()}\n"


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
    (tmp_path / files.LOCK_NAME).write_bytes(content)
    with files.locked(tmp_path):
        assert (tmp_path / files.LOCK_NAME).read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"use another --workdir"), files.locked(tmp_path / "file" / "inside"):
        pass
