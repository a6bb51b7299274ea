"""The sections that only one or some of the rebuilt reports have."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvfp_jax.report import page, plotting, power_law_tables
from cvfp_jax.report.formats import number, size
from cvfp_jax.report.inference import compare, pairs
from cvfp_jax.report.page import Block, Heading, Paragraph, Table
from cvfp_jax.reproduction import compat, figures, r4, r5, tables
from cvfp_jax.reproduction.source import Series, Source, column, laws, sweeps, windows
from cvfp_jax.scaling.correlate import correlate, ppl_per_million
from cvfp_jax.scaling.derived import reduction_per_doubling

_PAIRS = [(f"{dim} v1", f"{dim} v2") for dim in (768, 1200, 1537)]


def series(source: Source) -> Series:
    """Returns the points of a report by the name of their series."""
    if source.name == "R3":
        return sweeps(source)
    if source.name == "R4":
        return {name: algorithm["points"] for name, algorithm in source.tables["algorithms"].items()}
    return {source.name: source.tables["points"]}


def printed_fits(source: Source) -> dict[str, Mapping[str, Any]]:
    """Returns the power laws that a report printed, by series."""
    if source.name == "R3":
        return {
            f"{sweep['context_dim']} {version}": sweep["printed_fit"]
            for version in ("v1", "v2", "v3")
            for sweep in source.tables[version]["sweeps"].values()
        }
    if source.name == "R4":
        keys = ("printed_alpha", "printed_alpha_from_two_points")
        return {
            name: {"alpha": algorithm[key]}
            for name, algorithm in source.tables["algorithms"].items()
            for key in keys
            if key in algorithm
        }
    if source.name == "R5":
        return {}
    return {source.name: source.tables["printed_fit"]}


def sizes(source: Source) -> tuple[int, ...]:
    """Returns the sizes that a report extrapolates to, or those of its neighbours."""
    if source.name == "R1":
        return 100_000, 500_000, 1_000_000, 10_000_000
    if source.name == "R5":
        return 3_200, 6_400, 10_000, 50_000
    return 1_000_000, 2_000_000, 5_000_000, 10_000_000


def _rank_section(source: Source) -> list[Block]:
    """Effective rank against perplexity, at equal sizes and over all."""
    ranked = {name: points for name, points in series(source).items() if "val_er" in points[0]}
    groups = {
        f"{name}, its sizes": (column(points, "val_er"), column(points, "val_ppl"))
        for name, points in ranked.items()
    }
    by_size: dict[int, list[Mapping[str, Any]]] = {}
    for points in ranked.values():
        for point in points:
            by_size.setdefault(point["tokens"], []).append(point)
    if len(ranked) > 1:
        groups |= {
            f"all series at {size(tokens)} tokens": (column(points, "val_er"), column(points, "val_ppl"))
            for tokens, points in sorted(by_size.items())
        }
    text = "Within a series the size drives both measures; series compare at equal sizes only."
    return [
        Heading(2, "Effective rank and perplexity"),
        Paragraph(text),
        power_law_tables.correlations_table({name: correlate(*group) for name, group in groups.items()}),
    ]


def _window_section(source: Source, names: Mapping[str, int], x: str = "tokens") -> list[Block]:
    blocks: list[Block] = [
        Heading(2, "Windows of sizes"),
        Paragraph(
            "The original calls a change of alpha below -0.01 IMPROVING, above 0.01 DEGRADING,"
            " and else STABLE."
            " Windows share points; the standard error of the change takes that into account."
        ),
    ]
    for name, window in names.items():
        fitted = windows(name, series(source)[name], window, x)
        blocks += [
            power_law_tables.windows_table([fitted], x),
            Paragraph(power_law_tables.trend_text(fitted)),
        ]
    return blocks


def _r3(source: Source, folder: Path) -> list[Block]:
    by_name = series(source)
    rows = [
        [
            str(sweep["context_dim"]), number(sweep["params_context_block"], 0),
            number(sweep["points"][-1]["val_ppl"]),
            number(ppl_per_million(sweep["points"][-1]["val_ppl"], sweep["params_context_block"])),
        ]
        for sweep in source.tables["v1"]["sweeps"].values()
    ]  # fmt: skip
    per_million = Table(
        ["context_dim", "context block parameters", "val PPL", "PPL per million"],
        rows,
        "v1 at its largest size. The ratio falls with size for any comparable models; it ranks nothing.",
    )
    versions = figures.versions_figure(by_name, _PAIRS)
    exponents = figures.exponents_figure(by_name, {"768 v3": 4})
    return [
        Heading(2, "v1 against v2"),
        plotting.save(
            versions,
            folder,
            "R3_versions.png",
            "Difference of v2's perplexity from v1's in per cent against training tokens, one line a width.",
            "Below zero v2 has the lower perplexity. Each point is one run of one seed on each side.",
        ),
        *(tables.versions_table(first, second, by_name) for first, second in _PAIRS),
        tables.versions_table("768 v2", "768 v3", by_name),
        Heading(2, "Exponents"),
        plotting.save(
            exponents,
            folder,
            "R3_exponents.png",
            "Exponents of seven sweeps and of two windows of 768 v3 with their 95% intervals.",
            "Intervals are Student's, with as many degrees of freedom as points less two; orange: windows.",
        ),
        power_law_tables.differences_table(
            compare(
                laws(by_name), [*_PAIRS, ("768 v1", "1200 v1"), ("768 v1", "1537 v1"), ("768 v2", "768 v3")]
            )
        ),
        *_window_section(source, {"768 v3": 4}),
        *_rank_section(source),
        Heading(2, "Perplexity per parameter"),
        per_million,
    ]


def _r4(source: Source, folder: Path) -> list[Block]:
    known = source.tables["doubling_reduction_percent"]
    halvings = [
        [alpha, f"{100 * reduction_per_doubling(float(alpha)):.2f}%", f"{printed}%"]
        for alpha, printed in known.items()
    ]
    rule = [
        [name, number(rank), number(ppl), number(500 - 4 * rank), f"{100 * error:+.1f}%"]
        for name, (rank, ppl, error) in r4.rule_errors(source).items()
    ]
    fitted = laws(series(source))
    return [
        Heading(2, "Differences of exponents"),
        power_law_tables.differences_table(compare(fitted, pairs(fitted))),
        Heading(2, "Reduction per doubling"),
        Table(["alpha", "1 - 2^alpha", "printed"], halvings),
        Heading(2, "The rule PPL = 500 - 4 ER"),
        Table(
            ["run", "val ER %", "val PPL", "rule", "error"], rule, "Rows of R3, R4 and R5 with both measures."
        ),
    ]


def _r5(source: Source, folder: Path) -> list[Block]:
    fits, n = r5.laws(source), len(source.tables["points"])
    rows = []
    for printed in source.tables["printed_fits"]:
        law = fits[printed["law"]]
        corrected = compat.printed_aicc(law.aic, n, law.k)
        rows.append(
            [
                law.name, str(law.k), ", ".join(f"{key} {value:.4g}" for key, value in law.params.items()),
                number(law.r2, 4), number(law.rss, 2), number(law.aic, 2), number(printed["aic"], 2),
                "undefined" if math.isnan(corrected) else number(corrected, 2),
            ]
        )  # fmt: skip
    columns = ["law", "k", "parameters", "R2", "RSS", "AIC", "AIC printed", "AICc"]
    beyond = [[name, *(number(law.predict(at)) for at in sizes(source))] for name, law in fits.items()]
    variable = fits["variable_exponent"]
    exponents = [
        [
            name, number(compat.printed_exponent(variable, int(name)), 3), number(value, 3),
            number(variable.local_exponent(int(name)), 3),
        ]
        for name, value in source.tables["printed_variable_exponent_values"].items()
    ]  # fmt: skip
    return [
        Heading(2, "Five laws"),
        Table(columns, rows, "By R5's own procedure, scored in perplexity; AICc needs n > k + 1."),
        plotting.save(
            figures.five_laws_figure(source.tables["points"], fits),
            folder,
            "R5_five_laws.png",
            "Five laws through the same five points up to 50,000 samples, and what each leaves of"
            " the points.",
            "The laws agree where there are points and part beyond them.",
        ),
        Table(
            ["law", *(f"PPL at {size(at)}" for at in sizes(source))], beyond, "Extrapolated; no intervals."
        ),
        Table(["samples", "a(n) refitted", "a(n) printed", "local exponent"], exponents),
        *_window_section(source, {"R5": 3}, "samples"),
        *_rank_section(source),
    ]


def special(source: Source, folder: Path) -> list[page.Block]:
    """Returns the sections that are this report's own."""
    if source.name in ("R1", "R2"):
        return _rank_section(source)
    return {"R3": _r3, "R4": _r4, "R5": _r5}[source.name](source, folder)
