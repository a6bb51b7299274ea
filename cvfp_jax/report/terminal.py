"""What a report says in the terminal."""

from pathlib import Path

from cvfp_jax.report import contrast_sections, power_law_tables, records, tables
from cvfp_jax.report.document import SweepReport
from cvfp_jax.report.formats import duration
from cvfp_jax.report.summary import PREDICT_AT


def show_report(report: SweepReport, folder: Path) -> None:
    """Prints the tables of a report that has been written, where it is, and a comparison's sentences.

    Args:
      report: what it says.
      folder: where it stands, beside the records that it is made of.
    """
    print(f"\n{tables.summary_table(report.summaries).text()}\n")
    for table in contrast_sections.tables(report.records, report.summaries, report.contrasts):
        print(f"{table.text()}\n{table.caption}\n")
    print(f"{power_law_tables.fits_table(report.summaries).text()}\n")
    if report.inference.laws:
        predictions = power_law_tables.predictions_table(report.inference.laws, PREDICT_AT)
        print(f"{predictions.text()}\n{predictions.caption}\n")
    times = map(records.seconds, report.records)
    work, compiling = (sum(each) for each in zip(*times, strict=True))
    cells = len(report.records)
    print(f"The {cells} cells took {duration(work)} of work and {duration(compiling)} of compiling.")
    print(
        f"wrote {folder / 'report.html'}, report.md, report.json, {records.FILE_NAME} and figures/ beside it"
    )
    if report.against:
        print("\n".join(["", *report.against.findings, *report.against.warnings]))
