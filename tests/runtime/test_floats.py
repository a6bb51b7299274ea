import math

import pytest

from cvfp_jax.runtime.floats import exp


@pytest.mark.parametrize(("loss", "ppl"), [(0.0, 1.0), (math.log(50257), 50257.0), (1e4, math.inf)])
def test_the_perplexity_of_a_loss(loss, ppl):
    assert exp(loss) == pytest.approx(ppl)


def test_the_perplexity_of_nan_is_nan():
    assert math.isnan(exp(math.nan))
