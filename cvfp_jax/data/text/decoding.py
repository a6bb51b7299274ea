"""Bytes of a file to text: compression, encodings, and what is no text at all."""

import codecs
import contextlib
import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from cvfp_jax.errors import UserError

COMPRESSED = (".gz", ".zst")
_HEAD = 4096
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What a file begins with, and what its name should say.
_OTHER_KINDS = {
    b"\x1f\x8b": "is compressed by gzip: add .gz to its name",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: add .zst to its name",
    b"PAR1\x15": "is a Parquet file: name it .parquet",
    b"PK\x03\x04": "is a zip archive: unpack it",
    b"%PDF-": "is a PDF: extract its text",
}
_SHARE_OF_NULS = 0.2  # of either parity, above which bytes are UTF-16


def suffix_of(path: Path) -> str:
    """Returns the suffix that says what a file holds, in lower case, without that of its compression.

    >>> suffix_of(Path("a/b.JSONL.gz")), suffix_of(Path("b.gz"))
    ('.jsonl', '')
    """
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    return path.suffix.lower()


def check_regular(path: Path) -> None:
    """Refuses what reading would wait for, or what stands for a file that is elsewhere.

    Raises:
      UserError: the path is a pipe, a socket or a device, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is not a regular file: copy what it yields into a file, and give that.")


def check_pointer(path: Path, head: bytes) -> None:
    """Refuses a file of Git LFS that was never fetched.

    Raises:
      UserError: the file is a pointer.
    """
    if head.startswith(_LFS_POINTER):
        raise UserError(f"{path} is a Git LFS pointer and not the file itself: fetch it with 'git lfs pull'.")


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, unpacked if its name ends in .gz or .zst; its faults are a line each.

    Raises:
      UserError: the file cannot be read or unpacked, or is a Git LFS pointer.
    """
    check_regular(path)
    packing = path.suffix.lower()
    try:
        with path.open("rb") as raw:
            check_pointer(path, raw.read(len(_LFS_POINTER)))
            raw.seek(0)
            if packing == ".gz":
                with gzip.open(raw) as unpacked:
                    yield cast(IO[bytes], unpacked)
            elif packing == ".zst":
                with _zstd(path, raw) as unpacked_zstd:
                    yield unpacked_zstd
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} cannot be unpacked ({error}); copy it again.") from None
    except OSError as error:
        if error.strerror is None:
            raise UserError(f"{path} cannot be unpacked ({error}); copy it again.") from None
        raise _unreadable(path, error) from None


def _zstd(path: Path, raw: IO[bytes]) -> IO[bytes]:
    """Unpacks by Arrow, which Parquet files need anyway."""
    try:
        import pyarrow
    except ImportError:
        raise UserError(
            f"{path}: .zst files need an extra, pip install 'cvfp-jax[hub]', or unpack it with 'unzstd'."
        ) from None
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd")
    return cast(IO[bytes], io.BufferedReader(stream))


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror}; check the path and its permissions.")


def _encoding(path: Path, head: bytes) -> str:
    """Returns the encoding that a file's first bytes tell, or says what they are instead."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    for mark, what in _OTHER_KINDS.items():
        if head.startswith(mark):
            raise UserError(f"{path} {what}.")
    for first, name in ((0, "UTF-16BE"), (1, "UTF-16LE")):
        half = head[first::2]
        if half and half.count(0) > max(1, _SHARE_OF_NULS * len(half)) and not head[1 - first :: 2].count(0):
            raise UserError(
                f"{path} looks like UTF-16 without its byte order mark (letters with NULs between):"
                f" convert it with 'iconv -f {name} -t UTF-8'."
            )
    return "utf-8-sig"


def _head(file: IO[bytes]) -> bytes:
    """Returns the first bytes of a file without moving in it."""
    if isinstance(file, io.BufferedReader):
        return file.peek(_HEAD)[:_HEAD]
    head = file.read(_HEAD)
    file.seek(0)
    return head


@contextlib.contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """Opens a file of text in UTF-8, or in what its byte order mark says.

    Args:
      path: the file, packed or not.
      newline: as of ``open``: by default all kinds of line ends are newlines.

    Raises:
      UserError: the file is no text, or the line is named in which it is not.
    """
    encoding = "utf-8-sig"
    try:
        with open_bytes(path) as file:
            encoding = _encoding(path, _head(file))
            yield io.TextIOWrapper(cast(io.BufferedReader, file), encoding, newline=newline)
    except UnicodeError as error:
        if encoding != "utf-8-sig":
            raise UserError(
                f"{path}: not {encoding.upper()}, which its first bytes announce ({error}); "
                "export it again as UTF-8."
            ) from None
        raise _not_utf8(path) from None


def _not_utf8(path: Path) -> UserError:
    """Says in which line a file is not UTF-8, and what it may be instead."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                found = line[error.start]
                # Letters of Western Europe are the same in both; Windows has signs where ISO has none.
                name = "WINDOWS-1252" if any(0x80 <= byte < 0xA0 for byte in line) else "ISO-8859-1"
                return UserError(
                    f"{path}, line {number}: not UTF-8 (byte 0x{found:02x}); if it is Western European text,"
                    f" convert it with 'iconv -f {name} -t UTF-8'."
                )
    return UserError(f"{path}: the file has changed while it was read: start again.")


def lines(path: Path) -> Iterator[str]:
    """Yields the lines of a file, which is never in memory as a whole."""
    with open_text(path) as file:
        # Not splitlines(): form feeds are text, and JSON strings may hold U+2028 and its kin unescaped.
        for line in file:
            yield line.removesuffix("\n")


def whole(path: Path) -> str:
    """Returns the text of a file."""
    with open_text(path) as file:
        return file.read()
