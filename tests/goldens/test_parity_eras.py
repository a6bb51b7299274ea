"""The systems of the other reports: runs of the original, replayed from their first parameters."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvfp_jax.config.settings import ModelConfig, Phase1Config, Phase2Config
from cvfp_jax.contexts.diagnostics import convergence_trials
from cvfp_jax.contexts.effective_rank import effective_rank
from cvfp_jax.contexts.parallel import parallel_contexts
from cvfp_jax.contexts.recurrence import sequential_contexts
from cvfp_jax.core.fixed_point import Status
from cvfp_jax.core.optimizer import clip_by_global_norm
from cvfp_jax.core.token_stream import TokenStream
from cvfp_jax.phase1.multi_block import exact_contexts, shares
from cvfp_jax.phase1.step import Variant
from cvfp_jax.phase1.stop_rules import RankWatch
from cvfp_jax.phase1.train import _check_rank, begin_iteration, conclude
from cvfp_jax.phase2.stream import Stream
from cvfp_jax.phase2.train import learn_tokens
from cvfp_jax.reproduction.stale_clip import stale_clip
from tests.goldens.test_parity import ROWS, Tolerance
from tests.original import load_model, parameters

pytestmark = pytest.mark.slow
# In single precision one unit of one token lies so near to ReLU's corner that it is on here and off in the
# original at the tenth step; in double precision this run agrees with the original's to 4e-7.
DOUBLE = {"r2c_L3K2_nonoise"}


class Era(NamedTuple):
    """How a report's system differs from the settings that its golden names."""

    model: dict
    phase1: dict
    phase2: dict


R1 = Era(
    {"use_weight_tying": False},
    {"initial_contexts": "sequential", "batch_size": 0},
    {"train_contexts": "recomputed"},
)
R2 = Era({"use_weight_tying": False, "token_input_all_layers": False}, {}, {"train_contexts": "sequential"})
R4 = Era({"activation": "gelu"}, {"stop": "val_effective_rank"}, {})
R5_PHASE1 = {"first_context": "zero", "stop": "improvement", "diversity": "OACD", "dist_reg_weight": 1.0}
R5 = Era({"activation": "gelu", "init": "xavier"}, R5_PHASE1, {"train_contexts": "sequential"})
BLOCKS = Era(
    {"activation": "gelu", "context_mode": "A"},
    {**R5_PHASE1, "compat_stale_clip": True},
    {"train_contexts": "sequential", "small_gain": "kept", "weight_decay": 0.01},
)
CASES = {
    "r1c_L2_noise_cap": R1,
    "r1d_L2_min3": R1,
    "r2c_L3K2_nonoise": R2,
    "r4b_ODCM": R4,
    "r4d_OACD_w05": R4,
    "r5b_improve": R5,
    "nb_2blocks_clip": BLOCKS,
}
# What the goldens call a setting.
MODEL = {"D": "context_dim", "E": "embed_dim", "L": "num_layers", "K": "num_input_tokens", "NB": "num_blocks"}
PHASE1 = {
    "p1_lr": "learning_rate", "max_it": "max_iterations", "min_it": "min_iterations",
    "thr": "convergence_threshold", "ratio": "min_converged_ratio", "rho_stop": "min_converged_ratio",
    "noise": "context_noise", "b1": "batch_size", "p1_clip": "gradient_clip", "w": "dist_reg_weight",
    "alg": "diversity", "val_freq": "val_frequency", "val_sample": "val_sample_size",
    "val_patience": "val_patience", "min_impr": "min_convergence_improvement",
}  # fmt: skip
PHASE2 = {
    "p2_lr": "learning_rate", "p2_epochs": "epochs", "p2_patience": "patience", "p2_batch": "batch_size",
    "p2_clip": "gradient_clip", "min_ppl": "min_ppl_improvement",
}  # fmt: skip


def settings_of(case, names, era):
    """A golden's settings by our names, and what its era adds."""
    return {ours: case[theirs] for theirs, ours in names.items() if theirs in case} | era


def noise_of(arrays, prefix, sigma, batch_size):
    if f"{prefix}/noise" not in arrays:
        return None
    recorded = arrays[f"{prefix}/noise"]
    padding = -recorded.shape[1] % batch_size
    scaled = jnp.asarray(sigma * np.pad(recorded, ((0, 0), (0, padding), (0, 0))))

    def noise(index, number):
        start = (index, number * batch_size, jnp.int32(0))
        return jax.lax.dynamic_slice(scaled, start, (1, batch_size, scaled.shape[2]))[0]

    return noise


def run_phase1(block, stream, val_stream, config, arrays, prefix, gradient_clip):
    """Phase 1 from recorded contexts and noise; the contexts of iteration 2 beside its result."""
    recorded = arrays[f"{prefix}/prev0"] if config.initial_contexts == "random" else None
    iteration = begin_iteration(
        block,
        stream,
        config,
        jax.random.key(0),
        initial_contexts=None if recorded is None else recorded.astype(stream.vectors_VxE.dtype),
        variant=Variant(
            gradient_clip,
            noise_of(
                arrays, prefix, config.context_noise, min(config.batch_size, len(stream)) or len(stream)
            ),
        ),
    )
    start = iteration.contexts.host_rows(0, len(stream)).copy()
    iteration.advance(1)
    second = iteration.contexts.host_rows(0, len(stream)).copy()
    watch = RankWatch(config)
    while iteration.status == Status.RUNNING:
        until = watch.next_check(iteration.steps + 1) - 1
        if config.stop != "val_effective_rank":
            until = config.max_iterations
        iteration.advance(until)
        if config.stop == "val_effective_rank" and (iteration.steps + 1) % config.val_frequency == 0:
            _check_rank(iteration, watch, val_stream)
    return start, second, conclude(iteration, watch.ranks)


@pytest.fixture(scope="module", params=CASES)
def replay(request, golden):
    """Runs a case and keeps what the tests below compare."""
    facts, arrays = golden(request.param)
    if request.param not in DOUBLE:
        return run(request.param, facts, arrays, np.float32)
    # Flax's LayerNorm mixes types under strict promotion.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        return run(request.param, facts, arrays, np.float64)


def run(name, facts, arrays, dtype):
    case, era = facts["config"], CASES[name]
    model_config = ModelConfig(**settings_of(case, MODEL, era.model))
    config = Phase1Config(**settings_of(case, PHASE1, era.phase1))
    model = load_model(model_config, arrays["emb"], arrays, "init/", dtype)
    vectors = model.embedding.token_vectors()
    ids, val_ids = arrays["tokens_train"], arrays["tokens_val"]
    blocks = list(model.context_blocks)
    prefixes = ["p1"] if len(blocks) == 1 else [f"p1_{number}" for number in range(len(blocks))]
    stream, val_stream = TokenStream(vectors, ids), TokenStream(vectors, val_ids, len(val_ids))
    starts, seconds, first = [], [], []
    for block, part, prefix in zip(blocks, shares(len(ids), len(blocks)), prefixes, strict=True):
        clip = clip_by_global_norm
        if config.compat_stale_clip:
            clip = stale_clip(first, config.gradient_clip)
        start, second, result = run_phase1(block, stream[part], val_stream, config, arrays, prefix, clip)
        for kept, new in ((starts, start), (seconds, second), (first, result)):
            kept.append(new)
    trained = [result.block for result in first]
    model.context_blocks = nnx.List(trained)
    phase2 = Phase2Config(**settings_of(case, PHASE2, era.phase2))
    val_contexts = exact_contexts(trained, TokenStream(vectors, val_ids[:-1]))
    train_contexts = first[0].contexts
    if phase2.train_contexts == "sequential":
        train_contexts = exact_contexts(trained, stream)
    elif not model_config.reads_every_layer:
        train_contexts = parallel_contexts(trained[0], stream, train_contexts)
    recomputed = phase2.train_contexts == "recomputed"
    return {
        "name": name,
        "facts": facts,
        "arrays": arrays,
        "tolerance": Tolerance(facts),
        "model": model,
        "prefixes": prefixes,
        "starts": starts,
        "seconds": seconds,
        "first": first,
        "val_contexts": np.asarray(val_contexts.array, np.float32),
        "phase2": learn_tokens(
            model,
            Stream.of(ids, None if recomputed else train_contexts),
            Stream.of(val_ids, None if recomputed else val_contexts),
            phase2,
        ),
    }


def close(found, expected, atol, name=""):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=name)


def parameters_close(block, arrays, prefix, atol):
    places = parameters(block, arrays, prefix)
    assert len(places) >= 4
    for name, (module, attribute) in places.items():
        value = np.asarray(getattr(module, attribute)[...])
        close(value.T if attribute == "kernel" else value, arrays[name], atol, name)


def test_phase1_starts_as_the_original(replay):
    for prefix, start, second in zip(replay["prefixes"], replay["starts"], replay["seconds"], strict=True):
        close(start, replay["arrays"][f"{prefix}/prev0"], 1e-5)
        close(second[ROWS], replay["arrays"][f"{prefix}/contexts_iter2"], 1e-5)


def test_phase1_ends_where_the_original_did(replay):
    facts = replay["facts"]
    for number, result in enumerate(replay["first"]):
        stats = facts.get("p1_stats") or facts[f"blk{number}_p1_stats"]
        assert result.iterations == stats["iterations"]
        assert result.convergence_rate == pytest.approx(stats["convergence_rate"], abs=1e-12)
    expected = {
        "r1c_L2_noise_cap": Status.MAX_STEPS,
        "r1d_L2_min3": Status.CONVERGED,
        "r2c_L3K2_nonoise": Status.CONVERGED,
        "r4b_ODCM": Status.STALLED,
        "r4d_OACD_w05": Status.STALLED,
        "r5b_improve": Status.STALLED,
        "nb_2blocks_clip": Status.MAX_STEPS,
    }
    assert {result.status for result in replay["first"]} == {expected[replay["name"]]}


def test_phase1_went_as_the_original(replay):
    arrays, tolerance = replay["arrays"], replay["tolerance"]
    for number, (prefix, result) in enumerate(zip(replay["prefixes"], replay["first"], strict=True)):
        start = "p1" if len(replay["prefixes"]) == 1 else f"blk{number}_p1"
        for ours, theirs in (("loss", "total"), ("cvfp_loss", "cvfp"), ("diversity_loss", "div")):
            if f"series/{start}_{theirs}" in arrays:
                name = f"{start}_{theirs}"
                close(result.trace[ours], arrays[f"series/{name}"], max(2e-7, tolerance.series(name)), name)
        own = f"{start}_gradnorm_own" if f"series/{start}_gradnorm_own" in arrays else f"{start}_gradnorm"
        close(result.trace["grad_norm"], arrays[f"series/{own}"], max(2e-7, tolerance.series(own)), own)
        counts = result.trace["converged_tokens"]
        assert (counts >= arrays[f"series/{start}_conv_count_lo"]).all()
        assert (counts <= arrays[f"series/{start}_conv_count_hi"]).all()
        rows = result.contexts_NxD[: len(replay["starts"][number])][ROWS]
        close(rows, arrays[f"{prefix}/contexts_final"], tolerance.array(f"{prefix}/contexts_final"))
        final = f"{prefix}_final/"
        names = {name.split(".")[0] for name in arrays if name.startswith(final)}
        (block_name,) = {name.removeprefix(final) for name in names}
        parameters_close(result.block, arrays, f"{final}{block_name}.", tolerance.array(f"{final}*"))


def test_the_watched_effective_ranks(replay):
    checks = [check["val_er"] for check in replay["facts"].get("val_er_checks", [])]
    assert replay["first"][0].val_ranks == pytest.approx(checks, abs=1e-4)


def test_validation_contexts_and_effective_ranks(replay):
    facts, arrays, tolerance = replay["facts"], replay["arrays"], replay["tolerance"]
    found = replay["val_contexts"]
    name = "contexts_val" if "contexts_val" in arrays else "cache_val"
    if replay["name"].startswith("r1"):
        # R1 keeps those of its last trial, the last token's too.
        model, start = replay["model"], None
        for _ in range(facts["config"]["trials"]):
            stream = TokenStream(model.embedding.token_vectors(), arrays["tokens_val"])
            found = sequential_contexts(model.context_blocks[0], stream, start).array
            start = found[-1]
    close(found, arrays[name], tolerance.array(name))
    assert effective_rank(jnp.asarray(found), len(found)) == pytest.approx(facts["er_val"], abs=1e-4)
    if "er_train" in facts:
        rows = len(arrays["tokens_train"])
        contexts = jnp.asarray(np.asarray(replay["first"][0].contexts_NxD, np.float32))
        assert effective_rank(contexts, rows) == pytest.approx(facts["er_train"], abs=1e-4)


def test_r1s_trials_on_the_validation_tokens(replay):
    if "val_convergence" not in replay["facts"]:
        return
    facts, model = replay["facts"], replay["model"]
    stream = TokenStream(model.embedding.token_vectors(), replay["arrays"]["tokens_val"])
    trials = convergence_trials(model.context_blocks[0], stream, 10)
    assert trials.trend.status == facts["val_convergence"]["status"]
    atol = max(1e-7, replay["tolerance"].series("val_conv_loss"))
    close(trials.losses, facts["val_convergence"]["loss_history"], atol)


def test_phase2_ends_where_the_original_did(replay):
    result, recorded = replay["phase2"], replay["facts"]["result"]
    series = replay["arrays"]["series/p2_val_ppl"]
    assert len(result.epochs) == len(series)
    best = recorded.get("best_epoch") or recorded.get("phase2_best_epoch") or len(series)
    assert result.best_epoch == best
    epoch = result.epochs[result.best_epoch - 1]
    assert math.exp(epoch.val_loss) == pytest.approx(recorded["val_ppl"], rel=1e-4)
    assert epoch.val_acc == pytest.approx(recorded.get("val_acc", recorded.get("val_accuracy")), abs=1e-7)


def test_phase2_went_as_the_original(replay):
    arrays, tolerance, result = replay["arrays"], replay["tolerance"], replay["phase2"]
    ppl = [math.exp(epoch.val_loss) for epoch in result.epochs]
    np.testing.assert_allclose(ppl, arrays["series/p2_val_ppl"], rtol=1e-4)
    ppl = [math.exp(epoch.train_loss) for epoch in result.epochs]
    np.testing.assert_allclose(ppl, arrays["series/p2_train_ppl"], rtol=1e-4)
    close([epoch.val_acc for epoch in result.epochs], arrays["series/p2_val_acc"], 1e-7)
    close(result.batch_losses, arrays["series/p2_batch_loss"], max(2e-5, tolerance.series("p2_batch_loss")))
    close(result.grad_norms, arrays["series/p2_gradnorm"], max(2e-5, tolerance.series("p2_gradnorm")))
    last, atol = result.last_params, tolerance.array("p2_final/*")
    graph = nnx.split(replay["model"].token_block)[0]
    parameters_close(nnx.merge(graph, last.token_block), arrays, "p2_final/token_block.", atol)
    if "p2_final/token_output.weight" in arrays:
        close(last.table_VxE, arrays["p2_final/token_output.weight"], atol)
        close(last.bias_V, arrays["p2_final/token_output.bias"], atol)
    if last.embed_norm is not None:
        norm = nnx.merge(nnx.split(replay["model"].embedding.norm)[0], last.embed_norm)
        close(norm.scale[...], arrays["p2_final/embed_norm.weight"], atol)
        close(norm.bias[...], arrays["p2_final/embed_norm.bias"], atol)
        assert np.abs(arrays["p2_final/embed_norm.weight"] - arrays["init/embed_norm.weight"]).max() > 1e-3
