"""The plain system against the NumPy oracle in double precision, and against what the original recorded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig, Phase1Config, Phase2Config
from cvfp_jax.core import reference
from cvfp_jax.core.model import ContextBlock, TokenBlock
from tests import oracle
from tests.plain import close, of_arrays, of_block
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

init_context_block = jax.jit(reference.init_context_block, static_argnums=1)
phase1_step = jax.jit(reference.phase1_step, static_argnames=("model", "config"))
phase2_step = jax.jit(reference.phase2_step, static_argnames=("model", "config"))
exact_contexts = jax.jit(reference.exact_contexts, static_argnames="model")
token_windows = jax.jit(reference.token_windows, static_argnums=1)
ROWS = slice(None, None, 5)  # of contexts, whose other rows were left out of the goldens


def token_vectors(arrays, prefix):
    """The LayerNormed table of a golden."""
    norm = reference.Norm(*(jnp.asarray(arrays[f"{prefix}embed_norm.{name}"]) for name in ("weight", "bias")))
    return jax.jit(reference.layer_norm)(jnp.asarray(arrays["emb"]), norm)


def by_name(params):
    """A context block's parameters by the original's names."""
    named = {}
    for number, layer in enumerate(params):
        start = f"layers.{number}."
        named |= {f"{start}fnn.0.weight": layer.first.kernel.T, f"{start}fnn.0.bias": layer.first.bias}
        named |= {
            f"{start}context_norm.weight": layer.norm.scale,
            f"{start}context_norm.bias": layer.norm.bias,
        }
    return {name: np.asarray(array, np.float64) for name, array in named.items()}


# Layers, windows and a short last micro-batch; one micro-batch; a last one of one token.
ORACLE_CASES = {
    "ragged": (ModelConfig(6, 5, 2, 3), {"batch_size": 8, "gradient_clip": 0.05, "dist_reg_weight": 0.9}, 19),
    "whole": (ModelConfig(5, 5, 1, 1), {"batch_size": 0, "gradient_clip": 1.0, "dist_reg_weight": 0.5}, 16),
    "one_left": (
        ModelConfig(4, 7, 1, 2),
        {"batch_size": 8, "gradient_clip": 9.0, "dist_reg_weight": 0.0},
        17,
    ),
}


@pytest.mark.parametrize("name", cases(ORACLE_CASES, fast=["ragged"]))
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_steps_of_phase_1_equal_the_oracle(name, seed):
    model, changes, tokens = ORACLE_CASES[name]
    config, rng = Phase1Config(**changes), np.random.default_rng(seed)
    vectors, previous = (
        rng.normal(size=(tokens, model.embed_dim)),
        rng.normal(size=(tokens, model.context_dim)),
    )
    window = oracle.windows(vectors, model.num_input_tokens)
    case = {
        "L": model.num_layers, "b1": config.batch_size or tokens, "w": config.dist_reg_weight,
        "clip": config.gradient_clip, "lr": config.learning_rate,
    }  # fmt: skip
    with jax.enable_x64(True):
        plain_window = token_windows(jnp.asarray(vectors), model.num_input_tokens)
        np.testing.assert_array_equal(plain_window, window)
        params = init_context_block(jax.random.key(seed), model)
        parameters = by_name(params)
        moments = {key: (np.zeros_like(value), np.zeros_like(value)) for key, value in parameters.items()}
        state = reference.phase1_start(params, jnp.asarray(previous), config)
        for count in (1, 2, 3):
            expected = oracle.phase1_step(parameters, moments, count, previous, window, case)
            state, metrics = phase1_step(state, plain_window, jax.random.key(0), model, config)
            np.testing.assert_allclose(state.contexts_NxD, expected["contexts"], rtol=0, atol=1e-11)
            for ours, theirs in (("loss", "total"), ("cvfp_loss", "cvfp"), ("diversity_loss", "div")):
                assert float(metrics[ours]) == pytest.approx(expected[theirs], abs=1e-11)
            assert float(metrics["grad_norm"]) == pytest.approx(expected["grad_norm"], rel=1e-9)
            change = np.square(expected["contexts"] - previous).mean(axis=1)
            share = np.mean(change < config.convergence_threshold)
            assert float(metrics["converged_share"]) == pytest.approx(share)
            previous, parameters, moments = (expected[key] for key in ("contexts", "parameters", "moments"))
            close(by_name(state.params), parameters, atol=1e-9)
        contexts = exact_contexts(state.params, plain_window, jnp.zeros(model.context_dim), model)
        expected = oracle.recurrence(parameters, model.num_layers, window, np.zeros(model.context_dim))
        np.testing.assert_allclose(contexts, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", cases(["ragged", "lastbatch1"], fast=["ragged"]))
def test_gradients_of_phase_1_equal_the_original(golden, name):
    facts, arrays = golden("unit_phase1_step")
    case = facts["cases"][name]
    model = ModelConfig(case["D"], case["E"], case["L"], case["K"])
    config = Phase1Config(batch_size=case["b1"], dist_reg_weight=case["w"])
    vectors = oracle.normalise(arrays[f"{name}/emb"].astype(np.float64), 1.0, 0.0)[0].astype(np.float32)
    window = token_windows(jnp.asarray(vectors[arrays[f"{name}/ids"]]), model.num_input_tokens)
    gradient_of = jax.jit(jax.grad(reference.phase1_loss, has_aux=True), static_argnums=(4, 5))
    params, previous = of_arrays(arrays, f"{name}/param0/"), jnp.asarray(arrays[f"{name}/previous"])
    gradient, _ = gradient_of(params, previous, window, jax.random.key(0), model, config)
    close(gradient, of_arrays(arrays, f"{name}/step1/grad_raw/"), atol=2e-6)


def test_five_steps_of_phase_1_and_exact_contexts_equal_the_original(golden):
    facts, arrays = golden("c02_ragged_DneE")
    case = facts["config"]
    model = ModelConfig(case["D"], case["E"], case["L"], case["K"])
    config = Phase1Config(
        learning_rate=case["p1_lr"], batch_size=case["b1"], gradient_clip=case["p1_clip"],
        dist_reg_weight=case["w"],
    )  # fmt: skip
    vectors = token_vectors(arrays, "init/")
    window = token_windows(vectors[arrays["tokens_train"]], model.num_input_tokens)
    params = of_arrays(arrays, "init/context_block.")
    state = reference.phase1_start(params, jnp.asarray(arrays["p1/prev0"]), config)
    for step in (1, 2, 3, 4, 5):
        state, metrics = phase1_step(state, window, jax.random.key(0), model, config)
        for ours, theirs in (("loss", "total"), ("cvfp_loss", "cvfp"), ("diversity_loss", "div")):
            recorded = arrays[f"series/p1_{theirs}"][step - 1]
            assert float(metrics[ours]) == pytest.approx(recorded, abs=1e-5)
        if f"p1/contexts_iter{step + 1}" in arrays:
            expected = arrays[f"p1/contexts_iter{step + 1}"]
            np.testing.assert_allclose(state.contexts_NxD[ROWS], expected, rtol=0, atol=1e-5)
        if step in (1, 2, 5):
            close(state.params, of_arrays(arrays, f"p1/params_after_step{step}/context_block."), atol=1e-5)
    window = token_windows(vectors[arrays["tokens_val"][:-1]], model.num_input_tokens)
    final = of_arrays(arrays, "p1_final/context_block.")
    contexts = exact_contexts(final, window, jnp.zeros(model.context_dim), model)
    np.testing.assert_allclose(contexts, arrays["contexts_val"], rtol=0, atol=1e-5)
    rank = float(reference.effective_rank(contexts))
    assert rank == pytest.approx(facts["effective_rank"]["val"], abs=2e-5)


def test_steps_of_phase_2_equal_the_original(golden):
    facts, arrays = golden("unit_phase2_step")
    case, name = facts["cases"]["frozen_L2K2"], "frozen_L2K2/"
    model = ModelConfig(case["D"], case["E"], case["L"], case["K"])
    config = Phase2Config(learning_rate=case["lr"], gradient_clip=case["clip"])
    state = reference.phase2_start(of_arrays(arrays, f"{name}param0/"), config)
    ids, batch, norms = arrays[f"{name}ids"], case["b"], []
    # The original was recorded after the first batch, and again after an epoch more.
    for count, first in enumerate((0, 0, batch, 2 * batch)):
        rows = slice(first, min(first + batch, len(ids) - 1))
        contexts = [jnp.asarray(layer[rows]) for layer in arrays[f"{name}cache"]]
        window, targets = jnp.asarray(arrays[f"{name}token_embeds"][rows]), jnp.asarray(ids[1:][rows])
        state, metrics = phase2_step(
            state, contexts, window, targets, jnp.asarray(arrays[f"{name}emb"]), model, config
        )
        norms.append(float(metrics["grad_norm"]))
        if count == 0:
            assert float(metrics["loss"]) == pytest.approx(case["batch1_loss_ppl"][0], abs=2e-6)
            close(state.params, of_arrays(arrays, f"{name}after_batch1/"), atol=1e-6)
    np.testing.assert_allclose(norms, case["grad_norms"], rtol=2e-6)
    close(state.params, of_arrays(arrays, f"{name}after_epoch/"), atol=2e-6)


@pytest.mark.parametrize("name", cases(["A_L3K2", "F_L3K2", "G_L3K2"], fast=["G_L3K2"]))
def test_context_modes_equal_the_original(golden, name):
    facts, arrays = golden(f"mode_{name[0]}")
    case = facts["cases"][name]
    model = ModelConfig(
        case["D"], case["E"], case["L"], case["K"], context_mode=case["mode"], activation="gelu"
    )
    start = f"{name}/param/"
    window = token_windows(token_vectors(arrays, start)[arrays["tokens"][:-1]], model.num_input_tokens)
    blocks = [of_arrays(arrays, f"{start}{kind}_block.") for kind in ("context", "token")]
    # Of its own in the golden, not the predecessors; other modes do not read it.
    before = jnp.asarray(arrays.get(f"{name}/prev_context", np.zeros_like(arrays[f"{name}/contexts"][-1])))

    @jax.jit
    def read(blocks):
        exact = reference.exact_contexts(blocks[0], window, jnp.zeros(model.context_dim), model)
        layers = reference.parallel_contexts(blocks[0], exact, window, model)
        read = reference.contexts_read(layers, before, model)
        hidden = reference.token_block(blocks[1], read, window, model)
        targets = jnp.asarray(arrays["tokens"][1:])
        return layers, hidden, reference.phase2_loss(hidden, jnp.asarray(arrays["emb"]), targets)

    layers, hidden, loss = read(blocks)
    np.testing.assert_allclose(layers, arrays[f"{name}/contexts"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(hidden, arrays[f"{name}/token_out"], rtol=0, atol=2e-5)
    assert float(loss) == pytest.approx(case["loss"], abs=1e-5)


@pytest.mark.parametrize("name", ["ctx_in16_out20_e12", "tok_c16_e24to12"])
def test_layers_of_two_linear_maps_equal_the_original(golden, name):
    _, arrays = golden("ffn4")
    (params,) = of_arrays(arrays, f"{name}/param/")
    assert params.second is not None
    assert params.residual is not None
    context, token = (jnp.asarray(arrays[f"{name}/{kind}"]) for kind in ("context", "token"))
    kept = context if name.startswith("ctx") else token
    found = reference.layer(params, kept, context, token, "gelu")
    np.testing.assert_allclose(found, arrays[f"{name}/out"], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(40, 30, 3, 2),
        ModelConfig(40, 30, 3, 2, token_input_all_layers=False, ffn_num_layers=2),
        ModelConfig(40, 30, 3, 1, num_token_layers=2, context_mode="F"),
    ],
    ids=str,
)
def test_untrained_blocks_have_the_shapes_of_the_packages(model):
    for make, kind in (
        (reference.init_context_block, ContextBlock),
        (reference.init_token_block, TokenBlock),
    ):
        found = jax.eval_shape(functools.partial(make, model=model), jax.random.key(0))
        assert found == jax.eval_shape(lambda kind=kind: of_block(kind(model, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize("init", ["normal", "xavier"])
def test_untrained_blocks_have_the_originals_spreads(init):
    model = ModelConfig(60, 30, 1, 3, init=init)
    (layer,) = jax.jit(reference.init_token_block, static_argnums=1)(jax.random.key(1), model)
    for linear in (layer.first, layer.residual):
        expected = 0.1 if init == "normal" else np.sqrt(2 / sum(linear.kernel.shape))
        # Five standard errors of the spread of so many numbers.
        assert float(linear.kernel.std()) == pytest.approx(expected, rel=5 / np.sqrt(2 * linear.kernel.size))
        expected = 0.01 if init == "normal" else 0.0
        assert float(linear.bias.std()) == pytest.approx(expected, rel=5 / np.sqrt(2 * linear.bias.size))
    assert jnp.unique(layer.first.kernel).size > 0.9 * layer.first.kernel.size
    assert (layer.norm.scale == 1).all()
    assert not layer.norm.bias.any()
