"""A report made again from the records of a folder, without running anything."""

from pathlib import Path

from cvfp_jax import records
from cvfp_jax.errors import UserError
from cvfp_jax.report.document import write_report
from cvfp_jax.report.summary import Summary


def rebuild_report(workdir: Path) -> list[Summary]:
    """Writes the report of the records in a folder, as the sweep that made them did.

    Where a cell has several records the last one counts. Needs no JAX.

    Args:
      workdir: a folder that holds ``records.jsonl``.

    Returns:
      What the report says, by configuration.

    Raises:
      UserError: the folder is missing or holds no records, a line is not a record, or a file cannot be
        written.
    """
    path = workdir / records.FILE_NAME
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is not there: name the folder of a sweep that has run.")
    found = {
        (record["experiment"], record["preset"], records.cell_key(record["cell"])): record
        for record in records.read(path)
    }
    if not found:
        raise UserError(f"{path} holds no records: name the folder of a sweep that has finished a cell.")
    sweeps = dict.fromkeys(f"{experiment}, preset {preset}" for experiment, preset, _ in found)
    return write_report("; ".join(sweeps), list(found.values()), workdir)
