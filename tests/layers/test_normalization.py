from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.layers.batch_normalization import BatchNorm
from funcnets.layers.normalization import GroupNorm, InstanceNorm, LayerNorm, LocalResponseNorm, RMSNorm

KEY = jax.random.key(0)


def floats(*shape, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal(shape) + 2).astype(np.float32)


def affine(channels, scale=True, bias=True):
    params = {"scale": floats(channels, seed=1), "bias": floats(channels, seed=2)}
    return {name: params[name] for name, wanted in (("scale", scale), ("bias", bias)) if wanted}


# The oracle: closed forms in float64


def normalised(x, axes, epsilon, centre=True):
    """x moved to mean 0 and variance 1 over these axes, and the factor that took it there."""
    x = x.astype(np.float64)
    centred = x - x.mean(axes, keepdims=True) if centre else x
    factor = 1 / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)
    return centred * factor, factor


def gradient(weight, hat, factor, axes, centre=True):
    """The gradient of (hat * weight).sum() with respect to x."""
    along = (weight * hat).mean(axes, keepdims=True) * hat
    return factor * (weight - (weight.mean(axes, keepdims=True) if centre else 0) - along)


def check(net, x, axes, *, groups=1, centre=True, train=False, scale=True, bias=True):
    params, weight = affine(x.shape[-1], scale, bias), floats(*x.shape, seed=3)
    cut = (*x.shape[:-1], groups, x.shape[-1] // groups) if groups > 1 else x.shape
    hat, factor = normalised(x.reshape(cut), axes, net.epsilon, centre)
    s, b = params.get("scale", np.float32(1)), params.get("bias", np.float32(0))
    grad_x = gradient((weight * s).reshape(cut).astype(np.float64), hat, factor, axes, centre).reshape(x.shape)
    hat = hat.reshape(x.shape)

    def apply(params, x):
        if train:
            return net.apply(params, x, state=net.init_state(x), train=True)[0]
        return net.apply(params, x)

    @jax.jit
    def run(params, x, weight):
        y, pull = jax.vjp(apply, params, x)
        return y, *pull(weight)

    y, grads, ours_x = run(params, x, weight)
    leading = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(y, hat * s + b, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours_x, grad_x, rtol=1e-4, atol=1e-4)
    assert grads.keys() == params.keys()
    if scale:
        np.testing.assert_allclose(grads["scale"], (weight * hat).sum(leading), rtol=1e-4, atol=1e-4)
    if bias:
        np.testing.assert_allclose(grads["bias"], weight.sum(leading), rtol=1e-4, atol=1e-4)


SWITCHES = pytest.mark.parametrize(("scale", "bias"), [(True, True), (True, False), (False, True), (False, False)])


@SWITCHES
@pytest.mark.parametrize("shape", [(6, 3), (2, 5, 3), (2, 3, 2, 3)])
def test_batch_norm_normalises_the_batch_in_training(shape, scale, bias):
    net = BatchNorm(epsilon=1e-2, use_scale=scale, use_bias=bias)
    check(net, floats(*shape), tuple(range(len(shape) - 1)), train=True, scale=scale, bias=bias)


@SWITCHES
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_layer_norm_normalises_the_last_axis(shape, scale, bias):
    check(LayerNorm(1e-2, scale, bias), floats(*shape), (-1,), scale=scale, bias=bias)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_rms_norm_divides_by_the_root_mean_square(shape, scale):
    check(RMSNorm(1e-2, scale), floats(*shape), (-1,), centre=False, scale=scale, bias=False)


@SWITCHES
@pytest.mark.parametrize(("shape", "axes"), [((2, 5, 3), (1,)), ((2, 3, 2, 3), (1, 2))])
def test_instance_norm_normalises_each_channel_of_each_example(shape, axes, scale, bias):
    check(InstanceNorm(1e-2, scale, bias), floats(*shape), axes, scale=scale, bias=bias)


@SWITCHES
@pytest.mark.parametrize(("shape", "axes"), [((2, 6), (2,)), ((2, 4, 6), (1, 3)), ((2, 3, 2, 6), (1, 2, 4))])
def test_group_norm_normalises_each_group_of_each_example(shape, axes, scale, bias):
    check(GroupNorm(3, 1e-2, scale, bias), floats(*shape), axes, groups=3, scale=scale, bias=bias)


# What PyTorch computes


CHANNELS_LAST = {"to_input": references.channels_last, "to_output": references.channels_last}


def to_params(theirs):
    return {ours: theirs[name] for ours, name in (("scale", "weight"), ("bias", "bias")) if name in theirs}


@references.each("normalization", "layer_norm")
def test_layer_norm_is_that_of_torch(case):
    case.check(LayerNorm(**case.options).apply, to_params)


@references.each("normalization", "rms_norm")
def test_rms_norm_is_that_of_torch(case):
    case.check(RMSNorm(**case.options).apply, to_params)


@references.each("normalization", "group_norm")
def test_group_norm_is_that_of_torch(case):
    case.check(GroupNorm(**case.options).apply, to_params, **CHANNELS_LAST)


@references.each("normalization", "instance_norm")
def test_instance_norm_is_that_of_torch(case):
    case.check(InstanceNorm(**case.options).apply, to_params, **CHANNELS_LAST)


@references.each("normalization", "local_response_norm")
def test_local_response_norm_is_that_of_torch(case):
    case.check(LocalResponseNorm(**case.options).apply, **CHANNELS_LAST)


# Other axes and neighbours


@pytest.mark.parametrize("axis", [0, 1, (0, 2), (-1, 1), (2, 0), (0, 1, 2)])
def test_layer_norm_and_rms_norm_over_any_axes(axis):
    x = floats(2, 3, 4)
    axes = tuple(sorted(a % 3 for a in (axis if isinstance(axis, tuple) else (axis,))))
    shape = tuple(x.shape[a] for a in axes)
    scale, bias = floats(*shape, seed=1), floats(*shape, seed=2)
    rest = tuple(a for a in range(3) if a not in axes)
    wide = {"scale": np.expand_dims(scale, rest), "bias": np.expand_dims(bias, rest)}
    for net, centre in ((LayerNorm(axis=axis), True), (RMSNorm(axis=axis), False)):
        params = {"scale": scale, "bias": bias} if centre else {"scale": scale}
        hat, _ = normalised(x, axes, net.epsilon, centre)
        expected = hat * wide["scale"] + (wide["bias"] if centre else 0)
        np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-4, atol=1e-4)
        assert net.plan(x).params["scale"].shape == shape


def test_instance_norm_is_group_norm_with_a_channel_a_group():
    x, params = floats(2, 5, 4), affine(4)
    np.testing.assert_array_equal(InstanceNorm().apply(params, x), GroupNorm(4).apply(params, x))
    single = InstanceNorm().apply(params, x[:, :1])
    np.testing.assert_allclose(single, np.broadcast_to(params["bias"], (2, 1, 4)), rtol=1e-6)


def test_local_response_norm_takes_any_axes_before_the_channels():
    x, net = floats(2, 3, 5), LocalResponseNorm(4, 0.5, 0.75, 2.0)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (2, 1))) ** 2
    mean = np.stack([padded[..., c : c + 4].sum(-1) / 4 for c in range(5)], -1)
    expected = x / (2 + 0.5 * mean) ** 0.75
    np.testing.assert_allclose(net.apply({}, x), expected, rtol=1e-5)
    np.testing.assert_allclose(net.apply({}, x[0, 0]), expected[0, 0], rtol=1e-5)


def test_one_group_of_one_position_is_layer_norm_and_epsilon_is_where_it_should_be():
    x = floats(4, 6)
    params = affine(6)
    np.testing.assert_allclose(GroupNorm(1).apply(params, x), LayerNorm().apply(params, x), rtol=1e-5, atol=1e-5)
    assert (BatchNorm().epsilon, LayerNorm().epsilon, RMSNorm().epsilon, GroupNorm().epsilon) == (
        1e-5,
        1e-5,
        1e-6,
        1e-5,
    )


def test_bfloat16_statistics_are_taken_in_float32():
    x = jnp.asarray(1000 + 3 * floats(64, 32), jnp.bfloat16)
    nets = (LayerNorm(), LayerNorm(axis=(0, 1)), GroupNorm(4), RMSNorm(), RMSNorm(axis=0), LocalResponseNorm())
    for net, given in [*((net, x) for net in nets), (InstanceNorm(), x[None])]:
        params = net.init(KEY, given)
        y = net.apply(params, given)
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            y.astype(jnp.float32), net.apply(params, given.astype(jnp.float32)), atol=1e-2, rtol=1e-2
        )
    net = BatchNorm()
    params, state = net.init(KEY, x), net.init_state(x)
    y, new = net.apply(params, x, state=state, train=True)
    assert y.dtype == jnp.bfloat16
    expected, wide = net.apply(params, x.astype(jnp.float32), state=state, train=True)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=1e-2, rtol=1e-2)
    assert new["var"].dtype == jnp.float32
    np.testing.assert_allclose(new["var"], wide["var"], rtol=1e-5)


def test_layer_norms_jaxpr_is_that_of_the_formula():
    params, x = affine(5), floats(2, 3, 5)

    def formula(p, x):
        x = jax.lax.optimization_barrier(x)
        centred = x - x.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
        return y * p["scale"] + p["bias"]

    ours = jax.make_jaxpr(LayerNorm().apply)(params, x)
    with jax.numpy_rank_promotion("allow"):
        assert str(ours) == str(jax.make_jaxpr(formula)(params, x))


def test_layer_norm_passes_every_transform():
    params, x = affine(5), floats(2, 3, 5)

    def apply(x):
        return LayerNorm().apply(params, x)

    @jax.jit
    def transformed(x):
        _, forward = jax.jvp(apply, (x,), (jnp.ones_like(x),))
        backward = jax.grad(lambda x: jnp.square(jax.checkpoint(apply)(x)).sum())(x)
        second = jax.jacfwd(jax.grad(lambda x: jnp.square(apply(x)).sum()))(x[0, 0])
        return forward, backward, second, jax.vmap(apply)(x)

    forward, backward, second, mapped = transformed(x)
    np.testing.assert_allclose(forward, np.zeros_like(x), atol=1e-4)  # a shift of all values changes nothing
    np.testing.assert_allclose(backward.sum(-1), np.zeros((2, 3)), atol=1e-4)
    np.testing.assert_allclose(second, second.T, atol=1e-4)
    np.testing.assert_allclose(mapped, apply(x), rtol=1e-5, atol=1e-6)


def test_they_declare_their_arrays():
    x = jax.ShapeDtypeStruct((2, 8, 64), jnp.bfloat16)
    vector = jax.ShapeDtypeStruct((64,), jnp.float32)
    assert BatchNorm().plan(x).params == {"scale": vector, "bias": vector}
    assert BatchNorm().plan(x).states == {"mean": vector, "var": vector}
    assert LayerNorm().plan(x).params == GroupNorm().plan(x).params == {"scale": vector, "bias": vector}
    assert RMSNorm().plan(x).params == {"scale": vector}
    params, state = BatchNorm().init(KEY, x), BatchNorm().init_state(x)
    assert (params["scale"] == 1).all() and (params["bias"] == 0).all()
    assert (state["mean"] == 0).all() and (state["var"] == 1).all()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: BatchNorm(64),
            "BatchNorm takes momentum as the weight of the old statistics, from 0 to 1, got 64. It is 1 minus "
            "PyTorch's; the number of channels comes from the sample: BatchNorm()",
        ),
        (
            lambda: BatchNorm(True),
            "BatchNorm takes momentum as the weight of the old statistics, from 0 to 1, got True",
        ),
        (lambda: BatchNorm(unbiased=None), "BatchNorm takes unbiased as True or False, got None."),
        (
            lambda: LayerNorm(512),
            "LayerNorm takes epsilon as a number from 0 up to 1, got 512. Widths come from the sample: LayerNorm()",
        ),
        (lambda: LayerNorm(use_bias=0), "LayerNorm takes use_bias as True or False, got 0."),
        (lambda: RMSNorm(-1e-6), "RMSNorm takes epsilon as a number from 0 up to 1, got -1e-06."),
        (lambda: RMSNorm(float("nan")), "RMSNorm takes epsilon as a number from 0 up to 1, got nan."),
        (lambda: GroupNorm(32, 64), "GroupNorm takes epsilon as a number from 0 up to 1, got 64."),
        (
            lambda: LayerNorm(axis=1.0),
            "LayerNorm takes axis as a whole number, or as a tuple of different ones, got 1.0. Write axis=-1 for the "
            "last axis, axis=(-2, -1) for the last two",
        ),
        (lambda: LayerNorm(axis=()), "LayerNorm takes axis as a whole number, or as a tuple of different ones, got ()"),
        (lambda: RMSNorm(axis=(1, 1)), "RMSNorm takes axis as a whole number, or as a tuple of different ones, got (1"),
        (lambda: RMSNorm(axis=True), "RMSNorm takes axis as a whole number, or as a tuple of different ones, got True"),
        (lambda: InstanceNorm(64), "InstanceNorm takes epsilon as a number from 0 up to 1, got 64. Widths come from"),
        (lambda: InstanceNorm(use_scale=1), "InstanceNorm takes use_scale as True or False, got 1."),
        (
            lambda: LocalResponseNorm(0),
            "LocalResponseNorm takes size as a whole number, at least 1, got 0. It is the number of neighbouring "
            "channels: LocalResponseNorm(5)",
        ),
        (
            lambda: LocalResponseNorm(k=0.0),
            "LocalResponseNorm takes k as a number above 0, got 0.0. Left out they are alpha=1e-4, beta=0.75, k=1.0",
        ),
        (lambda: LocalResponseNorm(alpha=-1.0), "LocalResponseNorm takes alpha as a number from 0 up, got -1.0."),
        (lambda: LocalResponseNorm(beta=None), "LocalResponseNorm takes beta as a number from 0 up, got None."),
        (lambda: LocalResponseNorm(k=float("nan")), "LocalResponseNorm takes k as a number above 0, got nan."),
        (lambda: GroupNorm(0), "GroupNorm takes groups as a whole number, at least 1, got 0. Write GroupNorm(1) for"),
    ],
)
def test_they_refuse_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "x", "kind", "text"),
    [
        (
            BatchNorm(),
            jnp.ones(3),
            ValueError,
            "BatchNorm takes (batch, ..., channels), got float32[3]. Add the missing",
        ),
        (LayerNorm(), jnp.ones(()), ValueError, "LayerNorm takes (..., features), got float32[]. Add the missing axis"),
        (
            RMSNorm(),
            jnp.ones((2, 3), jnp.int32),
            TypeError,
            "RMSNorm takes floating numbers (..., features), got int32",
        ),
        (
            GroupNorm(),
            jnp.ones((2, 4, 6)),
            ValueError,
            "GroupNorm with groups=32 takes channels that its groups divide, got 6 channels in float32[2,4,6]. Take a "
            "divisor of 6 for groups",
        ),
        (
            LayerNorm(axis=(1, 2)),
            jnp.ones((2, 3)),
            ValueError,
            "LayerNorm with axis=(1, 2) takes inputs that have each of these axes, and once, got float32[2,3]. Its "
            "axes are 0 to 1, or -2 to -1 from the end",
        ),
        (RMSNorm(axis=-3), jnp.ones((2, 3)), ValueError, "RMSNorm with axis=-3 takes inputs that have each of these"),
        (LayerNorm(axis=(1, -1)), jnp.ones((2, 3)), ValueError, "LayerNorm with axis=(1, -1) takes inputs that have"),
        (
            InstanceNorm(),
            jnp.ones((2, 3)),
            ValueError,
            "InstanceNorm takes (batch, *spatial, channels) with at least one spatial axis, got float32[2,3]. Add",
        ),
        (InstanceNorm(), jnp.ones((2, 3, 4), jnp.int32), TypeError, "InstanceNorm takes floating numbers (batch, "),
        (LocalResponseNorm(), jnp.ones(()), ValueError, "LocalResponseNorm takes (..., channels), got float32[]. Add"),
        (LocalResponseNorm(), jnp.ones(3, jnp.int32), TypeError, "LocalResponseNorm takes floating numbers (..., cha"),
        (GroupNorm(2), jnp.ones(4), ValueError, "GroupNorm takes (batch, *spatial, channels), got float32[4]."),
    ],
)
def test_they_refuse_inputs_before_arithmetic(net, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(x)
