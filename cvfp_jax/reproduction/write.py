"""R1 to R5 as pages: what they printed, and what follows from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from cvfp_jax.errors import file_error
from cvfp_jax.report import plotting, power_law_tables
from cvfp_jax.report.formats import UNKNOWN
from cvfp_jax.report.inference import target_sizes
from cvfp_jax.report.page import Block, Bullets, Facts, Heading, Links, Note, Page, Paragraph, Table, markdown
from cvfp_jax.report.webpage import render
from cvfp_jax.reproduction import chapters, figures, r1, r2, r3, r4, r5, tables
from cvfp_jax.reproduction.source import Answer, Source, answers, claims_table, laws, load
from cvfp_jax.runtime.files import write_atomic

REPORTS: dict[str, ModuleType] = {"R1": r1, "R2": r2, "R3": r3, "R4": r4, "R5": r5}
_SETTINGS = ("params_total", "params_phase2", "embed_dim", "context_dim")


def _facts(source: Source) -> list[Block]:
    pairs = [("Date", source.tables["date"])]
    pairs += [(name, f"{source.tables[name]:,}") for name in _SETTINGS if name in source.tables]
    settings = {
        version: source.tables[version]["settings"]
        for version in ("v1", "v2", "v3")
        if version in source.tables
    }
    names = list(dict.fromkeys(name for each in settings.values() for name in each))
    rows = [[name, *(str(each.get(name, UNKNOWN)) for each in settings.values())] for name in names]
    versions = [Table(["setting", *settings], rows, "Settings as printed.")] if settings else []
    return [
        Paragraph(
            "Rebuilt from the tables that the original report printed (rato-tokyo/new-llm);"
            " nothing was run again."
            " PPL is perplexity on validation text, ER the effective rank in per cent of the"
            " context dimensions, P1"
            " phase 1. Standard errors and intervals assume independent errors of equal variance"
            " in ln PPL; each"
            " point is one run of one seed."
        ),
        Facts(pairs),
        *versions,
    ]


def build(source: Source, answered: Mapping[str, Answer], folder: Path) -> Page:
    """Returns a report as a page and writes its figures.

    Args:
      source: what the original printed.
      answered: what follows from its numbers, by claim.
      folder: where the figures go.

    Returns:
      The page.
    """
    module, by_name = REPORTS[source.name], chapters.series(source)
    x = source.tables.get("x", "tokens")
    title = f"{source.name}: {source.tables['title']}"
    picture = plotting.save(
        figures.laws_figure(by_name, source.tables["title"], x),
        folder,
        f"{source.name}_laws.png",
        "Validation perplexity against training " + x + ", log-log, with a power law for each of "
        f"{', '.join(by_name)}.",
        "Power laws over the sizes that they were fitted to"
        + (", with 95% bands of the laws." if len(by_name) <= plotting.MOST_BANDS else "."),
    )
    blocks: list[Block] = [
        *_facts(source),
        Heading(2, "Summary"),
        tables.fits_table(by_name, chapters.printed_fits(source), x),
        picture,
        Heading(2, "Findings"),
        Bullets(module.findings(source)),
        Heading(2, "What the original printed, and what follows from its numbers"),
        Note(
            f"{len(source.claims)} statements need another number, a caveat or a fairer comparison. They are"
            " paraphrased; their numbers are as printed."
        ),
        claims_table(source, answered),
        *chapters.special(source, folder),
        Heading(2, "Extrapolation"),
        power_law_tables.predictions_table(laws(by_name, x), chapters.sizes(source), x),
        power_law_tables.targets_table(target_sizes(laws(by_name, x), (100, 50)), x),
        Heading(2, "Measurements"),
        tables.points_table(by_name),
    ]
    return Page(title, blocks)


def write_reports(workdir: Path) -> list[Path]:
    """Rebuilds R1 to R5 from their printed tables.

    Args:
      workdir: folder for R1.md, R1.html and so on, index.md, index.html, answers.json and figures/; made
        if it is missing.

    Returns:
      The files written but for the figures, the index first.

    Raises:
      UserError: a file cannot be written.
    """
    folder = workdir / "figures"
    try:
        pages, numbers = {}, {}
        for name, module in REPORTS.items():
            source = load(name)
            answered = answers(source, module.RULES)
            pages[name] = build(source, answered, folder)
            numbers[name] = {claim: dict(answer.values) for claim, answer in answered.items()}
        texts = {"answers.json": json.dumps(numbers, indent=1, allow_nan=False) + "\n"}
        for name, page in {"index": _index(pages, ".html"), **pages}.items():
            texts[f"{name}.html"] = render(page, folder)
        for name, page in {"index": _index(pages, ".md"), **pages}.items():
            texts[f"{name}.md"] = markdown(page)
        for name, text in texts.items():
            write_atomic(workdir / name, text.encode())
    except OSError as error:
        raise file_error(
            f"cannot write the reports to {workdir}: {error.strerror}; make room for them or name"
            " another folder.",
            error,
        ) from None
    return sorted((workdir / name for name in texts), key=lambda path: (path.stem != "index", path.name))


def _index(pages: dict[str, Page], suffix: str) -> Page:
    return Page(
        "The five reports, rebuilt from their printed tables",
        [
            Paragraph(
                "Each holds its tables and laws with intervals, and what follows from its numbers beside what"
                " it printed. answers.json has the numbers of the right-hand columns in full precision."
            ),
            Links([(page.title, f"{name}{suffix}") for name, page in pages.items()]),
        ],
    )
