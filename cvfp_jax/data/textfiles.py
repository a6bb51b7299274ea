"""Samples from the user's own files: text, Markdown, JSON, JSON Lines and Parquet."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cvfp_jax.errors import UserError, read_text

FIELDS = "messages: [{role, content}], conversations: [{from, value}], or text"
_NOT_UTF8 = "convert it, for example with 'iconv -t UTF-8'."
_TURN_KEYS = {"messages": "content", "conversations": "value"}


@dataclasses.dataclass(frozen=True)
class Turns:
    """Which turns of a conversation are its text, and what stands between them."""

    first_only: bool = False
    separator: str = "\n"

    def join(self, texts: Sequence[str]) -> str:
        """Returns the text of a conversation of at least one turn.

        >>> Turns(separator=" ").join(["Hi", "Ho"]), Turns(first_only=True).join(["Hi", "Ho"])
        ('Hi Ho', 'Hi')
        """
        return texts[0] if self.first_only else self.separator.join(texts)


ALL_TURNS = Turns()


def sample_text(record: Any, where: str, turns: Turns = ALL_TURNS) -> str:
    """Returns the text of one record.

    Args:
      record: a string, or an object with one of the fields named in ``FIELDS``.
      where: the record's file and line, for messages.
      turns: how a conversation becomes a text; other records are texts already.

    Returns:
      The text, which is not blank.

    Raises:
      UserError: no field is recognised, a turn is no text, or the sample's text is blank.

    >>> sample_text({"messages": [{"role": "user", "content": "Hi"}, {"content": "Ho"}]}, "")
    'Hi\\nHo'
    """
    text = record.get("text") if isinstance(record, dict) else record
    for field, key in _TURN_KEYS.items():
        if isinstance(record, dict) and field in record:
            texts = _turn_texts(record[field], field, key, where)
            text = turns.join(texts)
            if not text.strip() and any(map(str.strip, texts)):
                raise UserError(
                    f"{where}: the first turn is empty; remove the sample or use --config.data.turns=all."
                )
            break
    if not isinstance(text, str):
        what = f"fields {', '.join(map(str, record))}" if isinstance(record, dict) else type(record).__name__
        raise UserError(f"{where}: no usable field (found {what}); a sample needs {FIELDS}.")
    if not text.strip():
        raise UserError(f"{where}: the sample is empty; remove it.")
    # JSON can spell half of a surrogate pair, which is no Unicode text.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _turn_texts(conversation: Any, field: str, key: str, where: str) -> list[str]:
    """Returns the text of each turn, of which there is one or more."""
    if isinstance(conversation, list):
        contents = [turn.get(key) if isinstance(turn, dict) else None for turn in conversation]
        texts = [text for text in contents if isinstance(text, str)]
        if texts and len(texts) == len(contents):
            return texts
    raise UserError(f"{where}: {field} is not a list of turns with a text field {key!r}.")


# A record and its place, for messages.
_Record = tuple[Any, str]


def _text(path: Path) -> Iterator[_Record]:
    yield read_text(path, _NOT_UTF8), str(path)


def _lines(path: Path) -> Iterator[str]:
    """Yields the lines of a file, which is never in memory as a whole."""
    try:
        # Not splitlines(): form feeds are text, and JSON strings may hold U+2028 and its kin unescaped.
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                yield line.removesuffix("\n")
    except (UnicodeDecodeError, OSError):
        read_text(path, _NOT_UTF8)  # says what is wrong, and in which line
        raise


def _paragraphs(path: Path) -> Iterator[_Record]:
    """Yields the blocks of a file between blank lines."""
    block: list[str] = []
    for line in itertools.chain(_lines(path), [""]):
        if line.strip():
            block.append(line)
        elif block:
            yield "\n".join(block), str(path)
            block = []


def _parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        lines = error.msg == "Extra data" and path.suffix.lower() == ".json"
        remedy = (
            "if it holds a record a line, name it .jsonl" if lines else "the file may have been cut short"
        )
        raise UserError(
            f"{path}, line {first_line + error.lineno - 1}: not valid JSON ({error.msg}); {remedy}."
        ) from None
    except ValueError as error:  # numbers of thousands of digits
        raise UserError(f"{path}, line {first_line}: not readable JSON ({error}); shorten it.") from None
    except RecursionError:
        raise UserError(f"{path}, line {first_line}: JSON nested too deeply; flatten it.") from None


def _json(path: Path) -> Iterator[_Record]:
    records = _parse_json(read_text(path, _NOT_UTF8), path)
    for index, record in enumerate(records if isinstance(records, list) else [records], 1):
        yield record, f"{path}, record {index}"


def _jsonl(path: Path) -> Iterator[_Record]:
    for line_number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield _parse_json(line, path, line_number), f"{path}, line {line_number}"


def _parquet(path: Path) -> Iterator[_Record]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{path}: Parquet files need an extra: pip install 'cvfp-jax[hub]'.") from None
    try:
        with parquet.ParquetFile(path) as file:
            row = 0
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    row += 1
                    yield record, f"{path}, row {row}"
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); export it again.") from None


READERS: dict[str, Callable[[Path], Iterator[_Record]]] = {
    ".txt": _text,
    ".md": _text,
    ".json": _json,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _existing(place: str) -> Path:
    """Returns the path that a text names, which must be there."""
    try:
        path = Path(place).expanduser()
        there = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long; an unknown user's home
        raise UserError(f"corpus text:{place} cannot be used ({error}): give another path.") from None
    if not there:
        raise UserError(f"corpus text:{place} does not exist: give the path of a file or folder.")
    return path


def iterate_samples(place: str, turns: Turns = ALL_TURNS) -> Iterator[str]:
    """Yields the samples of a file or of all readable files of a folder, in the order of their names.

    In a folder a .txt or .md file is one sample; given alone it is a sample a paragraph.

    Args:
      place: path of a file or folder.
      turns: how a conversation becomes a text.

    Yields:
      One text a sample.

    Raises:
      UserError: the path, a file or a record cannot be used; the message names it.
    """
    path = _existing(place)
    kinds = " ".join(READERS)
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.suffix.lower() in READERS and file.is_file()]
        if not files:
            raise UserError(f"corpus text:{place} holds no file of a known kind: it needs {kinds}.")
        files.sort(key=lambda file: file.relative_to(path).as_posix())
    else:
        if path.suffix.lower() not in READERS:
            raise UserError(f"corpus text:{place} is not of a known kind: it must be one of {kinds}.")
        files = [path]
    for file in files:
        reader = READERS[file.suffix.lower()]
        if reader is _text and file == path:
            reader = _paragraphs
        is_empty = True
        for record, where in reader(file):
            is_empty = False
            yield sample_text(record, where, turns)
        if is_empty:
            needs = "text" if reader in (_text, _paragraphs) else f"samples with {FIELDS}"
            raise UserError(f"{file}: the file is empty; remove it or give it {needs}.")
