"""Layers against input tokens: exponents and perplexities of every pair (the matrix of 2025-11-30).

python launch.py --experiment=matrix
  Device: CPU, 2 cores. Time: 1 to 2 minutes.
  Expect: at 100 samples perplexities of about 459 and 528 (1 layer, 1 and 2 tokens) and 507 and 560 (2
  layers; unigram: 606), and exponents of -0.43, -0.90, -0.66 and -0.93: at this size more parameters only
  lose less as data grow.

python launch.py --experiment=matrix --preset=r3_matrix
  Device: a GPU of 24 GB, with the extra ``hub`` and the network.
  Expect, as printed, at 500 samples and for 1, 2 and 3 tokens: perplexities of 198, 189 and 196 (1 layer),
  222, 197 and 198 (2) and 237, 195 and 194 (3), and exponents of -0.546, -0.504 and -0.505 (1), -0.473,
  -0.507 and -0.499 (2) and -0.495, -0.530 and -0.535 (3).

Preset ``quick``, the default, has one and two layers by one and two tokens at a width of 64 on text that is
on every machine. ``r3_matrix`` has the nine pairs of the original, which are R3 v1's settings.

It differs from the original in three ways: the batch of phase 2, chosen by free memory there, is 8,192
tokens; the validation samples are tokenised one by one and not as one text; and the draws of random numbers
are JAX's.

Wrong in print: the parameters of the two phases, 3.55M and 4.13M for one layer and one token, which are
1.18M and 1.18M (1.77M and 2.95M for two tokens, 7.08M and 17.78M for three layers and three tokens).
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R3_V1, SMALL

_REPORT = replace(R3_V1, {"experiment": "matrix", "preset": "r3_matrix"})

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "model.context_dim": 64}),
        {"model.num_layers": (1, 2), "model.num_input_tokens": (1, 2), "num_samples": (25, 50, 100)},
    ),
    "r3_matrix": Grid(
        _REPORT,
        {
            "model.num_layers": (1, 2, 3),
            "model.num_input_tokens": (1, 2, 3),
            "num_samples": (50, 100, 200, 500),
        },
    ),
}
