"""How programs are compiled, and kept on disk for later launches to load."""

import logging
import os
import tempfile
import warnings
import zlib
from pathlib import Path

import jax

from cvfp_jax.data.cache import cache_dir

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
