"""How wide a baseline is, so that it has as many trained parameters as CVFP's blocks: pure arithmetic."""

import math
from collections.abc import Callable
from typing import NamedTuple

from cvfp_jax.config.settings import RunConfig
from cvfp_jax.core.widths import num_params

_USUAL_RATIO = 4  # of a transformer layer's inside to its width
_WIDEST = 2**20


class GRUShape(NamedTuple):
    """The sizes of a GRU."""

    width: int
    num_layers: int

    def num_params(self, embed_dim: int) -> int:
        """Counts weights and biases.

        >>> GRUShape(width=3, num_layers=1).num_params(embed_dim=5)
        110
        """
        E, H = embed_dim, self.width
        gates = sum(3 * H * (read + 1) + 3 * H * (H + 1) for read in [E] + [H] * (self.num_layers - 1))
        return gates + H * E + E


class TransformerShape(NamedTuple):
    """The sizes of a transformer."""

    width: int
    inner: int
    num_layers: int
    num_heads: int

    def num_params(self, embed_dim: int) -> int:
        """Counts weights, biases and LayerNorms.

        >>> TransformerShape(width=4, inner=8, num_layers=1, num_heads=2).num_params(embed_dim=5)
        229
        """
        E, M = embed_dim, self.width
        layer = 4 * M + 3 * M * (M + 1) + M * (M + 1) + self.inner * (M + 1) + M * (self.inner + 1)
        return M * (E + 1) + self.num_layers * layer + 2 * M + E * (M + 1)


def matched_params(config: RunConfig) -> int:
    """Returns how many parameters a baseline of a config should have: those of both blocks.

    >>> from cvfp_jax.config.settings import ModelConfig
    >>> matched_params(RunConfig(model=ModelConfig(96, 96)))
    37440
    """
    counts = num_params(config.model, 1)
    return counts["params_context_block"] + counts["params_token_block"]


def trained_params(config: RunConfig) -> int:
    """Returns how many parameters a baseline of a config has; the table and its LayerNorm are frozen.

    >>> trained_params(RunConfig(architecture="bptt")), trained_params(RunConfig(architecture="gru"))
    (2363904, 2363136)
    """
    match config.architecture:
        case "gru":
            return gru_shape(config).num_params(config.model.embed_dim)
        case "transformer":
            return transformer_shape(config).num_params(config.model.embed_dim)
    return matched_params(config)


def gru_shape(config: RunConfig) -> GRUShape:
    """Returns the GRU whose number of parameters is nearest to that of both blocks.

    >>> from cvfp_jax.config.settings import ModelConfig
    >>> gru_shape(RunConfig(model=ModelConfig(96, 96)))
    GRUShape(width=64, num_layers=1)
    """
    wanted, E = matched_params(config), config.model.embed_dim

    def shape(width: int) -> GRUShape:
        return GRUShape(width, config.baseline.num_layers)

    width = _last(lambda width: shape(width).num_params(E) <= wanted)
    return min(shape(width), shape(width + 1), key=lambda each: abs(each.num_params(E) - wanted))


def transformer_shape(config: RunConfig) -> TransformerShape:
    """Returns a transformer of as many parameters as both blocks, with an inside of about four widths.

    The width is a multiple of twice the number of heads, as rotary positions need it; the width of the inside
    makes up for what that leaves.

    >>> from cvfp_jax.config.settings import ModelConfig
    >>> transformer_shape(RunConfig(model=ModelConfig(96, 96)))
    TransformerShape(width=48, inner=189, num_layers=1, num_heads=4)
    """
    wanted, E, baseline = matched_params(config), config.model.embed_dim, config.baseline
    step = 2 * baseline.num_heads

    def shape(steps: int, inner: int) -> TransformerShape:
        return TransformerShape(steps * step, inner, baseline.num_layers, baseline.num_heads)

    def usual(steps: int) -> TransformerShape:
        return shape(steps, _USUAL_RATIO * steps * step)

    def filled(steps: int) -> TransformerShape:
        """With an inside as wide as makes the number right."""
        fixed, with_one = (shape(steps, inner).num_params(E) for inner in (0, 1))
        return shape(steps, max(1, round((wanted - fixed) / (with_one - fixed))))

    steps = _last(lambda steps: usual(steps).num_params(E) <= wanted)
    candidates = [filled(steps), filled(steps + 1)]
    matched = [each for each in candidates if abs(each.num_params(E) / wanted - 1) < 0.02]
    return min(
        matched or candidates[:1], key=lambda each: abs(math.log(each.inner / each.width / _USUAL_RATIO))
    )


def _last(holds: Callable[[int], bool]) -> int:
    """The greatest number of which something holds that holds up to some number; 1 if of none."""
    low, high = 1, _WIDEST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
