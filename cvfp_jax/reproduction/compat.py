"""The reports' own procedures, kept to reproduce what they printed; not what we recommend.

Their five laws were compared by AIC with up to four parameters on five points, from one start each,
so what they print may be a bound or a local optimum. It is their number all the same.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from cvfp_jax.scaling.laws import LAWS, Law
from cvfp_jax.scaling.line import FITTED, LogLine


def printed_power_law(x: Sequence[float], y: Sequence[float]) -> LogLine:
    """Fits a power law as R1 to R4 did: SciPy's ``linregress`` of ln y on ln x, from two points on.

    Args:
      x: sizes, above zero.
      y: the measure, above zero.

    Returns:
      The law, without what intervals need. Two points determine it and leave no error: R2 is 1 and the
      standard error 0, which is how a missing point went unnoticed in R4.

    Raises:
      ValueError: fewer than two sizes.

    References:
      rato-tokyo/new-llm, ``calculate_scaling_law``, reports of 2025-11-27 to 2025-12-01.

    >>> law = printed_power_law([122795, 240132], [383.9, 289.1])  # R4's two points of three
    >>> round(law.alpha, 3), round(law.r2, 3)
    (-0.423, 1.0)
    """
    if len(set(x)) < 2:
        raise ValueError("a power law needs two sizes")
    line = stats.linregress(np.log(x), np.log(y))
    return LogLine(
        FITTED,
        len(x),
        alpha=float(line.slope),
        log_A=float(line.intercept),
        r2=float(line.rvalue) ** 2,
        p_value=float(line.pvalue),
        std_err=float(line.stderr),
    )


@dataclasses.dataclass(frozen=True)
class PrintedLaw:
    """One of R5's five laws with its parameters and R5's scores, all of them in linear perplexity."""

    name: str
    params: dict[str, float]
    r2: float
    rss: float
    aic: float  # n ln(RSS / n) + 2 k

    @property
    def k(self) -> int:
        """How many parameters the law has."""
        return len(self.params)

    def predict(self, x: float) -> float:
        """Returns the law's value at a size."""
        return float(LAWS[self.name].value(self.params, np.array(x, float)))

    def local_exponent(self, x: float) -> float:
        """Returns -d ln y / d ln x, which is not R5's "a(n)"."""
        return float(LAWS[self.name].local_exponent(self.params, np.array(x, float)))


# R5's starts, lower and upper bounds, by law and in the order of its parameters.
_BOUNDED: dict[str, tuple[list[float], list[float], list[float]]] = {
    "saturating": ([80, 1000, 0.3], [0, 0, 0], [150, 1e4, 2]),
    "log_corrected": ([1000, 0.3, 0.5], [0, 0, -5], [1e4, 2, 5]),
    "exponential_decay": ([100, 300, 0.01, 0.5], [0, 0, 0, 0], [200, 1000, 1, 1]),
    "variable_exponent": ([1000, 0.5, 0.02], [0, 0, -0.5], [1e4, 2, 0.5]),
}


def printed_aicc(aic: float, n: int, k: int) -> float:
    """Returns R5's AIC corrected for few points, with its k, which leaves out the spread of the noise.

    ``AIC + 2 k (k + 1) / (n - k - 1)``; ``scaling.fitting.corrected_aic`` counts it, as the reference does.

    References:
      Hurvich and Tsai, Regression and time series model selection in small samples, 1989.

    >>> round(printed_aicc(21.54, 5, 3), 2), printed_aicc(18.54, 5, 4)
    (45.54, nan)
    """
    return aic + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.nan


def printed_aic(rss: float, n: int, k: int) -> float:
    """Returns AIC as R5 prints it: ``n ln(RSS / n) + 2 k``, the noise's variance not counted.

    >>> round(printed_aic(41.17, 5, 4), 2)
    18.54
    """
    return n * math.log(rss / n) + 2 * k


def _scored(name: str, params: dict[str, float], x: np.ndarray, y: np.ndarray) -> PrintedLaw:
    rss = float(np.sum((LAWS[name].value(params, x) - y) ** 2))
    r2 = 1 - rss / float(np.sum((y - y.mean()) ** 2))
    return PrintedLaw(name, params, r2, rss, printed_aic(rss, len(x), len(params)))


def printed_laws(samples: Sequence[float], ppl: Sequence[float]) -> dict[str, PrintedLaw]:
    """Fits R5's five laws by R5's procedure.

    The power law by regression of logarithms, scored in perplexity; the others by SciPy's bounded
    ``curve_fit`` from R5's one start each, with ``maxfev=10000``.

    Args:
      samples: sizes above 1 (ln n is raised to a power), five or more of them.
      ppl: perplexities.

    Returns:
      Law by name: power, saturating, log_corrected, exponential_decay, variable_exponent.

    Raises:
      RuntimeError: SciPy gave up on a law.

    References:
      rato-tokyo/new-llm, ``analyze_scaling_models.py``, report of 2025-12-03.

    >>> laws = printed_laws([100, 200, 400, 800, 1600], [321.4, 253.1, 186.0, 155.8, 134.7])
    >>> round(laws["exponential_decay"].rss, 2), round(laws["exponential_decay"].aic, 2)
    (41.17, 18.54)
    """
    x, y = np.asarray(samples, dtype=np.float64), np.asarray(ppl, dtype=np.float64)
    laws = {"power": _scored("power", printed_power_law(samples, ppl).params, x, y)}
    for name, (start, low, high) in _BOUNDED.items():
        law = LAWS[name]

        def value(x: np.ndarray, *values: float, law: Law = law) -> np.ndarray:
            return law.value(dict(zip(law.names, values, strict=True)), x)

        best, _ = optimize.curve_fit(value, x, y, p0=start, bounds=(low, high), maxfev=10000)
        laws[name] = _scored(name, dict(zip(law.names, map(float, best), strict=True)), x, y)
    return laws


def printed_exponent(law: PrintedLaw, x: float) -> float:
    """Returns R5's "a(n)" of the variable-exponent law, ``a0 - a1 ln n``: not its local exponent."""
    return law.params["a0"] - law.params["a1"] * math.log(x)


def turning_point(law: PrintedLaw) -> float:
    """Returns where the variable-exponent law stops falling: ``exp(a0 / (2 a1))``."""
    return math.exp(law.params["a0"] / (2 * law.params["a1"]))
