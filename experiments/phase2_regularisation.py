"""Whether patience, dropout or weight decay helps where R1's phase 2 over-fits after its first epoch.

python launch.py --experiment=phase2_regularisation
  Device: CPU, 2 cores. Time: 1 to 2 minutes.
  Expect: perplexities of about 518, 423 and 352 without dropout and 655, 461 and 402 with a dropout of .3,
  which does not help at this width.

python launch.py --experiment=phase2_regularisation --preset=patience
python launch.py --experiment=phase2_regularisation --preset=dropout
python launch.py --experiment=phase2_regularisation --preset=weight_decay
  Device: a GPU of 24 GB, with the extra ``hub`` and the network. R1's four sizes took the original 17
  minutes.
  Expect: nothing was printed; where a setting is R1's, 7,152, 3,360, 2,439 and 1,171, and best epochs of 2,
  1, 1 and 1 of 3 or 4.

Preset ``quick``, the default, has R1's system at a width of 96 without and with dropout on text that is on
every machine. The others are next steps that the reports name and did not take, all on R1's settings:
``patience`` (1, R1's 2, and 10, which is all ten epochs), ``dropout`` of what token layers add to their
input (0, .1 and .3), and ``weight_decay`` apart from the gradient (0, .01 and .1).

It differs from the original as ``sample_scaling`` does.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R1, SMALL

_REPORT = replace(R1, {"experiment": "phase2_regularisation"})
_SAMPLES = {"num_samples": (50, 100, 200, 500)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(replace(_REPORT, SMALL), {"phase2.dropout": (0.0, 0.3), "num_samples": (25, 50, 100)}),
    "patience": Grid(replace(_REPORT, {"preset": "patience"}), {"phase2.patience": (1, 2, 10), **_SAMPLES}),
    "dropout": Grid(replace(_REPORT, {"preset": "dropout"}), {"phase2.dropout": (0.0, 0.1, 0.3), **_SAMPLES}),
    "weight_decay": Grid(
        replace(_REPORT, {"preset": "weight_decay"}), {"phase2.weight_decay": (0.0, 0.01, 0.1), **_SAMPLES}
    ),
}
