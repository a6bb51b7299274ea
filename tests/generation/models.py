"""Small trained-looking models, and what the reference makes of them."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.core import reference
from cvfp_jax.core.model import LanguageModel
from cvfp_jax.data.stream import Vocabulary
from cvfp_jax.generation.trained import TrainedModel
from tests import plain

VOCAB = 23


def config_of(**fields):
    """A config of a small model."""
    settings = {"model.context_dim": 10, "model.embed_dim": 8, "data.embedding": "spectral"}
    return replace(RunConfig(), {**settings, "data.vocabulary": "corpus", **fields})


def make(seed=0, token_ids=None, **fields):
    """A model of random weights, whose tokens are GPT-2's first."""
    config = config_of(**fields)
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary(np.arange(VOCAB, dtype=np.int32)) if token_ids is None else Vocabulary(token_ids)
    table = jnp.asarray(rng.normal(size=(vocabulary.size, config.model.embed_dim)), jnp.float32)
    model = LanguageModel(config.model, table, config.precision, rngs=nnx.Rngs(seed))
    for path, value in nnx.to_flat_state(nnx.state(model)):
        if path != ("embedding", "table"):  # gains and biases too
            value[...] += jnp.asarray(0.3 * rng.normal(size=value[...].shape), jnp.float32)
            nnx.update(model, nnx.from_flat_state({path: value}))
    return TrainedModel(model, config, vocabulary)


def reference_logits(trained, ids_N):
    """The logits of the token after each one of a text, by the plain statement of the equations."""
    model, config = trained.model, trained.config.model
    block, tokens = (plain.of_block(part) for part in (model.context_blocks[0], model.token_block))
    table_VxE, norm = model.embedding.table[...], model.embedding.norm
    vectors_VxE = reference.layer_norm(table_VxE, reference.Norm(norm.scale[...], norm.bias[...]))
    window_NxKE = reference.token_windows(vectors_VxE[jnp.asarray(ids_N)], config.num_input_tokens)
    zero_D = jnp.zeros(config.context_dim)
    exact_NxD = reference.exact_contexts(block, window_NxKE, zero_D, config)
    before_NxD = reference.predecessors(exact_NxD)
    every = reference.context_block(block, before_NxD, window_NxKE, config)
    inputs = reference.contexts_read(every, before_NxD, config)
    hidden_NxE = reference.token_block(tokens, inputs, window_NxKE, config)
    if model.head is not None:
        return hidden_NxE @ model.head.table[...].T + model.head.bias[...][None, :]
    return hidden_NxE @ table_VxE.T
