"""Which contexts the token layers should read: each layer's, the final one, or the previous one too.

python launch.py --experiment=context_modes
  Device: CPU, 2 cores. Time: 1 minute.
  Expect: perplexities of about 527 (E), 526 (A), 516 (F) and 520 (G; unigram: 606), too near to each other
  to rank by one seed, and an effective rank of 78 %.

python launch.py --experiment=context_modes --preset=modes_2000
  Device: a GPU of 40 GB, with the extra ``hub`` and the network.
  Expect, as the original logged: 128.1 (E), 136.9 (A), 137.9 (F) and 132.2 (G).

python launch.py --experiment=context_modes --preset=c2t1
python launch.py --experiment=context_modes --preset=c1t2
  Device: as for ``modes_2000``.
  Expect, as the original logged: 138.7 (``c2t1``) and 300.8 (``c1t2``); but see below.

Preset ``quick``, the default, compares the four modes with 2 layers of width 64 at one size of text that is
on every machine. The others have the settings of 2025-12-02, with 2,000 samples and D = 500: ``modes_2000``
all modes, ``c2t1`` two context layers and one token layer, ``c1t2`` one and two.

It differs from the original in three ways beside the draws of random numbers, which are JAX's: the batch of
phase 2, chosen by free memory there, is 8,192 tokens; the validation samples are tokenised one by one; and
mode G is built right. In the original its only token layer read the previous context (so ``c2t1`` is mode A
here), and the whole first batch read the current one: 138.7 and 300.8 show these faults and not the
designs. That contexts of phase 2 were parallel, that the weights started as N(0, 0.1^2), that the context
before the first token was the last one, and that phase 2 had 20 epochs and no least gain is assumed: the
day's code changed from run to run.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import MODES, SMALL

_REPORT = replace(MODES, {"experiment": "context_modes", "preset": "modes_2000", "model.num_layers": 2})
_MODES = {"model.context_mode": ("E", "A", "F", "G")}
_SAMPLES = {"num_samples": (2000,)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "num_samples": 100, "model.context_dim": 64}),
        {**_MODES, "num_samples": (100,)},
    ),
    "modes_2000": Grid(_REPORT, {**_MODES, **_SAMPLES}),
    "c2t1": Grid(
        replace(_REPORT, {"preset": "c2t1", "model.num_token_layers": 1, "model.context_mode": "A"}),
        _SAMPLES,
    ),
    "c1t2": Grid(
        replace(
            _REPORT,
            {
                "preset": "c1t2",
                "model.num_layers": 1,
                "model.num_token_layers": 2,
                "model.context_mode": "G",
            },
        ),
        _SAMPLES,
    ),
}
