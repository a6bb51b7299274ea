import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.checkpointing.row_file import RowFiles
from cvfp_jax.contexts import effective_rank as module
from cvfp_jax.contexts.effective_rank import (
    effective_rank,
    host_singular_values,
    streamed_singular_values,
)
from cvfp_jax.contexts.store import FileStore, as_store
from cvfp_jax.core import reference
from cvfp_jax.core.effective_rank import effective_rank_of_spectrum, singular_values

pytestmark = pytest.mark.usefixtures("quick_compilation")
CASES = [
    "full_64x16", "rank5_100x24", "rank1_50x8", "N_lt_D_10x16", "N_lt_D_7x48", "one_row_1x8",
    "mean_shift_200x16", "decay_300x32", "orthonormal_64x16", "ones_20x6", "layernormed_150x24",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_equals_the_original(golden, name):
    facts, arrays = golden("unit_effective_rank")
    case, matrix = facts["cases"][name], arrays[f"{name}/x"]
    values = np.asarray(singular_values(jnp.asarray(matrix)))
    np.testing.assert_allclose(values, arrays[f"{name}/S"], rtol=0, atol=2e-6 * values[0])
    rank = effective_rank(jnp.asarray(matrix), len(matrix))
    assert rank == pytest.approx(case["effective_rank_numpy_f64"], rel=2e-5)
    assert rank == pytest.approx(case["effective_rank"], rel=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_an_accelerator_and_a_host_find_the_same(golden, monkeypatch, name):
    matrix = golden("unit_effective_rank")[1][f"{name}/x"]
    on_host = effective_rank(jnp.asarray(matrix), len(matrix))
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    assert effective_rank(jnp.asarray(matrix), len(matrix)) == pytest.approx(on_host, rel=2e-5)


@pytest.mark.parametrize("rows", [5, 64, 65, 300])
def test_the_hosts_singular_values_are_those_of_double_precision(monkeypatch, rows):
    monkeypatch.setattr(module, "_HOST_ROWS", 64)
    matrix = np.random.default_rng(rows).normal(size=(rows, 20)).astype(np.float32)
    exact = np.zeros(20)
    exact[: min(rows, 20)] = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(
        host_singular_values(as_store(matrix)), exact, rtol=0, atol=3e-8 * exact[0] * 20
    )


def test_what_is_not_finite_has_no_rank():
    assert np.isnan(effective_rank(jnp.asarray([[1.0, jnp.inf], [0.0, 1.0]]), 2))


def test_an_all_zero_matrix_has_none():
    assert np.isnan(effective_rank(jnp.zeros((10, 4)), 10))


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("shape", [(1, 7), (6, 12), (12, 6), (40, 9)])
def test_it_is_that_of_the_equations_and_lies_between_one_and_the_rank(monkeypatch, shape, on_host):
    if not on_host:
        monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")

    @settings(max_examples=15, deadline=None)
    @given(rank=st.integers(1, min(shape)), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
    def check(rank, scale, seed):
        rng = np.random.default_rng(seed)
        matrix = scale * rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
        found = effective_rank(jnp.asarray(matrix, jnp.float32), len(matrix))
        with jax.enable_x64(True):
            exact = float(reference.effective_rank(jnp.asarray(matrix)))
        # Rounding leaves singular values of about 1e-7 where the matrix has none.
        assert found == pytest.approx(exact, rel=2e-5)
        assert 1.0 <= found <= rank * (1 + 2e-5)

    check()


@settings(max_examples=50, deadline=None)
# XLA takes subnormal numbers for zero on a CPU.
@given(st.lists(st.floats(0, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=40).filter(any))
def test_the_spectrums_rank_lies_between_one_and_the_number_of_values(values):
    found = float(effective_rank_of_spectrum(jnp.asarray(values, jnp.float32)))
    assert 1.0 <= found <= sum(value > 0 for value in values) * (1 + 1e-5)


@pytest.mark.parametrize("rows", [63, 64, 65, 128, 300])
def test_blocks_of_rows_give_the_singular_values_of_the_whole(monkeypatch, rows):
    monkeypatch.setattr("cvfp_jax.core.effective_rank.BLOCK_ROWS", 64)
    singular_values.clear_cache()
    rng = np.random.default_rng(rows)
    matrix = rng.normal(size=(rows, 20)) * np.geomspace(1, 1e-4, 20)
    values = singular_values(jnp.asarray(matrix, jnp.float32))
    exact = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(values, exact, rtol=0, atol=1e-6 * exact[0])
    with jax.enable_x64(True):
        rank = float(reference.effective_rank(jnp.asarray(matrix)))
    # Three digits more than the square root of a Gram matrix in single precision would have.
    assert float(effective_rank_of_spectrum(values)) == pytest.approx(rank, rel=2e-5)
    singular_values.clear_cache()


def test_rows_of_zeros_change_nothing():
    matrix = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    padded = np.pad(matrix, ((0, 25), (0, 0)))
    ours = effective_rank(jnp.asarray(padded), 30)
    assert ours == pytest.approx(effective_rank(jnp.asarray(matrix), 30), rel=1e-6)


@pytest.mark.parametrize("rows", [40, 50, 60])
def test_streams_of_all_lengths_are_drawn_to_as_many_rows(monkeypatch, rows):
    matrix = np.pad(np.random.default_rng(0).normal(size=(rows, 6)), ((0, 100 - rows), (0, 0)))
    shapes, whole = [], module.host_singular_values
    monkeypatch.setattr(module, "host_singular_values", lambda rows: shapes.append(rows.shape) or whole(rows))
    found = effective_rank(jnp.asarray(matrix, jnp.float32), rows, 50, np.random.default_rng(1))
    assert shapes == [(50, 6)]
    drawn = np.random.default_rng(1).choice(rows, 50, replace=False) if rows > 50 else np.arange(rows)
    assert found == pytest.approx(
        effective_rank(jnp.asarray(matrix[drawn], jnp.float32), len(drawn)), rel=1e-5
    )


def test_drawing_rows():
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(np.pad(rng.normal(size=(500, 6)), ((0, 100), (0, 0))), jnp.float32)
    drawn = [effective_rank(matrix, 500, 50, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    # Fifty rows of 500, none of the padding: close to the rank of all, and never more than six.
    assert drawn[0] == pytest.approx(effective_rank(matrix, 500), rel=0.05)
    assert effective_rank(matrix, 500, 500) == effective_rank(matrix, 500)
    with pytest.raises(ValueError, match="generator"):
        effective_rank(matrix, 500, 50)


def test_singular_values_of_a_file_are_those_of_the_array(tmp_path):
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(20_000, 8)) * rng.uniform(0.1, 1, 8)).astype(np.float32)
    with RowFiles(tmp_path / "rows") as files:
        file = files.make(matrix.shape, np.float32)
        file.write(0, matrix)
        in_file, in_memory = FileStore(file), as_store(matrix)
        np.testing.assert_allclose(streamed_singular_values(in_file), singular_values(matrix), rtol=1e-5)
        np.testing.assert_array_equal(host_singular_values(in_file), host_singular_values(in_memory))
