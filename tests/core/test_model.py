import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.core.model import (
    ContextBlock,
    ContextLayer,
    LayerKind,
    TokenBlock,
    TokenLayer,
    token_windows,
)
from cvfp_jax.core.widths import token_widths
from tests.original import load_block, load_layer, make_model, named, without_values

pytestmark = pytest.mark.usefixtures("quick_compilation")
LAYERS = [
    "ctx_d16_e32",
    "ctx_d24_e16_affine",
    "ctx_in16_out24_e32_resproj",
    "ctx_d16_notoken",
    "tok_c16_e32",
    "tok_c24_in64_out32_resproj",
    "tok_c32_e16_affine",
]


def close(actual, expected, tolerance=1e-5):
    """Equal but for rounding, relative to the array's largest entry."""
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_their_gradients_equal_the_original(golden, name):
    facts, arrays = golden("unit_layers")
    case = facts["cases"][name]
    make = ContextLayer if case["kind"].startswith("context") else TokenLayer
    widths = case["context_in"], case["token_in"], case["out"]
    layer = without_values(lambda rngs: make(*widths, rngs=rngs))
    load_layer(layer, arrays, f"{name}/param/")
    graphdef, params = nnx.split(layer)
    context = jnp.asarray(arrays[f"{name}/context"])
    token = jnp.asarray(arrays.get(f"{name}/token", np.zeros((case["B"], 0), np.float32)))

    def loss(params, context, token):
        out = nnx.merge(graphdef, params)(context, token)
        return (out * arrays[f"{name}/G"]).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, context, token)
    close(out, arrays[f"{name}/out"])
    close(gradients[1], arrays[f"{name}/grad/context"])
    if case["token_in"]:
        close(gradients[2], arrays[f"{name}/grad/token"])
    gradient = nnx.merge(graphdef, gradients[0])
    block = type("Block", (), {"layers": [gradient]})
    for parameter, value in named(block).items():
        close(value, arrays[f"{name}/grad/param/{parameter.removeprefix('layers.0.')}"])


@pytest.mark.parametrize("name", ["blk_L3_D24_E16_K2"])
def test_blocks_and_their_gradients_equal_the_original(golden, name):
    facts, arrays = golden("unit_layers")
    case = facts["cases"][name]
    config = ModelConfig(case["D"], case["E"], case["L"], case["K"])
    blocks = {
        "context_block": without_values(lambda rngs: ContextBlock(config, rngs=rngs)),
        "token_block": without_values(lambda rngs: TokenBlock(config, rngs=rngs)),
    }
    assert token_widths(config) == case["token_dims"]
    for prefix, block in blocks.items():
        load_block(block, arrays, f"{name}/param/{prefix}.")
    split = {prefix: nnx.split(block) for prefix, block in blocks.items()}

    def loss(params, context, token):
        merged = {prefix: nnx.merge(split[prefix][0], params[prefix]) for prefix in split}
        contexts = merged["context_block"].every_layer(context, token)
        out = merged["token_block"](contexts, token)
        return (out * arrays[f"{name}/G"]).sum(), (contexts, out)

    params = {prefix: state for prefix, (_, state) in split.items()}
    inputs = (jnp.asarray(arrays[f"{name}/context"]), jnp.asarray(arrays[f"{name}/token"]))
    (_, (contexts, out)), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
        params, *inputs
    )
    for number, context in enumerate(contexts):
        close(context, arrays[f"{name}/ctx_out{number}"])
    close(out, arrays[f"{name}/token_out"])
    close(gradients[1], arrays[f"{name}/grad/context"])
    close(gradients[2], arrays[f"{name}/grad/token"])
    for prefix, (graphdef, _) in split.items():
        for parameter, value in named(nnx.merge(graphdef, gradients[0][prefix]), f"{prefix}.").items():
            close(value, arrays[f"{name}/grad/param/{parameter}"])


def test_token_widths_equal_the_original(golden):
    table = golden("unit_layers")[0]["token_dims_table"]
    assert len(table) >= 30
    for name, widths in table.items():
        L, K, E = (int(part[1:]) for part in name.split("_"))
        assert token_widths(ModelConfig(embed_dim=E, num_layers=L, num_input_tokens=K)) == widths


@given(L=st.integers(1, 8), K=st.integers(1, 5), E=st.integers(1, 40))
def test_token_widths_fall_from_the_window_to_the_embedding(L, K, E):
    widths = token_widths(ModelConfig(embed_dim=E, num_layers=L, num_input_tokens=K))
    assert widths[0] == K * E
    assert widths[-1] == E
    assert len(widths) == L + 1
    steps = -np.diff(widths)
    assert (steps >= 0).all()
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("span", [(0, 5), (5, 9), (9, 11), (1, 2), (0, 11)])
def test_token_windows_equal_the_original(golden, K, span):
    _, arrays = golden("unit_windows_sequential")
    vectors = jnp.asarray(arrays["token_embeds"])
    windows = jax.jit(token_windows, static_argnums=3)(vectors, np.arange(11), np.arange(*span), K)
    np.testing.assert_array_equal(windows, arrays[f"K{K}_{span[0]}_{span[1]}"].reshape(len(windows), -1))


def test_initialisation_has_the_originals_shapes_and_spreads(golden):
    recorded = golden("unit_init_stats")[0]["params"]
    config = ModelConfig(context_dim=96, embed_dim=64, num_layers=2, num_input_tokens=2)
    model = make_model(config, np.zeros((97, 64), np.float32))
    found = named(model.context_blocks[0], "context_block.") | named(model.token_block, "token_block.")
    assert found.keys() == {name for name in recorded if "_block." in name}
    for name, value in found.items():
        facts = recorded[name]
        assert list(value.shape) == facts["shape"]
        # Five standard errors of the spread and of the mean of so many normal numbers.
        assert value.std() == pytest.approx(facts["std"], rel=10 / np.sqrt(2 * value.size), abs=1e-9)
        assert value.mean() == pytest.approx(
            facts["mean"], abs=1e-9 + 10 * facts["std"] / np.sqrt(value.size)
        )


GELU_LAYERS = ["ctx_in16_out20_e12", "tok_c16_e24to12"]


@pytest.mark.parametrize("name", GELU_LAYERS)
def test_two_linear_maps_with_gelu_equal_the_original(golden, name):
    facts, arrays = golden("ffn4")
    widths = facts["cases"][name]["inputs"]
    out_dim = arrays[f"{name}/out"].shape[1]
    make = ContextLayer if name.startswith("ctx") else TokenLayer
    kind = LayerKind("gelu", num_linear=2)
    layer = without_values(lambda rngs: make(widths["context"], widths["token"], out_dim, kind, rngs=rngs))
    load_layer(layer, arrays, f"{name}/param/")
    graphdef, params = nnx.split(layer)
    inputs = [jnp.asarray(arrays[f"{name}/{part}"]) for part in ("context", "token")]

    def loss(params, context, token):
        out = nnx.merge(graphdef, params)(context, token)
        return (out * arrays[f"{name}/G"]).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, *inputs)
    close(out, arrays[f"{name}/out"])
    for gradient, part in zip(gradients[1:], ("context", "token"), strict=True):
        close(gradient, arrays[f"{name}/grad/{part}"])
    block = type("Block", (), {"layers": [nnx.merge(graphdef, gradients[0])]})
    names = {key.removeprefix(f"{name}/grad/param/") for key in arrays}
    for parameter, value in named(block, names=names).items():
        close(value, arrays[f"{name}/grad/param/{parameter}"])


def test_gelu_is_the_exact_one(golden):
    _, arrays = golden("ffn4")
    np.testing.assert_allclose(
        LayerKind("gelu").activate(arrays["gelu/x"]), arrays["gelu/y"], rtol=0, atol=1e-6
    )


def test_xavier_weights_are_uniform_and_biases_zero():
    model = make_model(ModelConfig(200, 100, init="xavier"), np.zeros((5, 100), np.float32))
    linear = model.context_blocks[0].layers[0].linear
    limit = np.sqrt(6 / (300 + 200))
    weights = np.asarray(linear.kernel[...])
    assert np.abs(weights).max() <= limit
    assert np.abs(weights).max() > 0.99 * limit
    assert weights.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert not np.asarray(linear.bias[...]).any()


def test_blocks_start_different_from_one_another():
    model = make_model(ModelConfig(6, 5, context_mode="A", num_blocks=2), np.zeros((4, 5), np.float32))
    one, other = (named(block) for block in model.context_blocks)
    assert all((one[name] != other[name]).any() for name in one if "fnn" in name)
