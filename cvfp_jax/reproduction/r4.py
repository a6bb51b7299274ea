"""R4: the scaling-law summary of three diversity losses, answered from its own and R3's tables."""

from collections.abc import Mapping
from typing import Any

from cvfp_jax.report.formats import size
from cvfp_jax.reproduction import compat
from cvfp_jax.reproduction.source import Answer, Rules, Source, column, law, sweeps
from cvfp_jax.scaling.correlate import correlate, rank_rule_error
from cvfp_jax.scaling.line import LogLine


def _points(source: Source, name: str) -> list[dict[str, Any]]:
    return source.tables["algorithms"][name]["points"]


def _two_point_law(source: Source) -> LogLine:
    """Returns MCDL's law as printed, without its first point."""
    points = _points(source, "MCDL")[1:]
    return compat.printed_power_law(column(points, "tokens"), column(points, "val_ppl"))


def _two_points(source: Source, _: Mapping[str, Any]) -> Answer:
    two, three = _two_point_law(source), law(_points(source, "MCDL"))
    return Answer(
        f"{two.alpha:.4f} is the line through two points, whose R2 is always 1. All three give"
        f" {three.alpha:.4f}"
        f" (standard error {three.std_err:.3f}, A {three.A:.3g}, R2 {three.r2:.4f}).",
        {"two": two.alpha, "three": three.alpha, "A": three.A, "r2": three.r2},
    )


def _ranking(source: Source, _: Mapping[str, Any]) -> Answer:
    laws = {name: law(_points(source, name)) for name in source.tables["algorithms"]}
    order = sorted(laws, key=lambda name: laws[name].alpha)
    texts = [f"{name} {laws[name].alpha:.3f} (s.e. {laws[name].std_err:.3f})" for name in order]
    return Answer(
        f"{', '.join(texts)}, on equal points; one degree of freedom each.",
        {name: line.alpha for name, line in laws.items()},
    )


def _section_6(source: Source, printed: Mapping[str, Any]) -> Answer:
    two, three = _two_point_law(source), law(_points(source, "MCDL"))
    tokens = printed["tokens"]
    rows = {name: [line.predict(n) for n in tokens] for name, line in (("two", two), ("three", three))}
    texts = {name: ", ".join(f"{ppl:.0f}" for ppl in row) for name, row in rows.items()}
    values = {f"{name} {n}": ppl for name, row in rows.items() for n, ppl in zip(tokens, row, strict=True)}
    return Answer(f"{texts['two']} by two points; {texts['three']} by three.", values)


def _mixed(source: Source, _: Mapping[str, Any]) -> Answer:
    mcdl = _points(source, "MCDL")[-1]
    rows = {
        name: point["val_ppl"]
        for name, points in sweeps(source).items()
        for point in points
        if point["tokens"] == mcdl["tokens"]
    }
    texts = ", ".join(f"{name} {ppl}" for name, ppl in rows.items())
    return Answer(f"At MCDL's {size(mcdl['tokens'])} tokens, where it has {mcdl['val_ppl']}: {texts}.", rows)


def _best_width(source: Source, _: Mapping[str, Any]) -> Answer:
    mcdl = _points(source, "MCDL")[-1]
    other = next(p for p in sweeps(source)["768 v2"] if p["tokens"] == mcdl["tokens"])
    return Answer(
        f"768 v2 has {other['val_ppl']}, below the {mcdl['val_ppl']} of 500.", {"val_ppl": other["val_ppl"]}
    )


def _wide_rank(source: Source, _: Mapping[str, Any]) -> Answer:
    ranks = source.elsewhere["wide_val_er"]
    values = [rank for each in ranks.values() for rank in each]
    texts = "; ".join(f"{name}: {' to '.join(map(str, each))}%" for name, each in ranks.items())
    return Answer(f"{texts}.", {"low": min(values), "high": max(values)})


def _rank_alpha(source: Source, _: Mapping[str, Any]) -> Answer:
    rows = {
        f"{sweep['context_dim']} {version}": (sweep["points"][-1]["val_er"], sweep["printed_fit"]["alpha"])
        for version in ("v1", "v2", "v3")
        for sweep in source.reports["R3"][version]["sweeps"].values()
    }
    v1 = [pair for name, pair in rows.items() if name.endswith("v1")]
    every, within = (correlate(*zip(*pairs, strict=True)) for pairs in (list(rows.values()), v1))
    return Answer(
        f"{every.pearson:+.2f} over all {every.n} sweeps of R3 (p = {every.pearson_p:.2f}),"
        f" {within.pearson:+.2f} within"
        f" v1 ({within.n} sweeps, p = {within.pearson_p:.2f}): the sign depends on the rows.",
        {"all": every.pearson, "v1": within.pearson},
    )


def rule_errors(source: Source) -> dict[str, tuple[float, float, float]]:
    """Returns effective rank, perplexity and the rule's error of every point that has both, by name."""
    measured = {
        f"{name}, {point['samples']} samples": (point["val_er"], point["val_ppl"])
        for name, points in sweeps(source).items()
        for point in points
    }
    for name, rank in source.elsewhere["val_er_at_200_samples"].items():
        if name in source.tables["algorithms"]:
            ppl = _points(source, name)[-1]["val_ppl"]
        else:
            ppl = source.elsewhere[f"val_ppl_of_{name}_at_200_samples"]
        measured[f"{name}, 200 samples"] = (rank, ppl)
    for point in source.reports["R5"]["points"]:
        measured[f"R5, {point['samples']} samples"] = (point["val_er"], point["val_ppl"])
    return {name: (rank, ppl, rank_rule_error(rank, ppl)) for name, (rank, ppl) in measured.items()}


def _rule(source: Source, _: Mapping[str, Any]) -> Answer:
    errors = {name: 100 * error for name, (_, _, error) in rule_errors(source).items()}
    large = [error for name, error in errors.items() if name.split(", ")[1] in ("500 samples", "800 samples")]
    small = [
        error
        for name, error in errors.items()
        if name.startswith("768") and name.split(", ")[1] in ("50 samples", "100 samples", "200 samples")
    ]
    limit = max(source.tables["ppl_rule_of_thumb"]["claimed_error_percent"])
    kept = sum(abs(error) <= limit for error in errors.values())
    own = ", ".join(
        f"{name} {errors[f'{name}, 200 samples']:+.0f}%" for name in source.elsewhere["val_er_at_200_samples"]
    )
    r5 = errors["R5, 1600 samples"]
    return Answer(
        f"Within {limit}% for {kept} of {len(errors)} points. 768d at 50 to 200 samples {min(small):+.0f} to"
        f" {max(small):+.0f}%; 500 and 800 samples {min(large):+.0f} to {max(large):+.0f}%; at 200"
        f" samples {own};"
        f" R5 at 1,600 {r5:+.0f}%.",
        errors | {"small low": min(small), "small high": max(small), "kept": kept, "points": len(errors)},
    )


def _token_input(source: Source, printed: Mapping[str, Any]) -> Answer:
    pair, last = source.elsewhere["token_input_unfrozen"], source.reports["R2"]["points"][-1]
    ppl = 100 * (pair["val_ppl"] / last["val_ppl"] - 1)
    accuracy = 100 * (pair["val_acc"] / last["val_acc"] - 1)
    return Answer(
        f"The nearest pair is {pair['val_ppl']} against {last['val_ppl']} ({ppl:+.1f}%), accuracy"
        f" {pair['val_acc']}%"
        f" against {last['val_acc']}% ({accuracy:+.1f}% of it).",
        {"ppl": ppl, "accuracy": accuracy},
    )


def _no_fixed_point(source: Source, _: Mapping[str, Any]) -> Answer:
    phase1 = source.elsewhere["phase1"]
    texts = [
        f"{name}: {run['iterations']} iterations, at most {100 * run['rate']:.0f}% of the tokens converged"
        for name, run in phase1.items()
    ]
    return Answer(
        f"{'; '.join(texts)}: no fixed point.", {name: each["rate"] for name, each in phase1.items()}
    )


RULES: Rules = {
    "two_points": _two_points,
    "ranking": _ranking,
    "section_6": _section_6,
    "mixed": _mixed,
    "best_width": _best_width,
    "wide_rank": _wide_rank,
    "rank_alpha": _rank_alpha,
    "rule": _rule,
    "token_input": _token_input,
    "no_fixed_point": _no_fixed_point,
}


def findings(source: Source) -> list[str]:
    """Returns sentences that the tables' numbers support."""
    laws = {name: law(_points(source, name)) for name in source.tables["algorithms"]}
    last = {name: _points(source, name)[-1] for name in laws}
    best = min(last, key=lambda name: last[name]["val_ppl"])
    spread = 100 * (max(point["val_ppl"] for point in last.values()) / last[best]["val_ppl"] - 1)
    lines = [
        f"At {last[best]['tokens']:,} tokens {best} has the lowest perplexity of {', '.join(last)},"
        f" {last[best]['val_ppl']}; the others of these"
        f" lie within {spread:.1f}% of it. Each is one run of one seed."
    ]
    for name, line in laws.items():
        low, high = line.alpha_interval()
        verdict = "not told from zero" if low <= 0 <= high else "told from zero"
        lines.append(
            f"{name}: alpha {line.alpha:.4f}, 95% interval {low:.2f} to {high:.2f}: three points"
            " leave one degree of"
            f" freedom, and the exponent is {verdict}."
        )
    return lines
