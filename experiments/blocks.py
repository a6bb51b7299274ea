"""Context blocks that each learn on their own share of the data, and what earlier contexts add to them.

python launch.py --experiment=blocks
  Device: CPU, 2 cores. Time: 1 to 2 minutes.
  Expect: perplexities of about 884, 576 and 463 without the context of the token before, 946, 576 and 477
  with it (unigram: 606); an effective rank of 72 to 75 % of both blocks' width together.

python launch.py --experiment=blocks --preset=b2
  Device: a GPU of 40 GB, with the extra ``hub`` and the network.
  Expect, as the original logged: perplexities of 119.5 to 120.3, an effective rank of 74 %.

python launch.py --experiment=blocks --preset=r_blocks
  Device: as for ``b2``.
  Expect, as the original logged, at 200, 400, 800, 1,600 and 3,200 samples: 258, 188, 151, 127 and 115; at
  200 to 1,600 with one token before 247, 179, 143 and 118, with two 256, 179, 142 and 115.

Preset ``quick``, the default, has two blocks of width 48 without and with the context of one token before,
on text that is on every machine. ``b2`` has the settings of 2025-12-02, 2 blocks of 500 on 2,000 samples,
``r_blocks`` those of 2025-12-03, 2 blocks of 256 with the contexts of 0, 1 or 2 tokens before.

It differs from the original in four ways: each block is clipped by its own gradients, where old gradients
of earlier blocks counted there (``--config.phase1.compat_stale_clip=true`` brings them back); a gain in
perplexity is measured from the best epoch and not from the one before; the validation samples are tokenised
one by one; and the draws of random numbers are JAX's. That ``b2`` wrapped round to the last context, had a
patience of 1 in phase 1 and 20 epochs is assumed.

Wrong in print: the best result, 111.9, which documents credit to this design, is a run whose only token
layer read the contexts of the token before.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R5, SMALL

_REPORT = replace(
    R5,
    {
        "experiment": "blocks",
        "preset": "r_blocks",
        "model.init": "normal",
        "model.num_blocks": 2,
        "model.context_mode": "A",
        "phase2.small_gain": "kept",
        "phase2.weight_decay": 0.01,
    },
)

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "model.context_dim": 48}),
        {"model.prev_context_steps": (0, 1), "num_samples": (25, 50, 100)},
    ),
    "b2": Grid(
        replace(
            _REPORT,
            {
                "preset": "b2",
                "model.context_dim": 500,
                "phase1.first_context": "last",
                "phase1.no_improvement_patience": 1,
                "phase2.epochs": 20,
                "phase2.batch_size": 1000,
            },
        ),
        {"num_samples": (2000,)},
    ),
    "r_blocks": Grid(
        _REPORT,
        {"model.prev_context_steps": (0, 1, 2), "num_samples": (200, 400, 800, 1600, 3200)},
    ),
}
