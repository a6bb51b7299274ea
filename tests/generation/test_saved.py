import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.cli.experiments import load_experiments
from cvfp_jax.config.overrides import replace
from cvfp_jax.core.model import Head
from cvfp_jax.errors import UserError
from cvfp_jax.generation.saved import DESCRIPTION, WEIGHTS
from cvfp_jax.generation.trained import TrainedModel
from tests.generation.models import make
from tests.generation.test_trained import KINDS, OTHERS, TEXT

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model and its folder, whose table lies in another one."""
    root = tmp_path_factory.mktemp("sweep")
    trained = make()
    trained.save(root / "cells" / "a", root / "tables")
    return trained, root


def same(one, other):
    """Whether two models have the same arrays, bit for bit, and the same tokens."""
    import jax
    from flax import nnx

    leaves = [
        jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(trained.model))) for trained in (one, other)
    ]
    assert [path for path, _ in leaves[0]] == [path for path, _ in leaves[1]]
    for (_, ours), (_, theirs) in zip(*leaves, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(one.vocabulary.token_ids, other.vocabulary.token_ids)
    assert one.config == other.config


@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_a_model_comes_back_bit_for_bit(name, tmp_path):
    trained = make(**{**KINDS, **OTHERS}[name])
    trained.save(tmp_path)
    same(trained, TrainedModel.load(tmp_path))


def test_a_tied_head_that_was_trained_comes_back(tmp_path):
    trained = make(**{"phase2.freeze_embedding": False})
    table_VxE = trained.model.embedding.table[...]
    trained.model.head = Head(*table_VxE.shape)
    trained.model.head.table[...] = table_VxE + 1
    trained.save(tmp_path)
    same(trained, TrainedModel.load(tmp_path))


def test_models_share_their_table_and_move_with_it(saved, tmp_path):
    trained, root = saved
    trained.save(root / "cells" / "b", root / "tables")
    assert len(list((root / "tables").iterdir())) == 1
    moved = root.rename(tmp_path / "elsewhere")
    same(trained, TrainedModel.load(moved / "cells" / "b"))
    moved.rename(root)


@pytest.mark.slow
@pytest.mark.usefixtures("full_compilation")  # as the other process compiles
def test_another_process_computes_the_same_bits(saved, tmp_path):
    trained, root = saved
    code = (
        "import sys, numpy as np; from cvfp_jax.generation.trained import TrainedModel;"
        f"np.save(sys.argv[2], TrainedModel.load(sys.argv[1]).logits(np.array({TEXT.tolist()})))"
    )
    folder, path = root / "cells" / "a", tmp_path / "logits.npy"
    subprocess.run([sys.executable, "-c", code, str(folder), str(path)], check=True)
    again = TrainedModel.load(folder).logits(TEXT)
    np.testing.assert_array_equal(np.load(path), again)
    np.testing.assert_array_equal(trained.logits(TEXT), again)


@pytest.mark.slow
def test_every_architecture_of_the_presets_comes_back(tmp_path):
    small = {"context_dim": 6, "embed_dim": 4}
    models = {
        replace(cell, {f"model.{name}": size for name, size in small.items()}).model
        for module in load_experiments().values()
        for grid in module.PRESETS.values()
        for cell in grid.cells()
    }
    assert len(models) > 10
    for number, model in enumerate(sorted(models, key=repr)):
        fields = {f"model.{name}": value for name, value in vars(model).items()}
        if model.num_blocks > 1:
            fields["phase2.train_contexts"] = "sequential"
        trained = make(**fields)
        trained.save(tmp_path / str(number))
        same(trained, TrainedModel.load(tmp_path / str(number)))


def damaged(saved, tmp_path, name, change):
    """What is said of a folder of which a file was changed."""
    _, root = saved
    for path in root.rglob("*"):
        if path.is_file() and path.parent.name != "b":
            target = tmp_path / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (path,) = tmp_path.rglob(name)
    change(path)
    with pytest.raises(UserError) as error:
        TrainedModel.load(tmp_path / "cells" / "a")
    return str(error.value)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION, "table-*.npy"])
@pytest.mark.parametrize("change", [flip, cut, Path.unlink], ids=["flipped", "cut", "missing"])
def test_what_is_not_as_it_was_written_is_refused_in_a_line(saved, tmp_path, name, change):
    said = damaged(saved, tmp_path, name, change)
    assert name.partition("*")[0] in said
    assert "\n" not in said


@settings(deadline=None, max_examples=40)
@given(place=st.floats(0, 0.999), bit=st.integers(0, 7), name=st.sampled_from([WEIGHTS, DESCRIPTION]))
def test_no_flipped_bit_goes_unseen(saved, place, bit, name):
    path = saved[1] / "cells" / "a" / name
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(broken)
    try:
        with pytest.raises(UserError):
            TrainedModel.load(path.parent)
    finally:
        path.write_bytes(whole)


def test_another_table_is_refused_by_its_hash(tmp_path):
    table = np.random.default_rng(0).normal(size=(50257, 8)).astype(np.float32)
    np.save(tmp_path / "table.npy", table)
    trained = make(**{"data.embedding": f"file:{tmp_path / 'table.npy'}"})
    trained.model.embedding.table[...] = table[trained.vocabulary.token_ids]
    trained.save(tmp_path / "model")
    same(trained, TrainedModel.load(tmp_path / "model"))
    np.save(tmp_path / "other.npy", table + 1)
    with pytest.raises(
        UserError, match=r"other.npy is not the table that .* was trained on .*--embedding=file:PATH"
    ):
        TrainedModel.load(tmp_path / "model", embedding=f"file:{tmp_path / 'other.npy'}")
    (tmp_path / "table.npy").rename(tmp_path / "moved.npy")
    same(trained, TrainedModel.load(tmp_path / "model", embedding=f"file:{tmp_path / 'moved.npy'}"))


def test_a_file_of_another_format_says_which_version_wrote_it(saved, tmp_path):
    from cvfp_jax.generation import saved as files

    def newer(path):
        description = json.loads(path.read_text())
        description.pop("sha256")
        path.write_bytes(files._sealed({**description, "format": 99, "cvfp_jax": "7.0"}))

    assert "is of format 99, written by cvfp_jax 7.0" in damaged(saved, tmp_path, DESCRIPTION, newer)
