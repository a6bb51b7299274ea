"""Which files of a folder are a corpus, and what is left out of it."""

import dataclasses
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from cvfp_jax.data.text.decoding import suffix_of
from cvfp_jax.errors import UserError

TEXTS = (".txt", ".md")
# What stands beside data and is about it; and what libraries keep beside their files.
_ABOUT = re.compile(r"(readme|licen[cs]e|notice|copying|citation|changelog)(\.[\w-]+)*", re.IGNORECASE)
_STATE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLITS = {
    "training": re.compile(r"train(ing)?(?![a-z])", re.IGNORECASE),
    "validation": re.compile(r"(val(id(ation)?)?|dev)(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"test(ing)?(?![a-z])", re.IGNORECASE),
}
_MOST_NAMED = 4


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of a folder in the order of their names, and what a user should know of the others."""

    files: list[Path]
    notes: list[str]


def find(folder: Path, place: str, suffixes: Collection[str]) -> Found:
    """Returns the files of a folder and of its sub-folders that hold samples.

    Names that begin with a dot are passed over. A linked sub-folder is read once. In the hub's cache it is
    the current revision that counts.

    Args:
      folder: where they are.
      place: how the user calls it, for messages.
      suffixes: those of files that can be read.

    Raises:
      UserError: there is none, or a sub-folder cannot be listed.
    """
    folder = _revision(folder)
    every = sorted(_walk(folder), key=lambda file: file.relative_to(folder).as_posix())
    known = [file for file in every if suffix_of(file) in suffixes]
    left_out = {file: "not a text format" for file in every if suffix_of(file) not in suffixes}
    records = [file for file in known if suffix_of(file) not in TEXTS and file.name not in _STATE]
    if records:
        for file in known:
            if file.name in _STATE or (suffix_of(file) in TEXTS and _ABOUT.fullmatch(file.name)):
                left_out[file] = "about the data"
    files = [file for file in known if file not in left_out]
    if not files:
        raise UserError(f"corpus {place} holds no file of a known kind: it needs {' '.join(suffixes)}.")
    notes = []
    if left_out:
        notes.append(f"{place}: {_count(len(files))}, left out {_listed(left_out, folder)}")
    hint = _split_hint(files, folder)
    return Found(files, [*notes, *([hint] if hint else [])])


def _count(number: int) -> str:
    return f"{number:,} file{'s' if number != 1 else ''}"


def _listed(left_out: dict[Path, str], folder: Path) -> str:
    """Names what is left out, by why."""
    parts = []
    for reason in dict.fromkeys(left_out.values()):
        names = [file.relative_to(folder).as_posix() for file in left_out if left_out[file] == reason]
        more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
        parts.append(f"{', '.join(names[:_MOST_NAMED])}{more}: {reason}")
    return "; ".join(parts)


def _split_hint(files: list[Path], folder: Path) -> str | None:
    """What to do where a folder holds the parts of a data set that should stay apart."""
    found = {
        split: file
        for split, pattern in _SPLITS.items()
        for file in reversed(files)
        if pattern.match(file.name) or (file.parent != folder and pattern.match(file.parent.name))
    }
    if len(found) < 2 or "training" not in found:
        return None
    other = found.get("validation") or found["test"]
    return (
        f"{folder} holds {' and '.join(found)} files, which are read one after the other: to keep them apart"
        f" give --corpus=text:{found['training']} --val_corpus=text:{other}"
    )


def _revision(folder: Path) -> Path:
    """Returns the current revision of a data set in the hub's cache, or the folder itself."""
    snapshots = folder / "snapshots"
    if not ((folder / "blobs").is_dir() and snapshots.is_dir()):
        return folder
    reference = folder / "refs" / "main"
    if reference.is_file():
        current = snapshots / reference.read_text(encoding="utf-8", errors="replace").strip()
        if current.is_dir():
            return current
    revisions = sorted(snapshots.iterdir(), key=lambda revision: revision.stat().st_mtime)
    return revisions[-1] if revisions else folder


def _walk(folder: Path) -> Iterator[Path]:
    """Yields all files below a folder; what links lead to comes once, and after what is there itself."""
    seen: set[tuple[int, int]] = set()
    links: list[Path] = []
    waiting = [folder]
    while waiting or links:
        current = waiting.pop(0) if waiting else links.pop(0)
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"cannot read folder {current}: {error.strerror}; change its permissions, or move it away."
            ) from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            if entry.is_dir():
                (links if entry.is_symlink() else waiting).append(path)
            else:
                yield path
