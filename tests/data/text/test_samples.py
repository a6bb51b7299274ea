import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvfp_jax.data.text.reading import Reading
from cvfp_jax.data.text.samples import SUFFIXES, iterate_samples
from cvfp_jax.errors import UserError


def read(path, **turns):
    return list(iterate_samples(str(path), Reading(**turns)))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ULTRACHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
PLAIN = {"text": "Hi\nHo", "id": 7}


@pytest.mark.parametrize("record", [ULTRACHAT, SHAREGPT, PLAIN, "Hi\nHo"])
def test_every_shape_of_record_in_every_json_file(tmp_path, record):
    line = json.dumps(record)
    assert read(write(tmp_path / "a.jsonl", f"{line}\n\n{line}\n")) == ["Hi\nHo"] * 2
    assert read(write(tmp_path / "a.json", f"[{line},\n {line}]")) == ["Hi\nHo"] * 2
    assert read(write(tmp_path / "b.json", line)) == ["Hi\nHo"]


@pytest.mark.parametrize("record", [ULTRACHAT, SHAREGPT, PLAIN])
def test_every_shape_of_record_in_parquet(tmp_path, record):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([record] * 3), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["Hi\nHo"] * 3


def write_records(path, records):
    """Writes records as a file of any kind that holds them."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
        return path
    lines = [json.dumps(record) for record in records]
    return write(path, "\n".join(lines) if path.suffix in (".jsonl", ".ndjson") else f"[{', '.join(lines)}]")


RECORD_KINDS = [".json", ".jsonl", ".ndjson", ".parquet"]


@pytest.mark.parametrize("kind", RECORD_KINDS)
@pytest.mark.parametrize("record", [ULTRACHAT, SHAREGPT])
@pytest.mark.parametrize(
    ("turns", "text"),
    [({}, "Hi\nHo"), ({"separator": " "}, "Hi Ho"), ({"first_only": True, "separator": " "}, "Hi")],
)
def test_turns_are_those_asked_for_in_every_reader(tmp_path, kind, record, turns, text):
    assert read(write_records(tmp_path / f"a{kind}", [record] * 2), **turns) == [text] * 2


@pytest.mark.parametrize("turns", [{"separator": " "}, {"first_only": True}])
def test_what_is_no_conversation_has_no_turns(tmp_path, turns):
    write(tmp_path / "a.txt", "Hi\nHo\n\nHa")
    for kind in RECORD_KINDS:
        write_records(tmp_path / f"b{kind}", [PLAIN])
    write_records(tmp_path / "c.json", ["Hi\nHo"])
    assert read(tmp_path, **turns) == ["Hi\nHo\n\nHa", *["Hi\nHo"] * (len(RECORD_KINDS) + 1)]
    assert read(tmp_path / "a.txt", **turns) == ["Hi\nHo", "Ha"]


def test_a_first_turn_that_says_nothing(tmp_path):
    turns = [{"content": " "}, {"content": "Ho"}]
    path = write_records(tmp_path / "a.jsonl", [{"messages": turns}])
    assert read(path) == [" \nHo"]
    message = r"a.jsonl, line 1: the first turn is empty; .* --config.data.turns=all"
    with pytest.raises(UserError, match=message):
        read(path, first_only=True)
    write_records(path, [{"messages": turns[:1]}])
    with pytest.raises(UserError, match="line 1: the sample is empty; remove it"):
        read(path, first_only=True)


def test_the_other_turns_are_checked_even_if_only_the_first_is_read(tmp_path):
    path = write_records(tmp_path / "a.jsonl", [{"messages": [{"content": "Hi"}, {"content": 3}]}])
    with pytest.raises(UserError, match="line 1: turn 2 of messages has a content that is the number 3"):
        read(path, first_only=True)


def test_a_folder_is_read_in_the_order_of_names_a_document_a_file(tmp_path):
    write(tmp_path / "b.txt", "second\n\nstill second")
    write(tmp_path / "a.md", "\ufefffirst")
    write(tmp_path / "c" / "a.jsonl", '{"text": "third"}\n{"text": "fourth"}')
    write(tmp_path / "c" / "ignored.pdf", "x")
    assert read(tmp_path) == ["first", "second\n\nstill second", "third", "fourth"]


def test_a_single_text_file_is_a_sample_a_paragraph(tmp_path):
    path = write(tmp_path / "book.txt", "\n\none\nstill one\n \n\ntwo\n")
    assert read(path) == ["one\nstill one", "two"]


def test_line_separators_inside_json_strings_are_no_line_ends(tmp_path):
    assert read(write(tmp_path / "a.jsonl", '{"text": "a\u2028b\x85c"}\n')) == ["a\u2028b\x85c"]


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    (text,) = read(write(tmp_path / "a.jsonl", '{"text": "a\\ud800b"}'))
    text.encode()
    assert text == "a\ufffdb"


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.pdf", "x", ["a.pdf is not of a known kind", ".parquet"]),
        ("empty.txt", "", ["empty.txt: the file is empty"]),
        ("empty.jsonl", "\n\n", ["empty.jsonl: the file is empty"]),
        ("empty.json", "[]", ["empty.json: the file is empty"]),
        ("a.txt", b"fine\n\xff\xfe", ["a.txt, line 2: not UTF-8 (byte 0xff)", "iconv"]),
        ("a.jsonl", '{"text": "x"}\n{"text": "y', ["a.jsonl, line 2: not valid JSON", "cut short"]),
        ("a.json", '[{"text": "x"},\n', ["a.json, line 2: not valid JSON"]),
        (
            "a.jsonl",
            '{"prompt": "x"}',
            ["a.jsonl, line 1: no usable field (found fields prompt)", "messages", "--text_field=prompt"],
        ),
        ("a.jsonl", "3", ["a.jsonl, line 1: no usable field (found int)"]),
        ("a.jsonl", '{"text": 3}', ["a.jsonl, line 1: no usable field"]),
        ("a.jsonl", '{"text": " "}', ["a.jsonl, line 1: the sample is empty"]),
        ("a.jsonl", '{"messages": 3}', ["a.jsonl, line 1: messages is not a list of turns"]),
        ("a.jsonl", '{"messages": []}', ["a.jsonl, line 1: messages is not a list of turns"]),
        (
            "a.jsonl",
            '{"conversations": [{"from": "x"}]}',
            ["turn 1 of conversations has no content or value"],
        ),
        ("a.jsonl", "[" * 100_000, ["a.jsonl, line 1"]),
        ("a.parquet", "PAR1 torn", ["a.parquet: not a readable Parquet file"]),
    ],
)
def test_bad_input_names_the_file_the_place_and_the_remedy(tmp_path, name, content, parts):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        read(path)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match=r"text:.*nowhere does not exist: give the path"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no file of a known kind"):
        read(tmp_path)
    write(tmp_path / "a.txt", "fine")
    write(tmp_path / "b.txt", " \n")
    with pytest.raises(UserError, match=r"b.txt: the sample is empty"):
        read(tmp_path)


def test_parquet_without_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'cvfp-jax\[hub\]'"):
        read(write(tmp_path / "a.parquet", "x"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=80) | st.text(max_size=80).map(str.encode),
    kind=st.sampled_from([*SUFFIXES, ".jsonl.gz", ".txt.zst"]),
)
def test_any_bytes_give_samples_or_a_message(tmp_path, content, kind):
    path = Path(tmp_path) / f"file{kind}"
    path.write_bytes(content)
    message = ""
    try:
        samples = read(path)
    except UserError as error:
        message = str(error)
        assert path.name in message
    else:
        assert samples
        assert all(sample.strip() for sample in samples)
    assert "\n" not in message


def test_line_ends_of_other_systems_are_newlines_and_nothing_else_is(tmp_path):
    text = "a\r\nb\rc\x0cd\u2028e\x85f"
    expected = "a\nb\nc\x0cd\u2028e\x85f"
    assert read(write(tmp_path / "folder" / "a.txt", text).parent) == [expected]
    assert read(write(tmp_path / "a.txt", text)) == [expected]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_file_of_many_samples_is_not_read_as_a_whole(tmp_path, name):
    line = json.dumps({"text": "x" * 1000})
    path = write(tmp_path / name, f"{line}\n\n" * 10_000)
    tracemalloc.start()
    assert sum(1 for _ in iterate_samples(str(path))) == 10_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


def test_json_that_python_cannot_read(tmp_path):
    number = "1" * 5000
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(UserError, match=r"line 1: not readable JSON .*; shorten it"):
            read(write(tmp_path / name, f'{{"text": "a", "n": {number}}}'))
    with pytest.raises(UserError, match=r"line 2: not valid JSON \(Extra data\); .* name it \.jsonl"):
        read(write(tmp_path / "lines.json", '{"text": "a"}\n{"text": "b"}'))
