import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig, Phase1Config
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.phase1.multi_block import exact_contexts, learn_blocks, shares
from cvfp_jax.phase1.train import learn_contexts
from cvfp_jax.reproduction.stale_clip import stale_clip
from tests.original import named

pytestmark = pytest.mark.usefixtures("quick_compilation")


@given(tokens=st.integers(2, 1000), blocks=st.integers(1, 9))
def test_shares_cover_the_stream_and_overlap_by_the_token_that_is_predicted(tokens, blocks):
    if tokens < 2 * blocks:
        return
    parts = shares(tokens, blocks)
    assert (parts[0].start, parts[-1].stop) == (0, tokens)
    for one, following in itertools.pairwise(parts):
        assert one.stop == following.start + 1
    sizes = [part.stop - part.start for part in parts]
    assert len(set(sizes[:-1])) <= 1


@pytest.fixture(scope="module")
def problem():
    config = ModelConfig(8, 6, context_mode="A", num_blocks=2)
    blocks = [ContextBlock(config, rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(11, 6)), jnp.float32)
    return blocks, vectors, np.random.default_rng(1).integers(0, 11, 61)


def learn(problem, **changes):
    blocks, vectors, ids = problem
    config = Phase1Config(**({"max_iterations": 5, "gradient_clip": 0.01} | changes))
    options = {}
    if config.compat_stale_clip:
        options["next_clip"] = functools.partial(stale_clip, max_norm=config.gradient_clip)
    return learn_blocks(blocks, TokenStream(vectors, ids), config, jax.random.key(0), **options)


def test_each_block_learns_as_it_would_alone(problem):
    blocks, vectors, ids = problem
    first, second = learn(problem)
    config = Phase1Config(max_iterations=5, gradient_clip=0.01)
    alone = learn_contexts(
        blocks[1], TokenStream(vectors, ids[30:]), config, jax.random.fold_in(jax.random.key(0), 1)
    )
    np.testing.assert_array_equal(second.contexts_NxD, alone.contexts_NxD)
    assert first.iterations == 5
    for name, value in named(blocks[0]).items():
        assert (named(first.block)[name] != value).any(), "the first block has learned too"


def test_left_over_gradients_count_only_for_comparison_with_the_original(problem):
    own, stale = learn(problem), learn(problem, compat_stale_clip=True)
    np.testing.assert_array_equal(own[0].contexts_NxD, stale[0].contexts_NxD)
    assert (own[1].trace["grad_norm"][0] == stale[1].trace["grad_norm"][0]).all()
    differ = [(named(own[1].block)[name] != value).any() for name, value in named(stale[1].block).items()]
    assert any(differ)


def test_contexts_of_blocks_stand_side_by_side(problem):
    blocks, vectors, ids = problem
    stream = TokenStream(vectors, ids)
    both = exact_contexts(blocks, stream).array
    assert both.shape == (61, 16)
    for number, block in enumerate(blocks):
        alone = sequential_contexts(block, stream).array
        np.testing.assert_array_equal(both[:, 8 * number : 8 * number + 8], alone)
