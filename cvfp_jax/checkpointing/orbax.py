"""Checkpoints of a cell on disk: its parts saved by time and at the ends of stages, and restored.

The only file that knows Orbax, which takes half a second to import and so is imported once it is needed.

Of several processes the first alone writes, and each is alone with its Orbax manager. Saving sharded arrays
with all processes taking part was tried (orbax-checkpoint 0.12.8, two processes of four CPU devices). It
holds work up for less time, 0.15 s a save of 26 MB and not 0.6 s, but is not simpler, and loses what must
stay:

- A disk's fault in one process ended all of them at a barrier's timeout, with "Barrier timed out" in the
  place of the fault. TensorStore's errors are texts to be searched for the system's code either way.
- Arrays on one process's own device, such as validation contexts, are refused ("Cannot serialize host local
  jax.Array"): each would need its case.
- Contexts are padded to a multiple of the devices. The padding would be saved, and restoring onto another
  number of devices would need ``strict=False``, which pads and cuts arrays of a wrong size as well.
"""

import contextlib
import itertools
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

from cvfp_jax.checkpointing.checkpointer import Checkpointer, Facts, MakePart, OfferFilter, StepObserver
from cvfp_jax.checkpointing.row_file import RowFile
from cvfp_jax.checkpointing.seal import damage, seal
from cvfp_jax.distributed import processes
from cvfp_jax.errors import MachineError, UserError, causes, is_disk_fault
from cvfp_jax.runtime import signals

FOLDER = "checkpoints"
# Raise it when the meaning of a part's facts or arrays changes.
CHECKPOINT_VERSION = 5
_MAX_TO_KEEP = 2
# A stage that ends is saved if this share of the interval has passed since the last save.
_STAGE_END_SHARE = 0.1
_TEMPORARY = ".orbax-checkpoint-tmp"
_ASIDE = "aside-"
# The suffix of arrays that were in a file already, and are linked and not copied.
_ROWS = ".rows"
# How TensorStore's messages quote the system's error.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")

_Leaf = tuple[str, str, list[int]]  # path in the part's tree, dtype, shape


class _SavedPart(NamedTuple):
    """A part that has been read and not yet restored."""

    facts: Facts
    leaves: list[_Leaf]
    arrays: list[Any]  # NumPy and JAX arrays, and paths of linked files


def _orbax() -> ModuleType:
    import orbax.checkpoint

    # It logs with tracebacks what it also raises, and then leaves coroutines behind.
    logging.getLogger("absl").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    return orbax.checkpoint


def _leaves(tree: Any) -> list[_Leaf]:
    """Describes a tree of arrays: the paths, types and shapes of its leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path), np.dtype(leaf.dtype).name, list(leaf.shape)) for path, leaf in leaves
    ]


def _set_aside(path: Path) -> Path:
    """Renames what is no whole checkpoint; it goes with the folder when the cell is finished."""
    aside = path.with_name(f"{_ASIDE}{path.name}")
    for number in itertools.count(2):
        if not os.path.lexists(aside):
            break
        aside = path.with_name(f"{_ASIDE}{path.name}-{number}")
    return path.rename(aside)


def _name(part: str, index: int) -> str:
    return f"{part}:{index}"


def _restore_leaf(saved: Any, template: Any) -> Any:
    """A saved array, in memory or a linked file, as what its template is: an array or a ``RowFile``."""
    if isinstance(template, RowFile):
        if isinstance(saved, Path):
            return template.take_over(saved)
        template.write(0, saved)
        return template
    if isinstance(saved, Path):
        # Rows that were never written are zero, and the file may end before them.
        count = template.shape[0] * template.shape[1]
        rows_BxD = np.fromfile(saved, template.dtype, count).reshape(-1, template.shape[1])
        saved = np.pad(rows_BxD, ((0, template.shape[0] - len(rows_BxD)), (0, 0)))
    # Copies that JAX may place and donate as it does fresh ones.
    return jnp.array(np.asarray(saved))


class OrbaxCheckpointer(Checkpointer):
    """The checkpoints of one cell.

    The newest two are kept. Each is written by a thread while the work goes on, and sealed once all of it
    is on the disk. The newest that still is as it was sealed is restored; newer ones that are not are set
    aside, with a warning, so that a kill at any moment costs at most the work since the last save. One that
    cannot be read now is not thereby torn: it ends the launch, and is kept.

    Of several processes the first decides which is restored, all read it, and the first alone writes: what is
    saved does not depend on their number. All must offer the same parts in the same order.

    Args:
      folder: the cell's own folder, made at the first save.
      identity: JSON values by name that the cell's numbers follow from. A checkpoint in which one differs is
        refused.
      minutes: the time between saves; 0 saves at each offer.
      where: what the last digits depend on too, such as the device: a difference is warned of.
      observer: see ``Checkpointer``.

    Attributes:
      resumed_from: the checkpoint that was read; None if there was none.

    Raises:
      UserError: the folder holds a checkpoint of another cell.
      MachineError: the folder cannot be used.
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
        self._identity = json.loads(json.dumps({"schema": CHECKPOINT_VERSION, **identity}))
        self._where = where or {}
        self._interval = 60.0 * minutes
        self._saved: dict[str, _SavedPart] = {}
        self._included: dict[str, tuple[Facts | Callable[[], Facts], Any]] = {}
        self._manager: Any = None
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._last_save = time.monotonic()
        self._next_step = 0
        self._offers = OfferFilter()
        self.resumed_from: Path | None = None
        try:
            step = processes.on_process_0(self._find_newest)
            if step is not None:
                self._read(self._folder / str(step))
        except OSError as error:
            raise self._unusable(error, "read") from None

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
            self._writer.shutdown()
            if self._manager is not None:
                # It raises a failed save's error once more.
                with contextlib.suppress(Exception):
                    self._manager.close()

    # Reading.

    def _find_newest(self) -> int | None:
        """The step of the newest whole checkpoint; what is newer and torn is set aside."""
        if not self._folder.is_dir():
            return None
        steps = []
        for path in sorted(self._folder.iterdir()):
            if _TEMPORARY in path.name and path.is_dir():
                logging.warning("removing checkpoint %s: it was never finished", path)
                shutil.rmtree(path)
            elif not path.name.isdecimal():
                continue
            elif path.is_dir() and path.name == str(int(path.name)):
                steps.append(int(path.name))
            else:  # which Orbax would take for one, too
                logging.warning("setting %s aside, as %s: it is no checkpoint", path, _set_aside(path).name)
        steps.sort()
        self._next_step = steps[-1] + 1 if steps else 0
        while steps:
            step = steps.pop()
            path = self._folder / str(step)
            fault = damage(path)
            if fault is None:
                return step
            older = f"the one before it, {steps[-1]}, counts" if steps else "its cell starts again"
            name = _set_aside(path).name
            logging.warning("setting checkpoint %s aside, as %s: %s; %s", path, name, fault, older)
        return None

    def _read(self, path: Path) -> None:
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
            self._saved[part] = _SavedPart(
                saved["facts"],
                [(leaf, dtype, shape) for leaf, dtype, shape in saved["leaves"]],
                # Orbax saves no array of size zero.
                [
                    arrays.pop(_name(part, index), np.zeros(shape, dtype))
                    for index, (_, dtype, shape) in enumerate(saved["leaves"])
                ],
            )
        self.resumed_from = path

    def _check_identity(self, path: Path, saved: dict[str, Any]) -> None:
        for name in sorted(saved.keys() | self._identity.keys()):
            if saved.get(name) != self._identity.get(name):
                raise UserError(
                    f"checkpoint {path} was made with {name}={saved.get(name)}, not"
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
        saved, expected = self._saved.pop(part), _leaves(template)
        for old, new in zip(saved.leaves, expected, strict=False):
            if old != new:
                self._refuse_leaf(part, old, new)
        if len(saved.leaves) != len(expected):
            self._refuse_leaf(part, f"{len(saved.leaves)} arrays", f"{len(expected)} arrays")
        arrays = [
            _restore_leaf(array, leaf)
            for array, leaf in zip(saved.arrays, jax.tree.leaves(template), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(template), arrays)

    def _refuse_leaf(self, part: str, old: object, new: object) -> None:
        raise UserError(
            f"checkpoint {self.resumed_from} is of another model: {part} has {old}, not {new}: use another"
            " --workdir, or delete it."
        )

    # Saving.

    def include(self, part: str, facts: Facts | Callable[[], Facts], arrays: Any = ()) -> None:
        """Has a part saved along from now on; see ``Checkpointer``."""
        self._included[part] = (facts, arrays)

    def exclude(self, *parts: str) -> None:
        """Has parts saved no longer."""
        for part in parts:
            self._included.pop(part, None)
            self._saved.pop(part, None)

    def _seconds_to_save(self) -> float:
        return max(0.0, self._last_save + self._interval - time.monotonic())

    def _save_if_due(self, part: str, make: MakePart, stage_end: bool) -> None:
        """Saves if it is time, at a stage's end a little earlier; ends the run if that is asked for.

        Raises:
          KeyboardInterrupt: a signal has come; the state is saved.
          MachineError: this save or the one before could not be written; an older one is still there.
        """
        if processes.is_multiprocess() and not (
            self._offers.is_due(part, self._seconds_to_save()) or stage_end
        ):
            return
        if self._pending is not None and self._pending.done():
            self._wait()
        asked = processes.any_process(signals.asked())
        passed = time.monotonic() - self._last_save
        due = passed >= self._interval * (_STAGE_END_SHARE if stage_end else 1.0)
        if processes.broadcast(asked or (due and (self._pending is None or self._interval == 0.0))):
            self._wait()
            saved = self._save(part, make)
            if asked:
                self._wait()
                processes.shutdown()
                raise KeyboardInterrupt(f"saved in {part}" if saved else "")

    def _save(self, part: str, make: MakePart) -> bool:
        """Starts to save a part with those that are included; says whether it was worth saving."""
        offered = make()
        if offered is None:
            return False
        parts = {
            name: (facts() if callable(facts) else facts, arrays)
            for name, (facts, arrays) in (self._included | {part: offered}).items()
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
                    # What is offered is copied, as the next step donates it; what is included stays.
                    state[_name(name, index)] = np.array(leaf) if name == part else np.asarray(leaf)
        if not processes.is_process_0():
            return True
        file_names = {name: f"{index}{_ROWS}" for index, name in enumerate(files)}
        meta["files"] = file_names
        ocp = _orbax()
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._call(lambda: self._open().save(self._next_step, args=args))
        # Files are linked before the next step could write over them, but the checkpoint's own folder has its
        # name only once Orbax is done.
        aside = self._aside(self._next_step)
        if files:
            self._call(aside.mkdir)
        for name, file in files.items():
            file.link(aside / file_names[name])
        self._pending = self._writer.submit(self._finish, self._next_step)
        self._next_step += 1
        self._last_save = time.monotonic()
        return True

    def _finish(self, step: int) -> None:
        """Waits until Orbax has written a checkpoint, and seals it."""
        self._manager.wait_until_finished()
        aside = self._aside(step)
        if aside.is_dir():
            for path in aside.iterdir():
                path.rename(self._folder / str(step) / path.name)
            aside.rmdir()
        seal(self._folder / str(step))

    def _aside(self, step: int) -> Path:
        """Where links wait for a checkpoint's folder; one that a kill left is removed at the next start."""
        return self._folder / f"rows{_TEMPORARY}-{step}"

    def _wait(self) -> None:
        """Waits for the save in progress, and raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._call(pending.result)

    def _open(self) -> Any:
        if self._manager is None:
            ocp = _orbax()
            self._folder.mkdir(parents=True, exist_ok=True)
            own = jax.process_index()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_MAX_TO_KEEP,
                create=False,
                # Orbax's threads would wait minutes for a folder that cannot be made.
                async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
                # This process alone.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
                ),
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        return self._manager

    def _call(self, work: Callable[[], Any]) -> None:
        """Calls what writes; a disk's fault, however deep in an error, becomes a ``MachineError``."""
        try:
            work()
        except Exception as error:
            for cause in causes(error):
                system = _SYSTEM_ERROR.search(str(cause))
                code = cause.errno if isinstance(cause, OSError) else system and int(system[1])
                if code and is_disk_fault(fault := OSError(code, "")):
                    raise self._unusable(fault) from None
            raise

    def _unusable(self, error: OSError, verb: str = "save") -> MachineError:
        return MachineError(
            f"cannot {verb} checkpoints in {self._folder}: {os.strerror(error.errno or 0)}; what was saved"
            " before is kept: mend that, and give the same command again."
        )

    def discard(self) -> None:
        """Removes the cell's checkpoints."""
        discard(self._folder)


def discard(folder: Path) -> None:
    """Removes the checkpoints of a cell, and the folder of all cells' if no other has any.

    Args:
      folder: the cell's own.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
