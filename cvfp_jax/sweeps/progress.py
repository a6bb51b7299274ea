"""Progress bars: the phase, its loss, its speed, and the longest it can still take."""

import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from cvfp_jax.config.settings import RunConfig
from cvfp_jax.runtime import signals

_FORMAT = "{desc} {percentage:3.0f}%|{bar:12}| {rate_fmt}, at most {remaining} left{postfix}"


class CellProgress:
    """The bar of one cell, one phase after the other, on standard error.

    Args:
      title: the cell's name.
      config: its settings, which say how long the phases may take.
      visible: whether it is shown.
    """

    def __init__(self, title: str, config: RunConfig, visible: bool = True) -> None:
        self._title, self._config = title, config
        self._visible = visible
        self._bar: tqdm | None = None

    def _open(self, phase: str, total_tokens: int) -> tqdm:
        self.close()
        self._bar = tqdm(
            total=total_tokens,
            desc=f"{self._title} {phase}",
            unit=" tokens",
            unit_scale=True,
            bar_format=_FORMAT,
            leave=False,
            disable=not self._visible,
            # In a log file a line now and then is enough.
            mininterval=0.2 if sys.stderr.isatty() else 20.0,
        )
        return self._bar

    def phase1(self, block_index: int, num_tokens: int) -> Callable[[int, dict[str, np.ndarray]], None]:
        """Opens the bar of a block's phase 1.

        Returns:
          A function that moves it, of the iterations made and the trace up to the last.
        """
        name = f"phase 1, block {block_index + 1}" if self._config.model.num_blocks > 1 else "phase 1"
        bar = self._open(name, num_tokens * (self._config.phase1.max_iterations - 1))

        def show(steps: int, trace: dict[str, np.ndarray]) -> None:
            signals.check()
            rate = trace["converged_tokens"][-1] / num_tokens
            bar.set_postfix_str(f"loss {trace['loss'][-1]:.4f}, converged {rate:.1%}", refresh=False)
            bar.update(steps * num_tokens - bar.n)

        return show

    def phase2(self, num_tokens: int) -> Callable[[int, int, float], None]:
        """Opens the bar of phase 2.

        Returns:
          A function that moves it, of the epoch, the tokens done in it and the last loss.
        """
        bar = self._open("phase 2", num_tokens * self._config.phase2.epochs)

        def show(epoch: int, rows: int, loss: float) -> None:
            signals.check()
            bar.set_postfix_str(f"epoch {epoch}, loss {loss:.4f}", refresh=False)
            bar.update((epoch - 1) * num_tokens + min(rows, num_tokens) - bar.n)

        return show

    def epoch(self, number: int, measures: dict[str, float]) -> None:
        """Shows nothing: the bar tells the last loss."""

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
