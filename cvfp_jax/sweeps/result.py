"""What a cell leaves: its record, its model, its contexts and its curves."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cvfp_jax.contexts.store import ContextStore
from cvfp_jax.errors import UserError, file_error
from cvfp_jax.generation.trained import TrainedModel
from cvfp_jax.report import formats
from cvfp_jax.report.curves import FILE_NAME as CURVES
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.display import Display
from cvfp_jax.report.records import Record
from cvfp_jax.runtime.files import replacing
from cvfp_jax.sweeps.options import KEEP

if TYPE_CHECKING:
    from cvfp_jax.report.plotting import Figure

TABLES = "tables"  # the folder of the embedding tables that a sweep's cells share


class Contexts(NamedTuple):
    """The contexts that phase 2 learned from, float32 [N, D]; rows beyond the tokens are zero."""

    train: ContextStore
    val: ContextStore


@dataclasses.dataclass(frozen=True, repr=False)
class CellResult(Display):
    """A trained cell."""

    record: Record
    model: TrainedModel | None  # of the best epoch; None if no epoch ended with finite losses
    contexts: Contexts | None  # None if phase 2 makes them itself, or a phase broke down
    curves: Curves

    def facts(self) -> list[tuple[str, str]]:
        """Returns what a table says of it."""
        record = self.record
        return [
            ("status", record["status"]),
            ("architecture", record["config_name"]),
            ("training tokens", formats.whole(record["train_tokens"])),
            ("validation perplexity", formats.number(record["val_ppl"])),
            ("trigram perplexity", formats.number(record["kn3_ppl"])),
            ("unigram perplexity", formats.number(record["unigram_ppl"])),
            ("accuracy", formats.percent(record["val_acc"])),
            ("effective rank", f"{formats.percent(record['val_effective_rank'])} of {record['context_dim']}"),
            ("phase 1", f"{record['phase1_iterations']} iterations ({record['phase1_status']})"),
            ("phase 2", f"{record['phase2_epochs']} epochs ({record['phase2_status']})"),
        ]

    def plot(self) -> "Figure":
        """Returns the curves of both phases as a figure."""
        from cvfp_jax.report.curve_figures import cell_figure  # brings Matplotlib

        return cell_figure(self.record, self.curves)

    def save(self, folder: Path | str, keep: str = "model", tables: Path | None = None) -> None:
        """Writes curves.npz and, as is asked for, the model and the contexts.

        Args:
          folder: made if it is missing.
          keep: ``model``; ``all``, with train_contexts.npy and val_contexts.npy; ``none``, the curves only.
          tables: where embedding tables go that were learned from the training text; beside it by default.

        Raises:
          UserError: ``keep`` is another word, or a file cannot be written.
        """
        if keep not in KEEP:
            raise UserError(f"keep={keep!r} is unknown: choose {', '.join(KEEP)}.")
        folder = Path(folder)
        self.curves.save(folder / CURVES)
        if keep != "none" and self.model is not None:
            self.model.save(folder, tables)
        if keep == "all" and self.contexts is not None:
            rows = {"train": self.record["train_tokens"], "val": self.record["val_tokens"] - 1}
            for name, count in rows.items():
                _write_rows(folder / f"{name}_contexts.npy", getattr(self.contexts, name), count)


def _write_rows(path: Path, store: ContextStore, count: int) -> None:
    """Writes the first rows of a store as a .npy file, some at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (min(count, len(store)), store.shape[1])}
    try:
        with replacing(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for first, rows in store.chunk_ranges(stop=count):
                host = store.host_rows(first, min(rows, count - first))
                file.write(np.ascontiguousarray(host, "<f4").data)
    except OSError as error:
        raise file_error(f"cannot write {path}: {error.strerror}; make room for it.", error) from None
