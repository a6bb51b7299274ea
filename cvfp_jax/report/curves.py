"""The course of both phases of a cell, step by step, as arrays of one length a group."""

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from cvfp_jax.errors import UserError, file_error
from cvfp_jax.report.display import Display
from cvfp_jax.runtime.files import write_atomic

FILE_NAME = "curves.npz"
# The arrays of a group have a length. Iterations count from 2: the initial contexts are iteration 1.
GROUPS = {
    "phase1": (
        "phase1_block",  # int32, from 1
        "phase1_iteration",  # int32
        "phase1_loss",
        "phase1_cvfp_loss",
        "phase1_diversity_loss",
        "phase1_converged_share",  # of the block's tokens
        "phase1_grad_norm",  # before clipping
    ),
    # What stop=val_effective_rank has looked at.
    "val_rank": ("val_rank_block", "val_rank_iteration", "val_rank"),
    "phase2": ("phase2_train_loss", "phase2_val_loss", "phase2_val_acc"),  # an epoch each; nats a token
    "batch": ("batch_epoch", "batch_loss", "batch_grad_norm"),  # before each step; epochs from 1
}
NAMES = tuple(name for names in GROUPS.values() for name in names)


class Curves(Display, Mapping[str, np.ndarray]):
    """The arrays of ``GROUPS`` by name.

    Args:
      arrays: those there are; the others are empty.

    >>> curves = Curves({"phase2_val_loss": np.array([5.0, 4.0])})
    >>> curves["phase2_val_loss"].tolist(), len(curves["phase1_loss"])
    ([5.0, 4.0], 0)
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = {name: np.asarray(arrays.get(name, np.zeros(0))) for name in NAMES}

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns an array."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Yields the names."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """The number of names."""
        return len(self._arrays)

    def facts(self) -> list[tuple[str, str]]:
        """Returns what a table says of them."""
        units = {"phase1": "iterations", "val_rank": "rank checks", "phase2": "epochs", "batch": "batches"}
        return [
            (units[group], f"{len(self[names[0]]):,}: {', '.join(names)}") for group, names in GROUPS.items()
        ]

    def save(self, path: Path | str) -> None:
        """Writes them as an .npz file, the same bytes for the same numbers.

        Raises:
          UserError: it cannot be written.
        """
        path, buffer = Path(path), io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self._arrays)
        try:
            write_atomic(path, buffer.getvalue())
        except OSError as error:
            raise file_error(f"cannot write {path}: {error.strerror}; make room for it.", error) from None

    @classmethod
    def load(cls, path: Path | str) -> "Curves":
        """Reads what ``save`` wrote.

        Raises:
          UserError: it is not there, or cannot be read.
        """
        path = Path(path)
        try:
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
                return cls({name: file[name] for name in NAMES})
        except FileNotFoundError:
            raise UserError(f"{path} is not there: name the folder of a cell that has run.") from None
        # What zipfile and numpy raise for flipped bits.
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{path} cannot be read ({error}): delete its cell's record to train the cell again."
            ) from None
