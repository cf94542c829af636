from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.layers.normalization import BatchNorm, GroupNorm, LayerNorm, RMSNorm

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
@pytest.mark.parametrize(("shape", "axes"), [((2, 6), (2,)), ((2, 4, 6), (1, 3)), ((2, 3, 2, 6), (1, 2, 4))])
def test_group_norm_normalises_each_group_of_each_example(shape, axes, scale, bias):
    check(GroupNorm(3, 1e-2, scale, bias), floats(*shape), axes, groups=3, scale=scale, bias=bias)


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


@pytest.mark.parametrize("momentum", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_after_several_updates(momentum, unbiased):
    net = BatchNorm(momentum, unbiased=unbiased)
    batches = [floats(5, 2, 3, seed=seed) for seed in range(4)]
    params, state = net.init(KEY, batches[0]), net.init_state(batches[0])
    mean, var = np.zeros(3), np.ones(3)
    for x in batches:
        _, state = net.apply(params, x, state=state, train=True)
        flat = x.reshape(-1, 3).astype(np.float64)
        mean = momentum * mean + (1 - momentum) * flat.mean(0)
        var = momentum * var + (1 - momentum) * flat.var(0, ddof=1 if unbiased else 0)
    np.testing.assert_allclose(state["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(state["var"], var, rtol=1e-5)

    y, kept = net.apply(params, batches[0], state=state)
    np.testing.assert_allclose(y, (batches[0] - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-4)
    assert kept is state


def test_evaluation_does_not_depend_on_batch_mates():
    x, net = floats(4, 3), BatchNorm()
    params, state = net.init(KEY, x), {"mean": jnp.arange(3.0), "var": jnp.arange(1.0, 4.0)}
    whole = net.apply(params, x, state=state)[0]
    alone = jnp.concatenate([net.apply(params, x[i : i + 1], state=state)[0] for i in range(4)])
    np.testing.assert_array_equal(whole, alone)


def test_batches_too_small_for_statistics():
    net, x = BatchNorm(), floats(1, 3)
    params, state = affine(3), net.init_state(x)
    y, new = net.apply(params, x, state=state, train=True)
    np.testing.assert_allclose(y, params["bias"][None], rtol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * np.ones(3), rtol=1e-6)
    y, new = net.apply(params, jnp.ones((0, 3)), state=state, train=True)
    assert y.shape == (0, 3)
    assert new is state


def test_bfloat16_statistics_are_taken_in_float32():
    x = jnp.asarray(1000 + 3 * floats(64, 32), jnp.bfloat16)
    for net in (LayerNorm(), GroupNorm(4), RMSNorm()):
        params = net.init(KEY, x)
        y = net.apply(params, x)
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            y.astype(jnp.float32), net.apply(params, x.astype(jnp.float32)), atol=1e-2, rtol=1e-2
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
        (GroupNorm(2), jnp.ones(4), ValueError, "GroupNorm takes (batch, *spatial, channels), got float32[4]."),
    ],
)
def test_they_refuse_inputs_before_arithmetic(net, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(x)
