"""Which of five laws the perplexity follows as samples double, and where its floor is (R5 of 2025-12-03).

python launch.py --experiment=sample_size
  Device: CPU, 2 cores. Time: 1 to 2 minutes.
  Expect: perplexities of about 1,524, 829, 572, 451 and 366 (unigram: 597), an exponent in tokens of -0.49
  and an effective rank that rises from 67 to 76 %.

python launch.py --experiment=sample_size --preset=r5
  Device: a GPU of 24 GB, with the extra ``hub`` and the network. Time: on an NVIDIA L4 the original took 47
  minutes.
  Expect, as printed: 39,650,560 parameters, 788,736 trained in phase 2, interval exponents of 0.395, 0.350
  and 0.233 and R2 .985 for a power law in samples, perplexities of 321, 253, 186, 156 and 135 and an
  effective rank of 67 to 69 %.

python launch.py --experiment=sample_size --preset=r5_320
  Device: as for ``r5``. Time: on an NVIDIA L4 the original took 49 minutes.
  Expect, as printed: 39,785,920 and 837,888 parameters and 25 to 28 iterations.

python launch.py --experiment=sample_size --preset=r5_500
python launch.py --experiment=sample_size --preset=r5_large
  Device: as for ``r5``. Nothing was printed for these two.

Preset ``quick``, the default, keeps R5's system at a width of 64 over five sizes of text that is on every
machine. ``r5``, ``r5_320`` and ``r5_500`` are the report's settings at widths of 256, 320 and 500, which
tell whether a floor depends on the width; ``r5_large`` goes on to 6,400 samples, where exponential decay
and saturation part (132.5 against 104.4, by the laws fitted up to 1,600).

It differs from the original in three ways: the validation samples are tokenised one by one and not as one
text; every size starts from the seed's own weights, where the script's depended on the sizes before; and
the draws of random numbers are JAX's.

Wrong in print: an AIC of four parameters on five points ranks nothing (AICc is infinite); that all laws but
the power law have a floor (model 3 falls to 0, model 5 turns up again after 30,400 samples); model 5's
exponents, which are not its slopes (.426, .322 and .219); and a floor of 132.5, below which the author's
own 2,000-sample runs went. That the weights start as Xavier's, and not N(0, 0.1^2), stands nowhere in the
report.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R5, SMALL

_REPORT = replace(R5, {"experiment": "sample_size", "preset": "r5"})
_SAMPLES = {"num_samples": (100, 200, 400, 800, 1600)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "model.context_dim": 64}), {"num_samples": (12, 25, 50, 100, 200)}
    ),
    "r5": Grid(_REPORT, _SAMPLES),
    "r5_320": Grid(replace(_REPORT, {"preset": "r5_320", "model.context_dim": 320}), _SAMPLES),
    "r5_500": Grid(replace(_REPORT, {"preset": "r5_500", "model.context_dim": 500}), _SAMPLES),
    # The report's sizes are in it too: four parameters need more than the three sizes from 1,600 on.
    "r5_large": Grid(
        replace(_REPORT, {"preset": "r5_large"}), {"num_samples": (100, 200, 400, 800, 1600, 3200, 6400)}
    ),
}
