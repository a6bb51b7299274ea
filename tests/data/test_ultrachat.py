import sys
import time
import types

import pytest

from cvfp_jax.data import corpus, ultrachat
from cvfp_jax.data.text.reading import Reading, ReadingLog
from cvfp_jax.errors import UserError


def rows(split):
    return [
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


SPLITS = ("train_sft", "test_sft", "train_gen")
LAYOUTS = {
    "the hub's": "data/{split}-0000{part}-of-00002-abc.parquet",
    "flat": "{split}-0000{part}-of-00002.parquet",
    "the hub's cache": "snapshots/1a2b/data/{split}-0000{part}-of-00002-abc.parquet",
    "save_to_disk": "{split}/data-0000{part}-of-00002.arrow",
    "the library's cache": "ultrachat_200k-{split}-0000{part}-of-00002.arrow",
}


@pytest.fixture(params=LAYOUTS)
def copy(request, tmp_path):
    """A small data set in a layout that people have it in."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "ultrachat_200k"
    (folder / "blobs").mkdir(parents=True)
    for split in SPLITS:
        for part in range(2):
            path = folder / LAYOUTS[request.param].format(split=split, part=part)
            path.parent.mkdir(parents=True, exist_ok=True)
            table = pyarrow.Table.from_pylist(rows(split)[15 * part : 15 * part + 15])
            if path.suffix == ".parquet":
                parquet.write_table(table, path)
            else:
                with pyarrow.ipc.new_stream(str(path), table.schema) as file:
                    file.write_table(table)
                (path.parent / "state.json").write_text("{}")
    return folder


def test_a_copy_is_read_in_its_order_with_the_turns_asked_for(copy):
    name = f"ultrachat:{copy}"
    texts = list(corpus.Samples(name, (range(2), range(14, 17))))
    assert texts == [f"train_sft {number}\nanswer" for number in (0, 1, 14, 15, 16)]
    assert len(list(corpus.Samples(name, (range(2), range(14, 17)), gaps=True))) == 17
    first = corpus.Samples(name, (range(2), range(0)), Reading(first_only=True))
    assert list(first) == ["train_sft 0", "train_sft 1"]
    with pytest.raises(UserError, match="has 30 samples"):
        list(corpus.Samples(name, (range(31),)))


def test_a_folder_that_is_no_copy(tmp_path):
    for files, message in (
        ([], "holds no file of a known kind"),
        (["test_sft-0.jsonl"], "has no file of the split train_sft"),
    ):
        for name in files:
            (tmp_path / name).write_text('{"text": "a"}')
        with pytest.raises(UserError, match=message):
            list(corpus.Samples(f"ultrachat:{tmp_path}", (range(1),)))
    for place in ("nowhere", "test_sft-0.jsonl"):
        with pytest.raises(UserError, match=r"ultrachat:.* (does not exist|is not a folder)"):
            list(corpus.Samples(f"ultrachat:{tmp_path / place}", (range(1),)))


class Rows(list):
    """Rows as the hub's library gives them."""

    def select(self, part):
        return [self[index] for index in part]


@pytest.fixture
def hub(monkeypatch):
    """The rows that the hub has."""
    hub = Rows(rows("train_sft"))
    library = types.SimpleNamespace(load_dataset=lambda name, split: hub)
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return hub


def test_all_of_the_hubs_rows_are_read_and_nothing_else(hub, tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text('{"text": "of the current folder"}')
    monkeypatch.chdir(tmp_path)
    assert list(corpus.Samples("ultrachat", None)) == [f"train_sft {n}\nanswer" for n in range(30)]
    with pytest.raises(UserError, match="corpus ultrachat: names no path"):
        list(ultrachat.iterate_samples("", Reading(), ReadingLog()))


def test_bad_rows_of_the_hub_are_left_out_where_it_is_asked_for(hub):
    hub[1] = {"messages": []}
    log = ReadingLog()
    skipping = corpus.Samples("ultrachat", (range(3),), Reading(skip_bad_rows=True), log=log)
    assert list(skipping) == [f"train_sft {n}\nanswer" for n in (0, 2, 3)]
    assert sum(log.skipped.values()) == 1
    for ranges in ((range(3),), None):
        with pytest.raises(UserError, match="ultrachat, row 1: "):
            list(corpus.Samples("ultrachat", ranges))


def test_the_hubs_rows_are_taken_by_place(hub):
    texts = list(corpus.Samples("ultrachat", (range(2), range(14, 17))))
    assert texts == [f"train_sft {number}\nanswer" for number in (0, 1, 14, 15, 16)]
    assert len(list(corpus.Samples("ultrachat", (range(2), range(14, 17)), gaps=True))) == 17
    with pytest.raises(UserError, match="has 30 samples, but samples up to 31"):
        list(corpus.Samples("ultrachat", (range(31),)))


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError, match=r"pip install 'cvfp-jax\[hub\]'; for an offline run use --corpus=pydocs"
    ):
        list(corpus.Samples("ultrachat", (range(1),)))


@pytest.mark.slow  # imports the library
@pytest.mark.filterwarnings("ignore")  # the library's own
def test_without_a_network_it_fails_soon(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1")  # which no packet reaches (RFC 5737)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"could not be loaded .*--corpus=pydocs") as caught:
        list(corpus.Samples("ultrachat", (range(1),)))
    assert time.perf_counter() - start < 15  # 5 and what a loaded machine adds
    assert "\n" not in str(caught.value)
