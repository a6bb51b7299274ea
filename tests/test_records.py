import errno
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvfp_jax import records
from cvfp_jax.errors import MachineError, UserError


def record(**changes):
    return {**dict.fromkeys(records.FIELDS, 1), "status": "ok", "config_name": "1L_8d_1tok", **changes}


def test_what_is_appended_is_read_back_in_order(tmp_path):
    path = tmp_path / "records.jsonl"
    assert records.read(path) == []
    written = [records.append(path, record(num_samples=n, val_loss=1 / 3)) for n in (50, 100)]
    assert records.read(path) == written
    assert written[0]["val_loss"] == 1 / 3
    assert [records.label(found) for found in written] == ["1, 50 samples", "1, 100 samples"]


def test_a_cells_key_does_not_depend_on_the_order_of_the_axes():
    keys = {records.cell_key(place) for place in ({"a": 1, "b": "x"}, {"b": "x", "a": 1}, {"a": 1, "b": "y"})}
    assert len(keys) == 2


def test_numbers_that_are_not_finite_become_null_with_a_reason(tmp_path):
    path = tmp_path / "records.jsonl"
    broken = record(val_loss=800.0, val_ppl=math.inf, train_ppl=math.nan)
    written = records.append(path, broken)
    (line,) = path.read_text().splitlines()
    assert "NaN" not in line
    assert "Infinity" not in line
    assert json.loads(line)["val_ppl"] is None
    assert written["val_loss"] == 800.0
    assert set(written["status"].removeprefix("ok; not finite: ").split(", ")) == {"val_ppl", "train_ppl"}
    assert broken["status"] == "ok", "the caller's record is left as it is"


def test_a_record_without_a_field_is_a_bug(tmp_path):
    incomplete = record()
    del incomplete["seed"]
    with pytest.raises(KeyError, match="seed"):
        records.append(tmp_path / "records.jsonl", incomplete)
    assert not (tmp_path / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"experiment": "cont', "line 2: not valid JSON .*delete the line"),
        ("[1]", "line 2: not a record of this version"),
        ('{"seed": 1}', r"line 2: not a record of this version \(no experiment, preset, cell\)"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ("\udcff", "line 2: not valid JSON"),
    ],
)
def test_lines_that_are_no_records_are_named(tmp_path, line, part):
    path = tmp_path / "records.jsonl"
    records.append(path, record())
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line)
    with pytest.raises(UserError, match=part) as caught:
        records.read(path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_told_in_one_line(tmp_path):
    path = tmp_path / "records.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(MachineError, match=r"records\.jsonl: No space left on device; .*are kept") as caught:
        records.append(path, record())
    assert caught.value.exit_code == 1


def test_a_line_of_which_only_a_part_can_be_written_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    first = records.append(path, record(num_samples=50))
    with monkeypatch.context() as patch:

        def fails(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(records.os, "fsync", fails)
        with pytest.raises(MachineError, match="No space left"):
            records.append(path, record(num_samples=100))
    assert records.read(path) == [first]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40))
def test_whatever_follows_records_loses_none(tmp_path, tail):
    path = tmp_path / "records.jsonl"
    path.unlink(missing_ok=True)
    written = [records.append(path, record(num_samples=n)) for n in (50, 100)]
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    records.repair(path)
    assert path.read_bytes().startswith(whole)
    try:
        assert records.read(path) == written
    except UserError as error:
        assert "records.jsonl, line 3" in str(error) or tail.count(b"\n")  # noqa: PT017


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_bytes_give_records_or_a_message(tmp_path, content):
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    try:
        assert records.read(path) == []
    except UserError as error:
        assert "records.jsonl, line" in str(error)  # noqa: PT017


@pytest.mark.parametrize(("loss", "ppl"), [(0.0, 1.0), (math.log(50257), 50257.0), (1e4, math.inf)])
def test_perplexity(loss, ppl):
    assert records.perplexity(loss) == pytest.approx(ppl)


def test_the_perplexity_of_nan_is_nan():
    assert math.isnan(records.perplexity(math.nan))


def test_an_unfinished_last_line_is_cut_off(tmp_path):
    path = tmp_path / "records.jsonl"
    assert not records.repair(path)
    first, second = (records.append(path, record(num_samples=n)) for n in (50, 100))
    whole = path.read_bytes()
    assert not records.repair(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    assert not records.repair(path), "only the line's end is missing"
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-5])
    assert records.repair(path)
    assert records.read(path) == [first]
    assert records.append(path, record(num_samples=100)) == second
    assert records.read(path) == [first, second]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 3000))
def test_wherever_a_writer_was_killed_the_lines_before_are_kept(tmp_path, cut):
    path = tmp_path / "records.jsonl"
    path.unlink(missing_ok=True)
    written = [records.append(path, record(num_samples=n)) for n in (50, 100, 200)]
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    records.repair(path)
    found = records.read(path)
    assert found == written[: len(found)]
    assert len(found) >= content.count(b"\n")
