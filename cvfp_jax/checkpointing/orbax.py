"""Checkpoints of a cell: its parts saved by time and at stage ends, and found again.

The only file that knows Orbax, which takes half a second to import and is imported once it is needed.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cvfp_jax.checkpointing.checkpointer import Checkpointer, Facts, Looks, Make, StepObserver
from cvfp_jax.checkpointing.row_file import RowFile
from cvfp_jax.checkpointing.seal import damage, seal
from cvfp_jax.distributed import processes
from cvfp_jax.errors import MachineError, UserError, causes, is_disk_fault
from cvfp_jax.runtime import signals

FOLDER = "checkpoints"
# Raise it when the meaning of a part's facts or arrays changes.
SCHEMA = 3
_KEPT = 2
# A stage that ends is saved if so much of the interval has passed since the last save.
_STAGE_END_SHARE = 0.1
_TEMPORARY = ".orbax-checkpoint-tmp"
# What ends the name of an array that was in a file already, and is linked and not copied.
_ROWS = ".rows"
# TensorStore's words for what the system answered.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")


class _Saved(NamedTuple):
    """A part as it was found."""

    facts: Facts
    leaves: list[tuple[str, str, list[int]]]  # path, dtype, shape
    arrays: list[Any]


def _orbax() -> ModuleType:
    import orbax.checkpoint

    # It logs what it also raises, with tracebacks, and then leaves coroutines behind.
    logging.getLogger("absl").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    return orbax.checkpoint


def _leaves(tree: Any) -> list[tuple[str, str, list[int]]]:
    """What tells one tree of arrays from another: its paths, types and shapes."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path), np.dtype(leaf.dtype).name, list(leaf.shape)) for path, leaf in found]


def _name(part: str, index: int) -> str:
    return f"{part}:{index}"


def discard(folder: Path) -> None:
    """Removes the checkpoints of a cell, and the folder of all cells' if no other has any."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _as_wanted(saved: Any, wanted: Any) -> Any:
    """A saved array or file as what is asked for: a ``RowFile``, or an array."""
    if isinstance(wanted, RowFile):
        if isinstance(saved, Path):
            return wanted.take_over(saved)
        wanted.write(0, saved)
        return wanted
    if isinstance(saved, Path):
        # Rows that were never written are zero, and the last of them take no room.
        count = wanted.shape[0] * wanted.shape[1]
        found = np.fromfile(saved, wanted.dtype, count).reshape(-1, wanted.shape[1])
        saved = np.pad(found, ((0, wanted.shape[0] - len(found)), (0, 0)))
    # Copies that JAX may place and donate as it does fresh ones.
    return jnp.array(np.asarray(saved))


class OrbaxCheckpointer(Checkpointer):
    """The checkpoints of one cell.

    Two are kept. Each is written by a thread of its own while the work goes on, and sealed once all of
    it is on the disk. The newest that is as it was sealed counts; what is newer and is not is removed,
    with a warning.

    Of several processes the first says which counts, all read it, and the first alone writes: what is saved
    does not depend on their number. All must offer the same parts in the same order.

    Args:
      folder: the cell's own folder, made at the first save.
      identity: what makes the cell's numbers, by name: JSON. A checkpoint in which one differs is refused.
      minutes: the time between saves; 0 saves whenever it is offered.
      where: what the numbers also depend on, such as the device: one that differs is told.
      observer: see ``Checkpointer``.

    Raises:
      UserError: the folder holds a checkpoint of another cell, or cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        minutes: float,
        where: dict[str, str] | None = None,
        observer: StepObserver | None = None,
    ) -> None:
        super().__init__(observer)
        self._folder = folder.absolute()
        self._identity = json.loads(json.dumps({"schema": SCHEMA, **identity}))
        self._where = where or {}
        self._interval = 60.0 * minutes
        self._saved: dict[str, _Saved] = {}
        self._kept: dict[str, tuple[Facts | Callable[[], Facts], Any]] = {}
        self._manager: Any = None
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._last = time.monotonic()
        self.found: Path | None = None
        self._next = 0
        # Work that offers often is not held up by asking the other processes each time.
        self._looks = Looks()
        try:
            step = processes.on_process_0(self._find)
            if step is not None:
                self._restore(self._folder / str(step))
        except OSError as error:
            raise self._unusable(error) from None

    def __enter__(self) -> "OrbaxCheckpointer":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the save in progress; its failure matters only if nothing else has gone wrong."""
        try:
            self._wait()
        except UserError:
            if error is None:
                raise
        finally:
            self._pool.shutdown()
            if self._manager is not None:
                # It raises once more what a save has come to.
                with contextlib.suppress(Exception):
                    self._manager.close()

    # What was saved.

    def _find(self) -> int | None:
        """The newest checkpoint that is whole."""
        if not self._folder.is_dir():
            return None
        for path in sorted(self._folder.iterdir()):
            if _TEMPORARY in path.name:
                logging.warning("removing checkpoint %s: it was never finished", path)
                shutil.rmtree(path)
        steps = sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())
        self._next = steps[-1] + 1 if steps else 0
        while steps:
            step = steps.pop()
            path = self._folder / str(step)
            wrong = damage(path)
            if wrong is None:
                return step
            older = f"the one before it, {steps[-1]}, counts" if steps else "its cell starts again"
            logging.warning("removing checkpoint %s: %s; %s", path, wrong, older)
            shutil.rmtree(path)
        return None

    def _restore(self, path: Path) -> None:
        """Reads a whole checkpoint, if it is this cell's."""
        ocp, step = _orbax(), int(path.name)
        meta = self._open().restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        self._check_identity(path, meta["identity"])
        for name, value in self._where.items():
            if meta["where"].get(name) != value:
                logging.warning(
                    "checkpoint %s was made on another %s (%s, now %s): last digits may differ",
                    path,
                    name,
                    meta["where"].get(name),
                    value,
                )
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = {
            _name(part, index): jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype), sharding=device)
            for part, saved in meta["parts"].items()
            for index, (_, dtype, shape) in enumerate(saved["leaves"])
            if 0 not in shape and _name(part, index) not in meta.get("files", {})
        }
        restore = ocp.args.StandardRestore(target)
        arrays = self._open().restore(step, args=ocp.args.Composite(state=restore)).state
        arrays |= {name: path / file for name, file in meta.get("files", {}).items()}
        for part, saved in meta["parts"].items():
            self._saved[part] = _Saved(
                saved["facts"],
                [(leaf, dtype, shape) for leaf, dtype, shape in saved["leaves"]],
                # Orbax saves no array of size zero.
                [
                    arrays.pop(_name(part, index), np.zeros(shape, dtype))
                    for index, (_, dtype, shape) in enumerate(saved["leaves"])
                ],
            )
        self.found = path

    def _check_identity(self, path: Path, found: dict[str, Any]) -> None:
        for name in sorted(found.keys() | self._identity.keys()):
            if found.get(name) != self._identity.get(name):
                raise UserError(
                    f"checkpoint {path} was made with {name}={found.get(name)}, not"
                    f" {self._identity.get(name)}: go on with that, use another --workdir, or delete it."
                )

    def facts(self, part: str) -> Facts | None:
        """Returns the saved facts of a part; None if it has none."""
        return self._saved[part].facts if part in self._saved else None

    def restore(self, part: str, template: Any) -> Any:
        """Returns the saved arrays of a part; see ``Checkpointer``.

        Raises:
          UserError: the arrays of this version have other names, types or shapes.
        """
        saved, wanted = self._saved.pop(part), _leaves(template)
        for old, new in zip(saved.leaves, wanted, strict=False):
            if old != new:
                self._refuse_leaf(part, old, new)
        if len(saved.leaves) != len(wanted):
            self._refuse_leaf(part, f"{len(saved.leaves)} arrays", f"{len(wanted)} arrays")
        arrays = [
            _as_wanted(array, leaf)
            for array, leaf in zip(saved.arrays, jax.tree.leaves(template), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(template), arrays)

    def _refuse_leaf(self, part: str, old: object, new: object) -> None:
        raise UserError(
            f"checkpoint {self.found} is of another model: {part} has {old}, not {new}: use another"
            " --workdir, or delete it."
        )

    # What is to be saved.

    def include(self, part: str, facts: Facts | Callable[[], Facts], arrays: Any = ()) -> None:
        """Has a part saved along from now on; see ``Checkpointer``."""
        self._kept[part] = (facts, arrays)

    def exclude(self, *parts: str) -> None:
        """Has parts saved no longer."""
        for part in parts:
            self._kept.pop(part, None)
            self._saved.pop(part, None)

    def _seconds_to_save(self) -> float:
        return max(0.0, self._last + self._interval - time.monotonic())

    def _save_if_due(self, part: str, make: Make, stage_end: bool) -> None:
        """Saves if it is time, at a stage's end a little earlier; ends the run if that is asked for.

        Raises:
          KeyboardInterrupt: a signal has come; the state is saved.
          MachineError: this save or the one before could not be written; an older one is still there.
        """
        if processes.is_multiprocess() and not (self._looks.due(part, self._seconds_to_save()) or stage_end):
            return
        if self._pending is not None and self._pending.done():
            self._wait()
        asked = processes.any_process(signals.asked())
        passed = time.monotonic() - self._last
        due = passed >= self._interval * (_STAGE_END_SHARE if stage_end else 1.0)
        if processes.broadcast(asked or (due and (self._pending is None or self._interval == 0.0))):
            self._wait()
            saved = self._save(part, make)
            if asked:
                self._wait()
                processes.shutdown()
                raise KeyboardInterrupt(f"saved in {part}" if saved else "")

    def _save(self, part: str, make: Make) -> bool:
        made = make()
        if made is None:
            return False
        parts = {
            name: (facts() if callable(facts) else facts, arrays)
            for name, (facts, arrays) in (self._kept | {part: made}).items()
        }
        meta = {
            "identity": self._identity,
            "where": self._where,
            "parts": {
                name: {"facts": facts, "leaves": _leaves(arrays)} for name, (facts, arrays) in parts.items()
            },
        }
        state, files = {}, {}
        for name, (_, arrays) in parts.items():
            for index, leaf in enumerate(jax.tree.leaves(arrays)):
                if isinstance(leaf, RowFile):
                    files[_name(name, index)] = leaf
                elif leaf.size:
                    # The next step donates what is offered, so that is copied; what is kept stays.
                    state[_name(name, index)] = np.array(leaf) if name == part else np.asarray(leaf)
        if not processes.is_process_0():
            return True
        names = {name: f"{number}{_ROWS}" for number, name in enumerate(files)}
        meta["files"] = names
        ocp = _orbax()
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._call(lambda: self._open().save(self._next, args=args))
        # What is linked now is not written over; the folder that it belongs to has its name later.
        aside = self._aside(self._next)
        if files:
            self._call(aside.mkdir)
        for name, file in files.items():
            file.link(aside / names[name])
        self._pending = self._pool.submit(self._finish, self._next)
        self._next += 1
        self._last = time.monotonic()
        return True

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        aside = self._aside(step)
        if aside.is_dir():
            for path in aside.iterdir():
                path.rename(self._folder / str(step) / path.name)
            aside.rmdir()
        seal(self._folder / str(step))

    def _aside(self, step: int) -> Path:
        """Where links wait for the folder of a checkpoint; what is left is removed at the next start."""
        return self._folder / f"rows{_TEMPORARY}-{step}"

    def _wait(self) -> None:
        """Waits for the save in progress, and raises what became of it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._call(pending.result)

    def _open(self) -> Any:
        if self._manager is None:
            ocp = _orbax()
            self._folder.mkdir(parents=True, exist_ok=True)
            # Folders are made at once: threads would wait minutes for one that cannot be made.
            made_at_once = ocp.options.AsyncOptions(create_directories_asynchronously=False)
            # Each process is alone with its manager: only one writes, and all read.
            own = jax.process_index()
            alone = ocp.options.MultiprocessingOptions(
                primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT,
                create=False,
                async_options=made_at_once,
                multiprocessing_options=alone,
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        return self._manager

    def _call(self, work: Callable[[], Any]) -> None:
        """Calls what writes, and says in one line if the disk is at fault."""
        try:
            work()
        except Exception as error:
            for cause in causes(error):
                system = _SYSTEM_ERROR.search(str(cause))
                number = cause.errno if isinstance(cause, OSError) else system and int(system[1])
                if number and is_disk_fault(fault := OSError(number, "")):
                    raise self._unusable(fault) from None
            raise

    def _unusable(self, error: OSError) -> MachineError:
        return MachineError(
            f"cannot save checkpoints in {self._folder}: {os.strerror(error.errno or 0)}; what was saved"
            " before is kept: mend that, and give the same command again."
        )

    def discard(self) -> None:
        """Removes the checkpoints, once the cell has its record."""
        discard(self._folder)
