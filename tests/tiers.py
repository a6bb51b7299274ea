"""Cases of a test, of which some are in the fast tier."""

import pytest


def cases(names, fast):
    """Returns the names of cases to parametrize by; those that are not among the fast ones are slow."""
    assert set(fast) <= set(names), sorted(set(fast) - set(names))
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]
