"""Rebuilds a report from the records of a folder, without running anything."""

from collections.abc import Sequence
from pathlib import Path

from cvfp_jax.errors import UserError
from cvfp_jax.report import records
from cvfp_jax.report.against import Against, compare_sweeps
from cvfp_jax.report.document import SweepReport, write_report
from cvfp_jax.report.records import Record
from cvfp_jax.report.summary import summarise


def rebuild_report(workdir: Path, other: Path | None = None) -> SweepReport:
    """Writes the report of the records in a folder, as the sweep that made them did.

    Where a cell has several records the last one counts. Needs no JAX.

    Args:
      workdir: a folder that holds ``records.jsonl``.
      other: the folder of another sweep, with which the report is to compare this one.

    Returns:
      What the report says.

    Raises:
      UserError: a folder is missing or holds no records, a line is not a record, both folders are the same,
        their sweeps have nothing in common, or a file cannot be written.
    """
    report = read_report(workdir, other)
    write_report(report, workdir)
    return report


def read_report(workdir: Path, other: Path | None = None) -> SweepReport:
    """Returns what the report of a folder's records says; see ``rebuild_report``."""
    own = _records("workdir", workdir)
    against = None if other is None else _compare(workdir, own, other)
    return SweepReport(_title(own), own, against)


def _compare(workdir: Path, own: Sequence[Record], other: Path) -> Against:
    """The other folder's sweep, first, beside this one's."""
    theirs = _records("against", other)
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
    last = {
        (record["experiment"], record["preset"], records.cell_key(record["cell"])): record
        for record in records.read(path)
    }
    if not last:
        raise UserError(f"{path} holds no records: name the folder of a sweep that has finished a cell.")
    return list(last.values())


def _title(of: Sequence[Record]) -> str:
    return "; ".join(dict.fromkeys(f"{record['experiment']}, preset {record['preset']}" for record in of))
