import errno
import os

import pytest

from cvfp_jax.data.text.folders import find
from cvfp_jax.data.text.samples import SUFFIXES
from cvfp_jax.errors import UserError


def made(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def names(folder):
    return [file.relative_to(folder).as_posix() for file in find(folder, "text:x", SUFFIXES).files]


def test_what_is_left_out_is_said(tmp_path):
    made(
        tmp_path,
        "a.jsonl",
        "s/b.csv",
        "c.zip",
        "README.md",
        "dataset_info.json",
        ".hidden.jsonl",
        ".git/d.txt",
    )
    found = find(tmp_path, "text:x", SUFFIXES)
    assert [file.name for file in found.files] == ["a.jsonl", "b.csv"]
    assert found.notes == [
        "text:x: 2 files, left out c.zip: not a text format; README.md, dataset_info.json: about the data"
    ]


def test_a_folder_of_texts_keeps_its_readme(tmp_path):
    made(tmp_path, "README.md", "a.md")
    assert names(tmp_path) == ["README.md", "a.md"]


def test_a_linked_folder_is_read_once(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    made(inside, "a.txt", "z/b.txt")
    made(outside, "c.txt")
    (inside / "link").symlink_to(outside)
    (inside / "again").symlink_to(inside / "z")
    (inside / "round").symlink_to(inside)
    (inside / "d.txt").symlink_to(outside / "c.txt")
    assert names(inside) == ["a.txt", "d.txt", "link/c.txt", "z/b.txt"]


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    made(tmp_path, "a.txt", "s/b.txt")
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("/s"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"cannot read folder .*/s: Permission denied"):
        names(tmp_path)


def test_the_hubs_cache_is_read_by_its_current_revision(tmp_path):
    made(tmp_path, "blobs/123", "snapshots/old/data/a.jsonl", "snapshots/new/data/a.jsonl")
    (tmp_path / "snapshots/new/data/b.jsonl").symlink_to(tmp_path / "blobs/123")
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs/main").write_text("new")
    assert names(tmp_path) == ["snapshots/new/data/a.jsonl", "snapshots/new/data/b.jsonl"]
    (tmp_path / "refs/main").write_text("old")
    assert names(tmp_path) == ["snapshots/old/data/a.jsonl"]


@pytest.mark.parametrize(
    ("files", "kept_apart"),
    [
        (("train.jsonl", "valid.jsonl", "test.jsonl"), True),
        (("data/train-00000-of-2.parquet", "data/val-0.parquet"), True),
        (("train/a.txt", "test/a.txt"), True),
        (("training.md", "testimony.md", "value.md"), False),
        (("trains.md", "valley.md", "device.md"), False),
        (("train.jsonl",), False),
    ],
)
def test_parts_of_a_data_set_that_should_stay_apart(tmp_path, files, kept_apart):
    made(tmp_path, *files)
    notes = find(tmp_path, "text:x", SUFFIXES).notes
    assert any("--val_corpus=text:" in note for note in notes) == kept_apart
