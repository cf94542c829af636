from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.initializers import HeUniform, Ones, Orthogonal
from funcnets.layers.convolution import Conv
from funcnets.layers.local_convolution import LocallyConnected

KEY = jax.random.key(0)


def floats(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CASES = [
    (LocallyConnected(3, 3), (5,)),
    (LocallyConnected(3, 3, strides=2, padding="VALID", dilation=2), (9,)),
    (LocallyConnected(3, 2, padding="CAUSAL"), (4,)),
    (LocallyConnected(3, 3, padding="CIRCULAR", strides=2), (5,)),
    (LocallyConnected(3, 3, padding="REFLECT"), (4,)),
    (LocallyConnected(3, (3, 2), strides=(2, 1)), (5, 4)),
    (LocallyConnected(2, 2, padding=((1, 0), 1), use_bias=False), (3, 4)),
    (LocallyConnected(2, (1, 2, 2), padding="VALID"), (2, 3, 4)),
]

each_case = pytest.mark.parametrize(("net", "spatial"), CASES, ids=str)


def windows(net, x):
    """The values under each window, (batch, positions, taps · in): a convolution that copies them."""
    taps = net.kernel_size if isinstance(net.kernel_size, tuple) else (net.kernel_size,) * (x.ndim - 2)
    size = int(np.prod(taps)) * x.shape[-1]
    copy = Conv(size, taps, net.strides, net.padding, net.dilation, use_bias=False)
    under = copy.apply({"kernel": np.eye(size, dtype=np.float32).reshape(*taps, x.shape[-1], size)}, x)
    return under.reshape(x.shape[0], -1, size), under.shape[1:-1]


@each_case
def test_each_position_has_a_kernel_of_its_own(net, spatial):
    x = floats(2, *spatial, 2)
    params = jax.tree.map(lambda a: floats(*a.shape, seed=2), net.plan(x).params)
    under, outer = windows(net, x)
    positions = int(np.prod(outer))
    assert params["kernel"].shape[0] == positions
    y = np.einsum("bpk,pkf->bpf", under, params["kernel"].reshape(positions, -1, net.features))
    y = (y + params["bias"] if net.use_bias else y).reshape(2, *outer, net.features)
    np.testing.assert_allclose(net.apply(params, x), y, rtol=1e-5, atol=1e-5)

    weight = floats(*y.shape, seed=3)
    ours, ours_x = jax.jit(jax.grad(lambda p, x: jnp.vdot(net.apply(p, x), weight), (0, 1)))(params, x)
    flat = weight.reshape(2, positions, -1)
    kernel = np.einsum("bpk,bpf->pkf", under, flat).reshape(params["kernel"].shape)
    np.testing.assert_allclose(ours["kernel"], kernel, rtol=1e-5, atol=1e-5)
    if net.use_bias:
        np.testing.assert_allclose(ours["bias"], flat.sum(0), rtol=1e-5, atol=1e-5)
    back = np.einsum("bpf,pkf->bpk", flat, params["kernel"].reshape(positions, -1, net.features))
    (wanted,) = jax.linear_transpose(lambda x: windows(net, x)[0], jnp.asarray(x))(jnp.asarray(back))
    np.testing.assert_allclose(ours_x, wanted, rtol=1e-5, atol=1e-5)


@each_case
def test_with_equal_kernels_it_is_a_convolution(net, spatial):
    x = floats(2, *spatial, 2)
    same = Conv(net.features, net.kernel_size, net.strides, net.padding, net.dilation, use_bias=net.use_bias)
    params = same.init(KEY, x)
    shapes = net.plan(x).params
    spread = {name: jnp.broadcast_to(array[None], shapes[name].shape) for name, array in params.items()}
    np.testing.assert_allclose(net.apply(spread, x), same.apply(params, x), rtol=1e-5, atol=1e-6)


def test_it_is_that_of_jax():
    net, x = LocallyConnected(3, (2, 3), strides=(1, 2), padding="VALID"), floats(2, 4, 6, 2)
    kernel = floats(3 * 2, 2, 3, 2, 3)
    # There the channels are slowest: (*spatial', in · taps, features).
    theirs = np.moveaxis(kernel, 3, 1).reshape(3, 2, -1, 3)
    y = jax.lax.conv_general_dilated_local(
        x, theirs, (1, 2), "VALID", (2, 3), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    ours = net.apply({"kernel": kernel, "bias": jnp.zeros((6, 3))}, x)
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("init", [None, HeUniform(), jax.nn.initializers.he_normal()], ids=["own", "he", "jax"])
def test_initial_values_have_the_fan_in_of_one_position(init):
    x = jax.ShapeDtypeStruct((1, 6, 6, 8), jnp.float32)
    net = LocallyConnected(32, 3) if init is None else LocallyConnected(32, 3, kernel_init=init)
    kernel = np.asarray(net.init(KEY, x)["kernel"])
    assert kernel.shape == (36, 3, 3, 8, 32)
    np.testing.assert_allclose(kernel.var() * (3 * 3 * 8), 1 if init is None else 2, rtol=0.05)
    assert len({one.tobytes() for one in kernel}) == 36


def test_an_initialiser_that_computes_is_given_one_position():
    kernel = LocallyConnected(4, 2, kernel_init=Orthogonal()).init(KEY, jnp.ones((1, 5, 3)))["kernel"]
    for one in np.asarray(kernel).reshape(5, 6, 4):
        np.testing.assert_allclose(one.T @ one, np.eye(4), atol=1e-5)
    params = LocallyConnected(4, 2, kernel_init=Ones(), bias_init=Ones()).init(KEY, jnp.ones((1, 5, 3)))
    assert all((array == 1).all() for array in params.values())


def test_an_empty_batch_is_a_batch_and_bfloat16_stays():
    net = LocallyConnected(4, 3)
    params = net.init(KEY, jnp.ones((2, 5, 3)))
    assert net.apply(params, jnp.ones((0, 5, 3))).shape == (0, 5, 4)
    assert net.apply(params, jnp.ones((2, 5, 3), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: LocallyConnected(0, 3), "LocallyConnected takes features as a whole number, at least 1, got 0. It is"),
        (lambda: LocallyConnected(4, 0), "LocallyConnected takes kernel_size as a whole number, at least 1, or as one"),
        (lambda: LocallyConnected(4, 3, padding="same"), "LocallyConnected takes padding as 'SAME', 'VALID', 'CAUSAL'"),
        (
            lambda: LocallyConnected(4, 3, kernel_init=0.1),
            "LocallyConnected takes kernel_init as an initialiser, a function (key, shape, dtype) -> array, got 0.1. "
            "It draws the kernel of one position: kernel_init=fn.initializers.HeNormal()",
        ),
        (lambda: LocallyConnected(4, 3, use_bias=1), "LocallyConnected takes use_bias as True or False, got 1. Write"),
    ],
)
def test_it_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "x", "kind", "text"),
    [
        (
            LocallyConnected(4, 3),
            jnp.ones((8, 3)),
            ValueError,
            "LocallyConnected takes (batch, *spatial, channels) with",
        ),
        (LocallyConnected(4, 3), jnp.ones((1, 8, 3), jnp.int32), TypeError, "LocallyConnected takes floating numbers"),
        (
            LocallyConnected(4, 5, padding="VALID"),
            jnp.ones((1, 4, 3)),
            ValueError,
            "LocallyConnected takes inputs that hold its window, (5,) along the spatial axes with padding ((0, 0),)",
        ),
        (
            LocallyConnected(4, 9, padding="REFLECT"),
            jnp.ones((1, 4, 3)),
            ValueError,
            "LocallyConnected with padding='REFLECT' takes at least 5 positions along an axis that it pads by (4, 4)",
        ),
        (
            LocallyConnected(4, 3, padding="CAUSAL"),
            jnp.ones((1, 4, 4, 3)),
            ValueError,
            "LocallyConnected with padding='CAUSAL' takes (batch, time, channels), got float32[1,4,4,3].",
        ),
    ],
)
def test_it_refuses_inputs_before_arithmetic(net, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(x)


def test_it_refuses_an_input_of_another_size_than_the_sample():
    net = LocallyConnected(4, 3)
    params = net.init(KEY, jnp.ones((1, 5, 3)))
    with pytest.raises(ValueError, match=re.escape("kernel")):
        net.apply(params, jnp.ones((1, 6, 3)))
