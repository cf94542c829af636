from __future__ import annotations

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool


def floats(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


# The oracle: each window by itself


def windows(n, width, stride, padding):
    """The positions of the input in each window along an axis; those in the padding are left out."""
    if padding == "SAME":
        total = max((-(-n // stride) - 1) * stride + width - n, 0)
        low, high = total // 2, total - total // 2
    else:
        low, high = (0, 0) if padding == "VALID" else padding if isinstance(padding, tuple) else (padding, padding)
    starts = range(-low, n + high - width + 1, stride)
    return [[i for i in range(start, start + width) if 0 <= i < n] for start in starts]


def by_hand(x, axes, reduce):
    """`reduce(values, at)` of each window, with at its place, for `axes` of (width, stride, padding)."""
    each = [windows(n, *axis) for n, axis in zip(x.shape[1:-1], axes, strict=True)]
    y = np.zeros((x.shape[0], *map(len, each), x.shape[-1]))
    for o in itertools.product(*(range(len(found)) for found in each)):
        inside = [found[at] for found, at in zip(each, o, strict=True)]
        for b, c in itertools.product(range(x.shape[0]), range(x.shape[-1])):
            places = [(b, *i, c) for i in itertools.product(*inside)]
            y[b, *o, c] = reduce(places, (b, *o, c))
    return y


OPTIONS = [
    # fields of the pool, input, (width, stride, padding) along each axis
    ((2,), (2, 6, 2), [(2, 2, "VALID")]),
    ((2,), (2, 7, 2), [(2, 2, "VALID")]),
    ((3, 1), (2, 5, 2), [(3, 1, "VALID")]),
    ((3, 2, "SAME"), (2, 6, 1), [(3, 2, "SAME")]),
    ((3, 1, 1), (1, 5, 2), [(3, 1, 1)]),
    ((3, 2, ((2, 1),)), (1, 6, 2), [(3, 2, (2, 1))]),
    ((2,), (2, 4, 5, 2), [(2, 2, "VALID")] * 2),
    (((2, 3), (1, 2), "SAME"), (2, 4, 5, 1), [(2, 1, "SAME"), (3, 2, "SAME")]),
    ((3, None, (1, (0, 2))), (1, 5, 4, 2), [(3, 3, 1), (3, 3, (0, 2))]),
    ((2, 1, "SAME"), (1, 3, 2, 3, 2), [(2, 1, "SAME")] * 3),
    (((1, 2, 2), (1, 2, 1)), (1, 2, 4, 3, 2), [(1, 1, "VALID"), (2, 2, "VALID"), (2, 1, "VALID")]),
]

each_option = pytest.mark.parametrize(("fields", "shape", "axes"), OPTIONS, ids=str)


def value_and_pull(net, x, weight):
    @jax.jit
    def run(x, weight):
        y, pull = jax.vjp(lambda x: net.apply({}, x), x)
        return y, pull(weight)[0]

    return run(x, weight)


@each_option
def test_max_pool_takes_the_maximum_of_each_window_and_sends_the_gradient_to_it(fields, shape, axes):
    x = floats(*shape)
    y = by_hand(x, axes, lambda places, at: max(x[place] for place in places))
    weight, gradient = floats(*y.shape), np.zeros(shape)

    def send(places, at):
        gradient[max(places, key=lambda place: x[place])] += weight[at]
        return 0

    by_hand(x, axes, send)
    ours, pulled = value_and_pull(MaxPool(*fields), x, weight)
    np.testing.assert_array_equal(ours, y.astype(np.float32))
    np.testing.assert_allclose(pulled, gradient, rtol=1e-5, atol=1e-6)


@each_option
@pytest.mark.parametrize("counted", [False, True])
def test_avg_pool_takes_the_mean_of_each_window_and_spreads_the_gradient(fields, shape, axes, counted):
    x = floats(*shape)
    full = int(np.prod([width for width, _, _ in axes]))

    def size(places):
        return full if counted else len(places)

    y = by_hand(x, axes, lambda places, at: sum(x[place] for place in places) / size(places))
    weight, gradient = floats(*y.shape), np.zeros(shape)

    def spread(places, at):
        for place in places:
            gradient[place] += weight[at] / size(places)
        return 0

    by_hand(x, axes, spread)
    net = dataclasses.replace(AvgPool(*fields), count_include_pad=counted)
    ours, pulled = value_and_pull(net, x, weight)
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pulled, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.uint8, jnp.bool_, jnp.bfloat16, jnp.float16])
def test_max_pool_of_any_dtype_never_takes_the_padding(dtype):
    x = jnp.asarray([[[0], [0], [0]]] if dtype in (jnp.uint8, jnp.bool_) else [[[-5], [-7], [-6]]], dtype)
    y = MaxPool(2, padding=((1, 0),)).apply({}, x)
    assert y.dtype == dtype
    assert y[0, 0, 0] == x[0, 0, 0]


def test_max_pool_of_infinities_and_nan():
    x = jnp.array([[[-jnp.inf], [-jnp.inf], [1.0], [jnp.nan]]])
    np.testing.assert_array_equal(MaxPool(2).apply({}, x)[0, :, 0], [-jnp.inf, jnp.nan])


@pytest.mark.parametrize("net", [AvgPool(300), GlobalAvgPool()])
def test_means_of_bfloat16_are_summed_in_float32(net):
    x = jnp.ones((1, 300, 1), jnp.bfloat16)  # a sum in bfloat16 stays at 256
    y = net.apply({}, x)
    assert y.dtype == jnp.bfloat16
    assert y.item() == 1


@pytest.mark.parametrize("spatial", [(4,), (3, 2), (2, 1, 3)])
def test_global_pools_reduce_all_positions(spatial):
    x = floats(2, *spatial, 3)
    flat = x.reshape(2, -1, 3)
    np.testing.assert_allclose(GlobalAvgPool().apply({}, x), flat.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(GlobalMaxPool().apply({}, x), flat.max(1))
    whole = jnp.asarray(np.round(10 * x), jnp.int32)
    assert GlobalMaxPool().apply({}, whole).dtype == jnp.int32


@pytest.mark.parametrize("net", [MaxPool(2), AvgPool(2, padding="SAME"), GlobalAvgPool(), GlobalMaxPool()])
def test_an_empty_batch_is_a_batch(net):
    assert net.apply({}, jnp.ones((0, 4, 4, 3))).shape[0] == 0


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: MaxPool(0),
            "MaxPool takes window as a whole number, at least 1, or as one for each spatial axis, got 0",
        ),
        (lambda: AvgPool(2, strides=0), "AvgPool takes strides as a whole number, at least 1,"),
        (
            lambda: MaxPool(2, padding="CAUSAL"),
            "MaxPool takes padding as 'SAME', 'VALID', a whole number, or a number or (low, high) pair for each "
            "spatial axis, got 'CAUSAL'.",
        ),
        (
            lambda: MaxPool(2, padding=2),
            "MaxPool takes padding smaller than its window, got window=2 and padding=2. Pad less, or pad the input "
            "first with jnp.pad",
        ),
        (lambda: AvgPool((3, 2), padding=((0, 0), (0, 2))), "got window=(3, 2) and padding=((0, 0), (0, 2)). Pad less"),
        (lambda: MaxPool((2, 2), strides=(1,)), "got window=(2, 2), strides=(1,). Make them equally long"),
        (lambda: AvgPool(2, count_include_pad=1), "AvgPool takes count_include_pad as True or False, got 1. Write"),
    ],
)
def test_pools_refuse_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "x", "kind", "text"),
    [
        (MaxPool(2), jnp.ones((8, 3)), ValueError, "MaxPool takes (batch, *spatial, channels) with one to three"),
        (
            MaxPool((2, 2)),
            jnp.ones((1, 8, 3)),
            ValueError,
            "MaxPool with window=(2, 2) takes (batch, *spatial, channels) with 2 spatial axes, got float32[1,8,3].",
        ),
        (AvgPool(4), jnp.ones((1, 3, 3)), ValueError, "AvgPool takes inputs that hold its window, (4,) along the"),
        (AvgPool(2), jnp.ones((1, 4, 3), jnp.int32), TypeError, "AvgPool takes floating numbers (batch, *spatial,"),
        (GlobalAvgPool(), jnp.ones((2, 3)), ValueError, "GlobalAvgPool takes (batch, *spatial, channels) with one to"),
        (GlobalAvgPool(), jnp.ones((2, 4, 3), jnp.int8), TypeError, "GlobalAvgPool takes floating numbers (batch,"),
        (
            GlobalAvgPool(),
            jnp.ones((2, 0, 3)),
            ValueError,
            "GlobalAvgPool takes at least one position along each spatial axis, got float32[2,0,3]. Leave out empty",
        ),
        (GlobalMaxPool(), jnp.ones((2, 0, 3)), ValueError, "GlobalMaxPool takes at least one position along each"),
        (GlobalMaxPool(), jnp.ones((2, 3)), ValueError, "GlobalMaxPool takes (batch, *spatial, channels) with one to"),
    ],
)
def test_pools_refuse_inputs_before_arithmetic(net, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(x)
