"""What rounding of printed measures can do to what is computed from them."""

import math
from collections.abc import Sequence

import numpy as np


def linear_range(weights: Sequence[float], y: Sequence[float], half_unit: float) -> tuple[float, float]:
    """Returns the exact range of ``weights @ ln y`` over all y that round to those printed.

    Args:
      weights: of ln y; a slope's, an intercept's or a difference of slopes'.
      y: printed measures, above half a unit.
      half_unit: half a unit of their last printed digit.

    Returns:
      The smallest and the largest value: each y at the end of its range that its weight's sign asks for.

    Raises:
      ValueError: a measure is not above half a unit.

    >>> [round(end, 4) for end in linear_range([1.0, -1.0], [10.0, 5.0], 0.5)]
    [0.5465, 0.8473]
    """
    if any(value <= half_unit for value in y):
        raise ValueError("measures must be above half a unit of their last digit")
    w = np.asarray(weights, dtype=np.float64)
    down, up = np.log(np.asarray(y) - half_unit), np.log(np.asarray(y) + half_unit)
    return float(np.where(w > 0, down, up) @ w), float(np.where(w > 0, up, down) @ w)


def line_weights(x: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of ln y that make the slope, and the intercept, of the log-log line.

    >>> slope, intercept = line_weights([1.0, math.e])
    >>> slope.round(9).tolist(), intercept.round(9).tolist()
    ([-1.0, 1.0], [1.0, 0.0])
    """
    log_x = np.log(np.asarray(x, dtype=np.float64))
    offsets = log_x - log_x.mean()
    slope = offsets / (offsets @ offsets)
    return slope, 1 / len(log_x) - log_x.mean() * slope


def power_law_range(
    x: Sequence[float], y: Sequence[float], half_unit: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns the ranges of alpha and of A over all y that round to those printed.

    >>> alpha, A = power_law_range([50, 100, 200], [8.0, 4.0, 2.0], 0.05)
    >>> [round(end, 3) for end in alpha], [round(end) for end in A]
    ([-1.023, -0.978], [362, 443])
    """
    slope, intercept = line_weights(x)
    low, high = linear_range(intercept.tolist(), y, half_unit)
    return linear_range(slope.tolist(), y, half_unit), (math.exp(low), math.exp(high))
