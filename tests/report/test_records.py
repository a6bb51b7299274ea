import errno
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvfp_jax.errors import MachineError, UserError
from cvfp_jax.report import records
from cvfp_jax.report.document import Figures, SweepReport, report_page
from cvfp_jax.report.page import markdown
from cvfp_jax.report.records import FIELDS, misfit
from cvfp_jax.report.webpage import render
from tests.report.made_records import record


def test_what_is_appended_is_read_back_in_order(tmp_path):
    path = tmp_path / "records.jsonl"
    assert records.read(path) == []
    written = [records.append(path, record(8, n, 1 / 3)) for n in (50, 100)]
    assert records.read(path) == written
    assert written[0]["val_loss"] == 1 / 3
    assert [records.label(found) for found in written] == [
        "1L_8d_1tok, 50 samples", "1L_8d_1tok, 100 samples",
    ]  # fmt: skip


def test_control_characters_of_somebodys_file_are_shown_escaped(tmp_path):
    path = tmp_path / "records.jsonl"
    records.append(path, record(8, series="\x1b]0;owned\x07x \x9b1m\té"))
    assert [found["series"] for found in records.read(path)] == ["\\x1b]0;owned\\x07x \\x9b1m\\té"]


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
        ('{"val_loss": NaN}', r"line 2: not valid JSON \(NaN is not finite\)"),
        ('{"val_loss": 1e999}', r"line 2: not valid JSON \(1e999 is not finite\)"),
        (
            json.dumps(record(val_loss="x")),
            "line 2: val_loss='x' is not a number or null; mend it, or delete",
        ),
        (json.dumps(record(seed=True)), "line 2: seed=True is not a whole number from 0 on; mend it"),
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


def test_an_unfinished_last_line_is_cut_off(tmp_path):
    path = tmp_path / "records.jsonl"
    assert not records.repair(path)
    first, second = (records.append(path, record(8, n)) for n in (50, 100))
    whole = path.read_bytes()
    assert not records.repair(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    assert not records.repair(path), "only the line's end is missing"
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-5])
    assert records.repair(path)
    assert records.read(path) == [first]
    assert records.append(path, record(8, 100)) == second
    assert records.read(path) == [first, second]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 3000))
def test_wherever_a_writer_was_killed_the_lines_before_are_kept(tmp_path, cut):
    path = tmp_path / "records.jsonl"
    path.unlink(missing_ok=True)
    written = [records.append(path, record(8, n)) for n in (50, 100, 200)]
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    records.repair(path)
    found = records.read(path)
    assert found == written[: len(found)]
    assert len(found) >= content.count(b"\n")


# Whatever JSON can hold.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(list(FIELDS)), VALUES, min_size=1, max_size=3))
def test_a_changed_record_is_refused_by_name_or_can_be_reported(tmp_path, changes):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(made) + "\n" for made in (record(8, 100), record() | changes)))
    try:
        found = records.read(path)
    except UserError as error:
        assert any(f"line 2: {name}=" in str(error) for name in changes)  # noqa: PT017
        return
    page = report_page(SweepReport("title", found), Figures({}))
    assert markdown(page)
    assert render(page, tmp_path)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_to_be_there_and_to_be_what_it_is(tmp_path, name):
    path = tmp_path / "records.jsonl"
    whole = record()
    path.write_text(json.dumps(whole))
    assert records.read(path) == [whole]
    missing = {field: value for field, value in whole.items() if field != name}
    path.write_text(json.dumps(missing))
    with pytest.raises(UserError, match=rf"line 1: not a record of this version \(no {name}\)"):
        records.read(path)
    for wrong in ([1.5], {"a": 1} if name != "cell" else []):
        path.write_text(json.dumps(whole | {name: wrong}))
        with pytest.raises(UserError, match=rf"line 1: {name}=.* is not "):
            records.read(path)


def test_a_record_fits():
    assert misfit(record()) is None
    assert misfit(record(more="fields", than=[], these=None)) is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("val_loss", "x", "a number or null"),
        ("val_loss", True, "a number or null"),
        ("val_loss", [6.0], "a number or null"),
        ("val_loss", math.inf, "a number or null"),
        ("val_loss", 10**400, "a number or null"),
        ("unigram_loss", None, "a number"),
        ("val_ppl", 0.0, "a number above 0 or null"),
        ("train_tokens", 0, "a whole number from 1 on"),
        ("train_tokens", 100.0, "a whole number from 1 on"),
        ("train_tokens", 2**63, "a whole number from 1 on"),
        ("seed", -1, "a whole number from 0 on"),
        ("seed", False, "a whole number from 0 on"),
        ("series", None, "a text"),
        ("is_identity", 0, "true or false or null"),
        ("cell", "x", "an object"),
        ("phase1_block_iterations", [1, None], "a list of whole numbers"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_allowed(field, value, words):
    said = misfit(record(**{field: value}))
    assert said.startswith(f"{field}={value!r}"[:40])
    assert said.endswith(f" is not {words}")


def test_a_long_value_is_cut_short():
    assert len(misfit(record(val_loss="x" * 1000))) < 100


@pytest.mark.parametrize(
    ("field", "value"),
    [("val_loss", 6), ("val_loss", None), ("is_identity", None), ("seed", 0), ("val_acc", 0.0)],
)
def test_what_records_hold_fits(field, value):
    assert misfit(record(**{field: value})) is None


def test_what_a_broken_cell_has_not_may_be_null():
    names = [name for name, kind in FIELDS.items() if kind.holds(None)]
    assert misfit(record(**dict.fromkeys(names))) is None
    for name in (
        "val_loss",
        "val_ppl",
        "train_loss",
        "val_acc",
        "rank_verdict",
        "is_identity",
        "residual_max",
    ):
        assert name in names


def test_records_of_earlier_versions_lack_what_came_later(tmp_path):
    path = tmp_path / "records.jsonl"
    written = records.append(path, record())
    earlier = {name: value for name, value in written.items() if name not in records._LATER}
    path.write_text(json.dumps(earlier) + "\n" + json.dumps(written) + "\n")
    old, new = records.read(path)
    assert old == earlier | dict.fromkeys(records._LATER)
    assert new == written
    path.write_text(json.dumps(written | {"kn3_ppl": "low"}) + "\n")
    with pytest.raises(UserError, match="kn3_ppl='low' is not a number above 0 or null"):
        records.read(path)
