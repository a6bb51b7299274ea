"""How perplexity falls with the data in a model of three layers with a head of its own (R1 of 2025-11-27).

python launch.py --experiment=sample_scaling
  Device: CPU, 2 cores. Time: 1 minute.
  Expect: alpha about -0.27, a best validation perplexity of about 350 (unigram: 606), reached in epoch 1 or
  2, and an effective rank of 79 % after 10 iterations, the most allowed.

python launch.py --experiment=sample_scaling --preset=r1
  Device: a GPU of 24 GB, with the extra ``hub`` and the network. Time: the original took 17 minutes.
  Expect, as printed: 84,338,257 parameters, 42,193,489 of them trained in phase 2, an exponent of -0.714,
  perplexities of 7,152, 3,360, 2,439 and 1,171 and an effective rank of 56 to 58 % (validation) after 9
  iterations.

python launch.py --experiment=sample_scaling --preset=r1_6l
  Device: as for ``r1``.
  Expect, as printed: an exponent of -0.746 and perplexities of 7,342 to 1,145 after 7 iterations.

Preset ``quick``, the default, keeps R1's system at a width of 96 on text that is on every machine. ``r1``
has the report's own settings, ``r1_6l`` those of the same day's run with 6 layers.

It differs from the original in two ways: the validation samples are tokenised one by one and not as one
text, and the draws of random numbers are JAX's.

Wrong in print: the 50-sample run was best in epoch 2, not 1; its law reaches a perplexity of 100 at 1.25M
tokens, not 1M; and the trained parameters leave out the embedding's LayerNorm (1,536), which phase 2
trains, so that the contexts it calls fixed drift with it. The sizes of the diversity loss (square root of D
/ N over the whole stream) and so its share of the loss fall as the data grow.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R1, SMALL

_REPORT = replace(R1, {"experiment": "sample_scaling", "preset": "r1"})
_SAMPLES = {"num_samples": (50, 100, 200, 500)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(replace(_REPORT, SMALL), {"num_samples": (25, 50, 100)}),
    "r1": Grid(_REPORT, _SAMPLES),
    "r1_6l": Grid(replace(_REPORT, {"preset": "r1_6l", "model.num_layers": 6}), _SAMPLES),
}
