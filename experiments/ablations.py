"""What each part of CVFP is worth: one setting changed at a time, over five seeds.

python launch.py --experiment=ablations
  Device: CPU, 2 cores. Time: 5 minutes.
  Expect: a base's perplexity of about 1,506, twice the unigram's at so few tokens, and of it .45 times with a
  head of its own, .85 end to end, .89 with lambda 0, .91 with the lagged task, .97 (not told apart) with an
  untrained block's contexts and 1.46 with zeros.

python launch.py --experiment=ablations --preset=r3
  Device: a GPU of 24 GB, with the extra ``hub`` and the network. Nothing was printed for these arms.

The arms, each one change of ``base``: contexts of the block as it was drawn, of zeros, or of the same tokens
in another order; both blocks learned end to end with gradients through time; the diversity loss' weight; no
context before the first token instead of the last one's; a head of its own instead of the tied table; and
how long phase 1 runs, where the start counts as the first iteration: ``iterations 2`` is a single step. In
``lagged task`` phase 1 learns to predict along with its contexts, for as long as ``iterations 300``.
Those of ``base`` itself, a weight of .9 and at most 60 iterations, are not repeated.

Preset ``quick``, the default, has R3's system on text that is on every machine; ``r3`` the report's own.
"""

from typing import Any

from cvfp_jax.config.grid import Grid
from cvfp_jax.config.overrides import replace

from .systems import R3_V2, SMALL

_REPORT = replace(R3_V2, {"experiment": "ablations", "preset": "r3", "arm": "base", "num_samples": 200})
# As many as a token block takes to learn anything; without one they are the lagged task's fair comparison.
_LONG = {"phase1.max_iterations": 300, "phase1.min_iterations": 300}
_ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "contexts untrained": {"phase2.contexts": "untrained"},
    "contexts zero": {"phase2.contexts": "zero"},
    "contexts shuffled": {"phase2.contexts": "shuffled"},
    "end to end": {"architecture": "bptt"},
    "lambda 0": {"phase1.dist_reg_weight": 0.0},
    "lambda 0.5": {"phase1.dist_reg_weight": 0.5},
    "lambda 1": {"phase1.dist_reg_weight": 1.0},
    "first context zero": {"phase1.first_context": "zero"},
    "head untied": {"model.use_weight_tying": False},
    "iterations 2": {"phase1.max_iterations": 2},
    "iterations 3": {"phase1.max_iterations": 3},
    "iterations 10": {"phase1.max_iterations": 10},
    "iterations 300": _LONG,
    "lagged task": {**_LONG, "phase1.lagged_task_weight": 5.0},
}
_SIZES = {"model.embed_dim": 32, "model.context_dim": 32}
_AXES = {"arm": tuple(_ARMS), "seed": (42, 43, 44, 45, 46)}

PRESETS: dict[str, Grid] = {
    "quick": Grid(
        replace(_REPORT, {**SMALL, **_SIZES, "num_samples": 25, "baseline.segment": 32}),
        {"num_samples": (25,), **_AXES},
        arms=_ARMS,
    ),
    "r3": Grid(_REPORT, {"num_samples": (200,), **_AXES}, arms=_ARMS),
}
