"""What is compiled once is loaded by later launches."""

import logging
import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tqdm import tqdm

from cvfp_jax.report import records
from cvfp_jax.runtime import compilation
from cvfp_jax.runtime.compilation import Compilation, reported
from tests import tiny

ROOT = Path(__file__).parents[2]
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
    compilation.request_determinism()
    compilation.request_determinism()
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_gpu_autotune_level=3",
        "--xla_dump_to=x",
        "--xla_gpu_deterministic_ops=true",
        "--xla_gpu_enable_triton_gemm=false",
    ]


def test_programs_are_kept_in_the_users_cache_directory(no_folder_yet):
    assert compilation.enable_disk_cache() == no_folder_yet / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(no_folder_yet / "compiled")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.0


def test_a_users_own_settings_win(no_folder_yet, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    assert compilation.enable_disk_cache() is not None
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7.0
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert compilation.enable_disk_cache() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")


def test_a_folder_that_cannot_be_written_is_gone_without(no_folder_yet, caplog):
    no_folder_yet.write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert compilation.enable_disk_cache() is None
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
    compilation.enable_disk_cache()
    assert {path.name: path.read_bytes() for path in folder.glob("*-cache")} == whole


def test_what_was_found_whole_is_not_read_again(no_folder_yet, monkeypatch):
    folder = no_folder_yet / "compiled"
    folder.mkdir(parents=True)
    (folder / "a-cache").write_bytes(zlib.compress(b"program"))
    os.utime(folder / "a-cache", (1, 1))
    compilation.enable_disk_cache()
    monkeypatch.setattr(compilation, "_is_whole", pytest.fail)
    jax.config.update("jax_compilation_cache_dir", None)
    assert compilation.enable_disk_cache() == folder


def test_programs_that_were_not_used_for_longest_go_first(no_folder_yet, monkeypatch):
    folder = no_folder_yet / "compiled"
    folder.mkdir(parents=True)
    # Written and read at these times, in seconds.
    for name, written, read in (("old", 10, 10), ("old, used", 20, 90), ("new", 50, 50), ("newest", 60, 60)):
        path = folder / f"{name}-cache"
        path.write_bytes(b"\x00" * 100)
        os.utime(path, (read, written))
    monkeypatch.setattr(compilation, "MAX_BYTES", 250)
    monkeypatch.setattr(compilation, "_remove_unfinished", lambda folder: None)
    compilation.enable_disk_cache()
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
    for name in ("advance_in_memory", "_train_step", "_evaluate", "_scan", "add"):
        assert any(line.startswith(f"loaded {name} in ") for line in told)
    assert second["compile_seconds"] < 0.5 * first["compile_seconds"]
    assert {name for name in first if first[name] != second[name]} <= TIMES
    for phase, part in (("phase1", "phase 1, block 1"), ("phase2", "phase 2")):
        (trace,) = (tmp_path / "second" / "profile" / phase).rglob("*.trace.json.gz")
        assert f"traced 3 of 3 steps of {part}: {trace}\n" in out


def test_each_compilation_is_told_once():
    @jax.jit
    def twice(x, y):
        return 2 * x + y

    small, large = (jnp.ones((size, 2)) for size in (3, 4))
    compilations = []
    with reported(compilations.append):
        for argument in (small, large, small):
            twice(argument, 1.0)
    assert [(c.name, c.arguments) for c in compilations] == [
        ("twice", ("float32[3,2]", "float32[]")),
        ("twice", ("float32[4,2]", "float32[]")),
    ]
    assert all(0 < c.seconds < 10 for c in compilations)
    twice(jnp.ones((5, 2)), 1.0)
    assert len(compilations) == 2, "nothing is told outside the block"


def test_a_program_that_compiling_another_takes_has_its_own_line():
    def constant(x):
        with jax.ensure_compile_time_eval():
            return x + jnp.sort(jnp.ones(7))[0]

    compilations, x = [], jnp.ones(2)
    with reported(compilations.append):
        jax.jit(constant)(x)
    assert compilations[-1].arguments == ("float32[2]",)
    assert compilations[-1].name == "constant"
    assert ("sort", ("float32[7]",)) in [(c.name, c.arguments) for c in compilations]


def test_what_was_loaded_is_told_apart():
    compilations = []
    with reported(compilations.append):
        jax.monitoring.record_event(compilation._LOADED)
        for name in ("first", "second"):
            jax.monitoring.record_event_duration_secs(compilation._COMPILING, 0.5, fun_name=f"jit({name})")
    assert compilations == [Compilation("first", (), 0.5, True), Compilation("second", (), 0.5, False)]


def test_jax_says_nothing_more_than_before(caplog):
    logger = logging.getLogger(compilation._LOGGER)
    level, x = logger.level, jnp.ones(11)
    with caplog.at_level(logging.DEBUG, logger="jax"), reported(lambda compilation: None):
        jax.jit(lambda x: x * 3)(x)
        logger.warning("worth knowing")
    assert [record.message for record in caplog.records if record.name == logger.name] == ["worth knowing"]
    assert (logger.level, logger.filters) == (level, [])


def test_a_line_is_brief():
    line = Compilation("f", tuple(f"float32[{n},2]" for n in range(1, 100)), 1.0, False).line()
    assert line.startswith("compiled f in 1.00 s for float32[99,2], float32[98,2]")
    assert line.endswith(", ...")
    assert len(line) < 150


@pytest.mark.parametrize("shape", ["float32[]", "key<fry>[]", "bool[2,3]"])
def test_lines_stand_above_the_bar(capsys, shape):
    with tqdm(total=2, desc="bar", mininterval=0) as bar:
        compilation.show(Compilation("f", (shape,), 1.0, False))
        bar.update(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"\rcompiled f in 1.00 s for {shape}\n" in err
