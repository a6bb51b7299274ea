"""What it costs to train the embedding table with the head it is tied to (the test of 2025-11-27).

python launch.py --experiment=embedding_freeze
  Device: CPU, 2 cores. Time: 1 minute.
  Expect: at 100 samples a perplexity of about 521 with the table frozen and 835 with it trained (unigram:
  606), and exponents of -0.67 and -1.06: a trained table loses less as data grow.

python launch.py --experiment=embedding_freeze --preset=r_freeze
  Device: by the plan a GPU of 80 GB for 500 samples and twice that for 1,000, because one loss over all
  tokens keeps all of their activations, with the extra ``hub`` and the network.
  Expect, as printed, at 500 and 1,000 samples: perplexities of 334 and 280 with the table frozen, 1,189 and
  840 with it trained (no code or log of these last two is left), and an effective rank of 76 %.

Preset ``quick``, the default, has 2 layers of width 96 on text that is on every machine. ``r_freeze`` has
the original's settings: 6 layers, conversations cut to 512 tokens.

It differs from the original in four ways: it validates on samples 1,000 to 1,049 at both sizes, where the
original took the last 50 samples' share of each size's own tokens (25,121 and 25,125 tokens); contexts are
computed once and not anew in every epoch, since a trained table cannot be recomputed through; the samples
are tokenised one by one; and the draws of random numbers are JAX's. Rates, epochs and phase 1 are R1's.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R1, SMALL

_REPORT = replace(
    R1,
    {
        "experiment": "embedding_freeze",
        "preset": "r_freeze",
        "model.num_layers": 6,
        "model.use_weight_tying": True,
        "phase2.train_contexts": "sequential",
        "data.turns": "all",
        "data.turn_separator": "space",
        "data.max_sample_tokens": 512,
        "data.val_samples": "1000:1050",
    },
)
_AXIS = {"phase2.freeze_embedding": (True, False)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "model.num_layers": 2}), {**_AXIS, "num_samples": (25, 50, 100)}
    ),
    "r_freeze": Grid(_REPORT, {**_AXIS, "num_samples": (500, 1000)}),
}
