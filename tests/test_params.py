"""Parameters as data."""

import jax
import jax.numpy as jnp

import funcnets as fn
from funcnets.params import paths


def test_paths_are_those_of_the_arrays_in_order():
    net = fn.Sequential(fn.Dense(3), ("head", fn.Repeat(fn.Dense(3), 2)))
    params = net.init(jax.random.key(0), jnp.ones((1, 3)))
    found = paths({"b": params, "a": jnp.ones(2)})
    assert sorted(path for path, _ in found) == [
        "a", "b/dense_0/bias", "b/dense_0/kernel", "b/head/bias", "b/head/kernel",
    ]  # fmt: skip
    assert found[-1][0] == "a"  # as they stand in the dict
    assert dict(found)["b/head/kernel"] is params["head"]["kernel"]
    assert paths(jnp.ones(3))[0][0] == ""
