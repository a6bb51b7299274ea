"""Whether contexts stay diverse when tokens enter the first layer only, or every layer (R2 of 2025-11-29).

python launch.py --experiment=effective_rank
  Device: CPU, 2 cores. Time: 1 to 2 minutes.
  Expect: an effective rank of about 53 to 58 % where tokens enter the first layer only and 80 % where they
  enter every layer, best perplexities of about 352 and 327 (unigram: 606) and exponents of -0.27 and -0.30.

python launch.py --experiment=effective_rank --preset=r2
  Device: a GPU of 40 GB, by estimate, with the extra ``hub`` and the network.
  Expect, as printed: 101,207,121 parameters, an effective rank of 8 to 10 %, perplexities of 1,503, 1,036,
  758 and 536 and an exponent of -0.459.

python launch.py --experiment=effective_rank --preset=pair_original
  Device: as for ``r2``.
  Expect, as printed: 799, 680, 500 and 325, exponent -0.411, effective rank 72 to 76 %; with
  ``--config.model.use_weight_tying=true`` 787, 649, 482 and 325.

python launch.py --experiment=effective_rank --preset=pair
  Device: as for ``r2``. Nothing was printed: the reports never made this comparison.

Preset ``quick``, the default, sets the two designs side by side under equal conditions, with 3 layers of
width 96 on text that is on every machine; all sizes validate on the same samples. ``r2`` has the report's
own settings. ``pair_original`` has those of the design that R2 replaced, with tokens in every layer, as it
ran on the same day (weight 0.6 and a sequential start); its stop rule, epochs and contexts of phase 2 are
not in the record and taken from R2. ``pair`` has both designs under R2's settings.

It differs from the original in three ways: the batch of phase 2, chosen by free memory there, is 8,192
tokens; the last tenth of a stream is taken as tokens, not decoded to text and encoded again; and the draws
of random numbers are JAX's.

Wrong in print: an effective rank of 7.8 to 9.0 % (its table has 9.6) and a reduction by 65 % (64.3). Every
size validates on a text of its own, so the exponent mixes validation sets.
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R2, SMALL

_REPORT = replace(R2, {"experiment": "effective_rank", "preset": "r2"})
_SAMPLES = {"num_samples": (50, 100, 200, 500)}
_DESIGNS = {"model.token_input_all_layers": (False, True)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "model.num_layers": 3}), {**_DESIGNS, "num_samples": (25, 50, 100)}
    ),
    "r2": Grid(_REPORT, _SAMPLES),
    "pair_original": Grid(
        replace(
            _REPORT,
            {
                "preset": "pair_original",
                "model.token_input_all_layers": True,
                "phase1.initial_contexts": "sequential",
                "phase1.dist_reg_weight": 0.6,
            },
        ),
        _SAMPLES,
    ),
    "pair": Grid(replace(_REPORT, {"preset": "pair"}), {**_DESIGNS, **_SAMPLES}),
}
