import numpy as np
import pandas as pd
import pytest

from cvfp_jax.errors import UserError
from cvfp_jax.scaling.frames import read_frame
from cvfp_jax.scaling.points import Group, read_points

FRAME = pd.DataFrame({"tokens": [1_000, 2_000, 4_000], "loss": [4.0, None, 3.0], "arch": ["a", None, "a"]})


@pytest.mark.parametrize("name", ["p.parquet", "p.xlsx", "p.csv.gz", "p.json", "p.jsonl"])
def test_what_pandas_writes_is_read(tmp_path, name):
    path = tmp_path / name
    write = {
        "p.parquet": FRAME.to_parquet,
        "p.xlsx": lambda path: FRAME.to_excel(path, index=False),
        "p.csv.gz": FRAME.to_csv,
        "p.json": FRAME.to_json,
        "p.jsonl": lambda path: FRAME.to_json(path, orient="records", lines=True),
    }[name]
    write(path)
    found = read_points(path, "tokens", "loss", "arch")
    assert found.groups == (Group("a", (1000, 4000), (4, 3)),)
    assert len(found.left_out) == 1


def test_frames_have_the_values_of_json():
    frame = pd.DataFrame(
        {("val", "loss"): np.float32([1.5, 2.5]), ("n", ""): pd.array([1, None], dtype="Int64")}
    )
    rows = read_frame(frame)
    assert rows.columns == ("val.loss", "n")
    assert [row.values for row in rows.rows] == [{"val.loss": 1.5, "n": 1}, {"val.loss": 2.5, "n": None}]
    assert rows.rows[1].where == "the table, row 1"
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert read_frame(twice).rows[0].values == {"a": 1}


@pytest.mark.parametrize("table", [{"a": [1, 2], "b": [1]}, {"a": []}, [1, 2]])
def test_what_is_no_table_is_a_message(table):
    with pytest.raises(UserError, match="the table"):
        read_frame(table)
