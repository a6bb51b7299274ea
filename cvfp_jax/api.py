"""The functions of a notebook: train a cell, run a sweep, load a model, fit a law."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from cvfp_jax.cli.experiments import load_experiments
from cvfp_jax.cli.main import read_request
from cvfp_jax.cli.sweep import SweepRequest
from cvfp_jax.config.overrides import flat_fields, replace
from cvfp_jax.contexts.runtime import NoProgress, Runtime
from cvfp_jax.core.effective_rank import effective_rank_of_spectrum, singular_values
from cvfp_jax.data import dataset
from cvfp_jax.errors import UserError
from cvfp_jax.generation.trained import TrainedModel
from cvfp_jax.report.display import Display
from cvfp_jax.report.document import SweepReport
from cvfp_jax.report.formats import significant
from cvfp_jax.report.rebuild import read_report
from cvfp_jax.runtime import compilation, numerics
from cvfp_jax.scaling.analysis import GroupAnalysis, analyse_group
from cvfp_jax.scaling.laws import LAWS
from cvfp_jax.scaling.objectives import LOG, OBJECTIVES
from cvfp_jax.scaling.points import Group, Points
from cvfp_jax.scaling.points import read_points as _read_points
from cvfp_jax.sweeps.cell import run_cell
from cvfp_jax.sweeps.progress import CellProgress
from cvfp_jax.sweeps.result import CellResult

if TYPE_CHECKING:
    from cvfp_jax.report.plotting import Figure


def train(
    corpus: str = "pydocs",
    *,
    samples: int = 200,
    val_samples: str | None = None,
    context_dim: int = 96,
    embedding: str = "spectral",
    seed: int = 42,
    config: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> CellResult:
    """Trains one model: phase 1 learns contexts by fixed-point iteration, phase 2 to predict the next token.

    Args:
      corpus: ``pydocs`` (the documentation that comes with Python), ``text:PATH`` (a file or a folder of
        yours) or ``ultrachat``.
      samples: the number of training samples, the corpus's first.
      val_samples: ``START:STOP`` in samples, or ``tail:SHARE``, the last share of the training samples'
        tokens. By default samples 1000 to 1019 of ``pydocs`` and of others ``tail:0.1``.
      context_dim: width D of a context.
      embedding: the frozen token vectors: ``spectral`` (learned from the training text), ``random``,
        ``file:PATH`` or ``gpt2``.
      seed: of every random number.
      config: any other setting by dotted name, such as ``{"phase1.max_iterations": 20}``; the others are
        those of ``launch.py --experiment=context_dim``.
      progress: whether to show a progress bar.

    Returns:
      The record, the model, its contexts and the curves of both phases.

    Raises:
      UserError: the corpus cannot be read, or a setting is not allowed.
    """
    numerics.check()
    compilation.request_determinism()
    compilation.enable_disk_cache()
    base = load_experiments()["context_dim"].PRESETS["quick"].base
    known, wanted = flat_fields(base), dict(config or {})
    if val_samples is None and wanted.get("data.val_corpus"):
        val_samples = "all"
    elif val_samples is None and corpus != base.data.corpus:
        val_samples = "tail:0.1"
    for name in wanted.keys() - known.keys():
        raise UserError(f"config {name!r} is no setting: they are {', '.join(known)}.")
    named = {
        "num_samples": samples,
        "model.context_dim": context_dim,
        "data.corpus": corpus,
        "data.embedding": embedding,
        "seed": seed,
        **({} if val_samples is None else {"data.val_samples": val_samples}),
    }
    cell = replace(base, {**named, **wanted})
    read = dataset.load(cell.data, [cell.num_samples])
    for line in read.notes if progress else ():
        print(line)
    data = read.cell(cell)
    bar = CellProgress(f"{cell.config_name} {cell.num_samples} samples", cell) if progress else NoProgress()
    try:
        result = run_cell(cell, data, Runtime(progress=bar))
    finally:
        if isinstance(bar, CellProgress):
            bar.close()
    place = {"num_samples": cell.num_samples, "seed": cell.seed}
    return dataclasses.replace(result, record={"cell": place, "series": cell.config_name, **result.record})


def sweep(
    experiment: str = "context_dim",
    *,
    preset: str | None = None,
    workdir: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    **flags: Any,
) -> SweepReport:
    """Runs a sweep, or what is missing of it, and writes its folder, as ``launch.py`` does.

    Args:
      experiment: its name; ``launch.py --list`` has them all.
      preset: its settings; the experiment's first by default.
      workdir: its folder; ``runs/<experiment>-<preset>`` by default.
      config: settings by dotted name; of an axis a list.
      **flags: flags of the command line by name, such as ``samples=[25, 50]`` or ``corpus="text:PATH"``;
        switches are true.

    Returns:
      The report of all cells.

    Raises:
      UserError: a name or a value is not allowed, or the data cannot be read.
    """
    named = {"experiment": experiment, "preset": preset, "workdir": workdir, **flags}
    given = {name: value for name, value in named.items() if value is not None and value is not False}
    given |= {f"config.{name}": value for name, value in (config or {}).items()}
    argv = [f"--{name}={_flag_text(value)}" for name, value in given.items()]
    request = read_request(["launch.py", *argv], load_experiments())
    if not isinstance(request, SweepRequest) or request.dry_run:
        raise UserError(
            f"sweep({experiment!r}) trains nothing: give an experiment that trains, and no dry_run."
        )
    numerics.check()  # a launch would change the session's settings
    request.run()
    return read_report(request.workdir)


def _flag_text(value: Any) -> str:
    """A flag's value as a command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return ",".join(map(_flag_text, value))
    return str(value)


def load(folder: str | Path, cell: str | None = None, *, embedding: str | None = None) -> TrainedModel:
    """Returns a model that a sweep, or ``TrainedModel.save``, has left.

    Args:
      folder: of the sweep or of the model.
      cell: the name of a cell of the sweep, such as ``1L_96d_1tok-200``; by default the one with the lowest
        validation loss.
      embedding: where its embedding table is now, ``file:PATH`` or ``gpt2``, if that has changed.

    Raises:
      UserError: there is no such model, a file is missing or has changed, or the table is another one.
    """
    return TrainedModel.load(folder, cell, embedding=embedding)


def effective_rank(contexts: np.ndarray) -> float:
    """Returns how many dimensions rows really use, ``exp(-sum p ln p)``, ``p = s / sum(s)``.

    Args:
      contexts: float [N, D]; s are its singular values. They are not centred.

    Returns:
      From 1 to min(N, D).

    Raises:
      UserError: it is no table of numbers.

    References:
      Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality, 2007.

    >>> round(effective_rank(np.eye(3)), 4)
    3.0
    """
    try:
        rows_NxD = np.asarray(contexts, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"contexts must be numbers [N, D]: {error}.") from None
    if rows_NxD.ndim != 2 or 0 in rows_NxD.shape:
        raise UserError(f"contexts of shape {rows_NxD.shape} have no effective rank: give some rows [N, D].")
    return float(effective_rank_of_spectrum(singular_values(jnp.asarray(rows_NxD))))


def read_points(
    path: str | Path, x: str | None = None, y: str | None = None, group: str | None = None
) -> Points:
    """Returns the points of a CSV, JSON or JSON Lines file, or of a sweep's records.jsonl.

    Args:
      path: the file.
      x: the column of sizes; of records ``train_tokens`` by default.
      y: the column of measures; of records ``val_ppl`` by default.
      group: the column whose values name groups; of records ``series`` by default.

    Raises:
      UserError: the file cannot be used; the message names the line and the column.
    """
    return _read_points(Path(path).expanduser(), x, y, group)


@dataclasses.dataclass(frozen=True, repr=False)
class LawFit(Display):
    """A law fitted to points, with 95 % intervals."""

    analysis: GroupAnalysis

    @property
    def row(self) -> dict[str, Any]:
        """All that fits.json would say of it."""
        return self.analysis.rows[0]

    @property
    def params(self) -> dict[str, float]:
        """The parameters by name; none if there are too few points."""
        return dict(self.row["params"])

    @property
    def intervals(self) -> dict[str, list[float | None] | None]:
        """The parameters' 95 % intervals; None for an end that an interval has not."""
        return dict(self.row["intervals"])

    @property
    def status(self) -> str:
        """How the search ended."""
        return str(self.row["status"])

    def predict(self, x: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns the law's values at sizes above zero."""
        (fit,) = self.analysis.selection.fits.values()
        return fit.predict(x)

    def plot(self, x: str = "x", y: str = "y") -> "Figure":
        """Returns a figure of the points, the law with its 95 % band, and the residuals.

        Args:
          x: what the sizes are called.
          y: what the measures are called.
        """
        from cvfp_jax.report.law_figures import law_figure  # brings Matplotlib

        return law_figure(self.analysis, x, y)

    def facts(self) -> list[tuple[str, str]]:
        """Returns what a table says of it."""
        rows = [
            ("law", f"{self.row['formula']}, by {OBJECTIVES[self.row['objective']]}"),
            ("status", self.status),
        ]
        for name, value in self.params.items():
            low, high = self.intervals[name] or (None, None)
            rows.append((name, f"{significant(value)} [{significant(low)}, {significant(high)}]"))
        return [*rows, ("R2 of ln y", significant(self.row["r2_log"])), ("points", str(self.row["n"]))]


def fit_law(law: str, x: Sequence[float], y: Sequence[float], objective: str = LOG) -> LawFit:
    """Fits a law to points: the global optimum, with intervals by profile likelihood.

    Args:
      law: ``power``, ``saturating``, ``log_corrected``, ``exponential_decay``, ``variable_exponent``,
        ``constant`` or ``log_linear``.
      x: [n] sizes, above zero.
      y: [n] measures, above zero; those of one size are replicates.
      objective: ``log`` (least squares of ln y), ``linear`` (of y) or ``huber`` (of ln y).

    Raises:
      UserError: a name is unknown, lengths differ, or a number is not above zero.

    >>> fit = fit_law("power", [100, 200, 400, 800], [80, 40, 20, 10])
    >>> round(fit.params["a"], 6), float(fit.predict(1600).round(6))
    (1.0, 5.0)
    """
    for name, choices in ((law, LAWS), (objective, OBJECTIVES)):
        if name not in choices:
            raise UserError(f"{name!r} is unknown: choose {', '.join(choices)}.")
    try:
        pairs = sorted(zip(map(float, x), map(float, y), strict=True)) if len(x) == len(y) else []
    except (TypeError, ValueError) as error:
        raise UserError(f"x and y must be numbers in a row each: {error}.") from None
    if not pairs or not all(0 < number < float("inf") for pair in pairs for number in pair):
        raise UserError(
            f"x has {len(x)} and y {len(y)} numbers: give as many of each, one or more, finite and above 0."
        )
    group = Group(LAWS[law].formula, *(tuple(column) for column in zip(*pairs, strict=True)))
    return LawFit(analyse_group(group, [law], objective))
