"""What is compiled once is loaded by later launches."""

import logging
import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest
import tiny

from cvfp_jax import compilation, records

ROOT = Path(__file__).parents[1]
TIMES = {name for name in records.FIELDS if name.endswith("_seconds")}


@pytest.fixture
def no_folder_yet(tmp_path, monkeypatch):
    """A user who has set nothing, and their cache directory."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_users_own_flags_win(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=3 --xla_dump_to=x")
    compilation.ask_for_repeatable()
    compilation.ask_for_repeatable()
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_gpu_autotune_level=3",
        "--xla_dump_to=x",
        "--xla_gpu_deterministic_ops=true",
        "--xla_gpu_enable_triton_gemm=false",
    ]


def test_programs_are_kept_in_the_users_cache_directory(no_folder_yet):
    assert compilation.keep_on_disk() == no_folder_yet / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(no_folder_yet / "compiled")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.0


def test_a_users_own_settings_win(no_folder_yet, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    assert compilation.keep_on_disk() is not None
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7.0
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert compilation.keep_on_disk() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")


def test_a_folder_that_cannot_be_written_is_gone_without(no_folder_yet, caplog):
    no_folder_yet.write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert compilation.keep_on_disk() is None
    (line,) = caplog.messages
    assert line.startswith(f"going on without the compilation cache {no_folder_yet / 'compiled'}: ")
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("damage", [b"", b"\x78", zlib.compress(bytes(1000))[:-1], b"\x78\x9cnot compressed"])
def test_what_a_killed_launch_left_unfinished_is_removed(no_folder_yet, damage):
    folder = no_folder_yet / "compiled"
    folder.mkdir(parents=True)
    whole = {"a-cache": zlib.compress(b"program"), "b-cache": b"(\xb5/\xfd of another compression"}
    for name, data in {**whole, "c-cache": damage}.items():
        (folder / name).write_bytes(data)
    compilation.keep_on_disk()
    assert {path.name: path.read_bytes() for path in folder.glob("*-cache")} == whole


def test_what_was_found_whole_is_not_read_again(no_folder_yet, monkeypatch):
    folder = no_folder_yet / "compiled"
    folder.mkdir(parents=True)
    (folder / "a-cache").write_bytes(zlib.compress(b"program"))
    os.utime(folder / "a-cache", (1, 1))
    compilation.keep_on_disk()
    monkeypatch.setattr(compilation, "_is_whole", pytest.fail)
    jax.config.update("jax_compilation_cache_dir", None)
    assert compilation.keep_on_disk() == folder


def test_programs_that_were_not_used_for_longest_go_first(no_folder_yet, monkeypatch):
    folder = no_folder_yet / "compiled"
    folder.mkdir(parents=True)
    # Written and read at these times, in seconds.
    for name, written, read in (("old", 10, 10), ("old, used", 20, 90), ("new", 50, 50), ("newest", 60, 60)):
        path = folder / f"{name}-cache"
        path.write_bytes(b"\x00" * 100)
        os.utime(path, (read, written))
    monkeypatch.setattr(compilation, "MOST_BYTES", 250)
    monkeypatch.setattr(compilation, "_remove_unfinished", lambda folder: None)
    compilation.keep_on_disk()
    assert {path.name for path in folder.iterdir()} == {"old, used-cache", "newest-cache"}


@pytest.mark.slow
def test_a_second_launch_loads_what_the_first_has_compiled(tmp_path):
    """And with a trace beside it, in which nothing changes but times."""
    corpus = tiny.write_corpus(tmp_path / "corpus")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    ours["CVFP_CACHE_DIR"] = str(tmp_path / "cache")

    def launch(name, *switches):
        flags = tiny.flags(corpus, "--samples=6", "--context_dims=8", f"--workdir={tmp_path / name}")
        command = [sys.executable, "launch.py", *flags, *switches]
        run = subprocess.run(command, cwd=ROOT, env=ours, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        lines = run.stderr.replace("\r", "\n").splitlines()
        (record,) = records.read(tmp_path / name / "records.jsonl")
        return record, [line for line in lines if line.startswith(("compiled ", "loaded "))], run.stdout

    first, told, _ = launch("first")
    assert told == []
    assert not (tmp_path / "first" / "profile").exists()

    second, told, out = launch("second", "--log_compiles", "--profile")
    # A program that calls back to Python could not be kept.
    assert [line for line in told if not line.startswith("loaded ")] == []
    for name in ("advance", "_train_step", "_evaluate", "_scan", "add"):
        assert any(line.startswith(f"loaded {name} in ") for line in told)
    assert second["compile_seconds"] < 0.5 * first["compile_seconds"]
    assert {name for name in first if first[name] != second[name]} <= TIMES
    for phase, part in (("phase1", "phase 1, block 1"), ("phase2", "phase 2")):
        (trace,) = (tmp_path / "second" / "profile" / phase).rglob("*.trace.json.gz")
        assert f"traced 3 of 3 steps of {part}: {trace}\n" in out
