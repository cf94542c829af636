import jax
import pytest


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax's Adam raises a float to a whole power, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield
