"""How programs are compiled, kept on disk for later launches, and reported.

JAX bounds its cache itself where ``jax_compilation_cache_max_size`` is set. That is not used here, because of
what jax 0.10.2 does then (measured on 2 cores):

- For each program that it stores it reads a time stamp of every other: 11 ms of work in a cache of 100
  programs, 94 ms in one of 1,000 and 320 ms in one of 4,000, under a lock of all processes, where most
  programs take 50 ms to compile.
- A program without a time stamp makes every later one fail to be stored. Such are all that were stored
  without the bound, and one whose writer was killed between the two files.
- A program that was written in part is never written again either way, but warned of at each launch.

So files that a kill or a full disk left unfinished, and beyond a size those unused for longest, are removed
once a launch, here.
"""

import collections
import contextlib
import logging
import os
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from cvfp_jax.runtime.files import cache_dir

FOLDER = "compiled"
# A cell has about fifty programs of one operation. On 2 cores such a one takes 50 ms to compile, 3 ms to
# load and 2 kB of disk, so none is too small to keep.
_MIN_COMPILE_SECONDS = 0.0
MAX_BYTES = 2**29
_SUFFIX = "-cache"  # of JAX's files
_CHECKED = "checked"  # a file as old as the last check
_ZLIB = b"\x78"
# By default GPUs may add in the order in which threads arrive, and time dozens of kernels of each product to
# take the fastest, perhaps another one the next time; cuBLAS chooses as well.
_GPU_FLAGS = {
    "--xla_gpu_deterministic_ops": "true",
    "--xla_gpu_autotune_level": "0",
    "--xla_gpu_enable_triton_gemm": "false",
}


def request_determinism() -> None:
    """Has GPUs compute the same bits each time, and compile in seconds; call it before JAX is used.

    Flags that the user has set in ``$XLA_FLAGS`` stay as they are.
    """
    given = os.environ.get("XLA_FLAGS", "")
    names = {flag.partition("=")[0] for flag in given.split()}
    missing = [f"{name}={value}" for name, value in _GPU_FLAGS.items() if name not in names]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *missing])


def enable_disk_cache() -> Path | None:
    """Has JAX keep all that it compiles in the user's cache directory, and look there first.

    A folder that the user has set (``$JAX_COMPILATION_CACHE_DIR``) is used as it is.

    Returns:
      The folder; None if it cannot be written, which is logged, or if the user has set one.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return None
    folder = cache_dir() / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _remove_unfinished(folder)
        _remove_unused(folder, MAX_BYTES)
    except OSError as error:
        logging.warning("going on without the compilation cache %s: %s", folder, error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
    # On a disk that is full there would be a warning for each program.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry", UserWarning)
    return folder


def _entries(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The programs in a folder; another process may remove some meanwhile."""
    entries = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            entries.append((path, path.stat()))
    return entries


def _remove_unfinished(folder: Path) -> None:
    """Removes programs that were written in part, of those that are newer than the last check."""
    mark = folder / _CHECKED
    last_check = mark.stat().st_mtime if mark.exists() else 0.0
    mark.touch()
    for path, status in _entries(folder):
        if status.st_mtime >= last_check and not _is_whole(path.read_bytes()):
            path.unlink(missing_ok=True)


def _is_whole(data: bytes) -> bool:
    """Says whether compressed bytes have their end; if zlib did not make them, whether there are any."""
    if not data.startswith(_ZLIB):
        return len(data) > 0
    stream = zlib.decompressobj()
    try:
        stream.decompress(data)
    except zlib.error:
        return False
    return stream.eof


def _remove_unused(folder: Path, max_bytes: int) -> None:
    """Removes the programs that were not used for longest, beyond so many bytes of all."""
    # Where a disk does not note when a file was read, that is when it was written.
    entries = sorted(_entries(folder), key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime))
    excess = sum(status.st_size for _, status in entries) - max_bytes
    for path, status in entries:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= status.st_size


_TRACING = "/jax/core/compile/jaxpr_trace_duration"
_LOWERING = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILING = "/jax/core/compile/backend_compile_duration"
_LOADED = "/jax/compilation_cache/cache_hits"
# JAX tells the arguments of a program to this logger only.
_LOGGER = "jax._src.interpreters.pxla"
_MAX_SHAPES = 6


class Compilation(NamedTuple):
    """One program made for a function."""

    name: str  # of the function
    arguments: tuple[str, ...]  # types and shapes in order, such as float32[8,2]
    seconds: float  # of tracing, lowering, and compiling or loading
    loaded: bool  # from the cache on disk

    def line(self) -> str:
        """Returns a line of text, with the largest shapes first.

        >>> shapes = ("float32[]", "float32[8,2]", "float32[]")
        >>> Compilation("advance", shapes, 1.234, loaded=False).line()
        'compiled advance in 1.23 s for float32[8,2], 2 float32[]'
        >>> Compilation("iota", (), 0.003, loaded=True).line()
        'loaded iota in 0.00 s, compiled by an earlier launch'
        """
        verb, source = ("loaded", ", compiled by an earlier launch") if self.loaded else ("compiled", "")
        counts = sorted(collections.Counter(self.arguments).items(), key=lambda item: -_size(item[0]))
        shapes = [f"{count} {shape}" if count > 1 else shape for shape, count in counts]
        shown = ", ".join([*shapes[:_MAX_SHAPES], *(["..."] if len(shapes) > _MAX_SHAPES else [])])
        return f"{verb} {self.name} in {self.seconds:.2f} s{source}{f' for {shown}' if shown else ''}"


def _size(shape: str) -> int:
    """The number of entries of an array of a type like float32[8,2]."""
    size = 1
    for dim in shape.partition("[")[2].rstrip("]").split(","):
        size *= int(dim) if dim.isdecimal() else 1
    return size


class _Arguments(logging.Filter):
    """Notes the arguments that JAX logs before it compiles, and keeps these records out of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, tuple[str, ...]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Notes a record's arguments; only warnings pass."""
        values: Any = record.args
        if str(record.msg).startswith("Compiling ") and len(values) > 1 and isinstance(values[1], Sequence):
            self.by_name[_plain(values[0])] = tuple(_shape(argument) for argument in values[1])
        return record.levelno >= logging.WARNING


def _plain(name: str | int) -> str:
    return str(name).removeprefix("jit(").removesuffix(")")


def _shape(argument: Any) -> str:
    dims = ",".join(map(str, getattr(argument, "shape", ())))
    return f"{getattr(argument, 'dtype', argument)}[{dims}]"


@contextlib.contextmanager
def reported(report: Callable[[Compilation], object]) -> Iterator[None]:
    """Reports each compilation in a ``with`` block.

    Args:
      report: is called when a program has been compiled or loaded.

    >>> compilations = []
    >>> with reported(compilations.append):
    ...     _ = jax.jit(lambda x: x + 1)(1.0)
    >>> compilations[-1].name, compilations[-1].arguments
    ('<lambda>', ('float32[]',))
    """
    # By the name of each program that is not finished; compiling one may compile others.
    seconds: dict[str, float] = collections.defaultdict(float)
    arguments, loaded = _Arguments(), [False]

    def on_event(event: str, **_: str | int) -> None:
        loaded[0] |= event == _LOADED

    def on_duration(event: str, duration_secs: float, fun_name: str | int = "", **_: str | int) -> None:
        if event not in (_TRACING, _LOWERING, _COMPILING):
            return
        name = _plain(fun_name)
        seconds[name] += duration_secs
        if event == _COMPILING:
            compilation = Compilation(name, arguments.by_name.pop(name, ()), seconds.pop(name), loaded[0])
            loaded[0] = False
            report(compilation)

    logger = logging.getLogger(_LOGGER)
    level = logger.level
    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    logger.addFilter(arguments)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeFilter(arguments)
        jax.monitoring.unregister_event_duration_listener(on_duration)
        jax.monitoring.unregister_event_listener(on_event)


def show(compilation: Compilation) -> None:
    """Prints a compilation to standard error, above a progress bar if there is one."""
    tqdm.write(compilation.line(), file=sys.stderr)
