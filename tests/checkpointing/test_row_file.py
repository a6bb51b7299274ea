import errno
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.checkpointing import row_file
from cvfp_jax.checkpointing.row_file import RowFiles, read_ahead, write_behind
from cvfp_jax.errors import MachineError


@pytest.fixture
def files(tmp_path):
    with RowFiles(tmp_path / "rows") as files:
        yield files


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_a_file_is_an_array(files, dtype):
    rng = np.random.default_rng(0)
    array, like = files.make((20, 3), dtype), np.zeros((20, 3), dtype)

    @settings(max_examples=40)
    @given(st.integers(0, 25), st.integers(0, 9), st.integers(-5, 25), st.integers(0, 30))
    def check(place, rows, first, count):
        new = rng.normal(size=(rows, 3)).astype(dtype)
        array.write(place, new)
        like[place : place + rows] = new[: max(0, 20 - place)]
        padded = np.pad(like, ((5, 40), (0, 0)))[first + 5 :][:count]
        np.testing.assert_array_equal(array.read(first, count), padded, strict=True)

    check()
    column = np.ones((2, 1), dtype)
    array.write(4, column, column=1)
    like[4:6, 1:2] = column
    np.testing.assert_array_equal(array[0:20], like)
    places = rng.choice(20, 7, replace=False)
    np.testing.assert_array_equal(array[places], like[places])
    wide = array.astype(np.float32)
    np.testing.assert_array_equal(wide[0:20], like.astype(np.float32), strict=True)
    assert wide.astype(np.float32) is wide
    for rows in (6, 25):
        resized = array.resize(rows)
        assert (resized.shape, resized.size, array.shape) == ((rows, 3), 3 * rows, (20, 3))
        np.testing.assert_array_equal(resized[0:rows], np.pad(like, ((0, 5), (0, 0)))[:rows], strict=True)
    assert resized.resize(20).resize(25)[0:25].sum() == resized[0:25].sum()


def test_chunks_make_the_whole(files, monkeypatch):
    monkeypatch.setattr(row_file, "CHUNK_BYTES", 100)
    assert files.make((20, 3), np.float32).chunk_ranges() == [(0, 8), (8, 8), (16, 8)]
    assert files.make((20, 3), np.float32).chunk_ranges(3) == [(0, 6), (6, 6), (12, 6), (18, 6)]
    assert files.make((20, 3), np.float32).chunk_ranges(50) == [(0, 50)]


def test_a_file_goes_with_the_last_that_refers_to_it_but_not_its_links(files, tmp_path):
    array = files.make((4, 2), np.float32)
    array.write(0, np.ones((4, 2)))
    other = array.successor()
    array.link(tmp_path / "kept")
    taken = array.give_way(other)
    assert taken is other
    # The first is linked to, and is not written over.
    assert taken.successor() is not array
    del array
    assert len(list(files.folder.iterdir())) == 1
    back = other.take_over(tmp_path / "kept")
    assert back[0:4].sum() == 8
    following = back.successor()
    following.write(0, np.zeros((4, 2)))
    assert back.give_way(following).successor() is not back
    del back
    again = other.take_over(tmp_path / "kept")
    (tmp_path / "kept").unlink()
    following = again.successor()
    # Nothing links to it any more.
    assert again.give_way(following).successor() is again


def test_a_file_goes_with_the_last_of_its_arrays(files):
    array = files.make((4, 2), np.float32)
    array.write(0, np.ones((4, 2)))
    shorter = array.resize(3)
    longer = shorter.resize(5)
    # What takes the place of an array is as long as it is.
    spare = array.successor()
    assert spare.give_way(shorter).successor() is spare
    assert shorter.resize(4).successor().shape == (4, 2)
    del spare, array, shorter
    assert len(list(files.folder.iterdir())) == 1
    assert longer[0:5].sum() == 8
    del longer
    assert not list(files.folder.iterdir())


def test_a_disk_without_links_gets_copies(files, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    array = files.make((4, 2), np.float32)
    array.write(0, np.ones((4, 2)))
    array.link(tmp_path / "kept")
    array.write(0, np.zeros((4, 2)))
    assert array.take_over(tmp_path / "kept")[0:4].sum() == 8


def test_a_full_disk_is_told_in_a_line_and_nothing_stays(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    def work():
        with RowFiles(tmp_path / "rows") as files:
            array = files.make((4, 2), np.float32)
            monkeypatch.setattr(os, "pwrite", full)
            with write_behind(array.write) as write:
                write(0, np.ones((2, 2)))
                write(2, np.ones((2, 2)))

    with pytest.raises(MachineError, match=r"No space left on device; free some room"):
        work()
    assert not (tmp_path / "rows").exists()


def test_room_is_looked_for_before_the_first_row(files, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 2**20))
    assert files.make((2**30, 2), np.float32, used_rows=10)[0:1].sum() == 0
    with pytest.raises(MachineError, match=r"needs 8.00 GiB more for contexts, and 0.00 GiB are free"):
        files.make((2**30, 2), np.float32)


def test_the_next_chunk_is_read_while_one_is_worked_on():
    seen = []

    def read(first, rows):
        seen.append(first)
        return np.zeros(rows)

    for (first, rows), array in read_ahead([(0, 2), (2, 2), (4, 1)], read):
        assert len(array) == rows
        assert len(seen) <= first // 2 + 2
    assert seen == [0, 2, 4]


def test_what_a_killed_launch_left_is_removed(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "7.rows").write_bytes(b"left")
    with RowFiles(tmp_path / "rows") as files:
        assert not list(files.folder.iterdir())
