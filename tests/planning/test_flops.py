"""Every product of the compiled steps is counted, and no other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.baselines.train import Frozen, Segment, make_network, segment_loss
from cvfp_jax.baselines.widths import transformer_shape
from cvfp_jax.config.baseline import ARCHITECTURES, BaselineConfig
from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import ModelConfig, Phase2Config, RunConfig
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock, TokenBlock
from cvfp_jax.core.widths import context_widths, token_context_widths
from cvfp_jax.kernels.block_vjp import backward, forward
from cvfp_jax.kernels.cross_entropy import frozen_head_losses, trained_head_losses
from cvfp_jax.kernels.token_tables import token_tables
from cvfp_jax.planning import flops
from tests.plain import drawn, module

N, U, V = 7, 5, 11
MODELS = {
    "one layer": ModelConfig(context_dim=3, embed_dim=5),
    "a window": ModelConfig(context_dim=3, embed_dim=5, num_input_tokens=2),
    "three layers": ModelConfig(context_dim=3, embed_dim=5, num_layers=3),
    "falling widths": ModelConfig(context_dim=3, embed_dim=5, num_layers=3, token_input_all_layers=False),
    "two maps": ModelConfig(context_dim=3, embed_dim=5, num_layers=2, ffn_num_layers=2, num_input_tokens=2),
    "mode F": ModelConfig(context_dim=3, embed_dim=5, num_layers=2, context_mode="F", num_input_tokens=2),
}


def drawn_block(kind, make, model):
    return module(kind, model, drawn(np.random.default_rng(0), make, model, np.float32))


def products(function, *args):
    """The operations of all products of a traced function, those of loops as often as they run."""
    return _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of(jaxpr):
    total = 0
    for line in jaxpr.eqns:
        # A sum by weight, a vector by a matrix, is no product of matrices.
        if line.primitive.name == "dot_general" and all(a.aval.ndim == 2 for a in line.invars):
            (contracted, _), (batched, _) = line.params["dimension_numbers"]
            assert not batched
            shape = line.invars[0].aval.shape
            total += 2 * math.prod(line.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)
        times = line.params.get("length", 1) if line.primitive.name == "scan" else 1
        assert line.primitive.name != "while", "nobody knows how often it runs"
        for inner in jax.tree.leaves(list(line.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if (body := getattr(inner, "jaxpr", inner)) is not inner or hasattr(inner, "eqns"):
                total += times * _of(body)
    return total


@pytest.mark.parametrize("name", MODELS)
def test_phase_1_multiplies_what_is_counted(name):
    model = MODELS[name]
    block = drawn_block(ContextBlock, reference.init_context_block, model)
    graphdef, params = nnx.split(block)
    vectors, contexts = jnp.zeros((U, model.embed_dim)), jnp.zeros((N, model.context_dim))
    widths = context_widths(model)[1:]
    inner = [layer.linear.kernel.shape[1] for layer in block.layers]
    assert model.ffn_num_layers == 2 or inner == widths

    def iterate(contexts):
        terms = [jnp.zeros((N, width)) for width in inner]
        made, kept = forward(block, contexts, terms)
        return backward(block, contexts, kept, made)

    def tables(params):
        return token_tables(nnx.merge(graphdef, params), vectors)

    made = products(iterate, contexts)
    of_tables = products(tables, params)
    both = products(lambda params: jax.vjp(tables, params)[1](tables(params)), params)
    assert of_tables == flops.token_terms(model, U)
    assert both - 2 * of_tables == of_tables, "the tables are made twice here, and their gradient once"
    assert made + 2 * of_tables == flops.phase1_iteration(model, N, U)
    once = products(lambda contexts: forward(block, contexts, [jnp.zeros((N, w)) for w in inner]), contexts)
    assert once == flops.exact_contexts(model, N)
    assert once + of_tables == flops.parallel_pass(model, N, U)


@pytest.mark.parametrize("name", MODELS)
def test_phase_2_multiplies_what_is_counted(name):
    model = MODELS[name]
    graphdef, params = nnx.split(drawn_block(TokenBlock, reference.init_token_block, model))
    contexts = [jnp.zeros((N, width)) for width in token_context_widths(model)]
    window = jnp.zeros((N, model.num_input_tokens * model.embed_dim))
    table, targets, valid = jnp.zeros((V, model.embed_dim)), jnp.zeros(N, jnp.int32), jnp.ones(N, bool)
    remade = 2 * N * sum(map(sum, flops._context_layers(model))) if model.reads_every_layer else 0

    def loss(params, table, head):
        hidden = nnx.merge(graphdef, params)(contexts, window)
        return head(hidden, table, targets, valid).loss

    forwards = products(lambda params: loss(params, table, frozen_head_losses), params)
    assert forwards + remade == flops.phase2_forward(model, V, N)
    trained = products(jax.grad(lambda params: loss(params, table, frozen_head_losses)), params)
    assert trained + remade == flops.phase2_training(model, Phase2Config(), V, N)
    both = jax.grad(lambda params, table: loss(params, table, trained_head_losses), argnums=(0, 1))
    learned = Phase2Config(freeze_embedding=False)
    assert products(both, params, table) + remade == flops.phase2_training(model, learned, V, N)


def test_blocks_read_all_tokens_and_learn_on_their_shares():
    one, three = (ModelConfig(context_dim=3, embed_dim=5, context_mode="A", num_blocks=b) for b in (1, 3))
    assert flops.exact_contexts(three, N) == 3 * flops.exact_contexts(one, N)
    of_tables = 2 * flops.token_terms(one, U)
    assert flops.phase1_iteration(three, N, U) == flops.phase1_iteration(one, N, U) + 2 * of_tables


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_a_baseline_multiplies_what_is_counted(architecture):
    config = RunConfig(
        architecture=architecture,
        model=ModelConfig(context_dim=8, embed_dim=6),
        baseline=BaselineConfig(4, num_layers=2 if architecture != "bptt" else 1, num_heads=2),
    )
    graphdef, params = nnx.split(nnx.eval_shape(lambda: make_network(config, nnx.Rngs(0))))
    ids = np.zeros((3, 4), np.int32)
    segment, table = Segment(ids, ids, np.ones((3, 4), bool)), jnp.zeros((V, 6))

    def loss(params):
        network = nnx.merge(graphdef, params)
        return segment_loss(network, network.start(3), Frozen(table, table), segment)[0]

    made = products(jax.grad(loss), params)
    attention = 0
    if architecture == "transformer":  # products of many matrices at once: scores and sums, each three times
        M, _, layers, _ = transformer_shape(config)
        attention = 3 * layers * 2 * (2 * 12 * 4 * M)
    assert made + attention == flops.baseline_training(config, V, 12)


def test_a_cells_training_is_its_phases():
    config = RunConfig(model=MODELS["one layer"])
    ids = np.array([0, 1, 1, 2])
    epoch = flops.phase2_training(config.model, config.phase2, V, 3)
    iteration = flops.phase1_iteration(config.model, 4, 3)
    contexts = flops.parallel_pass(config.model, 4, 3)
    assert flops.cvfp_training(config, ids, V, iterations=5, epochs=2) == 4 * iteration + contexts + 2 * epoch
    lagged = replace(config, {"phase1.lagged_task_weight": 1.0, "phase1.lagged_task_places": 3})
    more = flops.cvfp_training(lagged, ids, V, 5, 2) - flops.cvfp_training(config, ids, V, 5, 2)
    assert more == 4 * (epoch + 2 * 3 * 3 * 5), "a step on three places, and the gradient of their contexts"
    zero = replace(config, {"phase2.contexts": "zero"})
    assert flops.cvfp_training(zero, ids, V, iterations=0, epochs=2) == 2 * epoch
