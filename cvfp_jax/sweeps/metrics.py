"""Scalars of both phases written while they run: as JSON Lines, and for TensorBoard.

They are for watching. A cell that is taken up again writes anew what it does again, and the whole of its
phase 1; ``curves.npz`` has each step once.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cvfp_jax.contexts.runtime import Phase1Progress, Phase2Progress, Progress
from cvfp_jax.errors import UserError, file_error
from cvfp_jax.runtime.floats import finite

FOLDER = "tensorboard"
Scalars = dict[str, float]


class Sink(Protocol):
    """Where scalars go."""

    def write(self, cell: str, group: str, step: int, scalars: Scalars) -> None:
        """Takes the scalars of a step: of ``phase1``, ``phase1_block2``, ``batch`` or ``epoch``."""
        ...

    def flush(self) -> None:
        """Makes what was written visible."""
        ...


class JsonLines:
    """A file of one JSON object a step, which later launches add to.

    Args:
      path: the file; made if it is missing.

    Raises:
      UserError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise file_error(
                f"--metrics={path} cannot be written: {error.strerror}; name another.", error
            ) from None

    def write(self, cell: str, group: str, step: int, scalars: Scalars) -> None:
        """Adds a line; numbers that are not finite become null."""
        numbers = {name: finite(value) for name, value in scalars.items()}
        line = json.dumps({"cell": cell, "group": group, "step": step, **numbers}, allow_nan=False)
        self._file.write(line + "\n")

    def flush(self) -> None:
        """Hands what was written to the system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # said already
            self._file.close()


class TensorBoard:
    """Event files that TensorBoard reads, a folder a cell.

    Args:
      folder: where they go.

    Raises:
      UserError: the package that writes them is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs an extra: pip install 'cvfp-jax[tensorboard]'.") from None
        self._make, self._folder = SummaryWriter, folder
        self._cell = ""
        self._writer: Any = None

    def write(self, cell: str, group: str, step: int, scalars: Scalars) -> None:
        """Adds the scalars of a step."""
        if cell != self._cell or self._writer is None:
            self.close()
            self._cell, self._writer = cell, self._make(str(self._folder / cell), write_to_disk=True)
        for name, value in scalars.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def flush(self) -> None:
        """Writes what waits."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Ends the files of the last cell."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextlib.contextmanager
def open_sinks(workdir: Path, tensorboard: bool, metrics: Path | None) -> Iterator[list[Sink]]:
    """Opens what is asked for, and closes it at the end.

    Args:
      workdir: the sweep's folder, in which event files for TensorBoard go.
      tensorboard: whether to write them.
      metrics: a file for JSON Lines, if any.

    Raises:
      UserError: a file cannot be written, or a package is missing.
    """
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        if metrics is not None:
            sinks.append(stack.enter_context(contextlib.closing(JsonLines(metrics))))
        if tensorboard:
            sinks.append(stack.enter_context(contextlib.closing(TensorBoard(workdir / FOLDER))))
        yield sinks


class ScalarWriter:
    """Writes a cell's scalars to sinks; what cannot be written is said once, and training goes on.

    Args:
      cell: its name.
      sinks: where they go.
    """

    def __init__(self, cell: str, sinks: Sequence[Sink]) -> None:
        self._cell, self._sinks = cell, list(sinks)

    def _write(self, lines: list[tuple[str, int, Scalars]]) -> None:
        for sink in list(self._sinks):
            try:
                for group, step, scalars in lines:
                    sink.write(self._cell, group, step, scalars)
                sink.flush()
            except OSError as error:
                logging.warning("no more scalars are written to %s: %s", type(sink).__name__, error.strerror)
                self._sinks.remove(sink)

    def phase1(self, block_index: int, num_tokens: int) -> Phase1Progress:
        """Returns what writes the iterations since it was last called."""
        group, written = f"phase1_block{block_index + 1}" if block_index else "phase1", 0

        def show(steps: int, trace: dict[str, np.ndarray]) -> None:
            nonlocal written
            lines = []
            for index in range(written, steps):
                scalars = {name: float(values[index]) for name, values in trace.items()}
                scalars["converged_share"] = scalars.pop("converged_tokens") / num_tokens
                lines.append((group, index + 2, scalars))
            written = steps
            self._write(lines)

        return show

    def phase2(self, num_tokens: int) -> Phase2Progress:
        """Returns what writes the loss of a batch now and then, against the tokens seen in all."""

        def show(epoch: int, rows: int, loss: float) -> None:
            self._write([("batch", (epoch - 1) * num_tokens + min(rows, num_tokens), {"loss": loss})])

        return show

    def epoch(self, number: int, measures: Scalars) -> None:
        """Writes the measures of an epoch."""
        self._write([("epoch", number, measures)])


class Together:
    """Several watchers of one cell.

    Args:
      watchers: those that are told, in order.
    """

    def __init__(self, watchers: Sequence[Progress]) -> None:
        self._watchers = watchers

    def phase1(self, block_index: int, num_tokens: int) -> Phase1Progress:
        """Returns what tells all of them."""
        return _each([watcher.phase1(block_index, num_tokens) for watcher in self._watchers])

    def phase2(self, num_tokens: int) -> Phase2Progress:
        """Returns what tells all of them."""
        return _each([watcher.phase2(num_tokens) for watcher in self._watchers])

    def epoch(self, number: int, measures: Scalars) -> None:
        """Tells all of them."""
        for watcher in self._watchers:
            watcher.epoch(number, measures)


def _each(functions: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """A function that calls all of them, in order."""

    def call(*arguments: Any) -> None:
        for function in functions:
            function(*arguments)

    return call
