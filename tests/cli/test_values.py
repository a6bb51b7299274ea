import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvfp_jax.cli.values import choose, read_axis, read_mesh, read_minutes, read_seeds
from cvfp_jax.errors import UserError


@given(st.lists(st.integers(), min_size=1))
def test_a_list_of_whole_numbers_is_read_as_it_is_written(values):
    assert read_axis("samples", ",".join(map(str, values))) == tuple(values)


@given(st.integers(1, 100), st.integers(0, 2**32))
def test_replicates_follow_one_another_from_the_first_seed_on(count, first):
    seeds = tuple(range(first, first + count))
    assert read_seeds(str(count), None, first) == read_seeds(str(count), str(first), 42) == seeds


@given(st.floats(0, allow_infinity=False))
def test_minutes_are_read_as_they_are_written(minutes):
    assert read_minutes(repr(minutes)) == minutes


READERS = {
    "samples": lambda text: read_axis("samples", text),
    "seeds": lambda text: read_seeds(text, None, 42),
    "seed": lambda text: read_seeds("2", text, 42),
    "checkpoint_minutes": read_minutes,
    "mesh": read_mesh,
    "objective": lambda text: choose("objective", text, ["log", "linear"]),
}


@pytest.mark.parametrize("flag", READERS)
@given(
    text=st.text(max_size=12)
    | st.sampled_from(["0", "-1", "101", "1e400", "nan", "inf", "²", "1,,2", "data:0"])
)
def test_any_text_is_read_or_refused_in_one_line_that_repeats_it(flag, text):
    try:
        value = READERS[flag](text)
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert f"--{flag}" in message
        if text.isprintable() and text.split() == [text]:
            assert text in message
    else:
        assert value is not None
        assert not isinstance(value, float) or 0 <= value < math.inf


@pytest.mark.parametrize("count", ["0", "-1", "101", "2.5", ""])
def test_no_replicates_or_too_many_are_refused(count):
    with pytest.raises(UserError, match=r"is not a number of replicates from --seed=7 on: .* at most 100"):
        read_seeds(count, "7", 42)


def test_a_mesh_that_is_not_given_is_none():
    assert read_mesh(None) is None
    assert read_mesh("data:4,model:2") == {"data": 4, "model": 2}
