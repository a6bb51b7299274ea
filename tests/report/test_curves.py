import numpy as np
import pytest

from cvfp_jax.errors import UserError
from cvfp_jax.report.curves import FILE_NAME, GROUPS, NAMES, Curves

WHOLE = {name for name in NAMES if name.endswith(("_block", "_iteration")) or name == "batch_epoch"}


def made(sizes=(7, 2, 3, 12), seed=0):
    """Curves of so many steps a group."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for size, names in zip(sizes, GROUPS.values(), strict=True):
        for name in names:
            is_whole = name in WHOLE
            arrays[name] = (
                np.arange(2, size + 2, dtype=np.int32) if is_whole else rng.random(size, np.float32)
            )
    return Curves(arrays)


def test_what_was_written_comes_back_and_is_written_as_the_same_bytes(tmp_path):
    curves, path = made(), tmp_path / "new" / FILE_NAME
    curves.save(path)
    loaded = Curves.load(str(path))
    assert list(loaded) == list(NAMES)
    for name, array in curves.items():
        assert (loaded[name].dtype, loaded[name].tobytes()) == (array.dtype, array.tobytes()), name
    loaded.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_numpy_reads_them_alone(tmp_path):
    curves = made()
    curves.save(tmp_path / FILE_NAME)
    with np.load(tmp_path / FILE_NAME, allow_pickle=False) as file:
        assert sorted(file) == sorted(NAMES)
        assert file["phase2_val_loss"].tolist() == curves["phase2_val_loss"].tolist()


def test_what_there_is_not_is_empty():
    curves = Curves({"phase2_val_loss": [5.0, 4.0]})
    assert {name: len(curves[name]) for name in curves if len(curves[name])} == {"phase2_val_loss": 2}
    assert (len(curves), "phase1_loss" in curves) == (len(NAMES), True)
    with pytest.raises(KeyError):
        curves["phase3_loss"]


def test_they_say_how_many_steps_there_are():
    facts = dict(made((7, 2, 3, 1200)).facts())
    assert [text.partition(":")[0] for text in facts.values()] == ["7", "2", "3", "1,200"]
    assert "phase1_converged_share" in facts["iterations"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "pickle"])
def test_a_damaged_file_is_refused_in_a_line(tmp_path, damage):
    path = tmp_path / FILE_NAME
    made((70, 2, 30, 120)).save(path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[300:310] = bytes(byte ^ 0xFF for byte in data[300:310])
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        np.savez(path, weights=np.zeros(3))
    else:
        arrays = {name: np.zeros(1) for name in NAMES}
        np.savez(path, **{**arrays, "phase1_loss": np.array([{}], dtype=object)})
    with pytest.raises(
        UserError, match=r"curves.npz cannot be read \(.*\): delete its cell's record"
    ) as error:
        Curves.load(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_cannot_be_written_is_said_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"curves.npz is not there: name the folder of a cell that has run\."):
        Curves.load(tmp_path / FILE_NAME)
    with pytest.raises(Exception, match=r"cannot write .*a.npz: Is a directory; make room for it\."):
        made().save(_folder(tmp_path / "a.npz"))


def _folder(path):
    path.mkdir()
    return path
