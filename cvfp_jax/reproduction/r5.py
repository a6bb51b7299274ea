"""R5: sample-size scaling and five laws, answered from its own table."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from cvfp_jax.report.formats import interval, size
from cvfp_jax.reproduction import compat
from cvfp_jax.reproduction.source import Answer, Rules, Source, column, law, logs
from cvfp_jax.scaling.windows import window_trend


@functools.lru_cache(maxsize=4)
def _fits(samples: tuple[float, ...], ppl: tuple[float, ...]) -> dict[str, compat.PrintedLaw]:
    return compat.printed_laws(samples, ppl)


def laws(source: Source) -> dict[str, compat.PrintedLaw]:
    """Returns the five laws by R5's procedure."""
    points = source.tables["points"]
    return _fits(tuple(column(points, "samples")), tuple(column(points, "val_ppl")))


def _aic(source: Source, _: Mapping[str, Any]) -> Answer:
    n = len(source.tables["points"])
    criteria = {
        name: (each.k, compat.printed_aicc(each.aic, n, each.k)) for name, each in laws(source).items()
    }
    texts = [
        f"{name} (k = {k}) " + ("undefined" if math.isnan(value) else f"{value:.2f}")
        for name, (k, value) in criteria.items()
    ]
    defined = {name: value for name, (_, value) in criteria.items() if not math.isnan(value)}
    best = min(defined, key=defined.__getitem__)
    return Answer(
        f"AICc on {n} points: {', '.join(texts)}. Of the laws it can judge it prefers {best}.", defined
    )


def _bound(source: Source, _: Mapping[str, Any]) -> Answer:
    log_corrected = laws(source)["log_corrected"]
    two = compat.printed_aic(log_corrected.rss, len(source.tables["points"]), log_corrected.k - 1)
    a, b = log_corrected.params["a"], log_corrected.params["b"]
    return Answer(
        f"a = {a:.0e}: the law is A (ln n)^{b:.2f}. With k = {log_corrected.k - 1} its AIC is {two:.2f}.",
        {"a": a, "b": b, "aic": two},
    )


def _floors(source: Source, _: Mapping[str, Any]) -> Answer:
    log_corrected, variable = (laws(source)[name] for name in ("log_corrected", "variable_exponent"))
    bottom = compat.turning_point(variable)
    least, after = variable.predict(bottom), variable.predict(10 * bottom)
    far = log_corrected.predict(1e100)
    return Answer(
        f"The log-corrected law falls to 0 ({far:.2f} at 1e100). The variable exponent has its"
        f" minimum, {least:.1f},"
        f" at {size(bottom)} samples and rises from there, to {after:.0f} at ten times as many.",
        {"far": far, "bottom": bottom, "least": least, "after": after},
    )


def _exponent(source: Source, _: Mapping[str, Any]) -> Answer:
    variable = laws(source)["variable_exponent"]
    local = {name: variable.local_exponent(int(name)) for name in ("100", "400", "1600")}
    spans = source.tables["printed_interval_exponents"]
    return Answer(
        f"The law's local exponents are {', '.join(f'{value:.3f}' for value in local.values())};"
        " the intervals have"
        f" {', '.join(f'{value:.3f}' for value in spans.values())}.",
        local,
    )


def _floor_broken(source: Source, printed: Mapping[str, Any]) -> Answer:
    measured = source.elsewhere["samples_2000"]
    at = source.tables["context_dim"]
    dims, ppl = measured["context_dim"], measured["val_ppl"]
    below, above = max(d for d in dims if d < at), min(d for d in dims if d > at)
    left, right = ppl[dims.index(below)], ppl[dims.index(above)]
    # Plainly linear: two neighbours that differ by two per cent.
    between = left + (right - left) * (at - below) / (above - below)
    predicted = laws(source)["exponential_decay"].predict(2000)
    lower = sum(value < printed["ppl_min"] for value in ppl)
    return Answer(
        f"{lower} of {len(ppl)} runs of 2,000 samples are below it. {left} at width {below} and"
        f" {right} at {above} put"
        f" {at} at about {between:.1f}; the law says {predicted:.1f}.",
        {"between": between, "predicted": predicted, "lower": lower},
    )


def _two_blocks(source: Source, _: Mapping[str, Any]) -> Answer:
    measured = source.elsewhere["two_blocks"]
    fits = _fits(tuple(measured["samples"]), tuple(measured["val_ppl"]))
    best = min(fits, key=lambda name: fits[name].aic)
    texts = ", ".join(f"{name} {each.aic:.2f}" for name, each in fits.items())
    last = measured["val_ppl"][-1]
    return Answer(
        f"By the same procedure AIC prefers {best} there ({texts}), and {last} at"
        f" {measured['samples'][-1]:,} samples lies below 132.5.",
        {name: each.aic for name, each in fits.items()},
    )


def _r2(source: Source, _: Mapping[str, Any]) -> Answer:
    linear, log = laws(source)["power"].r2, law(source.tables["points"], "samples").r2
    return Answer(f"{linear:.4f} in perplexity, {log:.4f} in its logarithm.", {"linear": linear, "log": log})


def _axis(source: Source, _: Mapping[str, Any]) -> Answer:
    by_samples, by_tokens = (law(source.tables["points"], x) for x in ("samples", "tokens"))
    return Answer(
        f"{by_samples.alpha:.4f} in samples; {by_tokens.alpha:.4f} in tokens (A {by_tokens.A:,.0f},"
        f" R2 {by_tokens.r2:.4f}).",
        {"samples": by_samples.alpha, "tokens": by_tokens.alpha, "A": by_tokens.A, "r2": by_tokens.r2},
    )


RULES: Rules = {
    "aic": _aic,
    "bound": _bound,
    "floors": _floors,
    "exponent": _exponent,
    "floor_broken": _floor_broken,
    "two_blocks": _two_blocks,
    "r2": _r2,
    "axis": _axis,
}


def findings(source: Source) -> list[str]:
    """Returns sentences that the table's numbers support."""
    points = source.tables["points"]
    line = law(points)
    best = min(points, key=lambda point: point["val_ppl"])
    trend = window_trend(column(points, "samples"), logs(column(points, "val_ppl")), 3)
    far = {name: each.predict(50_000) for name, each in laws(source).items()}
    return [
        f"The lowest validation perplexity is {best['val_ppl']}, at {best['samples']:,} samples.",
        f"Against tokens alpha is {line.alpha:.4f}, 95% interval {interval(line.alpha_interval(), 3)},"
        f" from {line.n} points.",
        "From the first window of three sizes to the last the exponent changes by"
        f" {trend.change:+.4f} ({trend.name}),"
        f" 95% interval {interval((trend.low, trend.high), 3)},"
        f" {trend.degrees_of_freedom} degrees of freedom. {trend.warning}".rstrip(),
        f"At 50,000 samples the five laws say {min(far.values()):.0f} to {max(far.values()):.0f}:"
        " beyond the data the"
        " choice of the law decides.",
    ]
