"""When phase 1 ends before its last iteration.

- ``rate``: once ``min_iterations`` have been made and the converged share of the tokens reaches
  ``min_converged_ratio``.
- ``improvement``: at that share, at any iteration; or, while at least half of the tokens have
  converged, after ``no_improvement_patience`` iterations in a row that raised the share by less than
  ``min_convergence_improvement``.
- ``val_effective_rank``: after ``val_patience`` checks in a row, one every ``val_frequency``
  iterations, in which the effective rank of exact validation contexts was not above its highest.

The first two count tokens inside the compiled loop, in whole numbers that do not round; the third
looks from outside.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cvfp_jax.config.settings import Phase1Config
from cvfp_jax.core.fixed_point import Status

# The improvement rule watches from this share on.
_WATCHED_SHARE = 0.5


def tokens_for_share(num_tokens: int, share: float) -> int:
    """Returns the smallest count c with ``c / num_tokens >= share`` in double precision.

    >>> tokens_for_share(700, 0.99), tokens_for_share(3, 0.0)
    (693, 0)
    """
    count = math.floor(share * num_tokens)
    while count > 0 and (count - 1) / num_tokens >= share:
        count -= 1
    while count / num_tokens < share:
        count += 1
    return count


class StopThresholds(NamedTuple):
    """Shares of a stream as numbers of tokens, int32."""

    converged: jax.Array  # at which the iteration has converged
    watched: jax.Array  # from which on the improvement rule watches
    gain: jax.Array  # the least gain that is an improvement

    @classmethod
    def of(cls, num_tokens: int, config: Phase1Config) -> "StopThresholds":
        """The limits of a stream of so many tokens."""
        shares = (config.min_converged_ratio, _WATCHED_SHARE, config.min_convergence_improvement)
        return cls(*(jnp.int32(tokens_for_share(num_tokens, share)) for share in shares))


class StopState(NamedTuple):
    """What the improvement rule remembers, int32."""

    converged: jax.Array  # tokens, at the iteration before
    stalls: jax.Array  # iterations without improvement

    @classmethod
    def start(cls) -> "StopState":
        """Nothing has converged and nothing has stalled."""
        return cls(jnp.int32(0), jnp.int32(0))


def check_stop(
    converged: jax.Array, iteration: jax.Array, watch: StopState, limits: StopThresholds, config: Phase1Config
) -> tuple[jax.Array, StopState]:
    """Says whether an iteration was the last.

    Args:
      converged: int32, its number of converged tokens.
      iteration: int32, its number; the start is number 1.
      watch: what was remembered before it.
      limits: those of the stream.
      config: the settings.

    Returns:
      A ``Status`` (RUNNING, CONVERGED or STALLED), int32, and what is to be remembered.

    References:
      rato-tokyo/new-llm, reports of 2025-11-30 (rate) and 2025-12-03 (improvement).
    """
    watched = converged >= limits.watched
    gained = converged - watch.converged >= limits.gain
    stalls = jnp.where(watched, jnp.where(gained, 0, watch.stalls + 1), watch.stalls)
    seen = StopState(converged, stalls)
    enough = converged >= limits.converged
    status = jnp.int32(Status.RUNNING)
    if config.stop == "rate":
        done = enough & (iteration >= config.min_iterations)
        status = jnp.where(done, Status.CONVERGED, status)
    if config.stop == "improvement":
        stalled = watched & (stalls >= config.no_improvement_patience)
        status = jnp.where(stalled, Status.STALLED, status)
        status = jnp.where(enough, Status.CONVERGED, status)
    return status.astype(jnp.int32), seen


class RankWatch:
    """The rule on the validation effective rank, told of each check."""

    def __init__(self, config: Phase1Config) -> None:
        """Nothing has been checked."""
        self._config = config
        self._failures = 0
        self.ranks: list[float] = []

    def next_check(self, iterations: int) -> int:
        """Returns the first iteration after so many at which to check.

        >>> RankWatch(Phase1Config()).next_check(5)
        10
        """
        return (iterations // self._config.val_frequency + 1) * self._config.val_frequency

    def stops(self, rank: float) -> bool:
        """Notes an effective rank and says whether to stop.

        >>> watch = RankWatch(Phase1Config(val_patience=2))
        >>> [watch.stops(rank) for rank in (6.0, 6.5, 6.5, 6.4)]
        [False, False, False, True]
        """
        self._failures = 0 if rank > max(self.ranks, default=0.0) else self._failures + 1
        self.ranks.append(rank)
        return self._failures >= self._config.val_patience

    def recall(self, ranks: list[float]) -> None:
        """Notes the effective ranks of checks made in an earlier launch."""
        for rank in ranks:
            self.stops(rank)
