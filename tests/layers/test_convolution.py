from __future__ import annotations

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.initializers import Ones
from funcnets.layers.convolution import Conv, DepthwiseConv, SeparableConv

KEY = jax.random.key(0)


# The oracle: the sum itself, tap by tap


def ends(n, extent, stride, padding):
    """The positions that padding adds in front and behind."""
    if padding == "VALID":
        return 0, 0
    if padding == "CAUSAL":
        return extent - 1, 0
    if padding in ("CIRCULAR", "REFLECT"):
        return (extent - 1) // 2, extent - 1 - (extent - 1) // 2
    if padding == "SAME":
        outputs = -(-n // stride)
        total = max((outputs - 1) * stride + extent - n, 0)
        return total // 2, total - total // 2
    return padding if isinstance(padding, tuple) else (padding, padding)


def source(i, n, padding):
    """The input position that stands at i; None where a zero does."""
    if 0 <= i < n:
        return i
    if padding == "CIRCULAR":
        return i % n
    if padding == "REFLECT":
        return -i if i < 0 else 2 * (n - 1) - i
    return None


def meetings(n, taps, stride, dilation, padding):
    """(output position, tap, input position) for all that meet along an axis, and the number of outputs."""
    extent = (taps - 1) * dilation + 1
    low, high = ends(n, extent, stride, padding)
    outputs = (n + low + high - extent) // stride + 1
    places = itertools.product(range(outputs), range(taps))
    found = [(o, t, source(o * stride + t * dilation - low, n, padding)) for o, t in places]
    return [place for place in found if place[2] is not None], outputs


def by_hand(x, kernel, bias, weigh, axes, groups):
    """The direct sum, and the gradients of (y * weigh(y.shape)).sum(), with `axes` of (stride, dilation, padding)."""
    spatial, taps, features = x.shape[1:-1], kernel.shape[:-2], kernel.shape[-1]
    each = [meetings(n, k, *axis) for n, k, axis in zip(spatial, taps, axes, strict=True)]
    y = np.zeros((x.shape[0], *(outputs for _, outputs in each), features))
    weight = weigh(y.shape)
    grad_x, grad_kernel = np.zeros(x.shape), np.zeros(kernel.shape)
    inside, outside = x.shape[-1] // groups, features // groups
    for places in itertools.product(*(found for found, _ in each)):
        o, t, i = zip(*places, strict=True)
        for g in range(groups):
            c, f = slice(g * inside, (g + 1) * inside), slice(g * outside, (g + 1) * outside)
            y[:, *o, f] += x[:, *i, c] @ kernel[*t][:, f]
            grad_x[:, *i, c] += weight[:, *o, f] @ kernel[*t][:, f].T
            grad_kernel[*t][:, f] += x[:, *i, c].T @ weight[:, *o, f]
    return y + bias, grad_x, grad_kernel, weight


def check(net, x, axes):
    rng = np.random.default_rng(0)
    features = net.features
    taps = net.kernel_size if isinstance(net.kernel_size, tuple) else (net.kernel_size,) * (x.ndim - 2)
    kernel = rng.standard_normal((*taps, x.shape[-1] // net.groups, features)).astype(np.float32)
    bias = rng.standard_normal(features).astype(np.float32)
    y, grad_x, grad_kernel, weight = by_hand(
        x, kernel, bias, lambda shape: rng.standard_normal(shape).astype(np.float32), axes, net.groups
    )

    @jax.jit
    def run(params, x):
        ours, pull = jax.vjp(net.apply, params, x)
        return ours, *pull(jnp.asarray(weight))

    ours, grads, ours_x = run({"kernel": kernel, "bias": bias}, x)
    np.testing.assert_allclose(ours, y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours_x, grad_x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads["kernel"], grad_kernel, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(grads["bias"], weight.sum(tuple(range(x.ndim - 1))), rtol=1e-4, atol=1e-5)


def floats(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


PADDINGS = ["SAME", "VALID", "CAUSAL", "CIRCULAR", "REFLECT", 1, (2, 1), (0, 3)]


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("taps", "groups"), [(3, 1), (3, 2), (2, 1)])
def test_one_axis_is_the_direct_sum(taps, groups, stride, dilation, padding):
    given = (padding,) if isinstance(padding, tuple) else padding
    net = Conv(4, taps, strides=stride, padding=given, dilation=dilation, groups=groups)
    check(net, floats(2, 7, 2), [(stride, dilation, padding)])


@pytest.mark.parametrize(
    ("net", "axes"),
    [
        (Conv(3, 3), [(1, 1, "SAME")] * 2),
        (Conv(3, 3, strides=2), [(2, 1, "SAME")] * 2),
        (Conv(4, (3, 2), strides=(2, 1), dilation=(1, 2), groups=2), [(2, 1, "SAME"), (1, 2, "SAME")]),
        (Conv(2, 3, padding="CIRCULAR", strides=2), [(2, 1, "CIRCULAR")] * 2),
        (Conv(2, (2, 3), padding="REFLECT", dilation=2), [(1, 2, "REFLECT")] * 2),
        (Conv(2, 3, padding=1, strides=2), [(2, 1, 1)] * 2),
        (Conv(2, 3, padding=(1, 0)), [(1, 1, 1), (1, 1, 0)]),
        (Conv(2, 3, padding=((2, 0), 1)), [(1, 1, (2, 0)), (1, 1, 1)]),
        (Conv(4, 3, groups=2), [(1, 1, "SAME")] * 2),
    ],
    ids=repr,
)
def test_two_axes_are_the_direct_sum(net, axes):
    check(net, floats(2, 5, 6, 2), axes)


@pytest.mark.parametrize(
    ("net", "axes"),
    [
        (Conv(2, 2, strides=2), [(2, 1, "SAME")] * 3),
        (
            Conv(2, (1, 2, 3), padding=(0, (1, 0), 1), strides=(1, 2, 1), groups=2),
            [(1, 1, 0), (2, 1, (1, 0)), (1, 1, 1)],
        ),
        (Conv(2, 3, padding="CIRCULAR"), [(1, 1, "CIRCULAR")] * 3),
    ],
    ids=repr,
)
def test_three_axes_are_the_direct_sum(net, axes):
    check(net, floats(2, 3, 4, 3, 2), axes)


def test_a_causal_output_sees_no_later_input():
    net, x = Conv(1, 3, padding="CAUSAL", dilation=2, use_bias=False), jnp.ones((1, 8, 1))
    params = net.init(KEY, x)
    sees = jax.jacobian(lambda x: net.apply(params, x)[0, :, 0])(x)[:, 0, :, 0]  # (outputs, inputs)
    assert (np.triu(sees, 1) == 0).all()
    assert (np.diag(sees) != 0).all()


def test_circular_commutes_with_a_shift():
    net, x = Conv(2, 4, padding="CIRCULAR"), floats(1, 9, 2)
    params = net.init(KEY, x)
    shifted = net.apply(params, np.roll(x, 3, axis=1))
    np.testing.assert_allclose(shifted, jnp.roll(net.apply(params, x), 3, axis=1), rtol=1e-5, atol=1e-6)


def test_one_number_means_the_same_along_each_axis():
    x = floats(1, 4, 5, 2)
    params = Conv(3, 2).init(KEY, x)
    assert (Conv(3, 2).apply(params, x) == Conv(3, (2, 2), strides=(1, 1), dilation=(1, 1)).apply(params, x)).all()


def test_it_declares_its_arrays_and_draws_them_from_the_initialisers():
    x = jax.ShapeDtypeStruct((2, 8, 8, 6), jnp.float32)
    plan = Conv(4, (3, 5), groups=2).plan(x)
    assert {name: one.shape for name, one in plan.params.items()} == {"kernel": (3, 5, 3, 4), "bias": (4,)}
    assert list(Conv(4, 3, use_bias=False).init(KEY, x)) == ["kernel"]
    params = Conv(4, 3, kernel_init=Ones(), bias_init=Ones()).init(KEY, x)
    assert (params["kernel"] == 1).all() and (params["bias"] == 1).all()


def test_bfloat16_in_bfloat16_out_and_an_empty_batch_is_a_batch():
    x = jnp.ones((2, 5, 3), jnp.bfloat16)
    params = Conv(4, 3).init(KEY, x)
    assert Conv(4, 3).apply(params, x).dtype == jnp.bfloat16
    assert params["kernel"].dtype == jnp.float32
    assert Conv(4, 3).apply(params, jnp.ones((0, 5, 3))).shape == (0, 5, 4)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Conv(0, 3), "Conv takes features as a whole number, at least 1, got 0."),
        (
            lambda: Conv(4, 0),
            "Conv takes kernel_size as a whole number, at least 1, or as one for each spatial axis, got 0. Write "
            "kernel_size=3 for the same along every axis, kernel_size=(3, 5) for two",
        ),
        (lambda: Conv(4, (3, 3, 3, 3)), "Conv takes kernel_size as a whole number, at least 1, or as one for each"),
        (lambda: Conv(4, 3, strides=0), "Conv takes strides as a whole number, at least 1,"),
        (lambda: Conv(4, 3, dilation=True), "Conv takes dilation as a whole number, at least 1,"),
        (
            lambda: Conv(4, 3, padding="same"),
            "Conv takes padding as 'SAME', 'VALID', 'CAUSAL', 'CIRCULAR', 'REFLECT', a whole number, or a number or "
            "(low, high) pair for each spatial axis, got 'same'. Names are in capitals",
        ),
        (lambda: Conv(4, 3, padding=-1), "got -1. Names are in capitals; one axis with two different ends is ((1, 0)"),
        (lambda: Conv(4, 3, padding=((1, 2, 3),)), "got ((1, 2, 3),)."),
        (
            lambda: Conv(4, (3, 3), strides=(2,)),
            "Conv takes tuples with one entry for each spatial axis, got kernel_size=(3, 3), strides=(2,). Make them "
            "equally long, or give a whole number for every axis",
        ),
        (lambda: Conv(4, (3, 3), padding=((1, 0),)), "got kernel_size=(3, 3), padding=((1, 0),). Make them"),
        (
            lambda: Conv(3, 3, groups=2),
            "Conv takes features that its groups divide, got features=3 and groups=2. Take a multiple of 2",
        ),
        (lambda: Conv(3, 3, groups=0), "Conv takes groups as a whole number, at least 1, got 0. Write groups=1"),
        (lambda: Conv(3, 3, use_bias=1), "Conv takes use_bias as True or False, got 1. Write use_bias=False"),
    ],
)
def test_it_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "shape", "text"),
    [
        (
            Conv(4, 3),
            (28, 28),
            "Conv takes (batch, *spatial, channels) with one to three spatial axes, got float32[28,28]. Add the "
            "missing axis first: x[None] for a batch of one",
        ),
        (Conv(4, 3), (1, 2, 3, 4, 5, 6), "got float32[1,2,3,4,5,6]. Merge the leading axes first with a reshape"),
        (
            Conv(4, (3, 3)),
            (2, 8, 3),
            "Conv with kernel_size=(3, 3) takes (batch, *spatial, channels) with 2 spatial axes, got float32[2,8,3]. "
            "Give kernel_size one entry for each of them, or x the rank 4",
        ),
        (Conv(4, 3, padding=((1, 0),)), (2, 8, 8, 3), "Conv with padding=((1, 0),) takes (batch, *spatial, channels)"),
        (
            Conv(4, 3, groups=4),
            (2, 8, 3),
            "Conv with groups=4 takes channels that its groups divide, got 3 channels in float32[2,8,3]. Take a "
            "divisor of 3 for groups",
        ),
        (
            Conv(4, 3, padding="CAUSAL"),
            (2, 8, 8, 3),
            "Conv with padding='CAUSAL' takes (batch, time, channels), got float32[2,8,8,3]. Over more axes say which",
        ),
        (
            Conv(4, 3, padding="VALID", dilation=2),
            (2, 4, 3),
            "Conv takes inputs that hold its window, (5,) along the spatial axes with padding ((0, 0),), got "
            "float32[2,4,3]. Make the window smaller, or pad: padding='SAME'",
        ),
        (Conv(4, 1, padding=1), (2, 0, 3), "Conv takes inputs that hold its window"),
        (
            Conv(4, 9, padding="REFLECT"),
            (2, 4, 3),
            "Conv with padding='REFLECT' takes at least 5 positions along an axis that it pads by (4, 4), got "
            "float32[2,4,3]. Make the kernel smaller, or pad with zeros: padding='SAME'",
        ),
        (Conv(4, 5, padding="CIRCULAR"), (2, 1, 3), "Conv with padding='CIRCULAR' takes at least 2 positions"),
    ],
)
def test_it_refuses_inputs_before_arithmetic(net, shape, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        net.plan(jnp.ones(shape))


def test_it_refuses_whole_numbers():
    with pytest.raises(TypeError, match=re.escape("Conv takes floating numbers (batch, *spatial, channels) with one")):
        Conv(4, 3).plan(jnp.ones((1, 8, 1), jnp.uint8))


# PyTorch's


def from_torch(params):
    """(features, in // groups, *taps) as (*taps, in // groups, features); a bias as it is."""
    return {
        {"weight": "kernel"}.get(name, name): np.moveaxis(array, (1, 0), (-2, -1)) if array.ndim > 1 else array
        for name, array in params.items()
    }


def check_torch(case, layer, to_params=from_torch):
    case.check(layer.apply, to_params, to_input=references.channels_last, to_output=references.channels_last)


@references.each("convolution", "conv")
def test_it_is_that_of_torch(case):
    check_torch(case, Conv(**case.options))


@references.each("convolution", "filled")
def test_with_values_of_its_own_around_it_is_that_of_torch(case):
    check_torch(case, Conv(**case.options))


@references.each("convolution", "depthwise")
def test_depthwise_is_that_of_torch(case):
    check_torch(case, DepthwiseConv(**case.options))


@references.each("convolution", "separable")
def test_separable_is_that_of_torch(case):
    def to_params(params):
        return {
            "depthwise": from_torch({"weight": params["depthwise.weight"]}),
            "pointwise": from_torch({"weight": params["pointwise.weight"], "bias": params["pointwise.bias"]}),
        }

    check_torch(case, SeparableConv(**case.options), to_params)


# Depthwise and separable


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_is_a_convolution_with_as_many_groups_as_channels(multiplier, padding):
    given = (padding,) if isinstance(padding, tuple) else padding
    net = DepthwiseConv(3, multiplier, strides=2, padding=given, dilation=2)
    same = Conv(3 * multiplier, 3, strides=2, padding=given, dilation=2, groups=3)
    x = floats(2, 7, 3)
    params = net.init(KEY, x)
    assert {name: array.shape for name, array in params.items()} == {
        "kernel": (3, 1, 3 * multiplier),
        "bias": (3 * multiplier,),
    }
    np.testing.assert_array_equal(net.apply(params, x), same.apply(params, x))


def test_depthwise_keeps_channels_apart():
    net, x = DepthwiseConv(3, multiplier=2), floats(1, 4, 4, 3)
    sees = jax.jacobian(lambda x: net.apply(net.init(KEY, x), x).sum((0, 1, 2)))(jnp.asarray(x)).sum((1, 2, 3))
    assert ((np.asarray(sees) != 0) == np.kron(np.eye(3), np.ones((2, 1)))).all()


def test_separable_is_depthwise_then_pointwise():
    x = floats(2, 6, 5, 3)
    net = SeparableConv(4, (3, 2), 2, strides=2, padding="VALID", dilation=(1, 2), kernel_init=Ones(), bias_init=Ones())
    assert net["depthwise"] == DepthwiseConv(
        (3, 2), 2, strides=2, padding="VALID", dilation=(1, 2), use_bias=False, kernel_init=Ones()
    )
    assert net["pointwise"] == Conv(4, 1, kernel_init=Ones(), bias_init=Ones())
    params = net.init(KEY, x)
    assert jax.tree.map(jnp.shape, params) == {
        "depthwise": {"kernel": (3, 2, 1, 6)},
        "pointwise": {"kernel": (1, 1, 6, 4), "bias": (4,)},
    }
    y = Conv(4, 1).apply(params["pointwise"], net["depthwise"].apply(params["depthwise"], x))
    np.testing.assert_array_equal(net.apply(params, x), y)
    assert list(SeparableConv(4, 3, use_bias=False).init(KEY, x)["pointwise"]) == ["kernel"]


def test_separable_takes_initialisers_that_are_functions():
    net = SeparableConv(4, 3, kernel_init=jax.nn.initializers.ones, bias_init=jax.nn.initializers.ones)
    assert all((array == 1).all() for array in jax.tree.leaves(net.init(KEY, floats(1, 5, 2))))


@pytest.mark.parametrize(
    "net", [Conv(64, 3, groups=2), DepthwiseConv(3, multiplier=512), SeparableConv(64, 3, multiplier=128)], ids=repr
)
def test_initial_values_have_variance_one_over_fan_in(net):
    for kernel in jax.tree.leaves(net.init(KEY, jax.ShapeDtypeStruct((1, 8, 8, 64), jnp.float32))):
        if kernel.ndim > 1:
            np.testing.assert_allclose(np.asarray(kernel).var() * np.prod(kernel.shape[:-1]), 1, rtol=0.05)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: DepthwiseConv(0), "DepthwiseConv takes kernel_size as a whole number, at least 1, or as one for each"),
        (
            lambda: DepthwiseConv(3, 0),
            "DepthwiseConv takes multiplier as a whole number, at least 1, got 0. It is the number of outputs for each "
            "channel of the input: multiplier=1",
        ),
        (lambda: DepthwiseConv(3, padding="same"), "DepthwiseConv takes padding as 'SAME', 'VALID', 'CAUSAL',"),
        (lambda: DepthwiseConv((3, 3), strides=(2,)), "DepthwiseConv takes tuples with one entry for each spatial"),
        (lambda: DepthwiseConv(3, use_bias=0), "DepthwiseConv takes use_bias as True or False, got 0. Write use_bias="),
        (lambda: SeparableConv(0, 3), "SeparableConv takes features as a whole number, at least 1, got 0. It is the"),
        (lambda: SeparableConv(4, 0), "SeparableConv takes kernel_size as a whole number, at least 1, or as one for"),
        (lambda: SeparableConv(4, 3, 1.5), "SeparableConv takes multiplier as a whole number, at least 1, got 1.5. It"),
        (lambda: SeparableConv(4, 3, dilation=0), "SeparableConv takes dilation as a whole number, at least 1,"),
        (lambda: SeparableConv(4, 3, use_bias=0), "SeparableConv takes use_bias as True or False, got 0. Write use_"),
    ],
)
def test_depthwise_and_separable_refuse_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "x", "kind", "text"),
    [
        (DepthwiseConv(3), jnp.ones((8, 3)), ValueError, "DepthwiseConv takes (batch, *spatial, channels) with one to"),
        (DepthwiseConv(3), jnp.ones((1, 8, 3), jnp.int32), TypeError, "DepthwiseConv takes floating numbers (batch,"),
        (
            DepthwiseConv(3),
            jnp.ones((1, 8, 0)),
            ValueError,
            "DepthwiseConv takes at least one channel, got float32[1,8,0]. Leave the layer out for none",
        ),
        (
            DepthwiseConv(3, padding="CAUSAL"),
            jnp.ones((1, 8, 8, 3)),
            ValueError,
            "DepthwiseConv with padding='CAUSAL' takes (batch, time, channels), got float32[1,8,8,3]. Over more axes",
        ),
        (
            DepthwiseConv(5, padding="VALID"),
            jnp.ones((1, 4, 3)),
            ValueError,
            "DepthwiseConv takes inputs that hold its window, (5,) along the spatial axes with padding ((0, 0),)",
        ),
        (
            DepthwiseConv(9, padding="REFLECT"),
            jnp.ones((1, 4, 3)),
            ValueError,
            "DepthwiseConv with padding='REFLECT' takes at least 5 positions along an axis that it pads by (4, 4)",
        ),
        (
            SeparableConv(4, (3, 3)),
            jnp.ones((1, 8, 3)),
            ValueError,
            "DepthwiseConv with kernel_size=(3, 3) takes (batch, *spatial, channels) with 2 spatial axes, got",
        ),
    ],
)
def test_depthwise_and_separable_refuse_inputs_before_arithmetic(net, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(x)
