import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.scaling.cells import EMPTY, INFINITE, NAN, TEXT, NoNumberError, read_number


@pytest.mark.parametrize(
    ("cell", "number"),
    [("1e6", 1e6), ("10^6", 1e6), ("3x10^8", 3e8), ("1.2 \u00d7 10**6", 1.2e6), ("7k", 7e3),
     ("-1,000.5", -1000.5),
     ("1_000_000", 1e6), ("1\u00a0000\u202f000", 1e6), ("5T", 5e12), ("\u22123", -3), (" .5 ", 0.5)],
)  # fmt: skip
def test_numbers(cell, number):
    assert read_number(cell) == pytest.approx(number, rel=1e-15)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [("", EMPTY), ("N/A", EMPTY), ("-", EMPTY), ("-NaN", NAN), ("\u221e", INFINITE), ("1e999", INFINITE),
     ("4,25", TEXT), ("1,00,0", TEXT), ("ten", TEXT), ("\u0663", TEXT), ("0x10", TEXT),
     ("M", TEXT), ("1.2.3", TEXT)],
)  # fmt: skip
def test_cells_without_a_number_say_why(cell, reason):
    with pytest.raises(NoNumberError, match=f"^{reason.partition(' ')[0]}"):
        read_number(cell)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_writes_comes_back(number):
    assert read_number(repr(number)) == number
    assert read_number(repr(number).replace(".", ","), decimal_comma=True) == number


@given(st.integers(-(10**15), 10**15))
def test_thousands_come_back(number):
    assert read_number(f"{number:,}") == number
    assert read_number(f"{number:,}".replace(",", "."), decimal_comma=True) == number


@given(st.text(st.sampled_from("0123456789.,+-eE kMB%_'^*x"), max_size=12), st.booleans())
def test_any_cell_is_a_finite_number_or_a_reason(cell, decimal_comma):
    found: float | str
    try:
        found = read_number(cell, decimal_comma)
    except NoNumberError as error:
        found = str(error)
    assert found in {EMPTY, NAN, INFINITE, TEXT} if isinstance(found, str) else math.isfinite(found)
