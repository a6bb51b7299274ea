"""One cell of a baseline: data -> training -> record."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvfp_jax.baselines.train import Tokens, batches, learn_baseline, make_network
from cvfp_jax.baselines.widths import trained_params
from cvfp_jax.config.settings import RunConfig
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.core.model import Embedding
from cvfp_jax.core.widths import num_params
from cvfp_jax.data.dataset import CellData
from cvfp_jax.planning.flops import baseline_training
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.records import Record
from cvfp_jax.sweeps.fields import (
    SECONDS,
    WITHOUT_CONTEXTS,
    WITHOUT_PHASE1,
    Stopwatches,
    device_name,
    identity,
    phase2_curves,
    phase2_fields,
)
from cvfp_jax.sweeps.result import CellResult

_INIT, _DROPOUT = range(2)
_SIZES = "room"  # in a checkpoint


def run_baseline(config: RunConfig, data: CellData, runtime: Runtime) -> CellResult:
    """Runs one cell of a baseline from its data to its record and its curves; no model is kept.

    Args:
      config: the cell, whose architecture is a baseline's.
      data: its tokens and table.
      runtime: what saves and watches it; it runs on the process's first device.

    Returns:
      What the cell leaves. Its training is told where phase 2's is.
    """
    checkpointer = runtime.checkpointer
    watches = Stopwatches(checkpointer.facts(SECONDS) or {})
    checkpointer.include(SECONDS, watches.spent)
    key = jax.random.key(config.seed)
    init_key, dropout_key = (jax.random.fold_in(key, use) for use in (_INIT, _DROPOUT))
    table_VxE = jnp.asarray(data.table)
    embedding = Embedding(table_VxE, rngs=nnx.Rngs(init_key))
    # A cell that goes on is compiled for as many tokens as before, whatever cells stand beside it now.
    sizes = checkpointer.facts(_SIZES) or {"val_capacity": data.val_capacity}
    checkpointer.include(_SIZES, sizes)
    tokens = Tokens(np.asarray(data.train_ids), np.asarray(data.val_ids), sizes["val_capacity"])
    with watches.phase2:
        network = make_network(config, nnx.Rngs(init_key))
        result = learn_baseline(
            network, embedding.token_vectors(), table_VxE, tokens, config, dropout_key, runtime=runtime
        )
    epochs, rows = len(result.epochs), len(data.train_ids) - 1
    record: Record = {
        **identity(config, data),
        **_params(config, len(data.table)),
        "seed": config.seed,
        "precision": config.precision,
        "device": device_name(),
        **WITHOUT_PHASE1,
        **WITHOUT_CONTEXTS,
        **phase2_fields(result, config.architecture),
        "train_flops": epochs * baseline_training(config, len(data.table), rows),
        **watches.fields(),
    }
    curves = Curves(phase2_curves(result, len(batches(tokens.train_ids, config))))
    return CellResult(record, None, None, curves)


def _params(config: RunConfig, vocab_size: int) -> dict[str, int]:
    """What a record says of the parameters: those of CVFP's blocks are there only if it has them."""
    counts, trained = num_params(config.model, vocab_size, count_embed_norm=False), trained_params(config)
    blocks = ("params_context_block", "params_token_block")
    frozen = counts["params_total"] - sum(counts[name] for name in blocks)
    return {
        **{name: counts[name] if config.architecture == "bptt" else 0 for name in blocks},
        "params_head": 0,
        "params_total": frozen + trained,
        "params_trainable_phase2": trained,
        "params_trained": trained,
    }
