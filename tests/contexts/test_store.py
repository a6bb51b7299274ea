"""Contexts in memory and contexts in a file: whatever a store offers gives the same numbers for both."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.checkpointing import row_file
from cvfp_jax.checkpointing.row_file import RowFile, RowFiles
from cvfp_jax.contexts.store import FileStore, MemoryStore, as_store, new_store
from cvfp_jax.core.matmul import as_kept, as_numbers
from cvfp_jax.distributed.mesh import line_mesh, single_device_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")
N, D = 13, 3  # one shape for all, so that little is compiled
LINE = line_mesh(single_device_mesh())
TYPES = st.sampled_from([np.dtype(np.float32), jnp.dtype(jnp.bfloat16)])
# From a chunk a row to one chunk for all.
CHUNK_BYTES = st.sampled_from([1, 5 * D * 4, 1000])
MULTIPLES = st.sampled_from([1, 2, 4])
ROWS = st.integers(0, N)


@pytest.fixture
def files(tmp_path):
    with RowFiles(tmp_path / "rows") as files:
        yield files


def contexts(dtype, used=N, seed=0):
    """Rows of numbers, zero from one on."""
    rows_NxD = np.random.default_rng(seed).normal(size=(N, D)).astype(dtype)
    rows_NxD[used:] = 0
    return rows_NxD


def write(store, rows_NxD, multiple=1):
    """Writes a store's rows in its chunks, as they are kept on devices; the last reaches beyond the end."""
    with store.writer() as write_chunk:
        for first, rows in store.chunk_ranges(multiple):
            chunk_BxD = np.zeros((rows, D), rows_NxD.dtype)
            chunk_BxD[: len(rows_NxD) - first] = rows_NxD[first : first + rows]
            write_chunk(first, as_kept(jnp.asarray(chunk_BxD)))
    return store


def both(files, rows_NxD, multiple=1):
    """The same contexts in memory and in a file."""
    stores = [new_store((N, D), rows_NxD.dtype, LINE, where) for where in (None, files)]
    assert [type(store) for store in stores] == [MemoryStore, FileStore]
    assert [store.is_resident for store in stores] == [True, False]
    return [write(store, rows_NxD, multiple) for store in stores]


def saved(store, rows):
    """What a checkpoint gives back of a store; an array's memory or a file's link."""
    part = store.to_save(rows)
    assert part.shape == (rows, D)
    assert part.dtype == store.dtype
    if isinstance(part, RowFile):
        link = part.files.folder / "link"
        part.link(link)
        taken = part.files.make(part.shape, part.dtype).take_over(link)
        link.unlink()
        return taken
    return jnp.asarray(np.asarray(part))


def holds(store, rows_NxD):
    """Asserts that a store has these rows, type and bits, on the host and on devices."""
    assert store.shape == rows_NxD.shape
    assert len(store) == len(rows_NxD)
    assert store.dtype == rows_NxD.dtype
    np.testing.assert_array_equal(store.host_rows(0, len(store)), rows_NxD, strict=True)
    np.testing.assert_array_equal(np.asarray(store.array), rows_NxD, strict=True)
    np.testing.assert_array_equal(np.asarray(store.kept_NxD), np.asarray(as_kept(jnp.asarray(rows_NxD))))
    return True


def test_a_new_store_is_zero(files):
    for where in (None, files):
        for dtype in (jnp.float32, jnp.bfloat16):
            holds(new_store((N, D), dtype, LINE, where, used_rows=2), np.zeros((N, D), dtype))


def test_rows_are_read_as_they_were_written(files, monkeypatch):
    @settings(max_examples=40, deadline=None)
    @given(
        dtype=TYPES,
        chunk_bytes=CHUNK_BYTES,
        multiple=MULTIPLES,
        first=st.integers(0, N + 3),
        count=st.integers(0, N + 3),
        # As many each time, so that they share a program.
        indices=st.lists(st.integers(0, N + 5), min_size=6, max_size=6),
        starts=st.lists(st.integers(-4, N + 2), max_size=4),
    )
    def check(dtype, chunk_bytes, multiple, first, count, indices, starts):
        monkeypatch.setattr(row_file, "CHUNK_BYTES", chunk_bytes)
        rows_NxD = contexts(dtype)
        # Zeros on either side, for what lies outside.
        padded_MxD = np.pad(rows_NxD, ((4, 20), (0, 0)))
        for store in both(files, rows_NxD, multiple):
            holds(store, rows_NxD)
            np.testing.assert_array_equal(
                store.host_rows(first, count), rows_NxD[first : first + count], strict=True
            )
            taken_BxD = np.asarray(store.take(np.array(indices)))
            np.testing.assert_array_equal(taken_BxD, padded_MxD[4:][indices], strict=True)
            windows = list(store.windows(starts, 5))
            assert len(windows) == len(starts)
            for start, (window_BxD, window_first) in zip(starts, windows, strict=True):
                for row in range(max(start, 0), min(start + 5, N)):
                    np.testing.assert_array_equal(window_BxD[row - int(window_first)], rows_NxD[row])

    check()


def test_chunks_joined_are_all_rows(files, monkeypatch):
    @settings(max_examples=40, deadline=None)
    @given(dtype=TYPES, chunk_bytes=CHUNK_BYTES, multiple=MULTIPLES, stop=st.integers(1, N))
    def check(dtype, chunk_bytes, multiple, stop):
        monkeypatch.setattr(row_file, "CHUNK_BYTES", chunk_bytes)
        rows_NxD = contexts(dtype)
        for store in both(files, rows_NxD, multiple):
            ranges, chunks = store.chunk_ranges(multiple, stop), list(store.chunks(multiple, stop, stop - 1))
            assert ranges == [(chunk.first, len(chunk.contexts_BxD)) for chunk in chunks]
            assert ranges == [part for part in store.chunk_ranges(multiple) if part[0] < stop]
            reached = 0
            for first, contexts_BxD, before_D in chunks:
                assert first == reached
                reached += len(contexts_BxD)
                chunk_BxD = np.asarray(as_numbers(jnp.asarray(contexts_BxD)))
                np.testing.assert_array_equal(chunk_BxD[: N - first], rows_NxD[first:reached], strict=True)
                assert not chunk_BxD[N - first :].any()
                if store.is_resident:
                    assert not np.asarray(before_D).any()
                else:
                    assert len(contexts_BxD) % multiple == 0
                    np.testing.assert_array_equal(before_D, rows_NxD[first - 1 if first else stop - 1])
            assert reached >= stop
        (_, in_file) = both(files, rows_NxD)
        assert not next(in_file.chunks()).before_D.any(), "none stands before the first"

    check()


def test_a_file_has_many_chunks_and_memory_one(files, monkeypatch):
    monkeypatch.setattr(row_file, "CHUNK_BYTES", 5 * D * 4)
    in_memory, in_file = both(files, contexts(np.float32))
    assert in_file.chunk_ranges() == [(0, 5), (5, 5), (10, 5)]
    assert in_file.chunk_ranges(4) == [(0, 4), (4, 4), (8, 4), (12, 4)]
    assert in_file.chunk_ranges(4, stop=8) == [(0, 4), (4, 4)]
    assert in_memory.chunk_ranges(4, stop=8) == [(0, N)]


def test_other_stores_are_made_of_one(files, monkeypatch):
    @settings(max_examples=40, deadline=None)
    @given(
        dtype=TYPES,
        other_type=TYPES,
        chunk_bytes=CHUNK_BYTES,
        used=ROWS,
        rows=st.sampled_from([N - 4, N, N + 6]),
    )
    def check(dtype, other_type, chunk_bytes, used, rows):
        monkeypatch.setattr(row_file, "CHUNK_BYTES", chunk_bytes)
        used = min(used, rows)
        rows_NxD = contexts(dtype, used)
        resized_MxD = np.pad(rows_NxD, ((0, 6), (0, 0)))[:rows]
        for store in both(files, rows_NxD):
            holds(store.astype(other_type), rows_NxD.astype(other_type))
            holds(store.empty(other_type, used), np.zeros((N, D), other_type))
            others = [write(store.empty(dtype, N), contexts(dtype, seed=seed)) for seed in (1, 2)]
            side_by_side = [rows_NxD, contexts(dtype, seed=1), contexts(dtype, seed=2)]
            holds(store.beside(others), np.concatenate(side_by_side, axis=1))
            holds(store.beside([]), rows_NxD)
            few = min(rows, N)
            back = store.from_saved(saved(store, few))
            holds(back, rows_NxD)
            np.testing.assert_array_equal(saved(store, few)[0:few], rows_NxD[:few], strict=True)
            assert store.to_save(N + 6).shape == (N, D), "there are no more"
            # None of this has changed it.
            holds(store, rows_NxD)
            resized = store.resized(rows)
            holds(resized, resized_MxD)
            holds(resized.from_saved(saved(resized, few)), resized_MxD)
            holds(resized, resized_MxD)
            assert resized.block_until_ready() is resized

    check()


def test_what_was_saved_keeps_its_shape_whatever_becomes_of_the_store(files):
    rows_NxD = contexts(np.float32, used=8)
    for store in both(files, rows_NxD):
        part = store.to_save(8)
        store.resized(N + 6)
        store.resized(10)
        assert part.shape == (8, D)
        assert part.size == 8 * D
        holds(store, rows_NxD)


def test_a_successor_takes_a_stores_place(files):
    first, second, third = (contexts(np.float32, seed=seed) for seed in range(3))
    for store in both(files, first):
        for rows_NxD in (second, third, first, second):
            successor = write(store.successor(), rows_NxD)
            store = store.give_way(successor)
            holds(store, rows_NxD)
    # Two files take turns.
    assert len(list(files.folder.iterdir())) == 2


def test_the_file_lives_as_long_as_any_store_of_it(files):
    (_, in_file) = both(files, contexts(np.float32))
    part = in_file.resized(N + 6)
    del in_file
    holds(part, np.pad(contexts(np.float32), ((0, 6), (0, 0))))
    del part
    assert not list(files.folder.iterdir())


def test_an_array_is_a_store_and_a_store_itself(files):
    rows_NxD = contexts(jnp.bfloat16)
    for given_NxD in (rows_NxD, jnp.asarray(rows_NxD)):
        assert isinstance(as_store(given_NxD), MemoryStore)
        holds(as_store(given_NxD), rows_NxD)
    for store in both(files, rows_NxD):
        assert as_store(store) is store
