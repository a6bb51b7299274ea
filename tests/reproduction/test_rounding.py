import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.scaling.line import log_line
from tests.reproduction.rounding import linear_range, power_law_range

PPL = st.lists(st.floats(1.0, 1000.0), min_size=3, max_size=5)


@settings(max_examples=40, deadline=None)
@given(ppl=PPL)
def test_ranges_are_those_of_the_corners(ppl):
    sizes = [50.0 * 2**power for power in range(len(ppl))]
    alphas, scales = power_law_range(sizes, ppl, 0.05)
    corners = [
        np.polyfit(np.log(sizes), np.log(np.array(ppl) + signs), 1)
        for signs in itertools.product((-0.05, 0.05), repeat=len(ppl))
    ]
    slopes, intercepts = zip(*corners, strict=True)
    assert alphas == pytest.approx((min(slopes), max(slopes)), abs=1e-9)
    assert tuple(map(math.log, scales)) == pytest.approx((min(intercepts), max(intercepts)), abs=1e-8)
    line = log_line(sizes, np.log(ppl).tolist())
    assert not line.fitted or alphas[0] < line.alpha < alphas[1]


def test_a_measure_that_rounding_could_make_zero_is_an_error():
    with pytest.raises(ValueError, match="above half a unit"):
        linear_range([1.0], [0.05], 0.05)
