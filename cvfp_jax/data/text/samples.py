"""The samples of a file or a folder, one after the other."""

from collections.abc import Callable, Iterator
from pathlib import Path

from cvfp_jax.data.text import arrow_files, csv_files, decoding, folders, json_files, plain, shapes
from cvfp_jax.data.text.reading import AS_IT_IS, BadRowError, Reading, ReadingLog, Row
from cvfp_jax.errors import UserError

_Reader = Callable[[Path], Iterator[Row]]
_PLAIN: dict[str, _Reader] = {
    "file": plain.whole_file,
    "paragraph": plain.paragraphs,
    "line": plain.lines,
}
_RECORDS: dict[str, _Reader] = {
    ".json": json_files.json_file,
    ".jsonl": json_files.json_lines,
    ".ndjson": json_files.json_lines,
    ".csv": csv_files.csv_rows,
    ".tsv": csv_files.csv_rows,
}
_TABLES: dict[str, Callable[[Path, arrow_files.Wanted], Iterator[Row]]] = {
    ".parquet": arrow_files.parquet_rows,
    ".arrow": arrow_files.arrow_rows,
}
SUFFIXES = (*folders.TEXTS, *_RECORDS, *_TABLES)


def existing(place: str, kind: str = "text") -> Path:
    """Returns the path that a text names, which must be there."""
    if not place:  # which would be the current folder
        raise UserError(f"corpus {kind}: names no path: give one, for example {kind}:my_folder.")
    try:
        path = Path(place).expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long; an unknown user's home; a NUL
        raise UserError(f"corpus {kind}:{place} cannot be used ({error}): give another path.") from None
    if not there:
        raise UserError(f"corpus {kind}:{place} does not exist: give the path of a file or folder.")
    return path


def iterate_samples(place: str, reading: Reading = AS_IT_IS, log: ReadingLog | None = None) -> Iterator[str]:
    """Yields the samples of a file or of all readable files of a folder, in the order of their names.

    In a folder a .txt or .md file is one sample; given alone it is a sample a paragraph.

    Args:
      place: path of a file or folder.
      reading: how a record becomes a text, and a plain text samples.
      log: told of what is left out.

    Yields:
      One text a sample.

    Raises:
      UserError: the path, a file or a record cannot be used; the message names it.
    """
    path, log = existing(place), log or ReadingLog()
    if path.is_dir():
        found = folders.find(path, f"text:{place}", SUFFIXES)
        for note in found.notes:
            log.note(note)
        yield from samples_of(found.files, reading, log, in_folder=True)
        return
    decoding.check_regular(path)
    if decoding.suffix_of(path) not in SUFFIXES:
        raise UserError(
            f"corpus text:{place} is not of a known kind: it must be one of {' '.join(SUFFIXES)}, or one of"
            " these with .gz or .zst behind it."
        )
    yield from samples_of([path], reading, log, in_folder=False)


def samples_of(files: list[Path], reading: Reading, log: ReadingLog, *, in_folder: bool) -> Iterator[str]:
    """Yields the samples of files, which must hold one each."""
    unit = reading.sample
    if unit == "auto":
        unit = "file" if in_folder else "paragraph"
    for file in files:
        rows, skipped = _rows(file, unit, reading), 0
        is_empty = True
        for row, where in rows:
            try:
                if isinstance(row, BadRowError):
                    raise row
                text = shapes.sample_text(row, where, reading, log)
            except BadRowError as error:
                if not reading.skip_bad_rows:
                    raise
                log.skipped[error.reason] += 1
                skipped += 1
            else:
                is_empty = False
                yield text
        if is_empty and not (skipped and in_folder):
            _refuse_empty(file, skipped, log)


def _rows(file: Path, unit: str, reading: Reading) -> Iterator[Row]:
    """Yields the rows of a file by the reader of its kind."""
    kind = decoding.suffix_of(file)
    if kind not in _TABLES:
        return (_PLAIN[unit] if kind in folders.TEXTS else _RECORDS[kind])(file)
    if file.suffix.lower() in decoding.COMPRESSED:
        raise UserError(f"{file}: {kind} files are compressed inside: unpack it.")
    return _TABLES[kind](file, lambda names: shapes.columns(names, str(file), reading.text_field))


def _refuse_empty(file: Path, skipped: int, log: ReadingLog) -> None:
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in log.skipped.most_common())
        raise UserError(f"{file}: no row can be used ({reasons}); see docs/data.md for the formats.")
    is_text = decoding.suffix_of(file) in folders.TEXTS
    needs = "text" if is_text else f"samples with {shapes.FIELDS}"
    raise UserError(f"{file}: the file is empty; remove it or give it {needs}.")
