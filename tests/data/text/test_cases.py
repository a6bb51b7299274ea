"""What people really have: each case stands for its kind, and was reported of some program or other."""

import gzip
import json
import os

import pytest

from cvfp_jax.data.text.reading import Reading, ReadingLog
from cvfp_jax.data.text.samples import iterate_samples
from cvfp_jax.errors import UserError

TEXTS = ["The ferry leaves at nine.", "A heron stands at the weir.", "Bakers light ovens."]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
ANSWERED = [f"{text}\nok" for text in TEXTS]
UTF16 = "\n\n".join(TEXTS).encode("utf-16-le")


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def lines(make):
    """A record a text, as JSON Lines."""
    return "".join(json.dumps(make(text)) + "\n" for text in TEXTS)


def said(text, role="role", content="content", people=("user", "assistant")):
    return [{role: people[0], content: text}, {role: people[1], content: "ok"}]


def parts(text):
    return [{"type": "image_url", "image_url": "x"}, {"type": "text", "text": text}]


WHOLE = {
    "dots": {"a.jsonl": LINES, "._a.jsonl": b"\0\5\26\7\xff", ".ipynb_checkpoints/a.jsonl": LINES},
    "half packed": {
        "a.jsonl": "".join(LINES.splitlines(True)[:1]),
        "b.jsonl.gz": gzip.compress("".join(LINES.splitlines(True)[1:]).encode()),
    },
    "UTF-16 by its mark": {"a.txt": b"\xff\xfe" + UTF16},
    "big-endian UTF-16 by its mark": {"a.jsonl": b"\xfe\xff" + LINES.encode("utf-16-be")},
    "a data set's card": {"README.md": "# Card", "LICENSE.txt": "MIT", "data/train.jsonl": LINES},
    "CSV": {"a.csv": "id,text\n" + "".join(f'7,"{text}"\n' for text in TEXTS)},
    "TSV": {"a.TSV": "text\tid\n" + "".join(f"{text}\t7\n" for text in TEXTS)},
    "NDJSON": {"a.ndjson": LINES},
}
CHATS = {
    "Alpaca": {"a.json": json.dumps([{"instruction": t, "input": "", "output": "ok"} for t in TEXTS])},
    "Dolly": {"a.jsonl": lines(lambda t: {"instruction": t, "context": "", "response": "ok", "id": 7})},
    "prompt and completion": {"a.jsonl": lines(lambda t: {"prompt": t, "completion": "ok"})},
    "prompt and response": {"a.jsonl": lines(lambda t: {"prompt": t, "response": "ok"})},
    "question and answer": {"a.jsonl": lines(lambda t: {"question": t, "answer": "ok"})},
    "lists of turns as prompt": {
        "a.jsonl": lines(lambda t: {"prompt": said(t)[:1], "completion": said(t)[1:]})
    },
    "parts of contents": {
        "a.jsonl": lines(lambda t: {"messages": [{"role": "user", "content": parts(t)}, said(t)[1]]})
    },
    "bare lists": {"a.jsonl": lines(said)},
    "a bare list": {"a.json": json.dumps([said(t) for t in TEXTS])},
    "UltraChat as it came": {"a.jsonl": lines(lambda t: {"id": "0", "data": [t, "ok"]})},
    "a preference pair": {
        "a.jsonl": lines(
            lambda t: {
                "conversations": said(t, "from", "value", ("human", "gpt"))[:1],
                "chosen": {"from": "gpt", "value": "ok"},
                "rejected": {"from": "gpt", "value": "bad"},
            }
        )
    },
    "a preference pair of whole conversations": {
        "a.jsonl": lines(lambda t: {"prompt": t, "chosen": said(t), "rejected": said(t)[:1]})
    },
    "a preference pair of texts": {"a.jsonl": lines(lambda t: {"prompt": t, "chosen": "ok", "rejected": ""})},
    **{
        f"{name}: {content}": {"a.jsonl": lines(lambda t, n=name, r=role, c=content: {n: said(t, r, c)})}
        for name in ("messages", "conversations", "conversation", "data")
        for role, content in (("role", "content"), ("from", "value"))
    },
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
def test_files_as_they_are(tmp_path, case):
    write(tmp_path, WHOLE[case])
    only = [tmp_path / name for name in WHOLE[case]][:1] if len(WHOLE[case]) == 1 else [tmp_path]
    assert list(iterate_samples(str(only[0]))) == TEXTS


@pytest.mark.parametrize("case", CHATS)
def test_conversations_as_they_are(tmp_path, case):
    write(tmp_path, CHATS[case])
    assert list(iterate_samples(str(tmp_path))) == ANSWERED
    assert list(iterate_samples(str(tmp_path), Reading(first_only=True))) == TEXTS
    people = ("human", "gpt") if case == "a preference pair" else ("user", "assistant")
    with_roles = [f"{people[0]}: {text} {people[1]}: ok" for text in TEXTS]
    assert list(iterate_samples(str(tmp_path), Reading(roles=True, separator=" "))) == with_roles


def test_a_system_prompt_is_read_but_is_no_first_turn(tmp_path):
    system = {"role": "system", "content": "You are terse."}
    for record in (
        {"messages": [system, *said(TEXTS[0])]},
        {"system": "You are terse.", "data": said(TEXTS[0])},
    ):
        write(tmp_path, {"a.jsonl": json.dumps(record)})
        assert list(iterate_samples(str(tmp_path))) == [f"You are terse.\n{ANSWERED[0]}"]
        assert list(iterate_samples(str(tmp_path), Reading(first_only=True))) == TEXTS[:1]


def test_the_other_answer_of_a_preference_pair(tmp_path):
    write(tmp_path, CHATS["a preference pair"])
    log = ReadingLog()
    texts = list(iterate_samples(str(tmp_path), Reading(preference="rejected"), log))
    assert texts == [f"{text}\nbad" for text in TEXTS]
    assert log.lines() == [
        "records have chosen and rejected answers: rejected ones are read (--config.data.preference)"
    ]


def test_a_turn_that_calls_a_tool_says_nothing(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]}
    write(tmp_path, {"a.jsonl": json.dumps({"messages": [*said("Weather?")[:1], call, said("")[1]]})})
    log = ReadingLog()
    assert list(iterate_samples(str(tmp_path), log=log)) == ["Weather?\nok"]
    assert log.lines() == ["turns that call a tool and say nothing are no text: 1"]


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("line", ["a", "b", "c"]),
        ("paragraph", ["a\nb", "c"]),
        ("file", ["a\nb\n\nc\n"]),
        ("auto", ["a\nb", "c"]),
    ],
)
def test_a_sample_of_a_plain_text(tmp_path, sample, expected):
    write(tmp_path, {"a.txt": "a\nb\n\nc\n"})
    assert list(iterate_samples(str(tmp_path / "a.txt"), Reading(sample=sample))) == expected


def test_the_field_that_is_named(tmp_path):
    write(tmp_path, {"a.jsonl": lines(lambda t: {"text": "x", "body": t}), "b.csv": "id,body\n7,last\n"})
    assert list(iterate_samples(str(tmp_path), Reading(text_field="body"))) == [*TEXTS, "last"]
    with pytest.raises(UserError, match=r"line 1: no field title \(found fields text, body\)"):
        list(iterate_samples(str(tmp_path), Reading(text_field="title")))


# With a time in it, workers would not collect the same tests.
PACKED = gzip.compress(LINES.encode(), mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", UTF16, r"looks like UTF-16 without .* 'iconv -f UTF-16LE -t UTF-8'"),
        ("a.txt", "Zürich".encode("latin-1"), r"line 1: not UTF-8 .* 'iconv -f ISO-8859-1 -t UTF-8'"),
        ("a.txt", "Züri\u201cch".encode("cp1252"), r"'iconv -f WINDOWS-1252 -t UTF-8'"),
        ("a.jsonl", json.dumps([{"text": "a"}]), r"holds a JSON array and not .* name it \.json"),
        ("a.jsonl", json.dumps([{"text": "a"}], indent=1), r"holds a JSON array and not a record a line"),
        ("a.jsonl", json.dumps({"text": "a"}, indent=1) * 2, r"objects over several lines .* 'jq -c \.'"),
        ("a.jsonl", '{"text": "a"}{"text": "b"}', r"several records are in one line"),
        ("a.jsonl", '{"text": "a"},\n{"text": "b"}', r"there is a comma behind the record: remove it"),
        ("a.jsonl", '{"text": "a",}', r"there is a comma before (the|a) closing .*: remove it"),
        ("a.jsonl", str({"text": "a"}), r"single quotes, as Python prints them, .*json\.dumps\.$"),
        ("a.jsonl", '{"text": "a", "n": None}', r"None is Python's"),
        ("a.json", "<!DOCTYPE html>", r"it is a page of HTML"),
        ("a.json", json.dumps({"text": "a"}, indent=1) * 2, r"one value after the other: .*'jq -s \.'"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b', r"line 2: .*may have been cut short"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b\n{"text": "c"}', r"line 2: .*the line is cut short: mend it"),
        ("a.jsonl", '{"text": null}', r"line 1: text is null"),
        ("a.jsonl", '{"messages": [{"content": "a"}, {"content": null}]}', r"turn 2 of messages has content"),
        ("a.jsonl", '{"body": "a", "id": "7"}', r"such as --text_field=body"),
        ("a.csv", "body\na\n", r"line 2: no usable field \(found fields body\)"),
        ("a.csv", "id,text\n7,So, it goes.\n", r"line 2: a row of 3 fields under 2 columns; quote"),
        ("a.csv", 'id,text\n7,"a" b\n', r"line 2: a row that is no CSV"),
        ("a.csv", 'id,text\n7,"a\n8,b\n', r"line 3: a row that is no CSV \(unexpected end"),
        ("a.tsv", "text\tid\ttext\na\t7\tb\n", r"line 1: two columns are called 'text'"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\noid 1", r"Git LFS pointer .* 'git lfs pull'"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\n", r"Git LFS pointer .* 'git lfs pull'"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), r"is compressed by gzip: add \.gz to its name"),
        ("a.jsonl.gz", PACKED[:-9], r"a\.jsonl\.gz cannot be unpacked .*copy it"),
        ("a.jsonl.gz", LINES, r"a\.jsonl\.gz cannot be unpacked"),
        ("a.parquet.gz", "x", r"compressed inside: unpack it"),
    ],
)  # fmt: skip
def test_what_is_refused_is_called_what_it_is(tmp_path, name, content, message):
    write(tmp_path, {name: content})
    with pytest.raises(UserError, match=message):
        list(iterate_samples(str(tmp_path / name)))


def test_bad_rows_are_left_out_and_counted(tmp_path):
    rows = [
        LINES,
        '{"text": " "}\n{"text": null}\n{"id": 7}\n{"messages": [{"content": 3}]}\n3\n{"te\n',
        LINES,
    ]
    write(tmp_path, {"a.jsonl": "".join(rows)})
    log = ReadingLog()
    assert list(iterate_samples(str(tmp_path), Reading(skip_bad_rows=True), log)) == TEXTS * 2
    assert log.skipped == {
        "blank": 1, "null": 1, "no usable field": 2, "a turn without a text": 1, "not valid JSON": 1
    }  # fmt: skip
    write(tmp_path, {"a.jsonl": rows[1]})
    with pytest.raises(UserError, match=r"a\.jsonl: no row can be used \(2 no usable field, 1 blank"):
        list(iterate_samples(str(tmp_path / "a.jsonl"), Reading(skip_bad_rows=True)))


def test_rows_of_a_table_that_are_cut_wrong_are_left_out_and_the_others_kept(tmp_path):
    write(tmp_path, {"a.csv": 'id,text\n1,"a, b"\n2,c, d\n3,"e" f\n4,g\n'})
    log = ReadingLog()
    assert list(iterate_samples(str(tmp_path), Reading(skip_bad_rows=True), log)) == ["a, b", "g"]
    assert log.skipped == {"too many fields": 1, "a row that is no CSV": 1}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "f.jsonl")
    for place in (tmp_path, tmp_path / "f.jsonl"):
        with pytest.raises(UserError, match=r"f\.jsonl is not a regular file"):
            list(iterate_samples(str(place)))


def test_zstandard(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    half = len(LINES) // 2
    packed = [pyarrow.compress(part.encode(), "zstd", asbytes=True) for part in (LINES[:half], LINES[half:])]
    write(tmp_path, {"a.jsonl.zst": b"".join(packed)})  # two frames, as zstd -c a b writes them
    assert list(iterate_samples(str(tmp_path))) == TEXTS
    write(tmp_path, {"a.jsonl.zst": packed[0][:-3]})
    with pytest.raises(UserError, match=r"a\.jsonl\.zst"):
        list(iterate_samples(str(tmp_path)))
