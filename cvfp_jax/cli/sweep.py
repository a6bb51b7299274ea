"""The flags of a sweep, and the grid of cells that they ask for."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

from cvfp_jax.cli import capacity, hosts
from cvfp_jax.cli.capacity import CapacityRequest
from cvfp_jax.cli.hosts import Place, read_place
from cvfp_jax.cli.values import choose, read_axis, read_mesh, read_minutes, read_path, read_seeds
from cvfp_jax.config.grid import AXIS_FLAGS, Grid
from cvfp_jax.config.overrides import field_docs
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.errors import UserError
from cvfp_jax.runtime import streams
from cvfp_jax.sweeps.options import CONTEXTS_IN, KEEP, RunOptions
from cvfp_jax.sweeps.workdir import folder_of

PREFIX = "config."  # of the flags that set a field
# Flags that are short for a field.
_SHORT = {
    "corpus": "data.corpus",
    "val_samples": "data.val_samples",
    "dev_samples": "data.dev_samples",
    "val_corpus": "data.val_corpus",
    "sample": "data.sample",
    "text_field": "data.text_field",
    "skip_bad_rows": "data.skip_bad_rows",
    "embedding": "data.embedding",
    "precision": "precision",
    "seed": "seed",
}
FLAGS = {
    "preset": "settings of the experiment (default: its first; see --list)",
    "corpus": "pydocs, ultrachat, ultrachat:FOLDER or text:PATH (.txt .md .json .jsonl .ndjson .csv .tsv"
    " .parquet .arrow, and .gz or .zst of them; docs/data.md has the formats)",
    "samples": "training sizes in samples, for example 50,100",
    "val_samples": "validation samples, START:STOP, behind the training samples",
    "dev_samples": "samples on which a search chooses settings, START:STOP (default: those right before"
    " validation)",
    "val_corpus": "a corpus of its own that validates; all of it, or the --val_samples of it",
    "sample": "what a sample of a .txt or .md file is: line, paragraph or file (default: a file of a folder,"
    " a paragraph of a file given alone)",
    "text_field": "the field or column that is a record's text (default: the known ones)",
    "context_dims": "context widths, for example 256,576",
    "embedding": "gpt2, file:PATH (.npy .npz .safetensors), spectral or random",
    "precision": "f32, or bf16: faster matrix products of operands rounded to 8 bits (default: f32)",
    "seed": "seed of every random number",
    "seeds": "replicates, each cell with so many seeds from --seed on, for example 3",
    "mesh": "how devices share the work, such as data:4,model:2: the vocabulary over model, all else over"
    " all devices (default: all of them on data)",
    "contexts_in": "where training's contexts are kept: memory, disk (in the workdir, one device) or auto: on"
    " disk where they fit in memory only so (default: auto)",
    "checkpoint_minutes": "minutes between two saves of a cell's state (default: 5; 0: after every step)",
    "keep": "what a finished cell leaves in cells/ of the workdir beside its curves: model (its weights),"
    " all (its contexts too) or none (default: model)",
    "metrics": "a file to which scalars of both phases are added while they run, as JSON Lines",
    **hosts.FLAGS,
    **capacity.FLAGS,
}
SWITCHES = {
    "dry_run": "print the plan only: nothing is downloaded, read or trained",
    "json": "print the plan of --dry_run as JSON",
    "force": "run cells that are expected not to fit in memory, too",
    "skip_bad_rows": "leave out rows that cannot be used, and count them, instead of refusing the corpus",
    "profile": "trace three steps of each phase with JAX's profiler, into profile/ of the workdir",
    "tensorboard": "write both phases' scalars as they run, for TensorBoard, in tensorboard/ of the workdir",
    "log_compiles": "name each function that is compiled, and the seconds it took",
}


@dataclasses.dataclass(frozen=True)
class SweepRequest:
    """A sweep that a command line asks for."""

    grid: Grid
    workdir: Path
    dry_run: bool
    json: bool
    options: RunOptions
    log_compiles: bool
    capacity: CapacityRequest | None = None
    place: Place | None = None

    def run(self) -> bool:
        """Runs the sweep, or prints its plan, and returns whether every cell ended well."""
        if self.dry_run:
            print(_plan(self.grid, self.json, self.capacity))
            return True
        # These bring JAX, which the command line does without.
        from cvfp_jax.distributed import processes
        from cvfp_jax.runtime import compilation, numerics
        from cvfp_jax.sweeps.runner import run_sweep

        numerics.pin()
        compilation.request_determinism()
        compilation.enable_disk_cache()
        log = compilation.reported(compilation.show) if self.log_compiles else contextlib.nullcontext()
        with streams.may_be_lost(), log, processes.joined(self.place):
            return run_sweep(self.grid, self.workdir, self.options)


def setting_flags() -> dict[str, str]:
    """Returns the flags that set a field each, with their texts."""
    fields = field_docs(RunConfig()).items()
    return {PREFIX + name: text for name, text in fields if name not in ("experiment", "preset")}


def sweep_request(experiment: str, presets: Mapping[str, Grid], given: Mapping[str, str]) -> SweepRequest:
    """Returns the sweep that flags ask for.

    Args:
      experiment: its name.
      presets: the experiment's grids by name, the default first.
      given: the flags that were given, with their texts; switches are there if they are on.

    Returns:
      The sweep.

    Raises:
      UserError: a field, a preset or a value is not allowed.
    """
    preset = choose("preset", given.get("preset", next(iter(presets))), list(presets))
    changes = {name.removeprefix(PREFIX): text for name, text in given.items() if name.startswith(PREFIX)}
    for flag in _SHORT.keys() & given.keys():
        if _SHORT[flag] in changes:
            raise UserError(f"--{flag} and --{PREFIX}{_SHORT[flag]} set the same field: give one of them.")
        changes[_SHORT[flag]] = str(given[flag])
    if changes.get("data.val_corpus"):
        changes.setdefault("data.val_samples", "all")
    grid = presets[preset]
    lists = {name: flag for name, flag in AXIS_FLAGS.items() if name != "seed"}
    axes = {name: read_axis(flag, given[flag]) for name, flag in lists.items() if flag in given}
    if "seeds" in given:
        axes["seed"] = read_seeds(given["seeds"], changes.pop("seed", None), grid.base.seed)
    if "json" in given and "dry_run" not in given:
        raise UserError("--json prints a plan: add --dry_run.")
    for flag in ("profile", "log_compiles", "mesh", "tensorboard", "metrics"):
        if flag in given and "dry_run" in given:
            raise UserError(f"--{flag} is for cells that run: leave out --dry_run.")
    return SweepRequest(
        grid=grid.resolve(axes, changes),
        workdir=folder_of(given.get("workdir", f"runs/{experiment}-{preset}")),
        dry_run="dry_run" in given,
        json="json" in given,
        options=RunOptions(
            checkpoint_minutes=read_minutes(given.get("checkpoint_minutes", "5")),
            force="force" in given,
            profile="profile" in given,
            mesh=read_mesh(given.get("mesh")),
            contexts_in=choose("contexts_in", given.get("contexts_in", "auto"), CONTEXTS_IN),
            tensorboard="tensorboard" in given,
            metrics=read_path("metrics", given["metrics"]) if "metrics" in given else None,
            keep=choose("keep", given.get("keep", "model"), KEEP),
        ),
        log_compiles="log_compiles" in given,
        capacity=capacity.capacity_request(given),
        place=read_place(given, os.environ),
    )


def _plan(grid: Grid, as_json: bool, capacity: CapacityRequest | None) -> str:
    """The plan of a sweep whose data have not been read."""
    if capacity is not None:
        return capacity.plan({grid.series(cell): cell for cell in grid.cells()}, as_json)
    # These bring SciPy, which the command line does without.
    from cvfp_jax.planning.plan import plan_cell
    from cvfp_jax.report.plans import plan_table

    plans = [plan_cell(cell, series=grid.series(cell)) for cell in grid.cells()]
    if as_json:
        return json.dumps([plan.to_json() for plan in plans], indent=1)
    note = "Tokens and memory, and with vocabulary=corpus all parameters, are known once the text is read."
    settings = ", ".join(f"{name}={value}" for name, value in grid.shared_fields().items())
    return f"{plan_table(plans).text()}\n{note}\nSettings: {settings}"
