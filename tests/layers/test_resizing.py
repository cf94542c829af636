from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.layers.resizing import Crop, Pad, Upsample

CHANNELS_LAST = {"to_input": references.channels_last, "to_output": references.channels_last}


def floats(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# Pad and Crop


@references.each("shaping", "pad")
def test_pad_is_that_of_torch(case):
    case.check(Pad(**case.options).apply, **CHANNELS_LAST)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric", "circular"])
@pytest.mark.parametrize("width", [0, 2, (1, (0, 2)), ((2, 1), (0, 0))])
def test_pad_is_that_of_numpy_on_spatial_axes(mode, width):
    x = floats(2, 3, 4, 2)
    entries = width if isinstance(width, tuple) else (width, width)
    pairs = [entry if isinstance(entry, tuple) else (entry, entry) for entry in entries]
    expected = np.pad(x, ((0, 0), *pairs, (0, 0)), "wrap" if mode == "circular" else mode)
    y = Pad(width, mode).apply({}, x)
    np.testing.assert_array_equal(y, expected)
    if mode == "constant":
        np.testing.assert_array_equal(Crop(width).apply({}, y), x)


def test_crop_takes_positions_off():
    x = floats(2, 5, 4, 3)
    np.testing.assert_array_equal(Crop(1).apply({}, x), x[:, 1:-1, 1:-1])
    np.testing.assert_array_equal(Crop(((0, 3), 1)).apply({}, x), x[:, :2, 1:-1])
    np.testing.assert_array_equal(Crop(0).apply({}, x), x)


def test_values_are_kept_in_the_dtype_of_x():
    ones = jnp.ones((1, 2, 1), jnp.int32)
    assert Pad(1).apply({}, ones)[0, :, 0].tolist() == [0, 1, 1, 0]
    assert Pad(1, value=-7).apply({}, ones)[0, :, 0].tolist() == [-7, 1, 1, -7]
    assert Pad(1, value=True + 0).apply({}, ones.astype(bool)).all()
    assert Pad(1, value=-np.inf).apply({}, ones.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert Pad(1, value=0.1).apply({}, ones.astype(jnp.bfloat16)).dtype == jnp.bfloat16


# Upsample


@references.each("shaping", "upsample")
def test_upsample_is_that_of_torch(case):
    case.check(Upsample(**case.options).apply, **CHANNELS_LAST)


def test_upsampling_by_nearest_repeats_positions_whatever_the_dtype():
    x = np.arange(12, dtype=np.int32).reshape(1, 3, 4, 1)
    y = Upsample((2, 3)).apply({}, x)
    assert y.dtype == jnp.int32
    np.testing.assert_array_equal(y, x.repeat(2, 1).repeat(3, 2))
    np.testing.assert_array_equal(Upsample(size=(6, 12)).apply({}, x), y)
    np.testing.assert_array_equal(Upsample(1.0).apply({}, x), x)
    assert Upsample(2).apply({}, jnp.ones((0, 3, 1))).shape == (0, 6, 1)


@pytest.mark.parametrize(("n", "size"), [(3, 49), (49, 3), (6, 10), (10, 6), (29, 28)])
def test_places_are_exact_where_floats_would_round(n, size):
    x = np.arange(n, dtype=np.float32).reshape(1, n, 1)
    assert Upsample(size=size).apply({}, x).ravel().tolist() == [o * n // size for o in range(size)]


@pytest.mark.parametrize("method", ["linear", "cubic"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_interpolation_keeps_constants_and_linear_functions(method, align_corners):
    net = Upsample(2.5, method=method, align_corners=align_corners)
    np.testing.assert_allclose(net.apply({}, jnp.full((1, 5, 4, 1), 3.0)), np.full((1, 12, 10, 1), 3.0), rtol=1e-6)
    line = jnp.arange(12.0).reshape(1, 12, 1)
    y = net.apply({}, line)[0, :, 0]
    o = np.arange(30)
    places = o * 11 / 29 if align_corners else (o + 0.5) / 2.5 - 0.5
    inner = (places >= 2) & (places <= 9)
    np.testing.assert_allclose(y[inner], places[inner], rtol=2e-2 if method == "cubic" else 1e-5)


def test_bfloat16_is_interpolated_in_float32():
    x = jnp.asarray(1000 + 10 * floats(1, 6, 5, 2), jnp.bfloat16)
    for method in ("linear", "cubic"):
        net = Upsample(2, method=method)
        y, wide = net.apply({}, x), net.apply({}, x.astype(jnp.float32))
        assert y.dtype == jnp.bfloat16
        np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))


def test_upsampling_by_nearest_has_neither_gather_nor_scatter_where_scales_are_whole():
    net = Upsample(2)
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda x: (net.apply({}, x) ** 2).sum()))(jnp.ones((1, 3, 2, 1))))
    assert "gather" not in jaxpr
    assert "scatter" not in jaxpr


# What they refuse


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Pad(-1),
            "Pad takes width as a whole number, at least 0, or as a number or (low, high) pair for each spatial axis, "
            "got -1. Write width=1 for the same at every end, width=((1, 0),) for one axis with two different ends",
        ),
        (lambda: Pad(((1, 2, 3),)), "Pad takes width as a whole number, at least 0, or as a number or (low, high) "),
        (lambda: Pad(()), "for each spatial axis, got ()."),
        (lambda: Pad(1.0), "for each spatial axis, got 1.0."),
        (lambda: Crop((1, 1, 1, 1)), "Crop takes width as a whole number, at least 0, or as a number or (low, high)"),
        (
            lambda: Pad(1, "zeros"),
            "Pad takes mode as 'constant', 'edge', 'reflect', 'symmetric', 'circular', got 'zeros'. Zeros are what "
            "mode='constant' gives when no value is given",
        ),
        (
            lambda: Pad(1, "edge", 2.0),
            "Pad takes value as a number, with mode='constant', got 2.0. Leave it out with mode='edge'",
        ),
        (lambda: Pad(1, value=None), "Pad takes value as a number, with mode='constant', got None."),
        (
            lambda: Upsample(),
            "Upsample takes scale or size, got scale=None and size=None. Write Upsample(2), or Upsample(size=(64, 64))",
        ),
        (lambda: Upsample(2, size=4), "Upsample takes scale or size, got scale=2 and size=4."),
        (
            lambda: Upsample(0),
            "Upsample takes scale as a number above 0, or one for each spatial axis, got 0. Write Upsample(2) for "
            "twice",
        ),
        (lambda: Upsample((2, "x")), "or one for each spatial axis, got (2, 'x')."),
        (lambda: Upsample(float("inf")), "or one for each spatial axis, got inf."),
        (lambda: Upsample(size=0), "Upsample takes size as a whole number, at least 1, or as one for each spatial"),
        (
            lambda: Upsample(2, "bilinear"),
            "Upsample takes method as 'nearest', 'linear' or 'cubic', got 'bilinear'. bilinear and trilinear are "
            "'linear' along two and three axes, bicubic is 'cubic'",
        ),
        (lambda: Upsample(2, "linear", 1), "Upsample takes align_corners as True or False, got 1. Write align_corners"),
        (
            lambda: Upsample(2, align_corners=True),
            "Upsample takes align_corners=True with method='linear' or 'cubic', got method='nearest'. Leave it out",
        ),
    ],
)
def test_they_refuse_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "x", "kind", "text"),
    [
        (Pad(1), jnp.ones((2, 3)), ValueError, "Pad takes (batch, *spatial, channels) with one to three spatial axes"),
        (
            Pad((1, 1)),
            jnp.ones((2, 3, 4)),
            ValueError,
            "Pad with width=(1, 1) takes (batch, *spatial, channels) with 2 spatial axes, got float32[2,3,4]. Give",
        ),
        (
            Pad(3, "reflect"),
            jnp.ones((2, 3, 4)),
            ValueError,
            "Pad with mode='reflect' takes at least 4 positions along an axis that it pads by (3, 3), got "
            "float32[2,3,4]. Pad less, or with mode='edge' or 'constant'",
        ),
        (Pad(4, "circular"), jnp.ones((2, 3, 4)), ValueError, "Pad with mode='circular' takes at least 4 positions"),
        (Pad(4, "symmetric"), jnp.ones((2, 3, 4)), ValueError, "Pad with mode='symmetric' takes at least 4 positions"),
        (Pad(1, "edge"), jnp.ones((2, 0, 4)), ValueError, "Pad with mode='edge' takes at least 1 positions along an"),
        (
            Pad(1, value=0.5),
            jnp.ones((2, 3, 4), jnp.int32),
            ValueError,
            "Pad(1, value=0.5) takes inputs whose dtype has its value, got int32[2,3,4]. Convert them first, "
            "x.astype(jnp.float32), or take another value",
        ),
        (Pad(1, value=300), jnp.ones((2, 3, 4), jnp.int8), ValueError, "takes inputs whose dtype has its value, g"),
        (Pad(1, value=2.0), jnp.ones((2, 3, 4), bool), ValueError, "takes inputs whose dtype has its value, got bool"),
        (
            Pad(1, value=1e9),
            jnp.ones((2, 3, 4), jnp.float16),
            ValueError,
            "takes inputs whose dtype has its value, got",
        ),
        (Pad(1, value=np.inf), jnp.ones((2, 3, 4), jnp.int32), ValueError, "takes inputs whose dtype has its value"),
        (
            Crop(((1, 2),)),
            jnp.ones((2, 3, 4)),
            ValueError,
            "Crop(((1, 2),)) takes more positions than it takes off, ((1, 2),) along the spatial axes, got "
            "float32[2,3,4]. Crop less",
        ),
        (Crop(1), jnp.ones((2, 3)), ValueError, "Crop takes (batch, *spatial, channels) with one to three spatial ax"),
        (
            Upsample((2, 2)),
            jnp.ones((2, 3, 4)),
            ValueError,
            "Upsample with scale=(2, 2) takes (batch, *spatial, channels) with 2 spatial axes, got float32[2,3,4]. Gi",
        ),
        (
            Upsample(0.25),
            jnp.ones((2, 3, 8, 4)),
            ValueError,
            "Upsample(scale=0.25) takes inputs of which something is left, got float32[2,3,8,4], which would have the "
            "spatial sizes (0, 2). Scale by more, or give a size",
        ),
        (Upsample(size=2), jnp.ones((2, 0, 4)), ValueError, "takes inputs of which something is left, got float32[2,"),
        (Upsample(2), jnp.ones((2, 3)), ValueError, "Upsample takes (batch, *spatial, channels) with one to three sp"),
        (
            Upsample(2, "linear"),
            jnp.ones((2, 3, 4), jnp.int32),
            TypeError,
            "Upsample takes floating numbers (batch, *spatial, channels) with one to three spatial axes, got int32",
        ),
    ],
)
def test_they_refuse_inputs_before_arithmetic(net, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(x)
