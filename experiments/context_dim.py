"""How perplexity falls with the data at three context widths (R3 of 2025-11-30).

python launch.py --experiment=context_dim
  Device: CPU, 2 cores. Time: 2 to 4 minutes.
  Expect: alpha -0.43, -0.43 and -0.45 (standard errors 0.02 to 0.06), a best validation perplexity of about
  370 (unigram: 597) and an effective rank of 80, 75 and 72 %.

python launch.py --experiment=context_dim --preset=v1
python launch.py --experiment=context_dim --preset=v2
  Device: a GPU of 24 GB, with the extra ``hub`` and the network.
  Expect, as the report printed: alpha -0.546, -0.513 and -0.510 (``v1``), -0.476, -0.485 and -0.472
  (``v2``), and a perplexity of 196 to 202 at 500 samples.

Preset ``quick``, the default, keeps R3's system and its ratio of parameters, 1 : 2 : 3, on text that is on
every machine; other versions of the documented packages are other text and move the perplexities. ``v1``
and ``v2`` are the report's own settings.

It differs from the original in three ways: the batch of phase 2, which the original chose by free memory,
is 8,192 tokens; the validation samples are tokenised one by one and not as one text; and the draws of
random numbers are JAX's.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R3_V1, R3_V2, SMALL

# 1,181,952 : 2,365,200 : 3,547,396 parameters in the context block, which is 1 : 2.001 : 3.001.
_REPORT_AXES = {"model.context_dim": (768, 1200, 1537), "num_samples": (50, 100, 200, 500)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(R3_V2, {"experiment": "context_dim", **SMALL}),
        {"model.context_dim": (96, 150, 192), "num_samples": (25, 50, 100, 200)},
    ),
    "v1": Grid(replace(R3_V1, {"experiment": "context_dim", "preset": "v1"}), _REPORT_AXES),
    "v2": Grid(replace(R3_V2, {"experiment": "context_dim", "preset": "v2"}), _REPORT_AXES),
}
