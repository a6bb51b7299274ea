"""The report of a sweep: report.md, report.html, report.json and figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cvfp_jax.errors import file_error
from cvfp_jax.report import inference, law_sections, line_sections, sections
from cvfp_jax.report.against import Against, against_blocks
from cvfp_jax.report.findings import findings, warnings
from cvfp_jax.report.page import Block, Figure, Page, markdown
from cvfp_jax.report.summary import Summary, summarise
from cvfp_jax.report.webpage import render
from cvfp_jax.results.records import Record
from cvfp_jax.runtime.files import write_atomic


def report_page(
    title: str, summaries: Sequence[Summary], figures: Mapping[str, Figure], more: Sequence[Block] = ()
) -> Page:
    """Returns the report as a page: a section after the other, with more of them after the laws."""
    return Page(
        title,
        [
            *sections.setting([record for summary in summaries for record in summary.records]),
            *sections.overview(summaries, figures),
            *sections.conclusions(summaries),
            *(block for summary in summaries for block in sections.cells(summary)),
            *line_sections.laws(summaries, figures),
            *more,
            *line_sections.extrapolation(summaries),
            *line_sections.windows(summaries, figures),
            *line_sections.effective_rank(summaries, figures),
            *sections.terms(),
        ],
    )


def write_report(
    title: str, records: Sequence[Record], workdir: Path, against: Against | None = None
) -> list[Summary]:
    """Writes report.md, report.html, report.json and figures/*.png.

    Args:
      title: the sweep's name.
      records: one or more, of one sweep.
      workdir: where the files go.
      against: a comparison with another sweep, if there is one.

    Returns:
      What the report says, by configuration.

    Raises:
      UserError: a file cannot be written.
    """
    # Matplotlib takes half a second, and is only needed now.
    from cvfp_jax.report.against_figures import save_against_figures
    from cvfp_jax.report.figures import save_figures
    from cvfp_jax.report.law_figures import save_law_figures
    from cvfp_jax.report.line_figures import save_line_figures

    summaries, folder = summarise(records), workdir / "figures"
    analyses = law_sections.analyse_series(summaries)
    report = {
        "title": title,
        "summary": [summary.to_json() for summary in summaries],
        "inference": inference.to_json(summaries),
        "findings": findings(summaries),
        "warnings": warnings(summaries),
        "laws": [row for analysis in analyses for row in analysis.rows],
        **({"against": against.to_json()} if against else {}),
        "records": list(records),
    }
    try:
        figures = save_figures(summaries, title, folder) | save_line_figures(summaries, title, folder)
        pictures = save_law_figures(analyses, *law_sections.COLUMNS, folder, "laws")
        more = law_sections.which_law(analyses, pictures)
        if against:
            more += against_blocks(against, save_against_figures(against, folder))
        page = report_page(title, summaries, figures, more)
        _write(workdir / "report.md", markdown(page))
        _write(workdir / "report.html", render(page, folder))
        _write(workdir / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise file_error(
            f"cannot write the report of {workdir}: {error.filename or workdir}: {error.strerror};"
            " make room for it and give the same command again.",
            error,
        ) from None
    return summaries


def _write(path: Path, text: str) -> None:
    # Names of files may hold bytes that are no text.
    write_atomic(path, text.encode(errors="backslashreplace"))
