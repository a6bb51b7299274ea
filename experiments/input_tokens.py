"""What a window of two or three tokens gives, and whether the exponent flattens as data grow (R3 v3).

python launch.py --experiment=input_tokens
  Device: CPU, 2 cores. Time: 1 to 2 minutes.
  Expect: an exponent of about -0.69 (-0.80 over 25 to 200 samples and -0.51 over 50 to 400), a perplexity
  of 290 at 400 samples (unigram: 560) and an effective rank of 78 to 82 %.

python launch.py --experiment=input_tokens --preset=v3
  Device: a GPU of 24 GB, with the extra ``hub`` and the network.
  Expect, as printed: an exponent of -0.466 (-0.504 over 50 to 400 samples and -0.432 over 100 to 800), 592
  at 50 samples and an effective rank of 82 %.

python launch.py --experiment=input_tokens --preset=k3
python launch.py --experiment=input_tokens --preset=l2
python launch.py --experiment=input_tokens --preset=l3
  Device: as for ``v3``. Nothing was printed for these, the report's own next steps.

Preset ``quick``, the default, keeps v3's system at a width of 96, over five sizes and so two windows of
four, on text that is on every machine. ``v3`` has the report's own settings, ``k3`` three tokens, ``l2``
and ``l3`` two and three layers with v3's window.

It differs from the original in three ways: the batch of phase 2, chosen by free memory there, is 8,192
tokens; the validation samples are tokenised one by one and not as one text; and the draws of random numbers
are JAX's.

Wrong in print: the noise, which was 0.1 and not 0; the forecasts at 1M, 2M, 5M and 10M tokens (154, 123, 92
and 74), which its law puts at 156, 113, 74 and 53; and a gain of 15 % on v2, which compares 948,524 tokens
with 587,970: at equal tokens the two are equal (196).
"""

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R3_V3, SMALL

_REPORT = replace(R3_V3, {"experiment": "input_tokens", "preset": "v3"})
# Two windows of four sizes.
_SAMPLES = {"num_samples": (50, 100, 200, 400, 800)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, "data": replace(SMALL["data"], {"val_samples": "400:420"})}),
        {"num_samples": (25, 50, 100, 200, 400)},
    ),
    "v3": Grid(_REPORT, _SAMPLES),
    "k3": Grid(replace(_REPORT, {"preset": "k3", "model.num_input_tokens": 3}), _SAMPLES),
    "l2": Grid(replace(_REPORT, {"preset": "l2", "model.num_layers": 2}), _SAMPLES),
    "l3": Grid(replace(_REPORT, {"preset": "l3", "model.num_layers": 3}), _SAMPLES),
}
