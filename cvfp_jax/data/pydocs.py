"""A corpus that is on every machine: the docstrings of Python and of this project's requirements."""

import ast
import hashlib
import importlib.util
import itertools
import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cvfp_jax.data import cache
from cvfp_jax.errors import UserError

PACKAGES = ("jax", "flax", "optax", "orbax", "numpy", "scipy", "absl", "matplotlib")
MIN_CHARACTERS = 500  # a module with less to say is no sample
# Optional parts of Python that some distributions leave out, and directories that hold tests or
# other projects' code: without them the corpus is the same wherever the versions are.
_LEFT_OUT = {
    "test", "tests", "testing", "__pycache__", "_vendor", "site-packages", "dist-packages",
    "idlelib", "tkinter", "turtle", "turtledemo", "lib2to3", "distutils", "ensurepip",
}  # fmt: skip


def _roots() -> Iterator[tuple[str, Path]]:
    """Yields name and place of each top-level module or package, none of which is imported."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(sys.stdlib_module_names - _LEFT_OUT):
        for place in (library / name, library / f"{name}.py"):
            if place.exists():
                yield name, place
                break
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations if spec else None) or []:
            yield name, Path(folder)


def module_files(roots: Iterator[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Returns module files by name, in the order of the names' hashes.

    The hash mixes packages, and the order depends on nothing but the names.
    """
    modules: dict[str, Path] = {}
    for name, root in roots:
        if root.is_file():
            modules[name] = root
            continue
        for folder, folders, files in os.walk(root):
            folders[:] = [inner for inner in folders if inner not in _LEFT_OUT]
            inside = Path(folder)
            for file in files:
                if file.endswith(".py"):
                    modules[f"{name}/{(inside / file).relative_to(root).as_posix()}"] = inside / file
    return sorted(modules.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())


def _docstrings(path: Path) -> list[str]:
    """Returns the docstrings of a module, its classes and functions, in the order of the source."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's escape sequences
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return []  # templates and files for other Pythons
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def iterate_samples(files: list[tuple[str, Path]]) -> Iterator[str]:
    """Yields one text a module; a docstring that an earlier module had is left out.

    So no validation text is a copy of a training text.
    """
    seen: set[str] = set()
    for _, path in files:
        fresh = [text for text in dict.fromkeys(_docstrings(path)) if text not in seen]
        seen.update(fresh)
        sample = "\n\n".join(fresh)
        if len(sample) >= MIN_CHARACTERS:
            # As tiktoken does: a lone surrogate from an escape sequence is no Unicode text.
            yield sample.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_samples(stop: int | None) -> list[str]:
    """Returns the first ``stop`` samples, or all if there are fewer or it is None.

    Args:
      stop: the number of samples wanted, or None for all.

    Returns:
      Texts, one a module.

    Raises:
      UserError: this Python has no docstrings.
    """
    files = module_files(_roots())
    stats = [(name, path.stat()) for name, path in files]
    state = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]

    def make() -> dict[str, np.ndarray]:
        logging.info("reading the documentation of this Python and its packages (once)")
        samples = list(itertools.islice(iterate_samples(files), stop))
        data = [text.encode() for text in samples]
        return {
            "text": np.frombuffer(b"".join(data), np.uint8),
            "ends": np.cumsum([len(part) for part in data], dtype=np.int64),
        }

    arrays = cache.cached_arrays("pydocs", {"text", "ends"}, [str(MIN_CHARACTERS), str(stop), *state], make)
    if not len(arrays["ends"]):
        raise UserError(
            f"corpus pydocs found no docstrings in {len(files)} modules: this Python was installed without"
            " sources or stripped of them; give text of your own with --corpus=text:PATH."
        )
    text, ends = arrays["text"].tobytes(), arrays["ends"].tolist()
    return [text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
