"""How programs are compiled, and kept on disk for later launches to load."""

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
_LEAST_SECONDS = 0.0
MOST_BYTES = 2**29
_SUFFIX = "-cache"  # of JAX's files
_CHECKED = "checked"
_ZLIB = b"\x78"
# On a GPU sums may be made in the order in which threads come, unless they must not be. And each product is
# compiled in dozens of ways, to take the fastest, perhaps another one the next time; cuBLAS chooses as well.
_GPU_FLAGS = {
    "--xla_gpu_deterministic_ops": "true",
    "--xla_gpu_autotune_level": "0",
    "--xla_gpu_enable_triton_gemm": "false",
}


def ask_for_repeatable() -> None:
    """Has GPUs make the same bits each time, and compile in seconds; call it before JAX is used.

    A flag that the user has set in ``$XLA_FLAGS`` stays as it is.
    """
    given = os.environ.get("XLA_FLAGS", "")
    names = {flag.partition("=")[0] for flag in given.split()}
    missing = [f"{name}={value}" for name, value in _GPU_FLAGS.items() if name not in names]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *missing])


def keep_on_disk() -> Path | None:
    """Has JAX keep all that it compiles in the user's cache directory, and look there first.

    A folder that the user has set (``$JAX_COMPILATION_CACHE_DIR``) is used as it is. Of ours, files that a
    killed launch left unfinished are removed, and beyond ``MOST_BYTES`` those that were not used for longest;
    JAX's own bound would need another package.

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
        _remove_oldest(folder, MOST_BYTES)
    except OSError as error:
        logging.warning("going on without the compilation cache %s: %s", folder, error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    # A disk that fills up on the way would be told once a program.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry", UserWarning)
    return folder


def _entries(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The programs in a folder; another process may remove some meanwhile."""
    found = []
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            found.append((path, path.stat()))
        except FileNotFoundError:
            continue
    return found


def _remove_unfinished(folder: Path) -> None:
    """Removes what a killed writer left, which JAX would warn of at each launch and never make again."""
    mark = folder / _CHECKED
    before = mark.stat().st_mtime if mark.exists() else 0.0
    mark.touch()
    for path, facts in _entries(folder):
        if facts.st_mtime >= before and not _is_whole(path.read_bytes()):
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


def _remove_oldest(folder: Path, most_bytes: int) -> None:
    """Removes the programs that were not used for longest, beyond so many bytes of all."""
    entries = _entries(folder)
    # Where a disk does not note when a file was read, that is when it was written.
    entries.sort(key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime))
    excess = sum(facts.st_size for _, facts in entries) - most_bytes
    for path, facts in entries:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= facts.st_size


_TRACING = "/jax/core/compile/jaxpr_trace_duration"
_LOWERING = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILING = "/jax/core/compile/backend_compile_duration"
_LOADED = "/jax/compilation_cache/cache_hits"
# Arguments are told to this logger only.
_LOGGER = "jax._src.interpreters.pxla"
_MOST_SHAPES = 6


class Compilation(NamedTuple):
    """One program made for a function."""

    name: str  # the function's
    arguments: tuple[str, ...]  # types and shapes in order, such as float32[8,2]
    seconds: float  # from tracing the function to the program, or to what was loaded in its place
    loaded: bool  # from the cache on disk

    def line(self) -> str:
        """Returns it in words, with the largest shapes first.

        >>> shapes = ("float32[]", "float32[8,2]", "float32[]")
        >>> Compilation("advance", shapes, 1.234, loaded=False).line()
        'compiled advance in 1.23 s for float32[8,2], 2 float32[]'
        >>> Compilation("iota", (), 0.003, loaded=True).line()
        'loaded iota in 0.00 s, compiled by an earlier launch'
        """
        verb, source = ("loaded", ", compiled by an earlier launch") if self.loaded else ("compiled", "")
        counts = sorted(collections.Counter(self.arguments).items(), key=lambda item: -_size(item[0]))
        shapes = [f"{count} {shape}" if count > 1 else shape for shape, count in counts]
        shown = ", ".join([*shapes[:_MOST_SHAPES], *(["..."] if len(shapes) > _MOST_SHAPES else [])])
        return f"{verb} {self.name} in {self.seconds:.2f} s{source}{f' for {shown}' if shown else ''}"


def _size(shape: str) -> int:
    """The number of entries of an array of a type like float32[8,2]."""
    size = 1
    for dim in shape.partition("[")[2].rstrip("]").split(","):
        size *= int(dim) if dim.isdecimal() else 1
    return size


class _Arguments(logging.Filter):
    """Takes note of the arguments that JAX logs before it compiles, and keeps them out of its log."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, tuple[str, ...]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Takes a record in; only what is worth a warning goes on to be shown."""
        told: Any = record.args
        if str(record.msg).startswith("Compiling ") and len(told) > 1 and isinstance(told[1], Sequence):
            self.of[_plain(told[0])] = tuple(_shape(argument) for argument in told[1])
        return record.levelno >= logging.WARNING


def _plain(name: str | int) -> str:
    return str(name).removeprefix("jit(").removesuffix(")")


def _shape(argument: Any) -> str:
    dims = ",".join(map(str, getattr(argument, "shape", ())))
    return f"{getattr(argument, 'dtype', argument)}[{dims}]"


@contextlib.contextmanager
def told(tell: Callable[[Compilation], object]) -> Iterator[None]:
    """Tells of each compilation in a ``with`` block.

    Args:
      tell: is called when a program has been made or loaded.

    >>> found = []
    >>> with told(found.append):
    ...     _ = jax.jit(lambda x: x + 1)(1.0)
    >>> found[-1].name, found[-1].arguments
    ('<lambda>', ('float32[]',))
    """
    # Of the programs that are on the way; compiling one may take others.
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
            found = Compilation(name, arguments.of.pop(name, ()), seconds.pop(name), loaded[0])
            loaded[0] = False
            tell(found)

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
    """Prints a compilation on standard error, above a progress bar if there is one."""
    tqdm.write(compilation.line(), file=sys.stderr)
