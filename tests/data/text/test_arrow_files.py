import datetime

import pytest

from cvfp_jax.data.text.reading import Reading, ReadingLog
from cvfp_jax.data.text.samples import iterate_samples
from cvfp_jax.errors import UserError

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

TEXTS = ["one", "two", "three"]
NOT_UTF8 = pa.array([b"fine", b"\xff\xfe", b"fine"]).view(pa.string())
FAR = pa.array([10**15] * 3, pa.timestamp("ms"))
COLUMNS = {
    "a date far away": FAR,
    "no UTF-8": NOT_UTF8,
    "a time zone of Mars": pa.array([0] * 3, pa.timestamp("ms", tz="Mars/Base")),
    "an image": pa.array([b"\0" * 100] * 3),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_other_columns_are_not_read(tmp_path, column):
    parquet.write_table(pa.table({"text": TEXTS, "other": COLUMNS[column]}), tmp_path / "a.parquet")
    assert list(iterate_samples(str(tmp_path / "a.parquet"))) == TEXTS


def test_times_of_turns_are_not_read_as_dates(tmp_path):
    kind = pa.list_(
        pa.struct({"content": pa.string(), "at": pa.timestamp("ms", tz="Mars/Base"), "on": pa.date32()})
    )
    turn = {"content": "Hi", "at": 10**15, "on": datetime.date(2020, 1, 1)}
    table = pa.table({"messages": pa.array([[turn], [turn, turn]], kind)})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert list(iterate_samples(str(tmp_path / "a.parquet"))) == ["Hi", "Hi\nHi"]


def test_a_value_that_is_no_text_is_named_by_its_row(tmp_path):
    parquet.write_table(pa.table({"text": NOT_UTF8}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 2: column text has a value that cannot be read"):
        list(iterate_samples(str(tmp_path)))
    log = ReadingLog()
    assert list(iterate_samples(str(tmp_path), Reading(skip_bad_rows=True), log)) == ["fine"] * 2
    assert log.skipped == {"a value that cannot be read": 1}


@pytest.mark.parametrize("column", COLUMNS)
def test_any_value_of_the_text_gives_a_line(tmp_path, column):
    parquet.write_table(pa.table({"text": COLUMNS[column]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row [12]: "):
        list(iterate_samples(str(tmp_path / "a.parquet")))


def test_columns_that_are_not_known(tmp_path):
    parquet.write_table(pa.table({"body": TEXTS, "id": [1, 2, 3]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no usable column \(found body, id\).*--text_field"):
        list(iterate_samples(str(tmp_path)))
    assert list(iterate_samples(str(tmp_path), Reading(text_field="body"))) == TEXTS


@pytest.mark.parametrize("writer", [pa.ipc.new_file, pa.ipc.new_stream])
def test_what_save_to_disk_leaves(tmp_path, writer):
    for number, text in enumerate(TEXTS):
        table = pa.table({"text": [text], "other": [10**15]})
        with writer(str(tmp_path / f"data-0000{number}-of-00003.arrow"), table.schema) as file:
            file.write_table(table)
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    assert list(iterate_samples(str(tmp_path))) == TEXTS
    (tmp_path / "torn.arrow").write_bytes((tmp_path / "data-00000-of-00003.arrow").read_bytes()[:200])
    with pytest.raises(UserError, match=r"torn\.arrow: not a readable Arrow file"):
        list(iterate_samples(str(tmp_path)))
