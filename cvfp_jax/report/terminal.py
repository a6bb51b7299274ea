"""What a report says in the terminal."""

from collections.abc import Sequence
from pathlib import Path

from cvfp_jax.report import inference, line_tables, tables
from cvfp_jax.report.formats import duration
from cvfp_jax.report.summary import PREDICT_AT, Summary
from cvfp_jax.results import records


def show_report(summaries: Sequence[Summary], folder: Path) -> None:
    """Prints the tables of a report that has been written, and where it is.

    Args:
      summaries: what the report says, by configuration.
      folder: where it stands, beside the records that it is made of.
    """
    print(f"\n{tables.summary_table(summaries).text()}\n\n{line_tables.fits_table(summaries).text()}\n")
    laws = inference.fitted(summaries)
    if laws:
        predictions = line_tables.predictions_table(laws, PREDICT_AT)
        print(f"{predictions.text()}\n{predictions.caption}\n")
    cells = [record for summary in summaries for record in summary.records]
    work, compiling = (sum(times) for times in zip(*map(records.seconds, cells), strict=True))
    print(f"The {len(cells)} cells took {duration(work)} of work and {duration(compiling)} of compiling.")
    print(
        f"wrote {folder / 'report.html'}, report.md, report.json, {records.FILE_NAME} and figures/ beside it"
    )
