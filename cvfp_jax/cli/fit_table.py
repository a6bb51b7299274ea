"""fits.csv: parameters and predictions of all fits with their intervals, a line each."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

COLUMNS = ("group", "law", "status", "n", "quantity", "value", "low", "high")


def fits_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows of fits.json as a table for spreadsheets.

    >>> row = {"group": "all", "law": "power", "status": "converged", "n": 3, "params": {"a": 0.5},
    ...        "intervals": {"a": [0.4, None]}, "predictions": []}
    >>> print(fits_csv([row]), end="")
    group,law,status,n,quantity,value,low,high
    all,power,converged,3,a,0.5,0.4,
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        about = [row["group"], row["law"], row["status"], row["n"]]
        for name, value, ends in _quantities(row):
            writer.writerow([*about, name, value, *(ends or (None, None))])
    return text.getvalue()


def _quantities(row: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name, value in row["params"].items():
        yield name, value, row["intervals"].get(name)
    for point in row["predictions"]:
        size = point["x"] if isinstance(point["x"], list) else [point["x"]]
        yield f"y at {':'.join(f'{each:.12g}' for each in size)}", point["y"], point["interval"]
    if row.get("test_log_rmse") is not None:
        yield "log-RMSE of held-out rows", row["test_log_rmse"], None
