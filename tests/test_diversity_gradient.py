import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvfp_jax.diversity import DIVERSITY_LOSSES
from cvfp_jax.diversity_gradient import value_and_gradient

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("valid", [12, 7, 1])
@pytest.mark.parametrize("name", ["MCDL", "OACD", "WMSE", "HSIC"])
def test_a_gradient_is_that_of_the_loss(name, valid):
    key = jax.random.key(3)
    contexts = 0.5 + jax.random.normal(jax.random.key(0), (12, 4))
    counted = jnp.arange(12) < valid
    expected, by_hand = jax.value_and_grad(DIVERSITY_LOSSES[name])(contexts, counted, key)
    loss, gradient = value_and_gradient(name, contexts, counted, key)
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-7)
    found = jnp.where(counted[:, None], gradient.of_rows(contexts, gradient.rest_BxD), 0)
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["MCDL", "OACD"])
def test_equal_rows_have_a_finite_gradient(name):
    contexts = jnp.full((4, 3), 2.0)
    loss, gradient = value_and_gradient(name, contexts, jnp.ones(4, bool), jax.random.key(0))
    expected = jax.grad(DIVERSITY_LOSSES[name])(contexts, jnp.ones(4, bool), jax.random.key(0))
    assert jnp.isfinite(loss)
    np.testing.assert_allclose(gradient.of_rows(contexts, None), expected, rtol=0, atol=1e-6)
