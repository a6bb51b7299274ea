"""The report of a sweep: report.md, report.html, report.json and figures."""

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvfp_jax.errors import UserError, file_error
from cvfp_jax.report import law_sections, power_law_sections, sections
from cvfp_jax.report.against import Against, against_blocks
from cvfp_jax.report.contrast_sections import contrast_blocks, verdicts
from cvfp_jax.report.contrasts import Contrast, contrasts
from cvfp_jax.report.curves import FILE_NAME as CURVES
from cvfp_jax.report.curves import Curves
from cvfp_jax.report.display import Display
from cvfp_jax.report.findings import findings, warnings
from cvfp_jax.report.formats import UNKNOWN, number
from cvfp_jax.report.inference import Inference, infer
from cvfp_jax.report.page import Figure, Page, markdown
from cvfp_jax.report.records import Record, cell_folder
from cvfp_jax.report.summary import Summary, summarise
from cvfp_jax.report.webpage import render
from cvfp_jax.runtime.files import write_atomic
from cvfp_jax.scaling.analysis import GroupAnalysis

if TYPE_CHECKING:
    from cvfp_jax.report.plotting import Figure as Drawing


@dataclasses.dataclass(frozen=True, repr=False)
class SweepReport(Display):
    """All that the report of a sweep says, each part computed once, when it is first asked for."""

    title: str
    records: Sequence[Record]  # one or more
    against: Against | None = None  # another sweep beside this one

    @functools.cached_property
    def summaries(self) -> list[Summary]:
        """The records by series, with their power laws."""
        return summarise(self.records)

    @functools.cached_property
    def inference(self) -> Inference:
        """What follows from the power laws."""
        return infer(self.summaries)

    @functools.cached_property
    def contrasts(self) -> list[Contrast]:
        """What each change does to the base, in a sweep of arms or of architectures."""
        return contrasts(self.records)

    @functools.cached_property
    def findings(self) -> list[str]:
        """What the numbers support."""
        return verdicts(self.summaries, self.contrasts) + findings(self.summaries, self.inference)

    @functools.cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before trusting the numbers."""
        return warnings(self.summaries)

    @functools.cached_property
    def laws(self) -> list[GroupAnalysis]:
        """All laws fitted to each series of five sizes or more."""
        return law_sections.analyse_series(self.summaries)

    def facts(self) -> list[tuple[str, str]]:
        """Returns what a table says of it: a line a configuration."""
        return [
            (
                summary.series,
                f"{len(summary.records)} cells, best validation perplexity"
                f" {number(summary.best['val_ppl']) if summary.best else UNKNOWN}, alpha"
                f" {number(summary.law.alpha, 4)}",
            )
            for summary in self.summaries
        ]

    def plot(self) -> "Drawing":
        """Returns the figure of validation perplexity against training tokens, with the laws."""
        from cvfp_jax.report.figures import scaling_figure  # brings Matplotlib

        return scaling_figure(self.summaries, self.title)

    def to_json(self) -> dict[str, Any]:
        """Returns the report with every number in full precision."""
        return {
            "title": self.title,
            "summary": [summary.to_json() for summary in self.summaries],
            "inference": self.inference.to_json(),
            "contrasts": [contrast.to_json() for contrast in self.contrasts],
            "findings": self.findings,
            "warnings": self.warnings,
            "laws": [row for analysis in self.laws for row in analysis.rows],
            **({"against": self.against.to_json()} if self.against else {}),
            "records": list(self.records),
        }


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of a report, as they were drawn."""

    by_name: Mapping[str, Figure]
    laws: Sequence[Figure] = ()  # one a series that all laws were fitted to
    against: Sequence[Figure] = ()  # one a pair of series


def report_page(report: SweepReport, figures: Figures) -> Page:
    """Returns the report as a page: a section after the other."""
    summaries, inference = report.summaries, report.inference
    return Page(
        report.title,
        [
            *sections.setting(report.records),
            *sections.overview(summaries, figures.by_name),
            *contrast_blocks(report.records, summaries, report.contrasts, figures.by_name),
            *sections.conclusions(report.findings, report.warnings),
            *(block for summary in summaries for block in sections.cells(summary)),
            *sections.curves(figures.by_name),
            *power_law_sections.laws(summaries, inference, figures.by_name),
            *law_sections.which_law(report.laws, figures.laws),
            *(against_blocks(report.against, figures.against) if report.against else []),
            *power_law_sections.extrapolation(inference),
            *power_law_sections.windows(inference, figures.by_name),
            *power_law_sections.effective_rank(inference, figures.by_name),
            *sections.terms(),
        ],
    )


def write_report(report: SweepReport, workdir: Path) -> None:
    """Writes report.md, report.html, report.json and figures/*.png.

    Args:
      report: what they say.
      workdir: where the files go.

    Raises:
      UserError: a file cannot be written.
    """
    try:
        figures = _draw(report, workdir)
        page = report_page(report, figures)
        _write(workdir / "report.md", markdown(page))
        _write(workdir / "report.html", render(page, workdir / "figures"))
        _write(workdir / "report.json", json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise file_error(
            f"cannot write the report of {workdir}: {error.filename or workdir}: {error.strerror};"
            " make room for it and give the same command again.",
            error,
        ) from None


def _curves(records: Sequence[Record], workdir: Path) -> list[tuple[Record, Curves]]:
    """The records whose curves were kept, with these; what cannot be read is left out with a warning.

    Replicates look alike: of each series and size there is the first seed.
    """
    found = []
    firsts = {(record["series"], record["num_samples"]): record for record in reversed(records)}
    for record in (record for record in records if record in firsts.values()):
        path = workdir / cell_folder(record) / CURVES
        try:
            found += [(record, Curves.load(path))] if path.exists() else []
        except UserError as error:
            logging.warning("the report goes without some curves: %s", error)
    return found


def _draw(report: SweepReport, workdir: Path) -> Figures:
    folder = workdir / "figures"
    # Matplotlib takes half a second, and is only needed now.
    from cvfp_jax.report.against_figures import save_against_figures
    from cvfp_jax.report.contrast_figures import save_contrast_figures
    from cvfp_jax.report.curve_figures import save_curve_figures
    from cvfp_jax.report.figures import save_figures
    from cvfp_jax.report.law_figures import save_law_figures
    from cvfp_jax.report.power_law_figures import save_power_law_figures

    return Figures(
        save_figures(report.summaries, report.title, folder)
        | save_power_law_figures(report.inference, report.title, folder)
        | save_contrast_figures(report.contrasts, report.title, folder)
        | save_curve_figures(_curves(report.records, workdir), folder),
        save_law_figures(report.laws, *law_sections.COLUMNS, folder, "laws"),
        save_against_figures(report.against, folder) if report.against else (),
    )


def _write(path: Path, text: str) -> None:
    # Names of files may hold bytes that are no text.
    write_atomic(path, text.encode(errors="backslashreplace"))
