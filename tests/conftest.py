"""Strict settings, so that the code under test may be plain."""

import os
import tempfile

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)

# The suite compiles many small programs, the same in every run: with a cache a second run is far quicker.
_CACHE = os.environ.get("FUNCNETS_TEST_CACHE") or os.path.join(tempfile.gettempdir(), "funcnets-test-cache")
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def key():
    return jax.random.key(0)
