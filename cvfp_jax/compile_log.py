"""Each compilation told as it ends: of which function, for which arrays, and how long it took."""

import collections
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

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
