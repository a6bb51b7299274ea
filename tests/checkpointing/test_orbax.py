"""What counts as a checkpoint, what is refused, and what a failing disk leaves behind."""

import errno
import gc
import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cvfp_jax.checkpointing import orbax
from cvfp_jax.checkpointing.orbax import OrbaxCheckpointer
from cvfp_jax.checkpointing.seal import damage
from cvfp_jax.errors import MachineError, UserError

# Orbax leaves coroutines behind when a save fails.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
ROOT = Path(__file__).parents[2]
IDENTITY = {"config.phase1.batch_size": 8, "corpus_sha256": "ab"}


@pytest.fixture(autouse=True)
def left_behind():
    yield
    gc.collect()


def state(number, rows=3):
    return {
        "a": jnp.full((rows, 2), number, jnp.float32),
        "none": np.zeros((0, 4), np.float32),
        "n": np.int32(number),
    }


def saved(folder, count, **options):
    """A folder after so many saves, numbered from 1."""
    with OrbaxCheckpointer(folder, IDENTITY, 0, **options) as checkpointer:
        for number in range(1, count + 1):
            checkpointer.maybe_save("part", lambda number=number: ({"number": number}, state(number)))
    return folder


def restored(folder, **options):
    """The number of the save that a folder gives back; None if it gives none."""
    with OrbaxCheckpointer(folder, IDENTITY, 0, **options) as checkpointer:
        facts = checkpointer.facts("part")
        if facts is None:
            return None
        arrays = checkpointer.restore("part", state(0))
    assert facts == {"number": int(arrays["n"])}
    np.testing.assert_array_equal(arrays["a"], np.full((3, 2), facts["number"], np.float32), strict=True)
    assert arrays["none"].shape == (0, 4)
    return facts["number"]


def test_the_newest_two_are_kept_and_the_newest_counts(tmp_path):
    assert restored(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    folder = saved(tmp_path / "cell", 4)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
    assert restored(folder) == 4


def test_what_is_kept_is_saved_along_until_it_is_dropped(tmp_path):
    with OrbaxCheckpointer(tmp_path, IDENTITY, 0) as checkpointer:
        checkpointer.include("done", lambda: {"seconds": 1.5}, (jnp.arange(3),))
        checkpointer.maybe_save("part", lambda: ({}, state(1)))
    with OrbaxCheckpointer(tmp_path, IDENTITY, 0) as checkpointer:
        assert checkpointer.facts("done") == {"seconds": 1.5}
        (kept,) = checkpointer.restore("done", (jnp.zeros(3, jnp.int32),))
        assert kept.tolist() == [0, 1, 2]
        assert checkpointer.facts("done") is None, "what was taken is the work's again"
        checkpointer.include("done", {}, kept)
        checkpointer.exclude("done")
        checkpointer.maybe_save("part", lambda: ({}, state(2)))
    with OrbaxCheckpointer(tmp_path, IDENTITY, 0) as checkpointer:
        assert checkpointer.facts("done") is None


def test_saves_wait_for_their_time(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(orbax.time, "monotonic", lambda: now[0])
    made = []

    def make():
        made.append(now[0])
        return {}, state(1)

    with OrbaxCheckpointer(tmp_path, IDENTITY, 5) as checkpointer:
        for seconds, stage_end in (
            (0, True),
            (29, True),
            (31, True),
            (299, False),
            (330, False),
            (332, False),
        ):
            now[0] = 1000.0 + seconds
            checkpointer.maybe_save("part", make, bool(stage_end))
            checkpointer._wait()
        assert checkpointer.seconds_left() == 300.0
    # A stage's end after a tenth of the time, a step after all of it; each counts from the last save.
    assert made == [1031.0, 1332.0]
    with OrbaxCheckpointer(tmp_path / "short", IDENTITY, 5) as checkpointer:
        checkpointer.maybe_save("part", make)
        checkpointer.maybe_save("part", make, stage_end=True)
    assert not (tmp_path / "short").exists()


def test_a_state_not_worth_saving_is_not_saved(tmp_path):
    with OrbaxCheckpointer(tmp_path, IDENTITY, 0) as checkpointer:
        checkpointer.maybe_save("part", lambda: None)
    assert restored(tmp_path) is None


def files(folder):
    return sorted(path for path in (folder).rglob("*") if path.is_file())


def largest(folder):
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unfinished(newest):
    temporary = newest.with_name("3.orbax-checkpoint-tmp-17")
    newest.rename(temporary)


CORRUPTIONS = {
    "file_missing": lambda newest: largest(newest).unlink(),
    "file_truncated": lambda newest: os.truncate(largest(newest), 10),
    "bit_flipped": lambda newest: flip(largest(newest)),
    "meta_flipped": lambda newest: flip(newest / "meta" / "metadata"),
    "file_added": lambda newest: (newest / "state" / "d" / "more").write_text("x"),
    "temporary_folder": unfinished,
    "no_seal": lambda newest: (newest / "sealed.json").unlink(),
    "seal_cut": lambda newest: os.truncate(newest / "sealed.json", 30),
    "seal_infinite": lambda newest: (newest / "sealed.json").write_text('{"a": [Infinity, "b"]}'),
    "seal_foreign": lambda newest: (newest / "sealed.json").write_text("[" * 100_000),
    "seal_empty": lambda newest: (newest / "sealed.json").write_text("{}"),
    "empty_folder": lambda newest: [shutil.rmtree(newest), newest.mkdir()],
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_torn_newest_falls_back_with_a_warning_that_names_it(tmp_path, caplog, name):
    folder = saved(tmp_path / "cell", 4)
    CORRUPTIONS[name](folder / "3")
    with caplog.at_level(logging.WARNING):
        assert restored(folder) == 3
    (warning,) = caplog.messages
    # What a kill left is of no use; what is torn may be of some to its user.
    verb = "removing" if name == "temporary_folder" else "setting"
    assert f"{verb} checkpoint {folder / '3'}" in warning
    assert (folder / "aside-3").is_dir() == (name != "temporary_folder")
    # What was torn does not come back, nor push out what is whole.
    with OrbaxCheckpointer(folder, IDENTITY, 0) as checkpointer:
        checkpointer.maybe_save("part", lambda: ({"number": 9}, state(9)))
    assert restored(folder) == 9
    assert (folder / "2").exists()


@pytest.mark.parametrize("position", [0.0, 0.3, 0.7, 1.0])
def test_any_flipped_bit_in_any_file_is_noticed(tmp_path, position):
    folder = saved(tmp_path / "cell", 2) / "1"
    assert damage(folder) is None
    for path in files(folder):
        content = path.read_bytes()
        if not content:
            continue
        changed = bytearray(content)
        changed[round(position * (len(content) - 1))] ^= 1
        path.write_bytes(changed)
        wrong = damage(folder)
        assert wrong, path
        path.write_bytes(content)
    assert damage(folder) is None


@pytest.mark.parametrize("unreadable", ["sealed.json", "meta/metadata", "state"])
@pytest.mark.parametrize("fault", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_cannot_be_read_now_ends_the_launch_and_is_kept(tmp_path, monkeypatch, unreadable, fault):
    folder = saved(tmp_path / "cell", 3)

    def refusing(original):
        def refuse(path, *arguments, **options):
            if str(path).endswith(f"/2/{unreadable}"):
                raise OSError(fault, os.strerror(fault), str(path))
            return original(path, *arguments, **options)

        return refuse

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", refusing(open))
        patch.setattr(os, "scandir", refusing(os.scandir))
        with pytest.raises(
            MachineError, match=f"cannot read checkpoints in {folder}: {os.strerror(fault)}; what was"
        ):
            restored(folder)
    assert restored(folder) == 3


def test_odd_files_among_checkpoints_are_set_aside(tmp_path, caplog):
    folder = saved(tmp_path / "cell", 3)
    (folder / "9999").write_text("x")
    (folder / "0077").mkdir()
    (folder / "aside-0077").mkdir()
    (folder / "note.txt").write_text("x")
    with caplog.at_level(logging.WARNING):
        assert restored(folder) == 3
    assert [message.partition(", as ")[2] for message in caplog.messages] == [
        "aside-0077-2: it is no checkpoint",
        "aside-9999: it is no checkpoint",
    ]
    saved(folder, 4)
    assert restored(folder) == 4
    assert (folder / "note.txt").read_text() == (folder / "aside-9999").read_text() == "x"


def test_without_a_whole_one_the_cell_starts_again(tmp_path, caplog):
    folder = saved(tmp_path / "cell", 3)
    for number in ("1", "2"):
        flip(largest(folder / number))
    with caplog.at_level(logging.WARNING):
        assert restored(folder) is None
    assert len(caplog.messages) == 2
    assert "its cell starts again" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"config.phase1.batch_size": 9}, "config.phase1.batch_size=8, not 9"),
        ({"corpus_sha256": "cd"}, "corpus_sha256=ab, not cd"),
        ({"config.new_field": 1}, "config.new_field=None, not 1"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused(tmp_path, change, part):
    folder = saved(tmp_path / "cell", 2)
    with pytest.raises(UserError, match=f"{folder}/1 was made with {part}: .*--workdir"):
        OrbaxCheckpointer(folder, IDENTITY | change, 0)
    assert restored(folder) == 2, "it is left as it is"


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    folder, before = saved(tmp_path / "cell", 1), orbax.CHECKPOINT_VERSION
    monkeypatch.setattr(orbax, "CHECKPOINT_VERSION", before + 1)
    with pytest.raises(UserError, match=f"schema={before}, not {before + 1}"):
        OrbaxCheckpointer(folder, IDENTITY, 0)


@pytest.mark.parametrize(
    ("template", "part"),
    [
        (state(0, rows=4), r"\['a'\].*\[3, 2\].*not.*\[4, 2\]"),
        ({**state(0), "n": np.int64(0)}, r"\['n'\].*int32.*not.*int64"),
        ({"a": state(0)["a"]}, r"3 arrays, not 1 arrays"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, template, part):
    folder = saved(tmp_path / "cell", 1)
    with OrbaxCheckpointer(folder, IDENTITY, 0) as checkpointer, pytest.raises(UserError, match=part):
        checkpointer.restore("part", template)


def test_another_device_is_told_and_not_refused(tmp_path, caplog):
    folder = saved(tmp_path / "cell", 1, where={"device": "cpu: a"})
    assert restored(folder, where={"device": "cpu: a"}) == 1
    assert not caplog.messages
    assert restored(folder, where={"device": "gpu: b"}) == 1
    assert "another device (cpu: a, now gpu: b)" in caplog.text


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename", "open"])
def test_a_disk_that_refuses_leaves_the_older_checkpoint(tmp_path, monkeypatch, caplog, fault, call):
    folder = saved(tmp_path / "cell", 2)
    refused = []
    original = getattr(os, call)

    def refuse(*arguments, **options):
        if "cell" in str(arguments[0]) or call == "fsync":
            refused.append(call)
            raise OSError(fault, os.strerror(fault), str(arguments[0]))
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(MachineError, match=f"{folder}.*{os.strerror(fault)}"):
            saved(folder, 3)
    assert refused
    assert restored(folder) == 2


FULL = """
import resource, signal, sys
from tests.checkpointing.test_orbax import OrbaxCheckpointer, IDENTITY, np, saved
from cvfp_jax.errors import MachineError
from pathlib import Path
folder = saved(Path(sys.argv[1]), 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
big = np.random.default_rng(0).normal(size=400_000).astype(np.float32)
try:
    with OrbaxCheckpointer(folder, IDENTITY, 0) as checkpointer:
        checkpointer.maybe_save("part", lambda: ({"number": 3}, {"a": big}))
except MachineError as error:
    print(error, error.exit_code)
"""


def test_a_write_that_the_system_refuses(tmp_path):
    """No mock: a limit on the size of files stops the writer of the arrays itself."""
    folder = tmp_path / "cell"
    run = subprocess.run([sys.executable, "-c", FULL, folder], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == (
        f"cannot save checkpoints in {folder}: File too large; what was saved before is kept: mend that, and"
        " give the same command again. 1\n"
    ), run.stderr
    assert run.stderr == ""
    assert restored(folder) == 2
