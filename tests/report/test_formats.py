import math

from cvfp_jax.report.formats import amount, duration, number, percent, whole


def test_what_is_unknown_is_a_dash():
    assert number(None) == number(math.nan) == percent(None) == whole(None) == "-"
    assert number(3.0e9) == "3e+09"
    assert percent(0.1234, 2) == "12.34%"


def test_whole_durations():
    assert [duration(seconds) for seconds in (0.4, 59.4, 60, 3599, 3600)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min",
    ]  # fmt: skip


def test_units_change_where_three_digits_end():
    assert [amount(n) for n in (0, 999.4, 999.6, 1e6, 3.072e15, 2e18)] == [
        "0 B", "999 B", "1 kB", "1 MB", "3.07 PB", "2,000 PB"
    ]  # fmt: skip
    assert [duration(s, precise=True) for s in (0, 5e-7, 0.5, 299, 301, 172_799, 172_801, 1e9)] == [
        "0 us", "0.5 us", "500 ms", "299 s", "5.02 min", "48 h", "2 d", "11,574 d"
    ]  # fmt: skip
