"""A report made again from the records of a folder, without running anything."""

from collections.abc import Sequence
from pathlib import Path

from cvfp_jax.errors import UserError
from cvfp_jax.report.against import Against, compare_sweeps
from cvfp_jax.report.document import write_report
from cvfp_jax.report.summary import Summary, summarise
from cvfp_jax.results import records
from cvfp_jax.results.records import Record


def rebuild_report(workdir: Path, against: Against | None = None) -> list[Summary]:
    """Writes the report of the records in a folder, as the sweep that made them did.

    Where a cell has several records the last one counts. Needs no JAX.

    Args:
      workdir: a folder that holds ``records.jsonl``.
      against: a comparison with another sweep, to be part of the report.

    Returns:
      What the report says, by configuration.

    Raises:
      UserError: the folder is missing or holds no records, a line is not a record, or a file cannot be
        written.
    """
    found = _records("workdir", workdir)
    return write_report(_title(found), found, workdir, against)


def compare_folders(workdir: Path, other: Path) -> Against:
    """Compares the sweep of a folder with that of another.

    Args:
      workdir: a folder that holds ``records.jsonl``.
      other: another one.

    Returns:
      The comparison; the first sweep is the other one's.

    Raises:
      UserError: a folder cannot be used, both are the same, or their sweeps have nothing in common.
    """
    own, theirs = _records("workdir", workdir), _records("against", other)
    if workdir.resolve() == other.resolve():
        raise UserError(f"--against={other} is --workdir itself: name the folder of another sweep.")
    # By what they are where that tells them apart, else by where they are.
    names = _title(theirs), _title(own)
    if names[0] == names[1]:
        names = str(other), str(workdir)
    return compare_sweeps(names, summarise(theirs), summarise(own))


def _records(flag: str, folder: Path) -> list[Record]:
    """The records of a folder, the last of each cell."""
    path = folder / records.FILE_NAME
    if not folder.is_dir():
        raise UserError(f"--{flag}={folder} is not there: name the folder of a sweep that has run.")
    found = {
        (record["experiment"], record["preset"], records.cell_key(record["cell"])): record
        for record in records.read(path)
    }
    if not found:
        raise UserError(f"{path} holds no records: name the folder of a sweep that has finished a cell.")
    return list(found.values())


def _title(found: Sequence[Record]) -> str:
    return "; ".join(dict.fromkeys(f"{record['experiment']}, preset {record['preset']}" for record in found))
