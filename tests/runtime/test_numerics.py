import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvfp_jax.errors import UserError
from cvfp_jax.runtime import numerics

OTHERS = {
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 3,
    "jax_enable_x64": True,
    "jax_high_dynamic_range_gumbel": True,
}


@pytest.fixture
def changed():
    """Settings as the environment may have them."""
    for name, value in OTHERS.items():
        jax.config.update(name, value)
    yield
    for name, value in numerics.PINNED.items():
        jax.config.update(name, value)


def draws():
    return jax.random.gumbel(jax.random.key(0), (3,))


def test_what_the_environment_says_changes_no_number_and_is_told(changed, caplog):
    assert numerics.PINNED.keys() == OTHERS.keys()
    numerics.pin()
    assert [record.getMessage().partition("=")[0] for record in caplog.records] == [
        name.upper() for name in numerics.PINNED
    ]
    found = np.asarray(draws())
    assert found.dtype == jnp.float32
    for name, value in OTHERS.items():
        jax.config.update(name, value)
        assert str(np.asarray(draws())) != str(found), name
        numerics.pin()
    caplog.clear()
    numerics.pin()
    assert not caplog.records


def test_a_session_with_other_settings_is_left_alone_and_refused(changed):
    with pytest.raises(UserError, match="jax_default_prng_impl is rbg, which would change every number"):
        numerics.check()
    assert jax.config.jax_default_prng_impl == "rbg"
    numerics.pin()
    numerics.check()
