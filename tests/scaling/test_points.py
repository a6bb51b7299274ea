import csv
import gzip
import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.errors import UserError
from cvfp_jax.report import records
from cvfp_jax.scaling.choice import Choice, read_conditions, read_derived
from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.points import Group, read_points

HEADER = "tokens,ppl,config,seed"


def points(folder, name, content, *columns, **choice):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_points(path, *columns, **{"choice": Choice(**choice)} if choice else {})


def message(folder, name, content, *columns, **choice):
    with pytest.raises(UserError) as caught:
        points(folder, name, content, *columns, **choice or {"strict": True})
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
    strict = Choice(strict=True)
    path = written(tmp_path, [record(100), record(200, val_acc=None)])
    with pytest.raises(UserError, match=r"line 1, column val_acc: nothing is there"):
        read_points(path, y="val_acc", choice=strict)
    path = written(tmp_path, [record(100), record(100, "t")])
    with pytest.raises(UserError, match="line 2, column train_tokens: 100 and seed 0 is already in line 1"):
        read_points(path, group="experiment", choice=strict)


@pytest.mark.parametrize(
    ("content", "sizes", "measures"),
    [
        ("size,error\n100,25%\n200,21 %\n", (100, 200), (0.25, 0.21)),
        ('Size,Error\n"1,000,000",4.25\n"2,000,000",3.91\n'.lower(), (1e6, 2e6), (4.25, 3.91)),
        ('size,error\n"1,000",4.25\n"2,000",3.91\n', (1e3, 2e3), (4.25, 3.91)),
        ("\ufeffsize;error\n1000000;4,25\n2000000;3,91\n", (1e6, 2e6), (4.25, 3.91)),
        ("size;error\n1.000.000;4,250\n2.000.000;3,91\n", (1e6, 2e6), (4.25, 3.91)),
        ("size;error\n1.500;4,25\n2.500;3,91\n", (1500, 2500), (4.25, 3.91)),
        ("size\terror\n1.500\t4.25\n2.500\t3.91\n", (1.5, 2.5), (4.25, 3.91)),
        ("size;error\n1.000,5;4,25\n2.000;3,91\n", (1000.5, 2000), (4.25, 3.91)),
        ("size;error\n1,234;4,321\n2,345;3,210\n", (1.234, 2.345), (4.321, 3.21)),
        ("size,error\n70M,4\n1.4B,3\n", (7e7, 1.4e9), (4, 3)),
        ("size,error\n1 000,4\n2'000,3\n", (1000, 2000), (4, 3)),
        ("# run: it's \"open\n#\nsize,error\n100,4\n200,3.5\n", (100, 200), (4, 3.5)),
        ("# size,error\n100,4\n200,3.5\n", (100, 200), (4, 3.5)),
        ("size  error\n100   4\n200   3.5\n", (100, 200), (4, 3.5)),
        ("size|error\n100|4\n200|3.5\n", (100, 200), (4, 3.5)),
        ("size,error,size\n100,4,7\n200,3.5,8\n", (100, 200), (4, 3.5)),
        ("size,error\n100,4\n200,3.5,,\n", (100, 200), (4, 3.5)),
        ("note,size,error\na,100,4\nb,200,3.5\n".encode("utf-16"), (100, 200), (4, 3.5)),
        (gzip.compress(b"size,error\n100,4\n200,3.5\n", mtime=0), (100, 200), (4, 3.5)),
        ('{"size": [100, 200], "error": [4, 3.5]}', (100, 200), (4, 3.5)),
        ('{"size": {"0": 100, "1": 200}, "error": {"0": 4, "1": 3.5}}', (100, 200), (4, 3.5)),
        ('{"columns": ["size", "error"], "data": [[100, 4], [200, "3.5"]]}', (100, 200), (4, 3.5)),
        ('[["size", "error"], [100, 4], [200, 3.5]]', (100, 200), (4, 3.5)),
    ],
)
def test_numbers_and_tables_are_read_as_people_write_them(tmp_path, content, sizes, measures):
    found = points(tmp_path, "points", content, "size", "error")
    assert found.groups == (Group("all", sizes, measures),)
    assert found.left_out == ()


def test_names_within_objects_have_dots(tmp_path):
    rows = [{"flops": x, "val": {"bpc": y}, "arch": {"name": "mlp"}} for x, y in ((1e12, 3.8), (2e12, 3.5))]
    content = "\n".join(map(json.dumps, rows))
    found = points(tmp_path, "p.jsonl", content, "flops", "val.bpc", "arch.name")
    assert found.groups == (Group("mlp", (1e12, 2e12), (3.8, 3.5)),)
    text = message(tmp_path, "p.jsonl", content, "flops", "val")
    assert "the columns are flops, val.bpc, arch.name" in text


def test_what_is_left_out_is_counted_with_its_first_line(tmp_path):
    content = (
        "x,y,g\n1,5,a\n2,nan,a\n3,,a\n4,,a\n5,ten,a\n6,-1,a\n7,inf,a\nx,y,g\n8,1,a\n9,1,\n1,2,b\n8,8,8,8\n"
    )
    found = points(tmp_path, "p.csv", content, "x", "y", "g")
    assert found.groups == (Group("a", (1, 8), (5, 1)),)
    assert found.left_out[:-1] == (
        "1 row: the header again (line 9)",
        "1 row: more cells than columns (line 13)",
        "1 row: y not a number (NaN) (line 3)",
        "2 rows: y empty (line 4 first)",
        "1 row: y text, such as 'ten' (line 6)",
        "1 row: y not above zero (line 7)",
        "1 row: y infinite or too large (line 8)",
        "1 row: g without a name (line 11)",
    )
    assert found.left_out[-1].endswith(
        "line 12, column x: the only size of group b, and a law needs two or more"
    )


def test_a_size_measured_twice_is_replicates_with_a_note(tmp_path):
    content = "x,y\n24,340\n235,520\n235,550\n"
    found = points(tmp_path, "p.csv", content, "x", "y")
    assert found.groups == (Group("all", (24, 235, 235), (340, 520, 550)),)
    assert found.notes == ("1 row of a size that has been there (line 4) taken as replicates",)
    seeded = points(tmp_path, "p.csv", "x,y,Seed\n24,1,0\n24,2,1\n25,3,0\n", "x", "y")
    assert (seeded.groups[0].x, seeded.notes) == ((24, 24, 25), ())
    assert "already in line 3" in message(tmp_path, "p.csv", content, "x", "y")


def test_rows_are_chosen_by_conditions_and_ends(tmp_path):
    content = (
        "arch,params,tokens,loss\nllama,1e8,1,9\nllama,2e8,1,8\nllama,2e8,2,7\nmlp,3e8,3,6\nllama,3e8,4,5\n"
    )
    columns = "tokens", "loss"
    chosen = {"where": read_conditions("arch=llama,params>1e8")}
    found = points(tmp_path, "p.csv", content, *columns, **chosen)
    assert found.groups == (Group("all", (1, 2, 4), (8, 7, 5)),)
    assert found.left_out == ("2 rows: not where arch=llama,params>1e8 (line 2 first)",)
    found = points(tmp_path, "p.csv", content, *columns, min_x=2.0, max_x=3.0)
    assert found.groups == (Group("all", (2, 3), (7, 6)),)
    found = points(tmp_path, "p.csv", content, *columns, best=True)
    assert found.groups == (Group("all", (1, 2, 3, 4), (8, 7, 6, 5)),)
    assert found.notes == ("the least measure of each size, 4 of 5 rows",)
    found = points(tmp_path, "p.csv", content, *columns, "arch,params")
    assert [group.name for group in found.groups] == ["llama, 2e8"]
    assert len(found.left_out) == 3
    found = points(tmp_path, "p.csv", content, *columns, holdout=read_conditions("tokens=4"))
    assert found.groups == (Group("all", (1, 1, 2, 3), (8, 9, 7, 6), tests=((4, 5),)),)
    assert "no column 'arc'" in message(tmp_path, "p.csv", content, *columns, where=read_conditions("arc=1"))


def test_several_variables_errors_and_columns_made_of_others(tmp_path):
    content = "Model Size,a/b,loss,dy\n2,36,5,.1\n4,24,3,.2\n4,x,3,.2\n"
    choice = {"derive": read_derived("D=a/b/6/Model Size"), "sigma": "dy"}
    found = points(tmp_path, "p.csv", content, "Model Size,D", "loss", **choice)
    assert found.groups == (Group("all", (2, 4), (5, 3), ((3, 1),), (0.1, 0.2)),)
    assert found.variables == ("Model Size", "D")
    assert found.left_out == ("1 row: D (a/b text) (line 4)",)
    with pytest.raises(UserError, match="'loss x' is neither a column nor a number"):
        points(tmp_path, "p.csv", content, "D", "loss", derive=read_derived("D=loss x*2"))


@pytest.mark.parametrize("reader", [read_conditions, read_derived])
def test_a_choice_that_cannot_be_read_is_a_message(reader):
    with pytest.raises(UserError, match="'tokens'"):
        reader("tokens")


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


TABLE_PIECES = [*",;\t|\n#. %kMB-", "x", "y", "1", "2", "30", "4.5", "1,000", "6,5", "nan", "e3", '"',
                "{", "}", "[", "]", ":",
                '"x"', '"y"', "1:"]  # fmt: skip
ENDINGS = ["p.csv", "p.json", "p.jsonl", "p.parquet", "p.xlsx", "p.csv.gz", "p.tsv", "p"]


@settings(deadline=None)
@given(
    st.sampled_from(ENDINGS),
    st.lists(st.sampled_from(TABLE_PIECES), max_size=30).map("".join),
    st.sampled_from(["", "x,y\n1,5\n2,4\n", '[{"x": 1, "y": 3},']),
    st.sampled_from(["utf-8", "utf-16", "gzip"]),
    st.booleans(),
)
def test_every_file_ends_in_a_fit_or_one_line(tmp_path_factory, name, text, start, encoding, strict):
    content = (start + text).encode("utf-16" if encoding == "utf-16" else "utf-8")
    content = gzip.compress(content, mtime=0) if encoding == "gzip" else content
    said = ""
    try:
        found = points(tmp_path_factory.getbasetemp(), name, content, "x", "y", strict=strict)
        for group in found.groups:
            said += fit_law("power", group.x, group.y).status
    except UserError as error:
        said = str(error)
    assert said
    assert "\n" not in said
