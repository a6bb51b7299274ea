import json

import pytest

from cvfp_jax.data import corpus
from cvfp_jax.data.text.reading import Reading
from cvfp_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    lines = [json.dumps({"text": f"sample {number}"}) for number in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_ranges_are_read_by_place(folder):
    samples = corpus.Samples(f"text:{folder}", (range(2), range(5, 7)))
    for _ in range(2):
        assert list(samples) == ["sample 0", "sample 1", "sample 5", "sample 6"]
    assert len(samples) == 4
    all_between = corpus.Samples(f"text:{folder}", (range(2), range(5, 7)), gaps=True)
    assert list(all_between) == [f"sample {number}" for number in range(7)]
    assert len(all_between) == 7
    assert list(corpus.Samples(f"text:{folder}", (range(1, 3), range(3, 4)))) == [
        "sample 1",
        "sample 2",
        "sample 3",
    ]


def test_no_more_is_read_than_is_asked_for(folder):
    (folder / "b.jsonl").write_text("not JSON")
    assert len(list(corpus.Samples(f"text:{folder}", (range(10),)))) == 10
    with pytest.raises(UserError, match=r"b\.jsonl, line 1"):
        list(corpus.Samples(f"text:{folder}", (range(11),)))


@pytest.mark.parametrize("ranges", [(range(3), range(2, 4)), (range(5, 7), range(2))])
def test_ranges_that_a_stream_cannot_follow(ranges):
    with pytest.raises(ValueError, match="overlap or are out of order"):
        corpus.Samples("pydocs", ranges)


def test_turns_reach_text_but_not_pydocs(tmp_path):
    turns = [{"content": "Hi"}, {"content": "Ho"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}))
    assert list(corpus.Samples(f"text:{tmp_path}", (range(1),), Reading(separator=" "))) == ["Hi Ho"]
    assert list(corpus.Samples("pydocs", (range(2),), Reading(first_only=True, separator=" "))) == (
        list(corpus.Samples("pydocs", (range(2),)))
    )


def test_an_empty_range_is_no_samples(folder):
    for empty in (range(0), range(5, 5)):
        assert len(list(corpus.Samples(f"text:{folder}", (range(2), empty)))) == 2


def test_too_few_samples(folder):
    with pytest.raises(
        UserError, match=r"has 10 samples, but samples 8:12 are asked for: use more text .*, or lower"
    ):
        list(corpus.Samples(f"text:{folder}", (range(2), range(8, 12))))


def test_ultrachat_without_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"pip install 'cvfp-jax\[hub\]'; for an offline run use --corpus=pydocs"
    ):
        list(corpus.Samples("ultrachat", (range(1),)))


@pytest.fixture
def ultrachat_copy(tmp_path, monkeypatch):
    """A small data set laid out and named as the hub's."""
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    from pyarrow import parquet

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "ultrachat_200k" / "data"
    folder.mkdir(parents=True)
    for split in ("train_sft", "test_sft"):
        rows = [
            {
                "prompt": f"{split} {number}",
                "prompt_id": str(number),
                "messages": [
                    {"role": "user", "content": f"{split} {number}"},
                    {"role": "assistant", "content": "answer"},
                ],
            }
            for number in range(30)
        ]
        for part in range(2):
            table = pyarrow.Table.from_pylist(rows[15 * part : 15 * part + 15])
            parquet.write_table(table, folder / f"{split}-0000{part}-of-00002-abc.parquet")
    return folder.parent


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_ultrachat_is_read_in_its_order_with_the_turns_asked_for(ultrachat_copy):
    name = f"ultrachat:{ultrachat_copy}"
    texts = list(corpus.Samples(name, (range(2), range(14, 17))))
    assert texts == [f"train_sft {number}\nanswer" for number in (0, 1, 14, 15, 16)]
    assert len(list(corpus.Samples(name, (range(2), range(14, 17)), gaps=True))) == 17
    first = corpus.Samples(name, (range(2), range(0)), Reading(first_only=True))
    assert list(first) == ["train_sft 0", "train_sft 1"]
    with pytest.raises(UserError, match="has 30 samples"):
        next(iter(corpus.Samples(name, (range(31),))))


@pytest.mark.filterwarnings("ignore")
def test_ultrachat_that_cannot_be_loaded(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"could not be loaded .*--corpus=pydocs") as caught:
        list(corpus.Samples(f"ultrachat:{tmp_path / 'nowhere'}", (range(1),)))
    assert "\n" not in str(caught.value)
