from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import funcnets as fn
from funcnets.initializers import Ones
from funcnets.layers.convolution import Conv
from funcnets.layers.transposed_convolution import ConvTranspose

KEY = jax.random.key(0)


def floats(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# The transpose: <conv(a), b> = <a, conv_transpose(b)>


def swapped(kernel, groups):
    """(*taps, in // groups, features) as (*taps, features // groups, in)."""
    *taps, inside, features = kernel.shape
    split = kernel.reshape(*taps, inside, groups, features // groups)
    return np.moveaxis(split, -1, -3).swapaxes(-1, -2).reshape(*taps, features // groups, groups * inside)


LAWS = [
    # fields, spatial axes of b, output_padding and the spatial axes of a
    ({"padding": "SAME"}, (4,), 0, (4,)),
    ({"padding": "SAME", "strides": 2}, (4,), 0, (8,)),
    ({"padding": "SAME", "strides": 4}, (3,), 0, (12,)),  # windows do not meet
    ({"padding": "SAME", "strides": 2, "dilation": 2, "groups": 2}, (4,), 0, (8,)),
    ({"padding": "VALID", "strides": 2}, (3,), 0, (7,)),
    ({"padding": "VALID", "strides": 2}, (3,), 1, (8,)),
    ({"padding": "VALID", "strides": 5}, (3,), 4, (17,)),
    ({"padding": "CAUSAL"}, (5,), 0, (5,)),
    ({"padding": "CAUSAL", "strides": 3, "dilation": 2}, (3,), 0, (9,)),
    ({"padding": "CIRCULAR"}, (5,), 0, (5,)),
    ({"padding": "CIRCULAR", "strides": 2, "dilation": 2, "groups": 2}, (4,), 0, (8,)),
    ({"padding": "REFLECT"}, (5,), 0, (5,)),
    ({"padding": "REFLECT", "strides": 3, "dilation": 2}, (3,), 0, (9,)),
    ({"padding": 1, "strides": 2}, (4,), 1, (8,)),
    ({"padding": ((0, 2),)}, (4,), 0, (4,)),
    ({"padding": ((4, 3),), "strides": 2, "dilation": 2}, (6,), 0, (8,)),  # further than the window reaches
    ({"padding": "SAME", "strides": (1, 2), "groups": 2}, (3, 2), 0, (3, 4)),
    ({"padding": "CIRCULAR", "strides": (2, 1)}, (2, 5), 0, (4, 5)),
    ({"padding": "REFLECT", "dilation": (1, 2)}, (3, 5), 0, (3, 5)),
    ({"padding": (0, (1, 0)), "strides": 2}, (2, 3), (1, 0), (6, 6)),
    ({"padding": "SAME", "strides": 2}, (2, 1, 2), 0, (4, 2, 4)),
    ({"padding": "CIRCULAR"}, (3, 4, 3), 0, (3, 4, 3)),
]


@pytest.mark.parametrize(("fields", "outer", "more", "inner"), LAWS, ids=str)
def test_it_is_the_transpose_of_the_convolution(fields, outer, more, inner):
    conv = Conv(4, 3, use_bias=False, **fields)
    transpose = ConvTranspose(6, 3, use_bias=False, output_padding=more, **fields)
    a, b, kernel = floats(2, *inner, 6), floats(2, *outer, 4, seed=2), floats(*(3,) * len(inner), 6 // conv.groups, 4)

    @jax.jit
    def both(kernel, swap, a, b):
        return conv.apply({"kernel": kernel}, a), transpose.apply({"kernel": swap}, b)

    forth, back = both(kernel, swapped(kernel, conv.groups), a, b)
    assert forth.shape == b.shape
    assert back.shape == a.shape
    (wanted,) = jax.linear_transpose(lambda a: conv.apply({"kernel": kernel}, a), jnp.asarray(a))(jnp.asarray(b))
    np.testing.assert_allclose(np.vdot(forth, b), np.vdot(a, back), rtol=1e-4)
    np.testing.assert_allclose(back, wanted, rtol=1e-5, atol=1e-5)


# PyTorch's


def from_torch(params, groups):
    """(in, features // groups, *taps) as (*taps, in // groups, features)."""
    parts = [np.moveaxis(part, (0, 1), (-2, -1)) for part in np.split(params["weight"], groups)]
    return {"kernel": np.concatenate(parts, axis=-1), "bias": params["bias"]}


@references.each("convolution", "transpose")
def test_it_is_that_of_torch(case):
    case.check(
        ConvTranspose(**case.options).apply,
        lambda params: from_torch(params, case.options["groups"]),
        to_input=references.channels_last,
        to_output=references.channels_last,
    )


# The rest


def swap(kernel):
    return jnp.swapaxes(kernel, -1, -2)


def test_a_decoder_tied_to_its_encoder():
    net = fn.Sequential(("encoder", Conv(4, 3, strides=2)), jnp.tanh, ("decoder", ConvTranspose(2, 3, strides=2)))
    tied = fn.tie(net, "decoder/kernel", to="encoder/kernel", via=swap)
    x = floats(2, 8, 6, 2)
    params = tied.init(KEY, x)
    assert jax.tree.map(jnp.shape, params) == {
        "encoder": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "decoder": {"bias": (2,)},
    }
    untied = {**params, "decoder": {**params["decoder"], "kernel": swap(params["encoder"]["kernel"])}}
    np.testing.assert_array_equal(tied.apply(params, x), net.apply(untied, x))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [1, 2, 3])
def test_lengths_are_those_stated(taps, stride):
    x = jax.ShapeDtypeStruct((1, 5, 2), jnp.float32)

    def length(padding, **fields):
        return ConvTranspose(2, taps, strides=stride, dilation=2, padding=padding, **fields).plan(x).output.shape[1]

    extent = 2 * (taps - 1) + 1
    assert {length(name) for name in ("SAME", "CAUSAL", "CIRCULAR", "REFLECT")} == {5 * stride}
    assert length("VALID") == 4 * stride + extent
    assert length("VALID", output_padding=1) == 4 * stride + extent + 1
    assert length(1) == 4 * stride + extent - 2
    assert length(((1, 0),), output_padding=1) == 4 * stride + extent


def test_causal_is_a_transpose_too_and_the_pair_that_it_names_looks_back():
    x = jnp.ones((1, 4, 1))

    def sees(net):
        params = net.init(KEY, x)
        return jax.jacobian(lambda x: net.apply(params, x)[0, :, 0])(x)[:, 0, :, 0] != 0  # (outputs, inputs)

    i, o = np.indices((8, 4))
    options = {"strides": 2, "use_bias": False, "kernel_init": Ones()}
    assert (sees(ConvTranspose(1, 4, padding="CAUSAL", **options)) == ((o * 2 >= i) & (o * 2 < i + 4))).all()
    assert (sees(ConvTranspose(1, 4, padding=((0, 2),), **options)) == ((o * 2 <= i) & (o * 2 > i - 4))).all()


def test_it_declares_its_arrays_and_draws_them_from_the_initialisers():
    x = jax.ShapeDtypeStruct((2, 8, 8, 6), jnp.float32)
    plan = ConvTranspose(4, (3, 5), groups=2).plan(x)
    assert {name: one.shape for name, one in plan.params.items()} == {"kernel": (3, 5, 3, 4), "bias": (4,)}
    assert list(ConvTranspose(4, 3, use_bias=False).init(KEY, x)) == ["kernel"]
    params = ConvTranspose(4, 3, kernel_init=Ones(), bias_init=Ones()).init(KEY, x)
    assert (params["kernel"] == 1).all() and (params["bias"] == 1).all()


def test_initial_values_have_variance_one_over_fan_in():
    x = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.float32)
    kernel = ConvTranspose(512, 3, groups=2).init(KEY, x)["kernel"]
    np.testing.assert_allclose(np.asarray(kernel).var() * (3 * 3 * 4), 1, rtol=0.05)


def test_an_empty_batch_is_a_batch_and_bfloat16_stays():
    for padding in ("SAME", "CIRCULAR", "REFLECT"):
        net = ConvTranspose(4, 3, strides=2, padding=padding)
        params = net.init(KEY, jnp.ones((2, 5, 3)))
        assert net.apply(params, jnp.ones((0, 5, 3))).shape == (0, 10, 4)
        assert net.apply(params, jnp.ones((2, 5, 3), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: ConvTranspose(0, 3), "ConvTranspose takes features as a whole number, at least 1, got 0. It is the"),
        (lambda: ConvTranspose(4, 0), "ConvTranspose takes kernel_size as a whole number, at least 1, or as one for"),
        (lambda: ConvTranspose(4, 3, strides=0), "ConvTranspose takes strides as a whole number, at least 1,"),
        (lambda: ConvTranspose(4, 3, dilation=0), "ConvTranspose takes dilation as a whole number, at least 1,"),
        (lambda: ConvTranspose(4, 3, padding="same"), "ConvTranspose takes padding as 'SAME', 'VALID', 'CAUSAL',"),
        (lambda: ConvTranspose(4, 3, use_bias=1), "ConvTranspose takes use_bias as True or False, got 1. Write use_"),
        (
            lambda: ConvTranspose(3, 3, groups=2),
            "ConvTranspose takes features that its groups divide, got features=3 and groups=2. Take a multiple of 2",
        ),
        (lambda: ConvTranspose(3, 3, groups=0), "ConvTranspose takes groups as a whole number, at least 1, got 0."),
        (
            lambda: ConvTranspose(4, 3, padding=1, output_padding=-1),
            "ConvTranspose takes output_padding as a whole number, at least 0, or as one for each spatial axis, got "
            "-1. Write output_padding=1 for one position more at the end of every axis",
        ),
        (
            lambda: ConvTranspose(4, 3, strides=2, output_padding=1),
            "ConvTranspose takes output_padding 0 with padding='SAME', which has n · stride outputs, got 1. Give "
            "padding as numbers to choose another length",
        ),
        (
            lambda: ConvTranspose(4, 3, strides=2, padding=1, output_padding=2),
            "ConvTranspose takes output_padding less than strides or dilation, 2 and 1, got 2. More positions at the "
            "end are jnp.pad's",
        ),
        (
            lambda: ConvTranspose(4, 3, strides=(1, 2), padding=1, output_padding=1),
            "ConvTranspose takes output_padding less than strides or dilation, (1, 2) and 1, got 1.",
        ),
        (
            lambda: ConvTranspose(4, (3, 3), strides=2, padding=1, output_padding=(1,)),
            "ConvTranspose takes tuples with one entry for each spatial axis, got kernel_size=(3, 3), output_padding="
            "(1,). Make them equally long, or give a whole number for every axis",
        ),
    ],
)
def test_it_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "shape", "text"),
    [
        (ConvTranspose(4, 3), (8, 3), "ConvTranspose takes (batch, *spatial, channels) with one to three spatial axes"),
        (ConvTranspose(4, 3), (1, 2, 3, 4, 5, 6), "ConvTranspose takes (batch, *spatial, channels) with one to three"),
        (
            ConvTranspose(4, 3, strides=2, padding=1, output_padding=(1, 0)),
            (2, 8, 3),
            "ConvTranspose with output_padding=(1, 0) takes (batch, *spatial, channels) with 2 spatial axes, got",
        ),
        (
            ConvTranspose(4, 3, groups=4),
            (2, 8, 3),
            "ConvTranspose with groups=4 takes channels that its groups divide, got 3 channels in float32[2,8,3]. Take",
        ),
        (
            ConvTranspose(4, 3, padding="CAUSAL"),
            (2, 8, 8, 3),
            "ConvTranspose with padding='CAUSAL' takes (batch, time, channels), got float32[2,8,8,3]. Over more axes",
        ),
        (
            ConvTranspose(4, 3, padding=2),
            (2, 2, 3),
            "ConvTranspose takes at least one position along each axis, and padding that leaves as many of its output, "
            "got float32[2,2,3] and padding ((2, 2),), which leaves (0,). Pad less",
        ),
        (ConvTranspose(4, 3, padding="VALID"), (2, 0, 3), "ConvTranspose takes at least one position along each axis"),
        (
            ConvTranspose(4, 5, padding="REFLECT"),
            (2, 2, 3),
            "ConvTranspose with padding='REFLECT' takes inputs long enough for the output to be padded by ((2, 2),), "
            "got float32[2,2,3], so (2,) outputs. Make the kernel smaller, or pad with zeros: padding='SAME'",
        ),
        (ConvTranspose(4, 7, padding="CIRCULAR"), (2, 2, 3), "ConvTranspose with padding='CIRCULAR' takes inputs long"),
    ],
)
def test_it_refuses_inputs_before_arithmetic(net, shape, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        net.plan(jnp.ones(shape))


def test_it_refuses_whole_numbers():
    with pytest.raises(TypeError, match=re.escape("ConvTranspose takes floating numbers (batch, *spatial, channels)")):
        ConvTranspose(4, 3).plan(jnp.ones((1, 8, 1), jnp.uint8))
