"""The original's clip of one of several blocks: gradients left over from earlier blocks count in the norm.

The original clears only the gradients of the block that it trains and clips those of all parameters, so what
an earlier block's last step left behind shrinks a later block's steps. ``phase1.compat_stale_clip`` repeats
that, for comparison with the experiment of 2025-12-02 only.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cvfp_jax.core.optimizer import CLIP_EPSILON
from cvfp_jax.phase1.train import Phase1Result


@dataclasses.dataclass(frozen=True)
class StaleClip:
    """Clips a block's gradients by a norm in which left-over gradients count.

    ``g * min(1, max_norm / (sqrt(||g||^2 + s^2) + 1e-6))``; as the original scales in place, the left-over
    norm s is scaled along at every step.

    Args:
      stale_norm: s before the first step.

    References:
      rato-tokyo/new-llm, experiment of 2025-12-02 (two blocks on halves of the data).

    >>> clip = StaleClip(12.0)(1.0)
    >>> clipped, stale_norm = clip.update(jnp.array([5.0]), clip.init(jnp.array([5.0])))
    >>> round(float(clipped[0]), 4), round(float(stale_norm), 4)
    (0.3846, 0.9231)
    """

    stale_norm: float

    def __call__(self, max_norm: float) -> optax.GradientTransformation:
        """Returns an optax transformation, whose state is the left-over norm."""

        def init(params: optax.Params) -> Any:
            return jnp.asarray(self.stale_norm, jax.tree.leaves(params)[0].dtype)

        def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple:
            del params
            norm = jnp.sqrt(jnp.square(optax.tree.norm(updates)) + jnp.square(state))
            scale = jnp.minimum(1.0, max_norm / (norm + CLIP_EPSILON))
            return jax.tree.map(lambda gradient: gradient * scale, updates), state * scale

        return optax.GradientTransformation(init, update)


def stale_norm_after(grad_norms: np.ndarray, max_norm: float, stale_norm: float) -> float:
    """Returns the norm of all left-over gradients after steps with these norms before clipping.

    Args:
      grad_norms: float [steps], each gradient's own norm.
      max_norm: the largest norm.
      stale_norm: what was left over before.

    Returns:
      The norm of the last step's clipped gradient and of what was left over, scaled along.

    >>> round(stale_norm_after(np.array([3.0]), 1.0, 4.0), 4)
    1.0
    """
    last = 0.0
    for own in grad_norms:
        scale = min(1.0, max_norm / (math.hypot(own, stale_norm) + CLIP_EPSILON))
        last, stale_norm = float(own) * scale, stale_norm * scale
    return math.hypot(last, stale_norm)


def stale_clip(results: Sequence[Phase1Result], max_norm: float) -> StaleClip:
    """Returns the clip of the next block, given what the blocks before it have come to."""
    stale_norm = 0.0
    for result in results:
        stale_norm = stale_norm_after(result.trace["grad_norm"], max_norm, stale_norm)
    return StaleClip(stale_norm)
