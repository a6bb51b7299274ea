"""The models that a sweep's folder holds."""

import difflib
from pathlib import Path

from cvfp_jax.errors import UserError
from cvfp_jax.generation.saved import DESCRIPTION, WEIGHTS, read_description
from cvfp_jax.report.records import CELLS

_MOST_NAMED = 12


def find_model(folder: Path, cell: str | None = None) -> Path:
    """Returns the folder of a model.

    Args:
      folder: a model's folder, or a sweep's.
      cell: the name of one of the sweep's cells, or enough of its beginning; by default the one with the
        lowest validation loss.

    Raises:
      UserError: there is no model, no such cell, or several cells begin so.
    """
    if cell is None and any((folder / name).is_file() for name in (DESCRIPTION, WEIGHTS)):
        return folder
    models = {path.parent.name: path.parent for path in sorted(folder.glob(f"{CELLS}/*/{DESCRIPTION}"))}
    if not models:
        what = "is not there" if not folder.exists() else "holds no model"
        raise UserError(
            f"{folder} {what}: name the folder of a model, or of a sweep that has finished a cell (without"
            " --keep=none)."
        )
    if cell is None:
        return min(models.values(), key=_val_loss)
    if cell in models:
        return models[cell]
    begins = [name for name in models if name.startswith(f"{cell}-")]
    if len(begins) == 1:
        return models[begins[0]]
    if begins:
        raise UserError(f"{cell!r} is the beginning of {_listed(begins)}: name one of them.")
    near = difflib.get_close_matches(cell, models, 1, 0.0)
    raise UserError(
        f"{folder} has no model {cell!r}: did you mean {near[0]}? There are {_listed(list(models))}."
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _val_loss(folder: Path) -> float:
    """The validation loss that a model's description says."""
    return float(read_description(folder / DESCRIPTION)["facts"].get("val_loss", float("inf")))
