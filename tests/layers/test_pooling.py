from __future__ import annotations

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, LpPool, MaxPool, MinPool, SumPool


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


# PyTorch's


def check_torch(case, apply):
    case.check(apply, to_input=references.channels_last, to_output=references.channels_last)


@references.each("pooling", "max")
def test_max_pool_and_its_indices_are_those_of_torch(case):
    x, at = map(references.channels_last, case.inputs)
    check_torch(case, lambda p, x, at: MaxPool(**case.options).apply(p, x))
    y, indices = jax.jit(MaxPool(**case.options, indices=True).apply)({}, x)
    np.testing.assert_array_equal(y, references.channels_last(case.outputs[0]))
    np.testing.assert_array_equal(indices, at)
    assert indices.dtype == jnp.int32


@references.each("pooling", "min")
def test_min_pool_is_that_of_torch(case):
    check_torch(case, MinPool(**case.options).apply)


@references.each("pooling", "avg")
def test_avg_pool_is_that_of_torch(case):
    check_torch(case, AvgPool(**case.options).apply)


@references.each("pooling", "lp")
def test_lp_pool_is_that_of_torch(case):
    check_torch(case, LpPool(**case.options).apply)


# Dilation


DILATED = [
    # fields, input, (width, stride, dilation, (low, high)) along each axis
    ({"window": 2, "dilation": 2}, (2, 7, 2), [(2, 2, 2, (0, 0))]),
    ({"window": 3, "strides": 1, "dilation": 2, "padding": "SAME"}, (1, 6, 2), [(3, 1, 2, (2, 2))]),
    (
        {"window": (2, 3), "strides": (1, 2), "dilation": (3, 1), "padding": ((1, 2), (0, 1))},
        (2, 5, 4, 1),
        [(2, 1, 3, (1, 2)), (3, 2, 1, (0, 1))],
    ),
]


@pytest.mark.parametrize(("fields", "shape", "axes"), DILATED, ids=str)
def test_dilated_windows_are_their_taps(fields, shape, axes):
    x = floats(*shape)
    each = [
        [
            [i for i in range(start, start + width * dilation, dilation) if 0 <= i < n]
            for start in range(-low, n + high - (width - 1) * dilation, stride)
        ]
        for n, (width, stride, dilation, (low, high)) in zip(shape[1:-1], axes, strict=True)
    ]
    full = int(np.prod([width for width, *_ in axes]))
    pools = {
        MaxPool(**fields): np.max,
        MinPool(**fields): np.min,
        SumPool(**fields): np.sum,
        AvgPool(**fields): np.mean,
        AvgPool(**fields, count_include_pad=True): lambda held: held.sum() / full,
        LpPool(2, **fields): lambda held: np.sqrt((held**2).sum()),
    }
    for net, reduce in pools.items():
        y, (gradient,) = jax.jit(
            lambda x, net=net: (net.apply({}, x), jax.grad(lambda x: net.apply({}, x).sum())(x)[:1])
        )(x)
        assert y.shape[1:-1] == tuple(map(len, each))
        assert np.isfinite(gradient).all()
        for o in itertools.product(*(range(len(found)) for found in each)):
            held = x[(slice(None), *np.ix_(*(found[at] for found, at in zip(each, o, strict=True))))]
            for b, c in itertools.product(range(shape[0]), range(shape[-1])):
                np.testing.assert_allclose(
                    y[(b, *o, c)], reduce(held[b, ..., c]), rtol=1e-5, atol=1e-6, err_msg=str(net)
                )


# Ends of the range


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.uint8, jnp.bool_, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("dilation", [1, 2])
def test_min_pool_of_any_dtype_never_takes_the_padding(dtype, dilation):
    x = jnp.asarray([[[1], [1], [1]]] if dtype == jnp.bool_ else [[[100], [90], [110]]], dtype)
    y = MinPool(2, strides=1, padding=((1, 0),), dilation=dilation).apply({}, x)
    assert y.dtype == dtype
    assert y[0, 0, 0] == x[0, dilation - 1, 0]


@pytest.mark.parametrize("net", [MaxPool(2, indices=True), MaxPool(3, strides=1, padding=1, dilation=1, indices=True)])
def test_indices_of_the_lowest_value_are_inside(net):
    for x in (jnp.full((1, 4, 4, 1), -jnp.inf), jnp.full((1, 4, 4, 1), -128, jnp.int8)):
        y, indices = net.apply({}, x)
        assert (y == x[0, 0, 0, 0]).all()
        assert ((indices >= 0) & (indices < 16)).all()


def test_of_equal_values_the_first_takes_the_gradient():
    x = jnp.ones((1, 4, 4, 1))
    for net in (MaxPool(2), MinPool(2), MaxPool(2, strides=2, dilation=2, padding="VALID")):
        gradient = jax.grad(lambda x, net=net: net.apply({}, x).sum())(x)
        assert set(np.unique(gradient)) <= {0, 1}
        assert gradient[0, 0, 0, 0] == 1
    np.testing.assert_array_equal(MaxPool(2, indices=True).apply({}, x)[1][0, ..., 0], [[0, 2], [8, 10]])
    np.testing.assert_array_equal(
        MaxPool(3, strides=2, padding=1, indices=True).apply({}, x)[1][0, ..., 0], [[0, 1], [4, 5]]
    )


def test_nan_is_the_maximum_and_the_minimum():
    x = jnp.array([[[1.0], [jnp.nan], [2.0], [3.0]]])
    for net in (MinPool(2), MaxPool(2, dilation=2, strides=1)):
        assert np.isnan(net.apply({}, x)).sum() == 1
    assert MaxPool(2, indices=True).apply({}, x)[1][0, 0, 0] == 1


# Powers


@pytest.mark.parametrize("power", [1, 2, 3, 4, 2.5, 1.5])
def test_lp_pool_has_finite_gradients_at_zero(power):
    x = jnp.zeros((1, 4, 1)).at[0, 2, 0].set(2.0)
    y, gradient = jax.value_and_grad(lambda x: LpPool(power, 2).apply({}, x).sum())(x)
    np.testing.assert_allclose(y, 2, rtol=1e-6)
    np.testing.assert_allclose(gradient[0, :, 0], [1, 1, 1, 1] if power == 1 else [0, 0, 1, 0], rtol=1e-6)


def test_lp_pool_keeps_signs_for_odd_powers_alone():
    x = jnp.array([[[-3.0], [1.0], [-4.0], [4.0]]])
    np.testing.assert_allclose(LpPool(1, 2).apply({}, x)[0, :, 0], [-2, 0], rtol=1e-6)
    np.testing.assert_allclose(LpPool(3, 2).apply({}, x)[0, :, 0], [-(26 ** (1 / 3)), 0], rtol=1e-6)
    np.testing.assert_allclose(LpPool(2, 2).apply({}, x)[0, :, 0], [10**0.5, 32**0.5], rtol=1e-6)
    np.testing.assert_allclose(
        LpPool(1.5, 2).apply({}, x)[0, :, 0], [(3**1.5 + 1) ** (2 / 3), 16 ** (2 / 3)], rtol=1e-6
    )


def test_a_power_that_is_a_whole_float_is_that_whole_number():
    x = floats(1, 4, 2)
    np.testing.assert_array_equal(LpPool(2.0, 2).apply({}, x), LpPool(2, 2).apply({}, x))


def test_sums_are_means_times_taps():
    x = floats(2, 5, 4, 3)
    for padding in ("VALID", "SAME"):
        mean = AvgPool(2, padding=padding, count_include_pad=True).apply({}, x)
        np.testing.assert_allclose(SumPool(2, padding=padding).apply({}, x), 4 * mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            SumPool(2, padding=padding).apply({}, x), LpPool(1, 2, padding=padding).apply({}, x), rtol=1e-6
        )


@pytest.mark.parametrize("net", [SumPool(300), LpPool(1, 300)])
def test_sums_of_bfloat16_are_taken_in_float32(net):
    y = net.apply({}, jnp.full((1, 300, 1), 1.0, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert y.item() == 300


@pytest.mark.parametrize(
    "net", [MaxPool(2, indices=True), MaxPool(2, dilation=2), MinPool(2), SumPool(2), LpPool(2, 2)]
)
def test_an_empty_batch_is_a_batch_for_these_too(net):
    assert jax.tree.leaves(net.apply({}, jnp.ones((0, 4, 4, 3))))[0].shape[0] == 0


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: MaxPool(2, indices=1), "MaxPool takes indices as True or False, got 1. Write indices=True for (y, in"),
        (lambda: MaxPool(2, dilation=0), "MaxPool takes dilation as a whole number, at least 1, or as one for each"),
        (lambda: MaxPool((2, 2), dilation=(1,)), "got window=(2, 2), dilation=(1,). Make them equally long, or give"),
        (
            lambda: SumPool(2, padding=3, dilation=2),
            "SumPool takes padding smaller than its window, got window=2, dilation=2 and padding=3. Pad less, or pad",
        ),
        (
            lambda: MinPool(0),
            "MinPool takes window as a whole number, at least 1, or as one for each spatial axis, got",
        ),
        (lambda: MinPool(2, strides=0), "MinPool takes strides as a whole number, at least 1,"),
        (lambda: SumPool(2, padding="CAUSAL"), "SumPool takes padding as 'SAME', 'VALID', a whole number, or a number"),
        (
            lambda: LpPool(0.5, 2),
            "LpPool takes power as a number of at least 1, got 0.5. For the largest value take MaxPool",
        ),
        (lambda: LpPool(float("inf"), 2), "LpPool takes power as a number of at least 1, got inf."),
        (lambda: LpPool(float("nan"), 2), "LpPool takes power as a number of at least 1, got nan."),
        (lambda: LpPool(True, 2), "LpPool takes power as a number of at least 1, got True."),
        (lambda: LpPool(2, 0), "LpPool takes window as a whole number, at least 1,"),
    ],
)
def test_these_refuse_fields_when_built_too(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    "build", [MaxPool, MinPool, SumPool, AvgPool, lambda *given, **named: LpPool(2, *given, **named)]
)
def test_a_window_that_steps_from_padding_to_padding_is_refused(build):
    text = (
        "takes inputs with a value in each window, got float32[1,1,3], over which the taps of window=2 with dilation=2 "
        "step from padding to padding ((1, 1),). Dilate less"
    )
    for padding in ("SAME", 1):
        with pytest.raises(ValueError, match=re.escape(text)):
            build(2, strides=1, padding=padding, dilation=2).plan(jnp.ones((1, 1, 3)))


@pytest.mark.parametrize(
    ("net", "x", "kind", "text"),
    [
        (MaxPool(2, indices=True), jnp.ones((8, 3)), ValueError, "MaxPool takes (batch, *spatial, channels) with one"),
        (MinPool(2), jnp.ones((8, 3)), ValueError, "MinPool takes (batch, *spatial, channels) with one to three"),
        (SumPool(4), jnp.ones((1, 3, 3)), ValueError, "SumPool takes inputs that hold its window, (4,) along the"),
        (MaxPool(2, dilation=3), jnp.ones((1, 3, 3)), ValueError, "MaxPool takes inputs that hold its window, (4,)"),
        (SumPool(2), jnp.ones((1, 4, 3), jnp.int32), TypeError, "SumPool takes floating numbers (batch, *spatial,"),
        (LpPool(2, 2), jnp.ones((1, 4, 3), jnp.int32), TypeError, "LpPool takes floating numbers (batch, *spatial,"),
        (
            LpPool(2, (2, 2)),
            jnp.ones((1, 8, 3)),
            ValueError,
            "LpPool with window=(2, 2) takes (batch, *spatial, channels) with 2 spatial axes, got float32[1,8,3].",
        ),
    ],
)
def test_these_refuse_inputs_before_arithmetic_too(net, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(x)
