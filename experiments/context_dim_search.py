"""How wide contexts should be for so much data: the width grows until two in a row give no gain.

python launch.py --experiment=context_dim_search
  Device: CPU, 2 cores. Time: 1 to 2 minutes.
  Expect: perplexities of about 617 at a width of 16, 590, 572 at 64 (unigram: 638), 600 and 666 at 192,
  where it ends; the effective rank falls from 87 to 52 % of the width.

python launch.py --experiment=context_dim_search --preset=search_100
  Device: a GPU of 24 GB, with the extra ``hub`` and the network.
  Expect, as the original logged: 384 at a width of 50, 352, 346, 338, 338, 327 at 300, 328 and 330, where
  it ends.

python launch.py --experiment=context_dim_search --preset=search_200
  Device: as for ``search_100``.
  Expect, as the original logged: 272 at 100, 257, 254 at 300, 258 and 258, where it ends; with
  ``--samples=2000`` 146, 134, 130 and 130 (the original was cut off before 500).

Preset ``quick``, the default, searches from a width of 16 on at one size of text that is on every machine.
``search_100`` and ``search_200`` have the original's settings of 2025-12-03, which are R5's, with 100 and 200
samples.

It differs from the original in three ways: the validation samples are tokenised one by one and not as one
text; every width starts from the seed's own weights, where the script's depended on the widths before; and
the draws of random numbers are JAX's. Phase 2 has R5's 40 epochs; the first of these searches had 20.

Wrong in print: a report on 2,000 samples gives 256.7 and 196.4 as the best of 100 and 200 samples; the
searches' logs have 327.3 and 253.5.
"""

from cvfp_jax.config.grid import Grid, Search
from cvfp_jax.config.overrides import replace

from .systems import R5, SMALL

_REPORT = replace(R5, {"experiment": "context_dim_search", "preset": "search_100"})
_SEARCH = Search("model.context_dim", patience=2)

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "model.context_dim": 16}),
        {"num_samples": (50,), "model.context_dim": (16, 32, 64, 128, 192, 256)},
        _SEARCH,
    ),
    "search_100": Grid(
        _REPORT,
        {"num_samples": (100,), "model.context_dim": (50, 100, 150, 200, 250, 300, 350, 400, 450, 500)},
        _SEARCH,
    ),
    "search_200": Grid(
        replace(_REPORT, {"preset": "search_200"}),
        {"num_samples": (200,), "model.context_dim": (100, 200, 300, 400, 500)},
        _SEARCH,
    ),
}
