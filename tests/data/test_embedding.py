import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvfp_jax.data import embedding
from cvfp_jax.data.stream import Vocabulary, full_vocabulary
from cvfp_jax.errors import UserError

NO_IDS = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).normal(size=(50257, 3)).astype(np.float32)


def save(path, **arrays):
    from safetensors.numpy import save_file

    if path.suffix == ".npy":
        np.save(path, *arrays.values())
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    return path


def load(path, embed_dim=3, vocabulary=None):
    return embedding.load_table(f"file:{path}", vocabulary or full_vocabulary(), embed_dim, NO_IDS, 0)


@pytest.mark.parametrize("kind", [".npy", ".npz", ".safetensors"])
def test_files_of_every_kind(tmp_path, table, kind):
    path = save(tmp_path / f"a{kind}", anything=table)
    np.testing.assert_array_equal(load(path), table)
    few = Vocabulary(np.array([5, 700, 50256]))
    np.testing.assert_array_equal(load(path, vocabulary=few), table[[5, 700, 50256]])


def test_gpt2s_tensor_is_found_among_others(tmp_path, table):
    path = save(
        tmp_path / "a.safetensors", **{"wte.weight": table, "wpe.weight": np.zeros((2, 3), np.float32)}
    )
    np.testing.assert_array_equal(load(path), table)


def test_other_number_types_become_single_precision(tmp_path, table):
    path = save(tmp_path / "a.npy", a=table.astype(np.float16))
    np.testing.assert_array_equal(load(path), table.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    "names",
    [
        ["_orig_mod.transformer.wte.weight", "_orig_mod.lm_head.weight"],
        ["module.wte.weight", "x"],
        ["lm_head.weight", "x"],
    ],
)
def test_tables_of_wrapped_models(tmp_path, table, names):
    first, *others = names
    path = save(tmp_path / "a.safetensors", **{first: table, **dict.fromkeys(others, table[:9])})
    np.testing.assert_array_equal(load(path), table)


def test_bfloat16_and_capital_letters(tmp_path, table):
    import ml_dtypes

    short = table.astype(ml_dtypes.bfloat16)
    path = save(tmp_path / "a.safetensors", **{"wte.weight": short})
    np.testing.assert_array_equal(load(path), short.astype(np.float32))
    np.save(tmp_path / "a.npy", table)
    (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
    np.testing.assert_array_equal(load(tmp_path / "A.NPY"), table)


def test_rows_that_pad_a_table_are_left_out_and_said(tmp_path, table, caplog):
    padded = np.concatenate([table, np.zeros((47, 3), np.float32)])
    path = save(tmp_path / "a.npy", a=padded)
    for _ in range(2):
        np.testing.assert_array_equal(load(path), table)
    assert [record.message for record in caplog.records] == [
        f"embedding file:{path}: of 50,304 rows the last 47 are padding, and left out"
    ]


@pytest.mark.parametrize(
    ("name", "make", "part"),
    [
        ("a.npy", lambda path, table: save(path, a=table.T), r"is transposed: .*table\.T"),
        ("a.npy", lambda path, table: save(path, a=table * 0), "holds 0 everywhere"),
        ("a.npz", lambda path, table: save(path, a=table * 0 + 0.5), "holds 0.5 everywhere"),
        ("a.npy", lambda path, table: save(path, a=np.concatenate([table, table[:7]])), "has 50264 rows"),
        (
            "a.safetensors",
            lambda path, table: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
            "Git LFS pointer",
        ),
        ("a.bin", lambda path, table: path.write_bytes(b"x"), "unknown kind: it must be .npy or"),
        ("a.npy", lambda path, table: None, "does not exist"),
        ("a.npy", lambda path, table: path.write_bytes(b"x"), "cannot be read"),
        ("a.npz", lambda path, table: path.write_bytes(b"PK\3\4x"), "cannot be read"),
        ("a.safetensors", lambda path, table: path.write_bytes(b"x" * 20), "cannot be read"),
        ("a.npz", lambda path, table: save(path, a=table, b=table), r"holds 2 arrays \(a, b\)"),
        ("a.npy", lambda path, table: save(path, a=table[0]), r"shape \(3,\)"),
        ("a.npy", lambda path, table: save(path, a=table > 0), "holds bool"),
        ("a.npy", lambda path, table: save(path, a=table[:100]), "has 100 rows: it must have one for each"),
        (
            "a.npy",
            lambda path, table: save(path, a=table[:, :2]),
            r"has 2 dimensions.*--config.model.embed_dim=2",
        ),
        (
            "a.npy",
            lambda path, table: save(path, a=np.where(table == table[7, 1], np.nan, table)),
            "in row 7",
        ),
        ("a.npy", lambda path, table: np.save(path, np.array([{}], object)), "cannot be read"),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path, table, name, make, part):
    make(tmp_path / name, table)
    with pytest.raises(UserError, match=part) as caught:
        load(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gpt2_comes_from_the_hubs_cache(tmp_path, table, monkeypatch):
    hub = pytest.importorskip("huggingface_hub.constants")
    snapshot = tmp_path / "models--openai-community--gpt2" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    save(
        snapshot / "model.safetensors", **{"wte.weight": table, "h.0.attn.bias": np.zeros((1, 2), np.float32)}
    )
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    found = embedding.load_table("gpt2", full_vocabulary(), 3, NO_IDS, 0)
    np.testing.assert_array_equal(found, table)


def test_gpt2_without_the_extra_or_the_network(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"could not be downloaded .*--embedding=spectral") as caught:
        embedding.load_table("gpt2", full_vocabulary(), 3, NO_IDS, 0)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'cvfp-jax\[hub\]'; .*--embedding=spectral"):
        embedding.load_table("gpt2", full_vocabulary(), 3, NO_IDS, 0)


def test_random_tables_have_the_originals_spread_and_depend_on_the_seed():
    vocabulary = full_vocabulary()
    one, again, other = (embedding.load_table("random", vocabulary, 4, NO_IDS, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert one.std() == pytest.approx(0.02, rel=0.01)
    few = Vocabulary(np.array([3, 9]))
    np.testing.assert_array_equal(embedding.load_table("random", few, 4, NO_IDS, 1), one[[3, 9]])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), kind=st.sampled_from([".npy", ".npz", ".safetensors"]))
def test_any_bytes_give_a_message(tmp_path, content, kind):
    path = tmp_path / f"a{kind}"
    path.write_bytes(content)
    with pytest.raises(UserError):
        embedding.read_table(path)
