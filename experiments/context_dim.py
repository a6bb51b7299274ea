"""How perplexity falls with the data at three context widths (R3 of 2025-11-30).

python launch.py --experiment=context_dim

Preset ``quick``, the default, keeps R3's system and its ratio of parameters, 1 : 2 : 3, on text that is
on every machine. Device: CPU, 2 cores. Time: 2 to 4 minutes. Expect: alpha -0.43, -0.43 and -0.44 (standard
errors 0.02 to 0.06), a best validation perplexity of about 370 (unigram: 597) and an effective rank of 80,
75 and 72 %; other versions of the documented packages are other text and move the perplexities.

Presets ``v1`` and ``v2`` are the report's own settings. Device: a GPU of 24 GB, with the extra ``hub`` and
the network. Expect, as the report printed: alpha -0.546, -0.513 and -0.510 (v1), -0.476, -0.485 and -0.472
(v2), and a perplexity of 196 to 202 at 500 samples. Three things differ: the batch of phase 2, which the
original chose by free memory, is 8,192 tokens; the validation samples are tokenised one by one and not as
one text; and the draws of random numbers are JAX's.
"""

from cvfp_jax.config import DataConfig, ModelConfig, Phase1Config, Phase2Config, RunConfig
from cvfp_jax.grid import Grid

_REPORT_DATA = DataConfig(corpus="ultrachat", val_samples="1000:1020", embedding="gpt2")
# 1,181,952 : 2,365,200 : 3,547,396 parameters in the context block, which is 1 : 2.001 : 3.001.
_REPORT_AXES = {"model.context_dim": (768, 1200, 1537), "num_samples": (50, 100, 200, 500)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        RunConfig(
            preset="quick",
            model=ModelConfig(embed_dim=96),
            # The small batch and the higher rate make up for how few steps so little text gives.
            phase2=Phase2Config(learning_rate=0.003, batch_size=128, epochs=10),
            data=DataConfig(
                corpus="pydocs",
                val_samples="200:220",
                max_sample_tokens=256,
                embedding="spectral",
                vocabulary="corpus",
            ),
        ),
        {"model.context_dim": (96, 150, 192), "num_samples": (25, 50, 100, 200)},
    ),
    "v1": Grid(
        RunConfig(
            preset="v1",
            effective_rank_rows=10_000,
            phase1=Phase1Config(max_iterations=40, context_noise=0.1, dist_reg_weight=0.8),
            phase2=Phase2Config(epochs=10),
            data=_REPORT_DATA,
        ),
        _REPORT_AXES,
    ),
    "v2": Grid(
        RunConfig(
            preset="v2",
            effective_rank_rows=10_000,
            phase1=Phase1Config(max_iterations=60, context_noise=0.0, dist_reg_weight=0.9),
            phase2=Phase2Config(epochs=20),
            data=_REPORT_DATA,
        ),
        _REPORT_AXES,
    ),
}
