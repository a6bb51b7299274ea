import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.core.model import token_windows
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.distributed.mesh import single_device_mesh
from cvfp_jax.kernels.cross_entropy import trained_head_losses
from cvfp_jax.phase2.context_modes import cached_inputs
from tests.original import load_model, parameters
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    "name", cases(["A_L3K2", "F_L3K2", "G_L2K1", "G_L3K2"], fast=["A_L3K2", "F_L3K2", "G_L2K1"])
)
def test_modes_and_their_gradients_equal_the_original(golden, name):
    facts, arrays = golden(f"mode_{name[0]}")
    case = facts["cases"][name]
    config = ModelConfig(
        case["D"], case["E"], case["L"], case["K"], context_mode=case["mode"], activation="gelu"
    )
    model = load_model(config, arrays["emb"], arrays, f"{name}/param/")
    ids = arrays["tokens"]
    places = jnp.arange(len(ids) - 1)
    block, vectors = model.context_blocks[0], model.embedding.token_vectors()
    contexts = sequential_contexts(block, TokenStream(vectors, ids[:-1])).array
    np.testing.assert_allclose(contexts, arrays[f"{name}/contexts"][-1], rtol=0, atol=1e-5)
    window = token_windows(vectors, jnp.asarray(ids), places, config.num_input_tokens)
    inputs = cached_inputs(config, block, contexts, places, window, single_device_mesh())
    if case["mode"] == "G":
        # The golden gives the previous contexts as an array; the right ones are the predecessors.
        inputs[0] = jnp.asarray(arrays[f"{name}/prev_context"])
    graph, params = nnx.split(model.token_block)
    targets, valid = jnp.asarray(ids[1:]), jnp.ones(len(places), bool)

    def loss(params):
        out = nnx.merge(graph, params)(inputs, window)
        losses = trained_head_losses(out, model.embedding.table[...], targets, valid)
        return losses.loss / len(places), out

    (value, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(out, arrays[f"{name}/token_out"], rtol=0, atol=2e-5)
    assert float(value) == pytest.approx(case["loss"], abs=1e-5)
    found = nnx.merge(graph, gradient)
    prefix = f"{name}/grad/token_block."
    for parameter, (module, attribute) in parameters(found, arrays, prefix).items():
        array = np.asarray(getattr(module, attribute)[...])
        expected = arrays[parameter]
        found_array = array.T if attribute == "kernel" else array
        np.testing.assert_allclose(found_array, expected, rtol=0, atol=2e-5, err_msg=parameter)


def read(mode="A", layers=2, **fields):
    """What token layers read at each of five places whose contexts are 1, 2, ..., 5."""
    config = ModelConfig(1, 3, layers, context_mode=mode, **fields)
    contexts, places = jnp.arange(1.0, 6.0)[:, None], jnp.arange(5)
    inputs = cached_inputs(config, None, contexts, places, jnp.zeros((5, 3)), single_device_mesh())
    return [np.asarray(array).T.tolist() for array in inputs]


NOW, BEFORE, EARLIER = [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 2.0, 3.0]


def test_final_contexts_only():
    assert read("A") == [[NOW], [NOW]]
    assert read("E", layers=1) == [[NOW]]
    assert read("F", layers=3) == [[NOW], [], []]


def test_the_previous_context_is_the_predecessors_in_every_batch():
    assert read("G", layers=3) == [[BEFORE], [], [NOW]]


def test_contexts_of_steps_before_stand_beside_the_present_one():
    assert read("A", layers=1, prev_context_steps=2) == [[NOW, BEFORE, EARLIER]]
