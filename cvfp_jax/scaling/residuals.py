"""Whether what a law leaves of its points is noise: correlation from each size to the next."""

import math

import numpy as np

from cvfp_jax.scaling.fitting import Fit

LEAST_SIZES = 6
_DRAWS = 4000
_EXACT = 1e-7  # residuals of ln y, or of y in its own scale, that are none but rounding
_MOST = 2000  # sizes; the residuals of more are averaged over blocks of neighbours


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def serial_correlation_p(fit: Fit, seed: int = 0) -> float:
    """Tests the residuals of a fit for correlation between sizes next to each other.

    The statistic is Durbin and Watson's, ``sum (r_i+1 - r_i)^2 / sum r_i^2``, of the residuals' means at each
    size; it is small where they run in waves, as they do about a law of another shape. Residuals of a fit are
    never independent, so its distribution is drawn: from independent normal errors less their projection on
    the law's derivatives.

    Args:
      fit: with parameters.
      seed: of the draws.

    Returns:
      The probability of a statistic as small, if the law holds; not a number of fewer than six sizes, or two
      more than there are parameters.

    References:
      Durbin and Watson, Testing for serial correlation in least squares regression, 1950.

    >>> import math
    >>> from cvfp_jax.scaling.fitting import fit_law
    >>> x = [2.0**n for n in range(12)]
    >>> serial_correlation_p(fit_law("power", x, [5 + 10 / size for size in x])) < 0.01
    True
    """
    if not fit.fitted or fit.sizes < max(LEAST_SIZES, fit.k + 2):
        return math.nan
    problem, optimum = fit.solved
    r, J = (part[0] for part in problem.residuals(optimum.parameters))
    root = np.sqrt(problem.weights[0])
    if not np.all(np.isfinite(r)) or float(np.sqrt(np.mean((root * r) ** 2))) < _EXACT:
        return 1.0 if np.all(np.isfinite(r)) else math.nan
    which = fit.size_index
    if fit.sizes > _MOST:
        which = which * _MOST // fit.sizes
    counts = np.bincount(which)
    # Means of a size's points have a spread that falls with the root of their number.
    scale = 1 / np.sqrt(counts)
    r = np.bincount(which, root * r) * scale
    columns = [np.bincount(which, root * column) * scale for column in J[:, ~optimum.held[0]].T]
    basis = np.linalg.qr(np.stack(columns, axis=1))[0] if columns else np.zeros((len(r), 0))
    errors = np.random.default_rng(seed).normal(size=(min(_DRAWS, 4_000_000 // len(r)), len(r)))
    drawn = errors - (errors @ basis) @ basis.T
    return float((1 + np.sum(_durbin_watson(drawn) <= _durbin_watson(r[None])[0])) / (len(drawn) + 1))


def _durbin_watson(r: np.ndarray) -> np.ndarray:
    return np.sum(np.diff(r, axis=1) ** 2, axis=1) / np.sum(r**2, axis=1)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def turning_size(fit: Fit, farthest: float) -> float:
    """Returns the size beyond those measured at which a law turns round; NaN if it does not before an end.

    A law that falls over the sizes measured and then rises, or the other way round, is bent by the points
    and says nothing of what lies beyond them.

    Args:
      fit: with or without parameters.
      farthest: the largest size that is asked for.

    >>> from cvfp_jax.scaling.fitting import fit_law
    >>> fit = fit_law("variable_exponent", [1.0, 2.0, 4.0, 8.0], [8.0, 4.0, 2.8, 2.6])
    >>> bool(turning_size(fit, 100.0) < 12), turning_size(fit, 8.0)
    (True, nan)
    """
    first, last = float(fit.x[0]), float(fit.x[-1])
    if not fit.fitted or farthest <= last:
        return math.nan
    sizes = np.geomspace(last, max(last, min(farthest, last * 1e30)), 400)
    ends = fit.predict([first, last])
    trend = float(np.sign(ends[1] - ends[0]))
    slopes = -np.sign(fit.local_exponent(sizes)) * np.sign(fit.predict(sizes))
    turned = np.flatnonzero(slopes * trend < 0)
    return float(sizes[turned[0]]) if len(turned) else math.nan
