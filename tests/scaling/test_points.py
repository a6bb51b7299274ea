import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.errors import UserError
from cvfp_jax.report import records
from cvfp_jax.scaling.points import Group, read_points

HEADER = "tokens,ppl,config,seed"


def points(folder, name, content, *columns):
    path = folder / name
    path.write_bytes(content.encode())
    return read_points(path, *columns)


def message(folder, name, content, *columns):
    with pytest.raises(UserError) as caught:
        points(folder, name, content, *columns)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_points_are_grouped_and_sorted_by_size(tmp_path):
    content = "ppl,config,tokens\n90,b,2e6\n100,a,1000000\n80,a,.5e+7\n95,b, 1e6\n"
    found = points(tmp_path, "p.csv", content, "tokens", "ppl", "config")
    assert found.groups == (Group("b", (1e6, 2e6), (95.0, 90.0)), Group("a", (1e6, 5e6), (100.0, 80.0)))
    assert (found.x, found.y, found.group, found.left_out) == ("tokens", "ppl", "config", ())


def test_without_a_column_of_groups_all_rows_are_one(tmp_path):
    found = points(tmp_path, "p.csv", "tokens,ppl\n2,1\n1,3\n", "tokens", "ppl")
    assert found.groups == (Group("all", (1.0, 2.0), (3.0, 1.0)),)


def test_groups_may_be_named_by_numbers(tmp_path):
    rows = [{"x": x, "y": 1.5, "dim": dim} for dim in (256, 0.5, True) for x in (1, 2)]
    found = points(tmp_path, "p.json", json.dumps(rows), "x", "y", "dim")
    assert [group.name for group in found.groups] == ["256", "0.5", "true"]


def test_names_of_groups_are_printable(tmp_path):
    rows = [{"x": x, "y": 1, "g": "a\n\x1b[31m\ud800"} for x in (1, 2)]
    (group,) = points(tmp_path, "p.json", json.dumps(rows), "x", "y", "g").groups
    assert group.name == r"a\n\x1b[31m\ud800"


def test_seeds_make_replicates(tmp_path):
    content = f"{HEADER}\n1,5,a,1\n1,4,a,0\n2,3,a,0\n1,9,b,0\n2,8,b,\n"
    found = points(tmp_path, "p.csv", content, "tokens", "ppl", "config")
    assert found.groups == (Group("a", (1, 1, 2), (4, 5, 3)), Group("b", (1, 2), (9, 8)))


@pytest.mark.parametrize(
    ("rows", "place", "parts"),
    [
        ("1,2,a,\n3,,a,", "line 3, column ppl", ["nothing is there"]),
        ('1,2,a,\n"1,000",2,a,', "line 3, column tokens", ["'1,000' is text; write 1000,"]),
        ("1,2,a,\n1 000 000,2,a,", "line 3, column tokens", ["write 1000000,"]),
        ("1,2,a,\n1.000.000,2,a,", "line 3, column tokens", ["write 1000000,"]),
        ("1,2,a,\n1_000,2,a,", "line 3, column tokens", ["write 1000,"]),
        ('1,2,a,\n3,"2,5",a,', "line 3, column ppl", ["'2,5' is text; write 2.5, with a decimal point"]),
        ("1,2,a,\n3,ten,a,", "line 3, column ppl", ["'ten' is text", "250 or 1e6"]),
        ("1,2,a,\n3,12%,a,", "line 3, column ppl", ["'12%' is text"]),
        ("1,2,a,\n3,٣,a,", "line 3, column ppl", ["'٣' is text"]),
        ("1,2,a,\n3,0x10,a,", "line 3, column ppl", ["'0x10' is text"]),
        ("1,2,a,\n3,nan,a,", "line 3, column ppl", ["'nan' is not finite"]),
        ("1,2,a,\n3,-Infinity,a,", "line 3, column ppl", ["'-Infinity' is not finite"]),
        ("1,2,a,\n3,1e999,a,", "line 3, column ppl", ["'1e999' is not finite or too large"]),
        ("1,2,a,\n0,2,a,", "line 3, column tokens", ["'0' is not above zero"]),
        ("1,2,a,\n3,-2,a,", "line 3, column ppl", ["'-2' is not above zero"]),
        ("1,2,a,\n3,2,,", "line 3, column config", ["nothing is no name"]),
        ("1,2,a,\n3,2,a,\n1,3,a,", "line 4, column tokens", ["1 is already in line 2, in group a", "seed"]),
        ("1,2,a,7\n3,2,a,7\n1.0,3,a,7", "line 4, column tokens", ["1 and seed 7 is already in line 2"]),
        ("1,2,a,\n3,2,a,\n3,2,b,", "line 4, column tokens", ["the only size of group b"]),
        ("1,2,a,1\n1,2,a,2", "line 2, column tokens", ["the only size of group a"]),
        ("1,2,a,", "line 2, column tokens", ["the only size of group a"]),
    ],
)
def test_a_bad_cell_is_one_line_with_file_line_and_column(tmp_path, rows, place, parts):
    text = message(tmp_path, "p.csv", f"{HEADER}\n{rows}\n", "tokens", "ppl", "config")
    assert text.startswith(f"{tmp_path / 'p.csv'}, {place}: ")
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("true", "true is no number"),
        ("null", "nothing is there"),
        ("[1]", "[1] is no number"),
        ('{"a": 1}', '{"a": 1} is no number'),
        ('"5"', "'5' is text; write 5, without quotes"),
        ('"1,000"', "write 1000,"),
        ("NaN", "NaN is not finite"),
        ("1" + "0" * 400, "Infinity is not finite or too large"),
        ("-3", "-3 is not above zero"),
        ("0.0", "0.0 is not above zero"),
    ],
)
def test_a_bad_value_of_json(tmp_path, value, part):
    text = message(tmp_path, "p.jsonl", f'{{"x": 1, "y": 2}}\n{{"x": 2, "y": {value}}}', "x", "y")
    assert text.startswith(f"{tmp_path / 'p.jsonl'}, line 2, column y: ")
    assert part in text


def test_a_value_may_be_missing_from_an_object(tmp_path):
    text = message(tmp_path, "p.json", '[{"x": 1, "y": 2},\n{"x": 2}]', "x", "y")
    assert "p.json, line 2 (entry 2), column y: nothing is there" in text
    text = message(tmp_path, "p.json", '[{"x": 1, "y": 2, "g": [1]},\n{"x": 2}]', "x", "y", "g")
    assert "p.json, line 1 (entry 1), column g: [1] is no name" in text


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ((), "no --x and --y: name one of the columns of"),
        (("tokens",), "no --y: name one of the columns of"),
        (("tokens", "loss"), "no column 'loss': the columns are tokens, ppl, config, seed."),
        (("", "ppl"), "no column '': the columns are tokens"),
        (("tokens", "ppl", "series"), "no column 'series'"),
        (("tokens", "tokens"), "x=tokens, y=tokens and group=None are not three columns"),
        (("tokens", "ppl", "ppl"), "are not three columns"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, part):
    assert part in message(tmp_path, "p.csv", f"{HEADER}\n1,2,a,0\n2,2,a,0\n", *columns)


def record(tokens, series="s", seed=0, **changes):
    fields = {**dict.fromkeys(records.FIELDS), "experiment": "context_dim", "preset": "quick", "status": "ok"}
    fields |= {"cell": {"seed": seed}, "series": series, "seed": seed, "train_tokens": tokens}
    return {**fields, "val_ppl": 1e6 / tokens, **changes}


def written(folder, found):
    path = folder / records.FILE_NAME
    path.unlink(missing_ok=True)
    for each in found:
        records.append(path, each)
    return path


def test_records_need_no_columns_and_leave_out_what_failed(tmp_path):
    path = written(
        tmp_path,
        [
            record(100),
            record(200),
            record(100, seed=1),
            record(300, status="failed: phase 1 broke down", val_ppl=None),
            record(400, val_ppl=math.inf),
            record(100, "t"),
        ],
    )
    found = read_points(path)
    assert found.groups == (Group("s", (100, 100, 200), (1e4, 1e4, 5e3)),)
    assert (found.x, found.y, found.group) == ("train_tokens", "val_ppl", "series")
    assert [line.removeprefix(f"{path}, ") for line in found.left_out] == [
        "line 4: s, failed: phase 1 broke down",
        "line 5: s, ok; not finite: val_ppl",
        "line 6, column train_tokens: the only size of group t, and a law needs two or more",
    ]


def test_records_with_columns_named(tmp_path):
    path = written(tmp_path, [record(size, num_samples=size // 10, val_acc=0.5) for size in (100, 200)])
    found = read_points(path, "num_samples", "val_acc", "preset")
    assert found.groups == (Group("quick", (10, 20), (0.5, 0.5)),)


def test_records_that_give_no_law(tmp_path):
    path = written(tmp_path, [record(100), record(200, status="failed: x")])
    with pytest.raises(UserError, match=r"no group of two sizes or more: .*line 2: s, failed: x; .*line 1"):
        read_points(path)
    path = written(tmp_path, [record(100), record(200, val_acc=None)])
    with pytest.raises(UserError, match=r"line 1, column val_acc: nothing is there"):
        read_points(path, y="val_acc")
    path = written(tmp_path, [record(100), record(100, "t")])
    with pytest.raises(UserError, match="line 2, column train_tokens: 100 and seed 0 is already in line 1"):
        read_points(path, group="experiment")


positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=4)
tables = st.dictionaries(
    words, st.dictionaries(positive, positive, min_size=2, max_size=4), min_size=1, max_size=3
)


def as_table(rows, delimiter):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["size", "measure", "name"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@given(tables, st.randoms(use_true_random=False))
def test_points_come_back_from_every_format(tmp_path_factory, groups, random):
    rows = [
        {"size": x, "measure": y, "name": name} for name, group in groups.items() for x, y in group.items()
    ]
    random.shuffle(rows)
    formats = {
        "comma.csv": as_table(rows, ","),
        "semicolon.csv": as_table(rows, ";"),
        "p.tsv": as_table(rows, "\t"),
        "bare": as_table(rows, ","),
        "list.json": json.dumps(rows),
        "object.json": json.dumps({"date": "today", "results": rows}, indent=1),
        "lines.jsonl": "\n".join(json.dumps(row) for row in rows),
    }
    for name, content in formats.items():
        found = points(tmp_path_factory.getbasetemp(), name, content, "size", "measure", "name")
        assert {group.name: dict(zip(group.x, group.y, strict=True)) for group in found.groups} == groups
        assert all(list(group.x) == sorted(group.x) for group in found.groups)


values = (
    positive
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(["1,000", "nan", "1e999", "12", "ok", "failed", 10**400])
)
columns = st.sampled_from(
    ["x", "y", "g", "seed", "cell", "series", "status", "experiment", "preset", "train_tokens"]
)


@given(
    st.lists(st.dictionaries(columns, values), min_size=1, max_size=4),
    st.booleans(),
    st.lists(st.none() | columns, min_size=3, max_size=3),
)
def test_any_table_gives_groups_or_a_message(tmp_path_factory, rows, as_text, chosen):
    if as_text:
        names = sorted({name for row in rows for name in row})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(rows)
        name, content = "p.csv", text.getvalue()
    else:
        name, content = "p.jsonl", "\n".join(map(json.dumps, rows))
    line = ""
    try:
        found = points(tmp_path_factory.getbasetemp(), name, content, *chosen)
        for group in found.groups:
            assert len(set(group.x)) > 1
            assert all(math.isfinite(value) and value > 0 for value in group.x + group.y)
            assert group.name.isprintable()
    except UserError as error:
        line = str(error)
    assert "\n" not in line
