import json

import pytest

from cvfp_jax.data import corpus
from cvfp_jax.data.textfiles import Turns
from cvfp_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    lines = [json.dumps({"text": f"sample {number}"}) for number in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_ranges_are_read_by_place(folder):
    first, second = corpus.read_samples(f"text:{folder}", [range(2), range(5, 7)])
    assert first == ["sample 0", "sample 1"]
    assert second == ["sample 5", "sample 6"]


def test_turns_reach_text_but_not_pydocs(tmp_path):
    turns = [{"content": "Hi"}, {"content": "Ho"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}))
    (texts,) = corpus.read_samples(f"text:{tmp_path}", [range(1)], Turns(separator=" "))
    assert texts == ["Hi Ho"]
    assert corpus.read_samples("pydocs", [range(2)], Turns(first_only=True, separator=" ")) == (
        corpus.read_samples("pydocs", [range(2)])
    )


def test_an_empty_range_is_no_samples(folder):
    assert corpus.read_samples(f"text:{folder}", [range(2), range(0)])[1] == []


def test_too_few_samples(folder):
    with pytest.raises(
        UserError, match=r"has 10 samples, but samples 8:12 are asked for: use more text .*, or lower"
    ):
        corpus.read_samples(f"text:{folder}", [range(2), range(8, 12)])


def test_ultrachat_without_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"pip install 'cvfp-jax\[hub\]'; for an offline run use --corpus=pydocs"
    ):
        corpus.read_samples("ultrachat", [range(1)])


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
    first, second = corpus.read_samples(f"ultrachat:{ultrachat_copy}", [range(2), range(14, 17)])
    assert first == ["train_sft 0\nanswer", "train_sft 1\nanswer"]
    assert [text.split("\n")[0] for text in second] == ["train_sft 14", "train_sft 15", "train_sft 16"]
    (first, none) = corpus.read_samples(
        f"ultrachat:{ultrachat_copy}", [range(2), range(0)], Turns(first_only=True)
    )
    assert first == ["train_sft 0", "train_sft 1"]
    assert none == []
    with pytest.raises(UserError, match="has 30 samples"):
        corpus.read_samples(f"ultrachat:{ultrachat_copy}", [range(31)])


@pytest.mark.filterwarnings("ignore")
def test_ultrachat_that_cannot_be_loaded(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"could not be loaded .*--corpus=pydocs") as caught:
        corpus.read_samples(f"ultrachat:{tmp_path / 'nowhere'}", [range(1)])
    assert "\n" not in str(caught.value)
