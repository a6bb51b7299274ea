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
    all_between = corpus.Samples(f"text:{folder}", (range(2), range(5, 7)), gaps=True)
    assert list(all_between) == [f"sample {number}" for number in range(7)]
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
        UserError,
        match=r"has 10 samples, but samples 8:12 are asked for: use more text .*--sample=line.*, or lower",
    ):
        list(corpus.Samples(f"text:{folder}", (range(2), range(8, 12))))


def test_a_corpus_of_files_can_be_read_whole(folder):
    assert list(corpus.Samples(f"text:{folder}", None)) == [f"sample {number}" for number in range(10)]
