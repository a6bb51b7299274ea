import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvfp_jax.data import mapped, stream

PIECES = [np.array(piece, np.int32) for piece in ([1, 2, 3], [], [-4, 50256], [5, 6])]
KEY = ["key"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    def __init__(self, pieces=PIECES):
        self.calls = 0
        self.pieces = pieces

    def __call__(self):
        self.calls += 1
        return iter(self.pieces)


def check(found, pieces=PIECES):
    ids, boundaries = found
    assert (ids.dtype, boundaries.dtype) == (np.int32, np.int64)
    assert ids.tolist() == list(itertools.chain(*pieces))
    assert boundaries.tolist() == np.cumsum([0, *map(len, pieces)]).tolist()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=5))
def test_pieces_come_back_and_are_made_once(pieces):
    make = Maker([np.array(piece, np.int32) for piece in pieces])
    for _ in range(2):
        check(mapped.cached_pieces("kind", map(str, pieces), make), pieces)
    assert make.calls <= 1


def test_keys_and_kinds_are_told_apart():
    make = Maker()
    for kind, key in [("kind", ["key"]), ("kind", ["other key"]), ("other kind", ["key"])] * 2:
        mapped.cached_pieces(kind, key, make)
    assert make.calls == 3


def test_no_flipped_bit_and_no_missing_byte_goes_further(own_cache):
    mapped.cached_pieces("kind", KEY, Maker())
    (file,) = own_cache.iterdir()
    whole = file.read_bytes()
    damaged = [
        whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
        for place in range(len(whole))
        for bit in (0, 7)
    ]
    damaged += [whole[:size] for size in range(len(whole))]
    damaged += [whole + b"\0", whole[4:], whole + whole]
    for contents in damaged:
        file.write_bytes(contents)
        make = Maker()
        check(mapped.cached_pieces("kind", KEY, make))
        assert make.calls == 1
        assert file.read_bytes() == whole


@pytest.mark.parametrize("contents", [b"", b"not a stream", bytes(1000)])
def test_a_damaged_file_is_named(own_cache, caplog, contents):
    mapped.cached_pieces("kind", KEY, Maker())
    (file,) = own_cache.iterdir()
    file.write_bytes(contents)
    with caplog.at_level(logging.WARNING):
        check(mapped.cached_pieces("kind", KEY, Maker()))
    assert f"making the unreadable cache file {file} again" in caplog.text


def test_a_file_that_was_made_from_something_else_is_not_taken(own_cache):
    mapped.cached_pieces("kind", KEY, Maker())
    (file,) = own_cache.iterdir()
    mapped.cached_pieces("kind", ["other key"], Maker(PIECES[:1]))
    (other,) = set(own_cache.iterdir()) - {file}
    file.write_bytes(other.read_bytes())
    check(mapped.cached_pieces("kind", KEY, Maker()))


def test_a_cache_that_cannot_be_written_is_gone_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        check(mapped.cached_pieces("kind", KEY, Maker()))
    assert "going on without" in caplog.text


def test_a_writer_that_fails_leaves_nothing(own_cache):
    def fail():
        yield PIECES[0]
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        mapped.cached_pieces("kind", KEY, fail)
    assert list(own_cache.iterdir()) == []


def _kill_while_writing():
    def pieces():
        yield np.zeros(100_000, np.int32)
        os.kill(os.getpid(), signal.SIGKILL)

    mapped.cached_pieces("kind", KEY, pieces)


def _build(start):
    def pieces():
        start.wait()
        for piece in PIECES * 50:
            yield np.full_like(piece, 7)

    check(mapped.cached_pieces("kind", KEY, pieces), [np.full_like(piece, 7) for piece in PIECES * 50])


def run(*processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


SPAWN = multiprocessing.get_context("spawn")


def test_a_killed_writer_leaves_nothing_that_is_taken_for_whole(own_cache):
    assert run(SPAWN.Process(target=_kill_while_writing)) == [-signal.SIGKILL]
    assert [file.name.startswith(".") for file in own_cache.iterdir()] == [True]
    make = Maker()
    check(mapped.cached_pieces("kind", KEY, make))
    assert make.calls == 1


def test_writers_at_the_same_time_all_have_the_same_and_leave_one_file(own_cache):
    start = SPAWN.Barrier(2)
    assert run(*(SPAWN.Process(target=_build, args=(start,)) for _ in range(2))) == [0, 0]
    assert len(list(own_cache.iterdir())) == 1


def test_a_reader_keeps_what_it_mapped_when_the_file_is_replaced(own_cache):
    before = mapped.cached_pieces("kind", KEY, Maker())
    (file,) = own_cache.iterdir()
    mapped._write(file, "something else", [np.zeros(1000, np.int32)])
    check(before)
    file.unlink()
    check(before)


SHARD = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, 300 << 20))
from cvfp_jax.data import stream
tokens = stream.tokenize([], "hash of a long text")
first, last = len(tokens.ids) // 2, len(tokens.ids) // 2 + 1000
print(len(tokens.ids), tokens.ids[first:last].sum(), len(tokens.first(1)), flush=True)
fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(fields["VmHWM"].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell peak memory")
def test_a_process_reads_no_more_of_a_long_stream_than_its_share(own_cache, monkeypatch):
    """A sparse file of 4 GiB, of which a process of at most 300 MiB reads 1,000 tokens."""
    values = 1 << 30
    seen = []
    monkeypatch.setattr(
        mapped, "_open", lambda path, made_from: seen.append((path, made_from)) or (None, None)
    )
    stream.tokenize([], "hash of a long text")
    ((path, made_from),) = seen
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(values * 4)
        file.seek(values * 2)
        file.write(np.ones(1000, np.int32).tobytes())
        file.seek(values * 4)
        file.write(np.array([0, 5, values]).tobytes())
        footer = mapped._FOOTER.pack(mapped._MAGIC, made_from.encode(), values, 2, 0, 0)
        file.write(mapped._signed(footer))
    assert path.stat().st_blocks * 512 < 1 << 20
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SHARD], env=environment, capture_output=True, text=True, check=True
    )
    found, peak = done.stdout.splitlines()
    assert found == f"{values} 1000 5"
    assert done.stderr == ""
    assert int(peak) < 300 << 10
