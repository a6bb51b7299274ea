"""R3: scaling with context_dim in three versions, answered from its own tables."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cvfp_jax.report.formats import interval, size
from cvfp_jax.reproduction.source import Answer, Rules, Series, Source, column, law, logs, sweeps
from cvfp_jax.scaling.correlate import ppl_per_million
from cvfp_jax.scaling.derived import crossover, exponent_difference
from cvfp_jax.scaling.equal_sizes import interpolate
from cvfp_jax.scaling.line import log_line
from cvfp_jax.scaling.windows import window_trend

_WRONG = "printed_extrapolations_that_are_wrong"


def _extrapolate(name: str, source: Source, printed: Mapping[str, Any]) -> Answer:
    version, config = printed["sweep"]
    sweep = source.tables[version]["sweeps"][config]
    line = law(sweep["points"])
    fit = sweep["printed_fit"]
    shown = {int(tokens): ppl for tokens, ppl in source.tables[_WRONG][name].items()}
    values = {str(tokens): line.predict(tokens) for tokens in shown}
    # The printed digits of A and alpha give the same but for the last digit.
    values |= {f"printed {tokens}": fit["A"] * tokens ** fit["alpha"] for tokens in shown}
    texts = [
        f"{line.predict(tokens):.1f} at {size(tokens)} ({interval(line.interval(tokens), 1)})"
        for tokens in shown
    ]
    first, last = min(shown), max(shown)
    implied = math.log(shown[last] / shown[first]) / math.log(last / first)
    return Answer(
        f"{'; '.join(texts)}; 95% intervals of a run there. The printed column falls with an exponent of"
        f" {implied:.2f}, the law with {line.alpha:.2f}.",
        values | {"implied": implied},
    )


def _faster(source: Source, _: Mapping[str, Any]) -> Answer:
    steps = {
        version: source.tables[version]["sweeps"]["1L_768d_1tok"]["points"][0]["phase1_iterations"]
        for version in ("v1", "v2")
    }
    cap = source.tables["v1"]["settings"]["phase1_max_iterations"]
    rates = [rate for each in source.elsewhere["v1_rate_at_stop"].values() for rate in each]
    asked = source.elsewhere["convergence_ratio_asked"]
    percent = 100 * (1 - steps["v2"] / steps["v1"])
    return Answer(
        f"{steps['v2']} iterations are {percent:.1f}% fewer than {steps['v1']}, which is v1's cap"
        f" of {cap}: at it"
        f" {100 * min(rates):.0f} to {100 * max(rates):.0f}% of the tokens had converged, of"
        f" {100 * asked:.0f} asked.",
        {"percent": percent, "low": min(rates), "high": max(rates)},
    )


def _epochs(source: Source, _: Mapping[str, Any]) -> Answer:
    best, cap = source.elsewhere["v1_best_epochs"], source.tables["v1"]["settings"]["phase2_epochs"]
    late = sum(epoch == cap for epoch in best)
    return Answer(
        f"{late} of v1's {len(best)} runs were best at their last epoch, {cap}; v2 had"
        f" {source.tables['v2']['settings']['phase2_epochs']}.",
        {"late": late, "runs": len(best)},
    )


def _changes(source: Source, _: Mapping[str, Any]) -> Answer:
    one, two = (source.tables[version]["settings"] for version in ("v1", "v2"))
    changed = [name for name in one if one[name] != two[name]]
    return Answer(f"{len(changed)} settings change at once: {', '.join(changed)}.", {"changed": len(changed)})


def _v3_at(source: Source, field: str) -> tuple[int, float]:
    """Returns v1's and v2's largest number of tokens, and v3's measure there."""
    tokens = sweeps(source)["768 v2"][-1]["tokens"]
    points = sweeps(source)["768 v3"]
    return tokens, interpolate(column(points, "tokens"), logs(column(points, field)), tokens)[1]


def _unequal(source: Source, _: Mapping[str, Any]) -> Answer:
    by_name = sweeps(source)
    tokens, ppl = _v3_at(source, "val_ppl")
    last = by_name["768 v3"][-1]
    against = {version: by_name[f"768 {version}"][-1]["val_ppl"] for version in ("v1", "v2")}
    percent = {version: 100 * (ppl / known - 1) for version, known in against.items()}
    printed = {version: 100 * (last["val_ppl"] / known - 1) for version, known in against.items()}
    rerun = source.elsewhere["matrix_1L_2tok_at_500_samples"]
    return Answer(
        f"{last['val_ppl']} is at {last['tokens']:,} tokens, {against['v1']} and {against['v2']}"
        f" at {tokens:,}. There"
        f" v3, interpolated, has {ppl:.1f}: {percent['v1']:+.1f}% on v1, {percent['v2']:+.1f}% on"
        " v2. A later run of"
        f" the same network at v1's lambda got {rerun} there.",
        {
            "ppl": ppl,
            "v1": percent["v1"],
            "v2": percent["v2"],
            "printed_v1": printed["v1"],
            "printed_v2": printed["v2"],
        },
    )


def _unequal_accuracy(source: Source, _: Mapping[str, Any]) -> Answer:
    tokens, accuracy = _v3_at(source, "val_acc")
    known = sweeps(source)["768 v2"][-1]["val_acc"]
    return Answer(
        f"{accuracy:.1f}% against {known}% at {tokens:,} tokens, v3's interpolated.", {"accuracy": accuracy}
    )


def _noise(source: Source, _: Mapping[str, Any]) -> Answer:
    share = source.tables["v3"]["settings"]["dist_reg_weight"]
    dim = source.tables["v3"]["sweeps"]["1L_768d_2tok"]["context_dim"]
    needed = -source.elsewhere["v3_logged_loss"] / share
    bounds = {name: math.sqrt(dim / rows) for name, rows in source.elsewhere["micro_batches"].items()}
    rows = source.elsewhere["micro_batches"]
    return Answer(
        f"v3's logged loss takes a dispersion of {needed:.3f} or more. sqrt(D/n) is"
        f" {bounds['v2']:.3f} for v2's"
        f" micro-batch of {rows['v2']:,} tokens and {bounds['v3']:.3f} for {rows['v3']:,}: LayerNorm's gain"
        f" would have to be {needed / bounds['v2']:.2f} or more, against {needed / bounds['v3']:.2f}.",
        {"needed": needed, **bounds},
    )


def _best(source: Source, _: Mapping[str, Any]) -> Answer:
    rows = {name: points[-1]["val_ppl"] for name, points in sweeps(source).items() if name.endswith("v1")}
    name = min(rows, key=rows.__getitem__)
    return Answer(f"{rows[name]} of {name} is lower.", {"val_ppl": rows[name]})


def _per_million(source: Source, _: Mapping[str, Any]) -> Answer:
    ratios = {
        str(sweep["context_dim"]): ppl_per_million(
            sweep["points"][-1]["val_ppl"], sweep["params_context_block"]
        )
        for sweep in source.tables["v1"]["sweeps"].values()
    }
    lowest = min(ratios, key=ratios.__getitem__)
    texts = ", ".join(f"{name}d {ratio:.1f}" for name, ratio in ratios.items())
    return Answer(f"With exact counts {texts}: by that rule {lowest}d would win.", ratios)


def _gap(name: str, other: str, source: Source) -> tuple[str, float]:
    by_name = sweeps(source)
    difference = exponent_difference(law(by_name[name]), law(by_name[other]))
    change, low, high = difference
    verdict = " (told from none)" if difference.told_from_zero else ""
    return f"{name} to {other} {change:+.3f}, {interval((low, high), 3)}{verdict}", change


def _wider(source: Source, _: Mapping[str, Any]) -> Answer:
    errors = {name: law(points).std_err for name, points in sweeps(source).items() if name.endswith("v1")}
    gaps = [_gap("768 v1", f"{dim} v1", source) for dim in (1200, 1537)]
    return Answer(
        f"{'; '.join(text for text, _ in gaps)} (95% intervals). Standard errors of the exponents:"
        f" {min(errors.values()):.3f} to {max(errors.values()):.3f}.",
        {"1200": gaps[0][1], "1537": gaps[1][1], "low": min(errors.values()), "high": max(errors.values())},
    )


def _settings_effect(source: Source, _: Mapping[str, Any]) -> Answer:
    gaps = {dim: _gap(f"{dim} v1", f"{dim} v2", source) for dim in (768, 1200, 1537)}
    return Answer(
        "; ".join(text for text, _ in gaps.values()) + ".", {str(dim): gap for dim, (_, gap) in gaps.items()}
    )


def _percent_alpha(source: Source, _: Mapping[str, Any]) -> Answer:
    names = ("1L_768d_1tok", "1L_1537d_1tok")
    printed = [source.tables["v1"]["sweeps"][name]["printed_fit"]["alpha"] for name in names]
    refits = [law(source.tables["v1"]["sweeps"][name]["points"]).alpha for name in names]
    percents = [100 * (1 - wide / narrow) for narrow, wide in (printed, refits)]
    return Answer(
        f"{percents[0]:.2f}% from the printed exponents, {percents[1]:.2f}% from the printed perplexities.",
        {"printed": percents[0], "refit": percents[1]},
    )


def _crossover(source: Source, _: Mapping[str, Any]) -> Answer:
    by_name = sweeps(source)
    texts, values = [], {}
    for dim in (1200, 1537):
        meets = crossover(law(by_name["768 v1"]), law(by_name[f"{dim} v1"]))
        where = "inside" if meets.measured else "outside"
        lower = (768, dim)[meets.better_below - 1]
        texts.append(
            f"768 and {dim} at {size(meets.size)} tokens, {where} the measured sizes ({lower} is lower below)"
        )
        values[str(dim)] = meets.size
    return Answer("v1's laws cross: " + "; ".join(texts) + ".", values)


RULES: Rules = {
    **{
        f"extrapolate {name}": functools.partial(_extrapolate, name)
        for name in ("768 v1", "1200 v1", "1537 v1", "768 v3")
    },
    "faster": _faster,
    "epochs": _epochs,
    "changes": _changes,
    "unequal": _unequal,
    "unequal_accuracy": _unequal_accuracy,
    "noise": _noise,
    "best": _best,
    "per_million": _per_million,
    "wider": _wider,
    "settings_effect": _settings_effect,
    "percent_alpha": _percent_alpha,
    "crossover": _crossover,
}


def _same_misfit(by_name: Series) -> str:
    """Says that the residuals of the series of v1 and v2 correlate."""
    names = [name for name in by_name if not name.endswith("v3")]
    left_over = []
    for name in names:
        tokens, log_y = column(by_name[name], "tokens"), logs(column(by_name[name], "val_ppl"))
        line = log_line(tokens, log_y)
        left_over.append([y - math.log(line.predict(x)) for x, y in zip(tokens, log_y, strict=True)])
    correlations = np.asarray(np.corrcoef(left_over))
    least = correlations[np.triu_indices(len(names), 1)].min()
    low, high = np.min(left_over, axis=0), np.max(left_over, axis=0)
    signs = " ".join("+" if a > 0 else "-" if b < 0 else "mixed" for a, b in zip(low, high, strict=True))
    return (
        f"What the power laws of v1 and v2 leave over is not independent: it correlates by {least:.2f} or"
        f" more between any two of the {len(names)} series, with the signs {signs} from the smallest size on."
        " Intervals of differences take it for independent and are too wide; forecasts miss what all series"
        " share."
    )


def findings(source: Source) -> list[str]:
    """Returns sentences that the tables' numbers support."""
    by_name = sweeps(source)
    last = {name: points[-1] for name, points in by_name.items() if not name.endswith("v3")}
    best = min(last, key=lambda name: last[name]["val_ppl"])
    spread = max(point["val_ppl"] for point in last.values()) / last[best]["val_ppl"] - 1
    v3 = by_name["768 v3"]
    trend = window_trend(column(v3, "tokens"), logs(column(v3, "val_ppl")), 4)
    lines = [
        f"At {last[best]['tokens']:,} tokens {best} has the lowest perplexity,"
        f" {last[best]['val_ppl']}; all six sweeps"
        f" of one input token lie within {100 * spread:.1f}% of it there. Each is one run of one seed.",
    ]
    for dim in (768, 1200, 1537):
        one, two = by_name[f"{dim} v1"], by_name[f"{dim} v2"]
        ratios = [100 * (b["val_ppl"] / a["val_ppl"] - 1) for a, b in zip(one, two, strict=True)]
        lines.append(
            f"{dim}: v2 against v1 at equal tokens {', '.join(f'{ratio:+.1f}%' for ratio in ratios)},"
            " from the smallest size on."
        )
    lines.append(_same_misfit(by_name))
    lines.append(
        f"768 v3: the exponent changes by {trend.change:+.4f} ({trend.percent:.1f}%, {trend.name})"
        " from the first"
        f" window of four sizes to the last, 95% interval {interval((trend.low, trend.high), 3)},"
        f" {trend.degrees_of_freedom} degrees of freedom. {trend.warning}".rstrip()
    )
    return lines
