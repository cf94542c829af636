from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.layers.adaptive_pooling import AdaptiveAvgPool, AdaptiveMaxPool
from funcnets.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool


def floats(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@references.each("pooling", "adaptive_avg")
def test_the_mean_is_that_of_torch(case):
    net = AdaptiveAvgPool(**case.options)
    case.check(net.apply, to_input=references.channels_last, to_output=references.channels_last)


@references.each("pooling", "adaptive_max")
def test_the_maximum_is_that_of_torch(case):
    net = AdaptiveMaxPool(**case.options)
    case.check(net.apply, to_input=references.channels_last, to_output=references.channels_last)


def test_where_sizes_divide_it_is_a_pool_and_of_size_one_a_global_one():
    x = floats(2, 6, 4, 3)
    np.testing.assert_array_equal(AdaptiveMaxPool((3, 2)).apply({}, x), MaxPool(2).apply({}, x))
    np.testing.assert_allclose(AdaptiveAvgPool((3, 2)).apply({}, x), AvgPool(2).apply({}, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(AdaptiveMaxPool(1).apply({}, x)[:, 0, 0], GlobalMaxPool().apply({}, x))
    np.testing.assert_allclose(
        AdaptiveAvgPool(1).apply({}, x)[:, 0, 0], GlobalAvgPool().apply({}, x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.bool_, jnp.bfloat16])
def test_the_maximum_takes_any_dtype(dtype):
    y = AdaptiveMaxPool(2).apply({}, jnp.asarray([[[0], [1], [0]]], dtype))
    assert y.dtype == dtype
    assert (y == jnp.ones_like(y)).all()


def test_infinities_stay_in_their_windows():
    x = jnp.array([[[jnp.inf], [1.0], [2.0], [3.0], [-jnp.inf]]])
    np.testing.assert_array_equal(AdaptiveAvgPool(3).apply({}, x)[0, :, 0], [jnp.inf, 2, -jnp.inf])
    np.testing.assert_array_equal(AdaptiveMaxPool(3).apply({}, x)[0, :, 0], [jnp.inf, 3, 3])


def test_means_of_bfloat16_are_summed_in_float32():
    y = AdaptiveAvgPool(1).apply({}, jnp.ones((1, 300, 1), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert y.item() == 1


@pytest.mark.parametrize("kind", [AdaptiveAvgPool, AdaptiveMaxPool])
def test_errors_tell_what_to_do(kind):
    name = kind.__name__
    with pytest.raises(ValueError, match=re.escape(f"{name} takes sizes as a whole number, at least 1, or as one for")):
        kind(0)
    for x, text in [
        (jnp.ones((8, 3)), f"{name} takes (batch, *spatial, channels) with one to three spatial axes, got"),
        (jnp.ones((1, 8, 3)), f"{name} with sizes=(2, 2) takes (batch, *spatial, channels) with 2 spatial axes, got"),
        (jnp.ones((1, 8, 0, 3)), f"{name} takes at least one position along each spatial axis, got float32[1,8,0,3]."),
    ]:
        with pytest.raises(ValueError, match=re.escape(text)):
            kind((2, 2)).plan(x)


def test_the_mean_refuses_whole_numbers():
    with pytest.raises(TypeError, match=re.escape("AdaptiveAvgPool takes floating numbers (batch, *spatial,")):
        AdaptiveAvgPool(2).plan(jnp.ones((1, 4, 3), jnp.int32))


@pytest.mark.parametrize("kind", [AdaptiveAvgPool, AdaptiveMaxPool])
def test_an_empty_batch_is_a_batch(kind):
    assert kind(2).apply({}, jnp.ones((0, 4, 4, 3))).shape == (0, 2, 2, 3)
    assert jax.grad(lambda x: kind(2).apply({}, x).sum())(jnp.ones((0, 4, 4, 3))).shape == (0, 4, 4, 3)
