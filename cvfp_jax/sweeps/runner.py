"""A sweep: its cells one after the other, each finished cell a record, and the report of them all."""

import contextlib
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from cvfp_jax.checkpointing.orbax import FOLDER as CHECKPOINTS
from cvfp_jax.checkpointing.orbax import OrbaxCheckpointer, discard
from cvfp_jax.checkpointing.row_file import RowFiles
from cvfp_jax.config.grid import Changes, Grid
from cvfp_jax.config.overrides import flat_fields, replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.data import dataset
from cvfp_jax.data.cache import content_hash
from cvfp_jax.distributed import processes
from cvfp_jax.distributed.mesh import make_mesh, warm_up_collectives
from cvfp_jax.errors import MachineError, UserError
from cvfp_jax.planning.plan import SMALLER, CellPlan, check_counted, contexts_go_to_disk, plan_cell, work
from cvfp_jax.report import formats, records
from cvfp_jax.report.document import SweepReport, write_report
from cvfp_jax.report.findings import leakage_warning
from cvfp_jax.report.plans import plan_table
from cvfp_jax.report.records import Record
from cvfp_jax.report.terminal import show_report
from cvfp_jax.runtime import files, signals
from cvfp_jax.runtime.memory import available_memory
from cvfp_jax.sweeps import search, workdir
from cvfp_jax.sweeps.cell import run_cell
from cvfp_jax.sweeps.fields import device_name
from cvfp_jax.sweeps.metrics import ScalarWriter, Sink, Together, open_sinks
from cvfp_jax.sweeps.options import RunOptions
from cvfp_jax.sweeps.profiler import FOLDER as PROFILES
from cvfp_jax.sweeps.profiler import Profiler
from cvfp_jax.sweeps.progress import CellProgress
from cvfp_jax.sweeps.result import TABLES

CONTEXTS = "contexts"  # the folder of those that are kept on the disk


def _title(config: RunConfig) -> str:
    return f"{config.experiment}, preset {config.preset}"


def _range(values: list[int]) -> str:
    """Writes the least and the greatest of sorted numbers, once if they are the same.

    >>> _range([6289, 58797]), _range([1024])
    ('6,289 to 58,797', '1,024')
    """
    return " to ".join(f"{value:,}" for value in dict.fromkeys([values[0], values[-1]]))


def run_sweep(grid: Grid, folder: Path, options: RunOptions = RunOptions()) -> bool:  # noqa: B008 (immutable)
    """Runs the cells that have no record yet and writes the report of all records.

    Args:
      grid: the sweep.
      folder: its work directory.
      options: how it runs.

    Returns:
      Whether every cell of the grid ended well.

    Raises:
      UserError: the data, the settings or the folder cannot be used.
    """
    mesh = make_mesh(options.mesh)
    if options.contexts_in == "disk" and mesh.size > 1:
        raise UserError(
            f"--contexts_in=disk is for one device, and there are {mesh.size}: use --contexts_in=memory,"
            " and each holds a part."
        )
    if processes.is_multiprocess():
        if options.keep == "all":
            raise UserError("--keep=all writes contexts that one process holds: use --keep=model.")
        warm_up_collectives(mesh)
    writes = processes.is_process_0()
    profiler = Profiler(folder / PROFILES, _say_above_bar) if options.profile and writes else None
    processes.check_same(_launched(grid, options, mesh))
    watched = options.tensorboard and writes, options.metrics if writes else None
    with (
        files.locked(folder) if writes else contextlib.nullcontext(),
        open_sinks(folder, *watched) as sinks,
    ):
        launch = _Launch(folder, options, mesh, profiler, sinks)
        runner = _Runner(grid, launch)
        if grid.tuning is not None and runner.left():
            runner.take(_searched(grid, launch))
        ended_well = runner.run()
    if profiler is not None and profiler.missing():
        print(f"no trace of {' and '.join(profiler.missing())}: --profile needs a cell that runs two steps")
    return ended_well


def _launched(grid: Grid, options: RunOptions, mesh: Mesh) -> dict[str, Any]:
    """What several processes must have alike."""
    return {
        **{f"config.{name}": value for name, value in grid.shared_fields().items()},
        "axes": {name: list(values) for name, values in grid.axes.items()},
        "checkpoint_minutes": options.checkpoint_minutes,
        "mesh": dict(mesh.shape),
        "jax": jax.__version__,
    }


def _repaired(path: Path) -> list[Record]:
    """The records of a file; a line that was left unfinished is cut off."""
    if records.repair(path):
        print(f"the last line of {path} was unfinished and is cut off; its cell runs again")
    return records.read(path)


def _claimed(grid: Grid, folder: Path) -> list[Record]:
    """Makes a folder the sweep's own and returns the records in it."""
    finished, trials = (_repaired(folder / name) for name in (records.FILE_NAME, search.FILE_NAME))
    workdir.claim(folder, grid, device_name(), has_records=bool(finished or trials))
    return finished


def _searched(grid: Grid, launch: "_Launch") -> dict[Any, Changes]:
    """Runs the trials that have no record yet, and returns what all of them choose."""
    tuning = grid.tuning
    assert tuning is not None
    arms = search.combinations(tuning.options, tuning.trials, grid.base.seed)
    trials = search.trial_grid(grid, arms)
    runner = _Runner(trials, launch, search.FILE_NAME)
    if runner.left():
        print(
            f"search of {', '.join(tuning.options)} on development samples {trials.base.data.val_samples}:"
            f" {len(arms)} trials for each {tuning.axis}; their perplexities are of those samples"
        )
        runner.run_cells()
    return search.choose(tuning, arms, runner.finished())


def cells_left(grid: Grid, done: dict[str, Record]) -> list[RunConfig]:
    """Returns the cells that are still to be run, in order.

    A search leaves out the values behind ``patience`` in a row without a better perplexity, the other
    axes being equal.
    """
    left: list[RunConfig] = []
    best: dict[str, float] = {}
    failures: dict[str, int] = {}
    for cell in grid.cells():
        place = grid.place(cell)
        record = done.get(records.cell_key(place))
        if grid.search is None:
            left += [] if record else [cell]
            continue
        others = records.cell_key({name: value for name, value in place.items() if name != grid.search.axis})
        if failures.get(others, 0) >= grid.search.patience:
            continue
        if record is None:
            left.append(cell)
            continue
        loss = math.inf if record["val_loss"] is None else record["val_loss"]
        failures[others] = 0 if loss < best.get(others, math.inf) else failures.get(others, 0) + 1
        best[others] = min(loss, best.get(others, math.inf))
    return left


class _Launch(NamedTuple):
    """Where a sweep and its search run, and what watches them."""

    folder: Path
    options: RunOptions
    mesh: Mesh
    profiler: Profiler | None
    sinks: Sequence[Sink]


class _Runner:
    """A sweep, or its search, on its way: a method a concern."""

    def __init__(self, grid: Grid, launch: _Launch, file_name: str = records.FILE_NAME) -> None:
        self._grid = grid
        self._folder, self._options, self._mesh, self._profiler, self._sinks = launch
        self._path = launch.folder / file_name
        self._is_search = file_name != records.FILE_NAME
        read = functools.partial(_repaired, self._path)
        if not self._is_search:
            read = functools.partial(_claimed, grid, launch.folder)
        # The records by cell, those of other launches first.
        self._done: dict[str, Record] = {
            records.cell_key(record["cell"]): record for record in processes.on_process_0(read)
        }
        if processes.is_process_0():
            self._remove_leftovers()
        self._made: list[tuple[RunConfig, Record]] = []  # by this launch
        self.tuned: dict[Any, Changes] = {}  # what a search chose, by the value of its axis

    def take(self, tuned: dict[Any, Changes]) -> None:
        """Takes what a search chose, and refuses to set cells beside those of another choice."""
        assert self._grid.tuning is not None
        for record in self.finished():
            value = record["cell"][self._grid.tuning.axis]
            if record["tuned"] != tuned[value]:
                raise UserError(
                    f"{self._path} has cells of {value} with {record['tuned']}, and the search now chooses"
                    f" {tuned[value]}: use another --workdir."
                )
        self.tuned = tuned

    def left(self) -> list[RunConfig]:
        """Returns the cells that are still to be run."""
        return cells_left(self._grid, self._done)

    def finished(self) -> list[Record]:
        """Returns the records of the sweep's cells."""
        return [self._done[key] for key in map(self._key, self._grid.cells()) if key in self._done]

    def run(self) -> bool:
        """Runs the cells that are left, and writes the report of all."""
        wanted = [self._key(cell) for cell in self._grid.cells()]
        if self.left():
            self.run_cells()
        else:
            skipped = sum(key not in self._done for key in wanted)
            ended = f", and the search ended before the other {skipped}" if skipped else ""
            print(f"all {len(wanted) - skipped} cells are finished in {self._path}{ended}: nothing to run")
        if processes.is_process_0():
            report = SweepReport(_title(self._grid.base), list(self._done.values()))
            write_report(report, self._folder)
            show_report(report, self._folder)
        failed = [self._done[key] for key in wanted if key in self._done and records.failed(self._done[key])]
        for record in failed:
            print(f"{records.label(record)}: {record['status']}")
        return not failed

    def _key(self, cell: RunConfig) -> str:
        return records.cell_key(self._grid.place(cell))

    def run_cells(self) -> None:
        """Runs the cells that are left."""
        data, tokens = self._read_data()
        on_disk = self._plan(data, tokens)
        while left := self.left():
            cell, number = left[0], f"[{len(self._made) + 1}/{len(self._made) + len(left)}]"
            record = self._run_cell(cell, number, data.cell(cell), self._key(cell) in on_disk)
            self._done[self._key(cell)] = record
            self._made.append((cell, record))
            remaining = self._seconds_left(tokens, data.vocabulary.size)
            print(_cell_line(number, record, remaining), flush=True)
            if processes.is_multiprocess() and processes.any_process(signals.asked()):
                processes.shutdown()
                raise KeyboardInterrupt
            signals.check()

    def _read_data(self) -> tuple[dataset.SweepData, dict[int, int]]:
        """The data of the sweep, and by its number of samples how many tokens a cell trains on."""
        cells, finished = self._grid.cells(), list(self._done.values())
        # The sizes of finished cells too, so that they can be checked to have read the same text.
        counts = sorted({cell.num_samples for cell in cells} | {record["num_samples"] for record in finished})
        print(f"reading corpus {cells[0].data.corpus} ...", flush=True)
        data = dataset.load(cells[0].data, counts)
        processes.check_same({"corpus": data.sha256(counts[-1])})
        _check_same_corpus(data, finished)
        if processes.is_process_0():
            for line in _said_of_text(data, max(cell.num_samples for cell in cells)):
                print(line, flush=True)
        return data, {count: len(data.train_ids(count)) for count in counts}

    def _plan(self, data: dataset.SweepData, tokens: dict[int, int]) -> set[str]:
        """Prints what the cells will take, and returns those whose contexts are kept on the disk."""
        cells, left = self._grid.cells(), self.left()
        vocab_size, most = data.vocabulary.size, max(tokens.values())
        check_counted(most)
        plans = [
            plan_cell(cell, vocab_size, tokens[cell.num_samples], most, self._grid.series(cell))
            for cell in cells
        ]
        val_tokens = sorted({len(data.val_ids(count)) for count in tokens})
        devices = f"{self._mesh.size} x {device_name()}" if self._mesh.size > 1 else device_name()
        print(
            f"{_title(cells[0])}: {len(cells)} cells on {devices}, {_range(val_tokens)} validation"
            f" tokens, vocabulary of {vocab_size:,}\n{plan_table(plans).text()}"
        )
        on_disk = self._kept_on_disk(dict(zip(map(self._key, cells), plans, strict=True)), most)
        if on_disk:
            print(f"contexts of {len(on_disk)} cells are kept on the disk, in {self._folder / CONTEXTS}")
        if len(left) < len(cells):
            print(f"{len(cells) - len(left)} cells are finished already; running the other {len(left)}")
        return on_disk

    def _kept_on_disk(self, plans: dict[str, CellPlan], most: int) -> set[str]:
        """Which of the cells that are left keep their contexts on the disk."""
        waiting = set(map(self._key, self.left()))
        available = None if self._options.force else available_memory()
        if available is None:
            return waiting if self._options.contexts_in == "disk" else set()
        return {
            key
            for key, plan in plans.items()
            if key in waiting
            and contexts_go_to_disk(self._options.contexts_in, plan, most, *available, self._mesh.size)
        }

    def _run_cell(self, cell: RunConfig, number: str, data: dataset.CellData, on_disk: bool) -> Record:
        """Runs a cell from where it was left, and writes its record."""
        place, series = self._grid.place(cell), self._grid.series(cell)
        tuned = self._tuned(cell)
        cell = replace(cell, dict(tuned or {}))
        processes.check_same({"embedding": data.table_sha256})
        _check_same_table(cell, data, list(self._done.values()))
        title = f"{number} {series} {cell.num_samples} samples"
        bar = CellProgress(title, cell, visible=processes.is_process_0())
        kept = self._folder / records.cell_folder({"series": series, **flat_fields(cell)})
        progress = Together([bar, ScalarWriter(kept.name, self._sinks)])
        folder = RowFiles(self._folder / CONTEXTS) if on_disk else contextlib.nullcontext()
        # A signal waits until the state is saved.
        with signals.deferred():
            saved = self._checkpointer(cell, data, records.cell_key(place))
            if saved.resumed_from:
                where = f"{number} {series}, {cell.num_samples} samples"
                print(f"{where}: going on from {saved.resumed_from}", flush=True)
            try:
                with (
                    saved,
                    _memory_error_in_a_line(cell, series),
                    self._profiler or contextlib.nullcontext(),
                    folder as disk,
                ):
                    runtime = Runtime(self._mesh, saved, disk, progress)
                    result = run_cell(cell, data, runtime)
                    record = {"cell": place, "series": series, **result.record, "tuned": tuned}
                    # Before its record, which says that the cell is finished; of trials nothing is kept.
                    if not self._is_search:
                        processes.on_process_0(
                            lambda: result.save(kept, self._options.keep, self._folder / TABLES)
                        )
            finally:
                bar.close()
            return processes.on_process_0(lambda: self._finish(record, saved))

    def _tuned(self, cell: RunConfig) -> dict[str, Any] | None:
        """What a search chose for a cell."""
        tuning = self._grid.tuning
        return None if tuning is None else dict(self.tuned[self._grid.place(cell)[tuning.axis]])

    def _checkpointer(self, cell: RunConfig, data: dataset.CellData, key: str) -> OrbaxCheckpointer:
        """The checkpoints of a cell, which are those of its config and its data only."""
        identity: dict[str, Any] = {f"config.{name}": value for name, value in flat_fields(cell).items()}
        identity |= {"corpus_sha256": data.corpus_sha256, "embedding_sha256": data.table_sha256}
        where = {"device": device_name(), "jax": jax.__version__}
        folder = self._checkpoint_folder(cell.config_name, cell.num_samples, key)
        return OrbaxCheckpointer(folder, identity, self._options.checkpoint_minutes, where, self._profiler)

    def _checkpoint_folder(self, config_name: str, num_samples: int, key: str) -> Path:
        return self._folder / CHECKPOINTS / f"{config_name}-{num_samples}-{content_hash([key])[:12]}"

    def _remove_leftovers(self) -> None:
        """Removes checkpoints of finished cells, which a kill right after a record leaves."""
        for key, record in self._done.items():
            if not records.failed(record):
                discard(self._checkpoint_folder(record["config_name"], record["num_samples"], key))

    def _finish(self, record: Record, saved: OrbaxCheckpointer) -> Record:
        """Writes a record, which takes the place of checkpoints."""
        record = records.append(self._path, record)
        if not records.failed(record):
            saved.discard()
        return record

    def _seconds_left(self, tokens: dict[int, int], vocab_size: int) -> float:
        """Foretells the cells to come from the pace of those made, as if they took as many iterations."""
        iterations, epochs = (
            sum(record[name] for _, record in self._made) / len(self._made)
            for name in ("phase1_iterations", "phase2_epochs")
        )

        def total(cells: list[RunConfig]) -> float:
            return sum(work(cell, vocab_size, tokens[cell.num_samples], iterations, epochs) for cell in cells)

        # What is compiled for one cell mostly serves the later ones too.
        busy = sum(records.seconds(record)[0] for _, record in self._made)
        left = self.left()
        return busy / total([cell for cell, _ in self._made]) * total(left)


def _said_of_text(data: dataset.SweepData, num_samples: int) -> list[str]:
    """What a user should know of the text before the largest cell trains on it."""
    leaked = leakage_warning(*data.leakage(num_samples))
    return [*data.notes, *([f"warning: {leaked}"] if leaked else [])]


def _say_above_bar(line: str) -> None:
    """Prints a line while a progress bar may stand on standard error."""
    with tqdm.external_write_mode(sys.stderr):
        print(line, flush=True)


@contextlib.contextmanager
def _memory_error_in_a_line(cell: RunConfig, series: str) -> Iterator[None]:
    """Says in one line that a device has run out of memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MachineError(
            f"{series}, {cell.num_samples} samples: {device_name()} has not enough memory: {SMALLER}."
        ) from None


def _check_same_corpus(data: dataset.SweepData, finished: list[Record]) -> None:
    """Refuses to set new cells beside finished ones that read other text."""
    hashes = {count: data.sha256(count) for count in {record["num_samples"] for record in finished}}
    for record in finished:
        _refuse_change(f"corpus {record['corpus']}", record, "corpus_sha256", hashes[record["num_samples"]])


def _check_same_table(cell: RunConfig, data: dataset.CellData, finished: list[Record]) -> None:
    """Refuses to set a cell beside finished ones that had another embedding table."""
    for record in finished:
        if record["embed_dim"] != cell.model.embed_dim:
            continue
        # Each size has a spectral table of its own, and each seed a random one.
        own = {"spectral": "num_samples", "random": "seed"}.get(cell.data.embedding)
        if own is None or record[own] == getattr(cell, own):
            what = f"embedding {record['embedding']}"
            _refuse_change(what, record, "embedding_sha256", data.table_sha256)


def _refuse_change(what: str, record: Record, field: str, value: str) -> None:
    if record[field] != value:
        raise UserError(
            f"{what} has changed since {records.label(record)}, was run"
            f" ({field} {record[field][:12]}, now {value[:12]}): use another --workdir."
        )


def _cell_line(number: str, record: Record, remaining: float) -> str:
    """What a finished cell says of itself."""
    left = f"; about {formats.duration(remaining)} left" if remaining else ""
    work, compiling = records.seconds(record)
    return (
        f"{number} {records.label(record)}:"
        f" val PPL {formats.number(record['val_ppl'])} (trigram {formats.number(record['kn3_ppl'])}, unigram"
        f" {formats.number(record['unigram_ppl'])}),"
        f" accuracy {formats.percent(record['val_acc'])},"
        f" val ER {formats.percent(record['val_effective_rank'])},"
        f" phase 1 {record['phase1_iterations']} iterations ({record['phase1_status']}),"
        f" {formats.duration(work)}, compiling {formats.duration(compiling)}{left}"
    )
