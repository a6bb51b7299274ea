"""The figure of one fitted law for notebooks; the only use of Matplotlib here, and only when it is called."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cvfp_jax.scaling.notebook import FittedLaw

_BAND_SIZES = 13  # each takes a search


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def draw(law: "FittedLaw", ax: Any = None, farthest: float | None = None) -> Any:
    """Draws points, a law of one variable and its 95 % band; returns the axes.

    Args:
      law: the law.
      ax: axes; new ones if there are none.
      farthest: the largest size; twice the largest measured if it is not given.
    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(layout="constrained").subplots()
    x = np.asarray(law.found.x)  # type: ignore[union-attr]
    ax.plot(x, law.y, "o", color="#333333", zorder=3, label="measured")
    sizes = np.geomspace(x.min(), farthest or 2 * x.max(), 200)
    if law.found.fitted:
        at = np.geomspace(sizes[0], sizes[-1], _BAND_SIZES)
        ends = law._intervals(at.tolist())[-_BAND_SIZES:]
        (line,) = ax.plot(sizes, law.predict(sizes), label=law.found.law.name)
        if all(each is not None for each in ends):
            low, high = np.array([(each.low, each.high) for each in ends if each is not None]).T
            ax.fill_between(at, low, np.minimum(high, 1e300), color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xscale="log", yscale="log")
    ax.legend()
    return ax
