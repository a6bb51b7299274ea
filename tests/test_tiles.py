"""Micro-batches in tiles: filled up little, and the same numbers as in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax import tiles
from cvfp_jax.config import ModelConfig, Phase1Config
from cvfp_jax.model import ContextBlock
from cvfp_jax.phase1 import learn_contexts
from cvfp_jax.tiles import filling, num_tiles

pytestmark = pytest.mark.usefixtures("quick_compilation")


@given(st.integers(1, 100_000))
def test_tiles_hold_all_rows_and_little_else(rows):
    count, each = num_tiles(rows)
    assert each <= 1024
    assert filling(rows) == count * each - rows
    assert 0 <= filling(rows) < each
    assert count == 1 or each % 32 == 0
    # As a micro-batch grows, what is filled up is a vanishing part of it.
    assert filling(rows) <= max(64, 0.05 * rows)


@pytest.fixture
def small_tiles(monkeypatch):
    def make_small():
        jax.clear_caches()  # programs are kept by their settings, of which tiles are none
        monkeypatch.setattr(tiles, "_CPU_ROWS", 64)

    yield make_small
    jax.clear_caches()


def test_phase_1_in_tiles_learns_what_it_learns_in_whole_micro_batches(small_tiles):
    rng = np.random.default_rng(5)
    vectors = jnp.asarray(rng.normal(size=(11, 6)), jnp.float32)
    ids = rng.integers(0, 11, 231)  # the last micro-batch is not full
    config = Phase1Config(
        max_iterations=4, batch_size=100, diversity="OACD", context_noise=0.1, dist_reg_weight=0.5
    )

    def learned():
        block = ContextBlock(ModelConfig(8, 6, 2, 2), rngs=nnx.Rngs(0))
        result = learn_contexts(block, vectors, ids, config, jax.random.key(0))
        return result.contexts_NxD, result.trace, result.residual_mean

    whole = learned()
    small_tiles()
    assert num_tiles(100)[0] > 1
    in_tiles = learned()
    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5),
        in_tiles,
        whole,
    )
