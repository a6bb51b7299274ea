"""The table of formats in docs/data.md is read as it says."""

import re
from pathlib import Path

import pytest

from cvfp_jax.data.text.samples import iterate_samples

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def rows():
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 3 and "<br>" in cells[1]:
            yield cells[0], re.findall(r"`([^`]+)`", cells[1]), cells[2].strip("` |").replace("\\n", "\n")


ROWS = list(rows())


@pytest.mark.parametrize(("name", "lines", "text"), ROWS, ids=[name for name, _, _ in ROWS])
def test_the_two_lines_are_two_samples(tmp_path, name, lines, text):
    path = tmp_path / f"a{name if name.startswith('.') else '.jsonl'}"
    path.write_text("\n".join(lines))
    samples = list(iterate_samples(str(path)))
    assert len(samples) == 2
    assert samples[0] == text


def test_all_rows_of_the_page_are_there():
    assert len(ROWS) == 16
