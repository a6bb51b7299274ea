"""Growing windows: what a law fitted to the first sizes says of the next, for every number of them."""

import dataclasses

import numpy as np

from cvfp_jax.scaling.fitting import Fit
from cvfp_jax.scaling.solve import minimise

MOST_STEPS, _STARTS = 15, 4


@dataclasses.dataclass(frozen=True)
class Step:
    """A law fitted to the first sizes: what it predicts of the next one and of the largest."""

    sizes: int  # how many it is fitted to
    last: float  # the largest of them
    next: float  # the next size, and the mean measure there
    measured: float
    predicted: float
    at_largest: float  # what it predicts at the largest size of all

    @property
    def error(self) -> float:
        """The logarithm of predicted over measured."""
        return float(np.log(self.predicted / self.measured)) if self.predicted > 0 else float("inf")


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def growing_windows(fit: Fit) -> list[Step]:
    """Fits a law to the first k sizes for every k, and predicts the next.

    It shows what one would have said at each budget, and so how far the fit can be trusted beyond the last.

    Args:
      fit: a fit of all points; its law, objective, weights and limits are those of the windows.

    Returns:
      A step for each k from as many as the law has parameters on; of many sizes fifteen steps, evenly apart.

    >>> from cvfp_jax.scaling.fitting import fit_law
    >>> fit = fit_law("power", [1, 10, 100, 1000], [800.0, 400.0, 200.0, 100.0])
    >>> [(step.sizes, step.next, round(step.predicted, 6)) for step in growing_windows(fit)]
    [(2, 100.0, 200.0), (3, 1000.0, 100.0)]
    """
    if not fit.fitted:
        return []
    problem, which, sizes = fit.solved[0], fit.size_index, np.unique(fit.x)
    best = fit.solved[1].parameters
    counts = np.arange(max(fit.k, 1), fit.sizes)
    if len(counts) > MOST_STEPS:
        counts = np.unique(np.linspace(counts[0], counts[-1], MOST_STEPS).astype(int))
    weights = np.where(which < counts[:, None], problem.weights, 0.0)
    many = dataclasses.replace(problem, y=np.repeat(problem.y, len(counts), axis=0), weights=weights)
    optimum = minimise(many, _STARTS, np.repeat(best, len(counts), axis=0))
    curves = problem.curve(optimum.parameters, np.log(sizes) - problem.log_ref)[0]
    steps = []
    for count, curve in zip(counts, curves, strict=True):
        at_next = which == count
        logs, w = np.log(problem.y[0][at_next]), problem.weights[0][at_next]
        measured = float(np.exp(np.average(logs, weights=w)))
        steps.append(
            Step(
                int(count),
                float(sizes[count - 1]),
                float(sizes[count]),
                measured * fit.y_ref,
                float(curve[count]) * fit.y_ref,
                float(curve[-1]) * fit.y_ref,
            )
        )
    return steps
