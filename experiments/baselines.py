"""CVFP beside a GRU, a transformer and its own recurrence trained through time, all of one size.

python launch.py --experiment=baselines
  Device: CPU, 2 cores. Time: 5 minutes.
  Expect: perplexities of about 530 (CVFP), 375 (GRU), 520 (transformer) and 485 (the recurrence through time;
  trigram: 192) at 22,465 tokens, and exponents of -0.41, -0.14, -0.15 and -0.42.

python launch.py --experiment=baselines --preset=r3
  Device: a GPU of 24 GB, with the extra ``hub`` and the network. Nothing was printed for these models.

Every model reads the same frozen embedding, predicts through the same tied and frozen head, has as many
trained parameters as both of CVFP's blocks together (the report counts them), sees the same tokens in batches
of the same size, and is stopped by the same rule. Learning rate and dropout are chosen for each of them by a
search of as many trials on development samples, which neither train nor validate; only the cells that follow
read the validation samples.

Preset ``quick``, the default, has R3's system at a width of 64 on text that is on every machine. ``r3`` has
the report's widths and texts.
"""

from cvfp_jax.config.baseline import ARCHITECTURES
from cvfp_jax.config.grid import Grid, Tuning
from cvfp_jax.config.overrides import replace

from .systems import R3_V2, SMALL

_REPORT = replace(
    R3_V2,
    {"experiment": "baselines", "preset": "r3", "baseline.segment": 256, "baseline.num_layers": 2},
)
_SMALLER = {"model.embed_dim": 64, "model.context_dim": 64, "phase2.epochs": 12}
_RATES = {"phase2.learning_rate": (0.0003, 0.001, 0.003), "phase2.dropout": (0.0, 0.1, 0.3)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, **_SMALLER, "baseline.segment": 32, "baseline.num_layers": 1}),
        {"architecture": ARCHITECTURES, "num_samples": (22, 45, 90), "seed": (42, 43)},
        tuning=Tuning(
            "architecture",
            {"phase2.learning_rate": (0.001, 0.003), "phase2.dropout": (0.2, 0.5)},
            num_samples=45,
        ),
    ),
    "r3": Grid(
        _REPORT,
        {"architecture": ARCHITECTURES, "num_samples": (50, 100, 200, 500), "seed": (42, 43, 44)},
        tuning=Tuning("architecture", _RATES, num_samples=200),
    ),
}
