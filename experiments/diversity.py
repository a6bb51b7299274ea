"""Which diversity loss makes the best contexts, by effective rank and by perplexity (R4 of 2025-12-01).

python launch.py --experiment=diversity
  Device: CPU, 2 cores. Time: 1 to 2 minutes.
  Expect: at 100 samples perplexities of about 467 (MCDL), 506 (ODCM) and 487 (OACD; unigram: 606),
  exponents of -0.46, -0.45 and -0.42 and effective ranks of 77 to 80 %, 79 to 88 % and 74 to 78 %.

python launch.py --experiment=diversity --preset=r4
  Device: a GPU of 24 GB, with the extra ``hub`` and the network. SDL and NUC take 27 ms a loss, the others
  of the report less than one.
  Expect, as printed, at 50, 100 and 200 samples: MCDL 575, 384, 289, ODCM 660, 436, 309, SDL 746, 478, 344,
  NUC 627, 414, 313; validation effective rank 83, 87, 96 and 84 %; 40,210,540 parameters, 977,664 trained
  in phase 2.

python launch.py --experiment=diversity --preset=r4_oacd
  Device: as for ``r4``.
  Expect, as printed, at the same sizes: 574, 383, 290 at a weight of 1 and 571, 383, 290 at .5, effective
  rank 81 %.

python launch.py --experiment=diversity --preset=r4_ffn
  Device: as for ``r4``.
  Expect, as printed, at the same sizes: MCDL 568, 422, 353, ODCM 636, 462, 369, SDL 667, 490, 387, NUC 694,
  501, 410; ``--context_dims=1000`` gives the wider run (533, 410, 371 for MCDL).

python launch.py --experiment=diversity --preset=r4_all
  Device: as for ``r4``.
  Expect, as printed: effective rank SDL 95, NUC 92, ODCM 89, MCDL 78, InfoNCE 77, UNIF 75, CTM 72, DUE 58,
  DECORR 47, WMSE 43, UDEL 42 and HSIC 37 %. OACD came a day later. The original stopped after phase 1, and
  its UDEL and WMSE very likely had no gradient; here they have one.

Preset ``quick``, the default, compares the report's three losses at a width of 64 on text that is on every
machine. The others have the original's settings: ``r4`` and ``r4_oacd`` at D = 500, ``r4_ffn`` with two
linear layers, ``r4_all`` every loss at 100 samples, D = 200 and 6 layers. Other losses and weights:
``--config.phase1.diversity=SDL,NUC``, ``--config.phase1.dist_reg_weight=0.5``.

It differs from the original in three ways: the batch of phase 2, chosen by free memory there, is 8,192
tokens; the validation samples are tokenised one by one and not as one text; and the draws of random numbers
are JAX's. That phase 1 of ``r4_all`` and ``r4_ffn`` ran with R4's clip of 2 and micro-batch of 5,000 tokens
is assumed.

Wrong in print: MCDL's exponent of -0.423 with R2 = 1 is a law through two points (its 50-sample run had
died in a download); with the repeated run's 575.0 it is -0.513. A run labelled weight .5 is the run at .9
again, since the script ignored the setting. MCDL and OACD stop at iteration 10 with 1 to 2 % of the tokens
converged: no fixed point at all.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace
from cvfp_jax.config.settings import DIVERSITIES

from .systems import R4, SMALL

_REPORT = replace(R4, {"experiment": "diversity", "preset": "r4"})
_FOUR = {"phase1.diversity": ("MCDL", "ODCM", "SDL", "NUC")}
_SAMPLES = {"num_samples": (50, 100, 200)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "model.context_dim": 64}),
        {"phase1.diversity": ("MCDL", "ODCM", "OACD"), "num_samples": (25, 50, 100)},
    ),
    "r4": Grid(_REPORT, {**_FOUR, **_SAMPLES}),
    "r4_oacd": Grid(
        replace(_REPORT, {"preset": "r4_oacd", "phase1.diversity": "OACD"}),
        {"phase1.dist_reg_weight": (1.0, 0.5), **_SAMPLES},
    ),
    "r4_all": Grid(
        replace(
            _REPORT,
            {
                "preset": "r4_all",
                "model.context_dim": 200,
                "model.num_layers": 6,
                "model.ffn_num_layers": 2,
            },
        ),
        {"phase1.diversity": DIVERSITIES, "num_samples": (100,)},
    ),
    "r4_ffn": Grid(replace(_REPORT, {"preset": "r4_ffn", "model.ffn_num_layers": 2}), {**_FOUR, **_SAMPLES}),
}
