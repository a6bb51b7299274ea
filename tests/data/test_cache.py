import logging

import numpy as np
import pytest

from cvfp_jax.data import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    def __init__(self, value):
        self.calls = 0
        self.value = value

    def __call__(self):
        self.calls += 1
        return {"value": np.array(self.value)}


def test_what_was_made_once_is_read_again():
    make = Maker([1, 2])
    for _ in range(2):
        assert cache.cached_arrays("kind", {"value"}, ["key"], make)["value"].tolist() == [1, 2]
    assert make.calls == 1
    cache.cached_arrays("kind", {"value"}, ["other key"], make)
    cache.cached_arrays("other kind", {"value"}, ["key"], make)
    assert make.calls == 3


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", b"not a zip", None])
def test_a_damaged_file_is_made_again(own_cache, caplog, damage):
    cache.cached_arrays("kind", {"value"}, ["key"], Maker([1]))
    (file,) = own_cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    make = Maker([1])
    with caplog.at_level(logging.WARNING):
        assert cache.cached_arrays("kind", {"value"}, ["key"], make)["value"].tolist() == [1]
    assert make.calls == 1
    assert file.name in caplog.text
    assert file.read_bytes() == whole


def test_no_object_is_unpickled(own_cache, caplog):
    cache.cached_arrays("kind", {"value"}, ["key"], Maker([1]))
    (file,) = own_cache.iterdir()
    np.savez(file, value=np.array([{"an": "object"}], dtype=object))
    with caplog.at_level(logging.WARNING):
        assert cache.cached_arrays("kind", {"value"}, ["key"], Maker([2]))["value"].tolist() == [2]


def test_a_cache_that_cannot_be_written_is_gone_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CVFP_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert cache.cached_arrays("kind", {"value"}, ["key"], Maker([3]))["value"].tolist() == [3]
    assert "going on without" in caplog.text


def test_hashes_tell_the_borders_of_parts():
    hashes = {cache.content_hash(parts) for parts in (["ab"], ["a", "b"], ["", "ab"], [b"ab", ""], [])}
    assert len(hashes) == 5
    assert cache.content_hash(["ab"]) == cache.content_hash([b"ab"])


def test_no_flipped_bit_goes_further(own_cache):
    cache.cached_arrays("kind", {"value"}, ["key"], Maker([7]))
    (file,) = own_cache.iterdir()
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        assert cache.cached_arrays("kind", {"value"}, ["key"], Maker([7]))["value"].tolist() == [7]


def test_a_file_without_an_array_is_made_again():
    cache.cached_arrays("kind", {"value"}, ["key"], Maker([7]))
    both = cache.cached_arrays(
        "kind", {"value", "other"}, ["key"], lambda: {"value": np.ones(1), "other": np.ones(2)}
    )
    assert both.keys() == {"value", "other"}
