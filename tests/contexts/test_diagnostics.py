import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.config.settings import ModelConfig
from cvfp_jax.contexts import diagnostics
from cvfp_jax.contexts.contraction import contraction
from cvfp_jax.contexts.diagnostics import (
    Geometry,
    block_diagnostics,
    convergence_trials,
    embedding_similarity,
    geometry,
    identity_of_random,
    rank_verdict,
    trend,
)
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.contexts.store import as_store
from cvfp_jax.core.model import ContextBlock
from cvfp_jax.core.token_stream import TokenStream
from tests import oracle
from tests.original import named
from tests.tiers import cases

pytestmark = pytest.mark.usefixtures("quick_compilation")
CASES = [
    "empty", "one", "two_down", "down_slow", "down_just_converging", "flat", "flat_zero", "up",
    "noisy_flat_small", "noisy_flat_big", "r1_like", "r1_converging", "initial_zero", "std_above",
]  # fmt: skip
LOSSES = st.lists(st.floats(0, 10), min_size=2, max_size=20)


def make_block(D=6, E=4, K=1, gain=1.0):
    """A block whose contexts remember for longer, the greater the gain."""
    block = ContextBlock(
        ModelConfig(context_dim=D, embed_dim=E, num_input_tokens=K, num_token_layers=1), rngs=nnx.Rngs(3)
    )
    for layer in block.layers:
        kernel = layer.linear.kernel[...]
        layer.linear.kernel = nnx.Param(kernel.at[:D].multiply(gain))
    return block


def make_stream(tokens=40, V=7, E=4, seed=0):
    rng = np.random.default_rng(seed)
    return TokenStream(jnp.asarray(rng.normal(size=(V, E)), jnp.float32), rng.integers(0, V, tokens))


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_equals_the_original(golden, name):
    case = golden("unit_r1_convergence_trend")[0]["cases"][name]
    found = trend(case["losses"])
    assert found.status == case["status"]
    assert found.slope == pytest.approx(case["slope"], rel=1e-12, abs=1e-15)
    assert (found.std is None) == (case["std"] is None)
    assert found.std is None or found.std == pytest.approx(case["std"], rel=1e-12, abs=1e-15)


@given(st.floats(0, 1e6), st.integers(2, 20))
def test_a_constant_list_has_converged(loss, count):
    found = trend([loss] * count)
    # Rounding leaves a slope of 1e-16 of the loss.
    assert found.status == "CONVERGED"
    assert abs(found.slope) < 1e-8
    assert found.std < 1e-8


@given(LOSSES, st.floats(-10, 10))
def test_the_slope_is_that_of_the_least_squares_line(losses, shift):
    x = np.arange(len(losses)) - (len(losses) - 1) / 2
    slope = x @ np.array(losses) / (x @ x)
    assert trend(losses).slope == pytest.approx(slope, rel=1e-9, abs=1e-12)
    assert trend(losses[::-1]).slope == pytest.approx(-slope, rel=1e-9, abs=1e-12)
    assert trend([loss + shift for loss in losses]).slope == pytest.approx(slope, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("slope", "status"),
    [(-1.1e-3, "CONVERGING"), (-9e-4, "CONVERGED"), (9e-4, "CONVERGED"), (1.1e-3, "DIVERGING")],
)
def test_slopes_of_a_thousandth_divide_the_verdicts(slope, status):
    assert trend([0.5 + slope * place for place in range(5)]).status == status


def test_losses_that_are_not_finite_have_no_slope():
    for bad in (np.nan, np.inf):
        assert trend([0.1, bad, 0.1]) == ("UNSTABLE", None, None)
        assert trend([bad]) == ("INSUFFICIENT_DATA", 0.0, None)


@pytest.mark.parametrize("K", cases([1, 2], fast=[2]))
def test_trials_equal_the_oracle(K):
    block, stream = make_block(K=K, gain=8.0), make_stream(tokens=12)
    found = convergence_trials(block, stream, 5)
    window = oracle.windows(np.asarray(stream.vectors_VxE, np.float64)[stream.ids_N], K)
    parameters = {name: value.astype(np.float64) for name, value in named(block).items()}
    passes, start = [], np.zeros(6)
    for _ in range(5):
        passes.append(oracle.recurrence(parameters, 1, window, start))
        start = passes[-1][-1]
    expected = np.square(np.diff(passes, axis=0)).mean(axis=(1, 2))
    assert expected[1] > 1e-4  # the second loss too is of a difference that single precision sees
    np.testing.assert_allclose(found.losses, expected, rtol=1e-3, atol=1e-9)
    assert found.trend == trend(found.losses)


def replayed(monkeypatch, passes):
    """Makes the passes come from a list; returns the starts that were asked for."""
    starts, passes = [], iter(passes)

    def sequential_contexts(block, stream, start_D):
        starts.append(start_D.tolist())
        return as_store(jnp.asarray(next(passes), jnp.float32))

    monkeypatch.setattr(diagnostics, "sequential_contexts", sequential_contexts)
    return starts


NARROW = SimpleNamespace(context_dim=1)  # as much of a block as passes from a list need


def zeros(tokens):
    return TokenStream(jnp.zeros((1, 1)), np.zeros(tokens, int))


def test_each_pass_starts_where_the_last_one_ended(monkeypatch):
    starts = replayed(monkeypatch, [[[0], [1]], [[4], [2]], [[4], [2]]])
    found = convergence_trials(NARROW, zeros(2), 6)
    # The third pass ends where it began, so that all later ones are known.
    assert starts == [[0], [1], [2]]
    assert found.losses == [8.5, 0, 0, 0, 0]


@pytest.mark.parametrize("num_trials", [0, 1])
def test_too_few_trials_make_no_pass(monkeypatch, num_trials):
    starts = replayed(monkeypatch, [])
    found = convergence_trials(make_block(), make_stream(), num_trials)
    assert found == ([], ("INSUFFICIENT_DATA", 0.0, None))
    assert not starts


def test_a_loss_over_many_tokens_keeps_its_digits(monkeypatch):
    change = np.float32(0.1)
    replayed(monkeypatch, [np.zeros((3_000_000, 1)) + 1, np.zeros((3_000_000, 1)) + 1 + change])
    found = convergence_trials(NARROW, zeros(3_000_000), 2)
    exact = float(np.float32(1 + change) - np.float32(1)) ** 2
    assert found.losses[0] == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("K", cases([1, 3], fast=[3]))
def test_the_identity_check_equals_the_oracle(K):
    block, key = make_block(K=K), jax.random.key(5)
    found = identity_of_random(block, 4, key, draws=50)
    context_key, window_key = jax.random.split(key)
    context = np.asarray(jax.random.normal(context_key, (50, 6)), np.float64)
    window = np.asarray(jax.random.normal(window_key, (50, 4 * K)), np.float64)
    outputs, _ = oracle.context_block(named(block), 1, context, window)
    out = outputs[-1]
    cosines = (context * out).sum(1) / np.linalg.norm(context, axis=1) / np.linalg.norm(out, axis=1)
    expected = [cosines.mean(), cosines.max(), cosines.min()]
    np.testing.assert_allclose(found[:3], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("gain", "is_identity"), [(0.0, True), (20.0, False)])
def test_a_block_that_adds_nothing_is_an_identity(gain, is_identity):
    block = make_block(D=64)
    for layer in block.layers:
        layer.linear.kernel = nnx.Param(gain * layer.linear.kernel[...])
    found = identity_of_random(block, 4, jax.random.key(0))
    assert found.is_identity is is_identity
    assert -1 <= found.min < found.mean < found.max <= 1 + 1e-6


def exact_geometry(rows):
    """The measures in double precision, pair by pair."""
    n, norms = len(rows), np.linalg.norm(rows, axis=1)
    pairs = [(a, b) for a in range(n) for b in range(a)]
    distances = [np.linalg.norm(rows[a] - rows[b]) for a, b in pairs]
    cosines = [rows[a] @ rows[b] / max(norms[a] * norms[b], 1e-30) for a, b in pairs]
    return {
        "norm_mean": norms.mean(),
        "deviation_mean": np.linalg.norm(rows - rows.mean(axis=0), axis=1).mean(),
        **{f"distance_{f.__name__}": f(distances) for f in (np.mean, min, max)},
        **{f"cosine_{f.__name__}": f(cosines) for f in (np.mean, min, max)},
        "sparsity": (np.abs(rows) < np.float32(0.01)).mean(),
    }


def check(found: Geometry, rows, atol=3e-6):
    expected = exact_geometry(np.asarray(rows, np.float64))
    scale = expected["norm_mean"]
    for name, value in expected.items():
        size = 1.0 if name.startswith(("cos", "spar")) else scale
        assert getattr(found, name) == pytest.approx(value, rel=0, abs=atol * size), name
    return expected


MATRICES = {
    # A shape more takes a second more to compile.
    "shape": st.sampled_from([(2, 1), (3, 8), (12, 5)]),
    "scale": st.floats(0.02, 100),
    "offset": st.floats(0, 3),
    "seed": st.integers(0, 1000),
}


def matrix(shape, scale, offset, seed):
    rng = np.random.default_rng(seed)
    return (scale * (rng.normal(size=shape) + offset * rng.normal(size=shape[1]))).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(**MATRICES)
def test_geometry_equals_that_of_double_precision(shape, scale, offset, seed):
    rows = matrix(shape, scale, offset, seed)
    found = geometry(jnp.asarray(rows), len(rows), np.random.default_rng(0))
    # Means over pairs that are nearly alike can be wrong by the root of the rounding.
    expected = check(found, rows, atol=1e-5)
    assert found.is_zero_solution == (expected["norm_mean"] < 0.1)
    assert found.is_global_attractor == (expected["distance_mean"] < 0.1 and expected["cosine_mean"] > 0.99)


@settings(max_examples=50, deadline=None)
@given(**MATRICES)
def test_geometry_does_not_see_order_and_rotation(shape, scale, offset, seed):
    rows = matrix(shape, scale, offset, seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(shape[1], shape[1])))[0]
    turned = (rng.permutation(rows).astype(np.float64) @ rotation).astype(np.float32)
    before, after = (geometry(jnp.asarray(x), len(x), rng) for x in (rows, turned))
    for name in before._fields[:8]:
        size = 1.0 if name.startswith("cos") else before.norm_mean
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=0, abs=2e-5 * size), name


@settings(max_examples=50, deadline=None)
@given(**MATRICES)
def test_doubling_contexts_doubles_lengths_and_leaves_cosines(shape, scale, offset, seed):
    rows, rng = matrix(shape, scale, offset, seed), np.random.default_rng(0)
    once, twice = geometry(jnp.asarray(rows), len(rows), rng), geometry(jnp.asarray(2 * rows), len(rows), rng)
    assert twice[:5] == pytest.approx([2 * length for length in once[:5]], rel=1e-6)
    assert twice[5:8] == pytest.approx(once[5:8], abs=1e-6)


@pytest.mark.parametrize("rows", [7, 20])
def test_chunks_measure_what_the_whole_does(monkeypatch, rows):
    monkeypatch.setattr(diagnostics, "_CHUNK_ROWS", 7)
    jax.clear_caches()
    contexts = matrix((rows, 5), 1.0, 0.5, rows)
    check(geometry(jnp.asarray(contexts), rows, np.random.default_rng(0)), contexts)
    jax.clear_caches()


def test_memory_is_that_of_a_chunk_and_not_of_all_pairs():
    rows = 4000
    types = {"contexts": ((rows, 8), jnp.float32), "rows": ((rows,), jnp.int32), "count": ((), jnp.int32)}
    arguments = (jax.ShapeDtypeStruct(*kind) for kind in types.values())
    compiled = diagnostics._row_measures.lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * rows * rows / 2


def test_padding_is_not_read():
    rows = matrix((9, 5), 1.0, 0.5, 1)
    padded = np.concatenate([rows, np.full((4, 5), np.nan, np.float32)])
    check(geometry(jnp.asarray(padded), 9, np.random.default_rng(0)), rows)


@pytest.mark.parametrize("rows", cases([1, 2, 9], fast=[1, 9]))
def test_room_for_longer_streams_changes_no_diagnostic(rows):
    block, stream, key = make_block(), make_stream(tokens=rows + 1), jax.random.key(0)
    contexts = sequential_contexts(block, stream[:-1]).array
    roomy = jnp.pad(contexts, ((0, 7), (0, 0)))

    def diagnose(contexts):
        rng = np.random.default_rng(0)
        return block_diagnostics(block, stream, contexts, 0.8, num_trials=4, key=key, rng=rng)

    plain, padded = diagnose(contexts), diagnose(roomy)
    assert plain.keys() == padded.keys()
    for name, value in plain.items():
        if isinstance(value, float | list):
            assert padded[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
        else:
            assert padded[name] == value, name


def test_rows_are_drawn_from_the_contexts_only():
    rows = matrix((50, 5), 1.0, 0.5, 1)
    padded = jnp.asarray(np.concatenate([rows, np.full((4, 5), np.nan, np.float32)]))
    drawn = [geometry(padded, 50, np.random.default_rng(seed), 20) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    check(drawn[0], rows[np.random.default_rng(1).choice(50, 20, replace=False)])
    check(geometry(padded, 50, np.random.default_rng(1), 50), rows)


def test_one_context_has_no_pairs():
    found = geometry(jnp.array([[3.0, 4.0, 0.0]]), 1, np.random.default_rng(0))
    assert found[:8] == (5.0, 0.0, None, None, None, None, None, None)
    assert found.sparsity == pytest.approx(1 / 3)
    assert (found.is_zero_solution, found.is_global_attractor) == (False, None)


def test_contexts_that_all_fell_together():
    point = 3.0 * np.random.default_rng(0).normal(size=64)
    same = geometry(jnp.asarray(np.tile(point, (300, 1)), jnp.float32), 300, np.random.default_rng(0))
    assert (same.deviation_mean, same.distance_mean, same.distance_max) == (0, 0, 0)
    assert same.cosine_min == pytest.approx(1, abs=1e-6)
    assert (same.is_zero_solution, same.is_global_attractor) == (False, True)
    near = (point + 1e-3 * np.random.default_rng(1).normal(size=(30, 64))).astype(np.float32)
    found = geometry(jnp.asarray(near), 30, np.random.default_rng(0))
    expected = exact_geometry(near.astype(np.float64))
    # Ten thousand times smaller than the norms, and still right to four digits.
    for name in ("deviation_mean", "distance_mean", "distance_min", "distance_max"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-4), name
    assert found.is_global_attractor is True


def test_the_least_distance_is_right_beside_much_greater_ones():
    rows = matrix((40, 16), 1.0, 3.0, 4)
    rows[7] = rows[30] + 1e-6 * np.random.default_rng(0).normal(size=16)
    exact = np.linalg.norm(rows[7].astype(np.float64) - rows[30])
    assert 0 < exact < 1e-5
    found = geometry(jnp.asarray(rows), 40, np.random.default_rng(0))
    assert found.distance_min == pytest.approx(exact, rel=1e-5)


def test_zero_contexts_have_cosine_zero():
    found = geometry(jnp.zeros((4, 3)), 4, np.random.default_rng(0))
    assert found == (0, 0, 0, 0, 0, 0, 0, 0, 1, True, False)


def test_contexts_that_are_not_finite_have_no_geometry():
    found = geometry(jnp.array([[1.0, 2.0], [np.nan, 0.0], [3.0, 1.0]]), 3, np.random.default_rng(0))
    assert found.norm_mean is None
    assert (found.is_zero_solution, found.is_global_attractor) == (None, None)
    json.dumps(found, allow_nan=False)


def test_the_similarity_of_contexts_and_their_tokens():
    stream = make_stream(tokens=9)
    contexts = matrix((9, 4), 2.0, 0.0, 3)
    padded = jnp.asarray(np.concatenate([contexts, np.full((2, 4), np.nan, np.float32)]))
    tokens = np.asarray(stream.vectors_VxE)[stream.ids_N]
    cosines = (contexts * tokens).sum(1) / np.linalg.norm(contexts, axis=1) / np.linalg.norm(tokens, axis=1)
    assert embedding_similarity(padded, stream) == pytest.approx(cosines.mean(), abs=1e-6)
    assert embedding_similarity(jnp.asarray(5 * tokens), stream) == pytest.approx(1, abs=1e-6)
    assert embedding_similarity(padded[:, :3], stream) is None
    assert embedding_similarity(padded[2:], stream) is None  # not finite


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(1.0, "good"), (0.8001, "good"), (0.8, "fair"), (0.75, "fair"), (0.7499, "review"), (0.0, "review")],
)
def test_rank_verdicts(share, verdict):
    assert rank_verdict(share) == verdict


def test_a_rank_that_is_not_a_number_has_no_verdict():
    with pytest.raises(ValueError, match="not a number"):
        rank_verdict(float("nan"))


def diagnose(stream, contexts, share=0.9, D=4):
    return block_diagnostics(
        make_block(D=D), stream, contexts, share,
        num_trials=4, key=jax.random.key(0), rng=np.random.default_rng(0),
    )  # fmt: skip


def test_all_diagnostics_are_a_records_fields():
    stream = make_stream(tokens=30)
    contexts = sequential_contexts(make_block(D=4), stream[:-1]).array
    found = diagnose(stream, contexts)
    trials = convergence_trials(make_block(D=4), stream, 4)
    lie = geometry(contexts, 29, np.random.default_rng(0))
    settling = contraction(make_block(D=4), stream[:-1], contexts)
    assert found == {
        "val_convergence_status": trials.trend.status,
        "val_convergence_slope": trials.trend.slope,
        "val_convergence_losses": trials.losses,
        "identity_cosine": identity_of_random(make_block(D=4), 4, jax.random.key(0)).mean,
        "is_identity": False,
        "context_norm_mean": lie.norm_mean,
        "context_deviation_mean": lie.deviation_mean,
        "context_distance_mean": lie.distance_mean,
        "context_distance_min": lie.distance_min,
        "context_distance_max": lie.distance_max,
        "context_cosine_mean": lie.cosine_mean,
        "context_cosine_min": lie.cosine_min,
        "context_cosine_max": lie.cosine_max,
        "context_sparsity": lie.sparsity,
        "is_zero_solution": False,
        "is_global_attractor": False,
        "embedding_cosine": embedding_similarity(contexts, stream[:-1]),
        "val_lyapunov_exponent": settling.lyapunov_exponent,
        "val_contraction_rate": settling.rate,
        "val_parallel_iterations": settling.iterations,
        "rank_verdict": "good",
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_diagnostics_that_are_undefined_are_none():
    stream = make_stream(tokens=30)
    stream = dataclasses.replace(stream, vectors_VxE=jnp.full_like(stream.vectors_VxE, np.nan))
    found = diagnose(stream, jnp.full((29, 4), np.nan), float("nan"))
    json.dumps(found, allow_nan=False)
    assert found["val_convergence_status"] == "UNSTABLE"
    assert found["val_convergence_losses"] == [None, None, None]
    undefined = {"context_norm_mean", "is_zero_solution", "rank_verdict", "embedding_cosine"}
    assert undefined <= {name for name, value in found.items() if value is None}
