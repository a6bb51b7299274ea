import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.rows import read_rows


def rows(tmp_path, name, content, strict=False):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(path, strict)


def message(tmp_path, name, content):
    with pytest.raises(UserError) as caught:
        rows(tmp_path, name, content, strict=True)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / name))
    assert "\n" not in text
    return text.removeprefix(str(tmp_path / name))


@pytest.mark.parametrize(
    "content",
    [
        "a,b c\n1,x y\n2,\n",
        "a;b c\n1;x y\n2;\n",
        "a\tb c\n1\tx y\n2\t\n",
        "\ufeffa,b c\r\n1,x y\r\n2,\r\n",
        "\n a , b c\n\n1, x y\n2,\n,\n",
        '"a", "b c"\n"1", "x y"\n"2", ""\n',
        "a,b c\r1,x y\r2,",
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t"])
def test_a_table_whatever_stands_between_its_cells(tmp_path, name, content):
    found = rows(tmp_path, name, content)
    assert found.columns == ("a", "b c")
    assert [row.values for row in found.rows] == [{"a": "1", "b c": "x y"}, {"a": "2", "b c": ""}]
    assert found.is_text


def test_quoted_cells_hold_delimiters_and_lines_and_count_as_the_lines_they_take(tmp_path):
    found = rows(tmp_path, "t.csv", 'a;"b, ""c"", d"\n"1\n;,";2\n3;4\n')
    assert found.columns == ("a", 'b, "c", d')
    assert [list(row.values.values()) for row in found.rows] == [["1\n;,", "2"], ["3", "4"]]
    assert [row.where.rpartition(", ")[2] for row in found.rows] == ["line 2", "line 4"]


def test_columns_without_a_name_are_no_mistake(tmp_path):
    found = rows(tmp_path, "t.csv", ",,a,\n0,1,2,\n")
    assert found.columns == ("", "", "a", "")
    assert found.rows[0].values["a"] == "2"


ONE, TWO = '{"a": 1, "b": "x"}', '{"a": 2.5,\r\n "c": null}'


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("t.json", f"[{ONE},\n{TWO}]", ["line 1 (entry 1)", "line 2 (entry 2)"]),
        ("t", f"\n[\n{ONE}\n,\n{TWO} ]\n", ["line 3 (entry 1)", "line 5 (entry 2)"]),
        ("t.json", f'{{"n":[1],"e":[],\n"rows":\n[{ONE},{TWO}]}}', ["line 3 (entry 1)", "line 3 (entry 2)"]),
        ("t.jsonl", f"\ufeff{ONE}\r\n\r\n{TWO}".replace(",\r\n", ","), ["line 1", "line 3"]),
        ("t.json", f"{ONE}\n{TWO}".replace(",\r\n", ","), ["line 1", "line 2"]),
        ("t", f"{ONE}\n{TWO}".replace(",\r\n", ","), ["line 1", "line 2"]),
    ],
)
def test_json_in_each_of_its_shapes(tmp_path, name, content, lines):
    found = rows(tmp_path, name, content)
    assert [row.values for row in found.rows] == [{"a": 1, "b": "x"}, {"a": 2.5, "c": None}]
    assert [row.where for row in found.rows] == [f"{tmp_path / name}, {line}" for line in lines]
    assert found.columns == ("a", "b", "c")
    assert not found.is_text


def test_whole_numbers_too_large_for_a_double_are_infinite(tmp_path):
    found = rows(tmp_path, "t.json", f'[{{"a": 1{"0" * 309}, "b": -1{"0" * 5000}, "c": {10**300}}}]')
    assert found.rows[0].values == {"a": float("inf"), "b": -float("inf"), "c": 10**300}


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("t.csv", "", " is empty"),
        ("t.json", " \n", " is empty"),
        ("t.csv", "a,b\n", " has no rows"),
        ("t.json", "[]", " has no rows"),
        ("t.json", '{"rows": [], "n": 3}', " has no rows"),
        ("t.csv", b"a,b\n1,\xff\n", ", line 2: not UTF-8 (byte 0xff)"),
        ("t.xlsx", b"PK\x03\x04\x80", " is no Excel file that can be read"),
        ("t.csv", "a,b\n1,2\n\n3\n", ", line 4: 1 cells, but the first line names 2 columns"),
        ("t.csv", "a,b\n1,000,2\n", ", line 2: 3 cells"),
        ("t.csv", "a,b,a\n1,2,3\n", ", line 1: 2 columns are named 'a'"),
        ("t.csv", 'a,b\n1,2\n"3,4\n', ", line 3: not valid CSV"),
        ("t.csv", 'a,b\n1,"2"x\n', ", line 2: not valid CSV"),
        ("t.csv", "a,b\n1," + "2" * 200_000, ", line 2: not valid CSV (field larger"),
        ("t.json", '[{"a": 1},\n{"a": }]', ", line 2: not valid JSON"),
        (
            "t.json",
            '[{"a": 1},\n{"a": 1, "a": 2}]',
            ", line 2 (entry 2): not valid JSON ('a' is",
        ),
        ("t.json", '[{"a": 1},\n3]', ", line 2 (entry 2): 3 is no object"),
        ("t.json", '{"a": 1}', " has another shape"),
        ("t.json", '{"a": [1, 2], "b": [3]}', ' has another shape ({"a": [1, 2]'),
        ("t.parquet", b"PAR1", " is no Parquet file that can be read"),
        ("t.csv.gz", b"\x1f\x8b\x08", " cannot be unpacked"),
        ("t.csv", b"\xff\xfea", ", line 1: not UTF-16"),
        ("t.json", '{"a": [{}], "b": [{}]}', " has another shape (lists 'a', 'b')"),
        ("t.json", '"a"', " has another shape"),
        ("t.json", "a,b\n1,2", ", line 1: not valid JSON"),
        ("t.json", "[" * 100_000 + "]" * 100_000, ": nested too deep"),
        ("t.jsonl", '{"a": 1}\n{"a": 1', ", line 2: not valid JSON"),
        ("t.jsonl", '{"a": 1}\n[{"a": 1}]', ', line 2: [{"a": 1}] is no object'),
        ("t.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", ", line 1: not valid JSON"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where(tmp_path, name, content, part):
    assert message(tmp_path, name, content).startswith(part)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none.csv: No such file"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_rows(tmp_path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), values, max_size=4), min_size=1, max_size=5), st.data())
def test_every_list_of_objects_comes_back(tmp_path_factory, listed, data):
    shape = data.draw(st.sampled_from(["list", "lines", "member"]))
    if shape == "lines":
        name, text = "t.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in listed)
    else:
        whole = listed if shape == "list" else {"n": 1, "rows": listed, "t": ["]", "}"]}
        name, text = "t.json", json.dumps(whole, indent=data.draw(st.sampled_from([None, 1])))
    found = rows(tmp_path_factory.getbasetemp(), name, text)
    # As texts, because NaN is not equal to itself.
    assert [json.dumps(row.values) for row in found.rows] == [json.dumps(row) for row in listed]


def rows_or_a_message(tmp_path_factory, name, content):
    message = ""
    try:
        assert rows(tmp_path_factory.getbasetemp(), name, content).rows
    except UserError as error:
        message = str(error)
    assert "\n" not in message


names = st.sampled_from(["t.csv", "t.json", "t.jsonl", "t"])


@given(names, st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes_are_rows_or_a_message(tmp_path_factory, name, content):
    rows_or_a_message(tmp_path_factory, name, content)


PIECES = [*'[]{}",;:1a \t\n\r\ufeff', '"a"', "NaN", "1e999", "null"]


@given(names, st.lists(st.sampled_from(PIECES), max_size=20))
def test_what_looks_like_a_file_is_rows_or_a_message(tmp_path_factory, name, pieces):
    rows_or_a_message(tmp_path_factory, name, "".join(pieces))
