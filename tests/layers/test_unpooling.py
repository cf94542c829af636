from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import funcnets as fn
from funcnets.layers.pooling import MaxPool
from funcnets.layers.unpooling import MaxUnpool


def floats(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@references.each("pooling", "unpool")
def test_it_is_that_of_torch(case):
    net = MaxUnpool(**case.options)
    case.check(net.apply, to_input=references.channels_last, to_output=references.channels_last)


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (MaxPool(2, indices=True), (2, 6, 3)),
        (MaxPool(2, indices=True), (2, 5, 4, 2)),
        (MaxPool(3, strides=1, padding=1, indices=True), (2, 4, 5, 2)),
        (MaxPool(2, strides=2, dilation=2, indices=True), (1, 4, 5, 3, 2)),
        (MaxPool(2, padding="SAME", indices=True), (2, 3, 3, 2)),
    ],
    ids=str,
)
def test_it_puts_the_maxima_back(pool, shape):
    x = floats(*shape)
    unpool = MaxUnpool(pool.window, pool.strides, size=shape[1:-1])

    @jax.jit
    def run(x):
        def both(x):
            y, indices = pool.apply({}, x)
            return unpool.apply({}, y, indices), indices

        back, pull, indices = jax.vjp(both, x, has_aux=True)
        return back, pull(jnp.ones_like(back))[0], indices

    back, gradient, indices = run(x)
    flat = np.zeros((shape[0], int(np.prod(shape[1:-1])), shape[-1]), bool)
    np.put_along_axis(flat, np.asarray(indices).reshape(shape[0], -1, shape[-1]), True, axis=1)
    kept = flat.reshape(shape)
    np.testing.assert_array_equal(back, np.where(kept, x, 0))
    np.testing.assert_array_equal(gradient, kept.astype(np.float32))  # once, though several windows found it


def test_a_composite_of_both():
    @fn.compose(pool=MaxPool(2, indices=True), middle=fn.Dense(3), unpool=MaxUnpool(2))
    def net(m, x):
        y, indices = m.pool(x)
        return m.unpool(m.middle(y), indices)

    x = floats(2, 4, 4, 3)
    assert net.apply(net.init(jax.random.key(0), x), x).shape == x.shape


def test_any_dtype_and_an_empty_batch():
    for dtype in (jnp.int8, jnp.bool_, jnp.bfloat16):
        y, indices = MaxPool(2, indices=True).apply({}, jnp.asarray([[[0], [1]]], dtype))
        back = MaxUnpool(2).apply({}, y, indices)
        assert back.dtype == dtype
        np.testing.assert_array_equal(back.astype(jnp.int32)[0, :, 0], [0, 1])
    assert MaxUnpool(2).apply({}, jnp.ones((0, 2, 3)), jnp.ones((0, 2, 3), jnp.int32)).shape == (0, 4, 3)


def test_indices_past_the_end_are_left_out():
    back = MaxUnpool(2).apply({}, jnp.ones((1, 2, 1)), jnp.array([[[1], [7]]]))
    np.testing.assert_array_equal(back[0, :, 0], [0, 1, 0, 0])


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: MaxUnpool(0), "MaxUnpool takes window as a whole number, at least 1, or as one for each spatial axis"),
        (lambda: MaxUnpool(2, strides=0), "MaxUnpool takes strides as a whole number, at least 1,"),
        (lambda: MaxUnpool(2, size=0), "MaxUnpool takes size as a whole number, at least 1,"),
        (lambda: MaxUnpool((2, 2), size=(4,)), "got window=(2, 2), size=(4,). Make them equally long"),
    ],
)
def test_it_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("y", "indices", "kind", "text"),
    [
        (jnp.ones((2, 3)), jnp.ones((2, 3), jnp.int32), ValueError, "MaxUnpool takes (batch, *spatial, channels) with"),
        (
            jnp.ones((1, 2, 2, 3)),
            jnp.ones((1, 2, 2, 3), jnp.int32),
            ValueError,
            "MaxUnpool with size=(4,) takes (batch, *spatial, channels) with 1 spatial axes, got float32[1,2,2,3].",
        ),
        (
            jnp.ones((1, 0, 3)),
            jnp.ones((1, 0, 3), jnp.int32),
            ValueError,
            "MaxUnpool takes at least one position along each spatial axis, got float32[1,0,3]. Leave out empty inputs",
        ),
        (
            jnp.ones((1, 2, 3)),
            jnp.ones((1, 2, 3)),
            TypeError,
            "MaxUnpool takes indices as whole numbers of the shape of y, got float32[1,2,3]. Take both from one "
            "MaxPool(indices=True)",
        ),
        (
            jnp.ones((1, 2, 3)),
            jnp.ones((1, 2, 1), jnp.int32),
            ValueError,
            "MaxUnpool takes indices of the shape of y, got float32[1,2,3] and int32[1,2,1]. Take both from one "
            "MaxPool(indices=True)",
        ),
    ],
)
def test_it_refuses_inputs_before_arithmetic(y, indices, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        MaxUnpool(2, size=(4,)).plan(y, indices)
