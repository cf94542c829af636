from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import funcnets as fn
from funcnets.layers.patches import Patchify, PixelShuffle, PixelUnshuffle

CHANNELS_LAST = {"to_input": references.channels_last, "to_output": references.channels_last}


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@references.each("shaping", "pixel_shuffle")
def test_pixel_shuffle_is_that_of_torch(case):
    case.check(PixelShuffle(**case.options).apply, **CHANNELS_LAST)


@references.each("shaping", "pixel_unshuffle")
def test_pixel_unshuffle_is_that_of_torch(case):
    case.check(PixelUnshuffle(**case.options).apply, **CHANNELS_LAST)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pixel_shuffle_is_its_formula_and_unshuffle_its_inverse(axes):
    r, spatial = 2, (2, 3, 1)[:axes]
    x = numbers(2, *spatial, 3 * r**axes)
    y = PixelShuffle(r).apply({}, x)
    assert y.shape == (2, *(r * n for n in spatial), 3)
    for b, *at, c in np.ndindex(*y.shape):
        channel = c
        for place in at:
            channel = channel * r + place % r
        assert y[(b, *at, c)] == x[(b, *(place // r for place in at), channel)]
    np.testing.assert_array_equal(PixelUnshuffle(r).apply({}, y), x)
    assert PixelShuffle(r).apply({}, x[:0]).shape == (0, *y.shape[1:])


@pytest.mark.parametrize(
    ("size", "shape"), [(2, (2, 4, 3)), (3, (2, 3, 6, 2)), ((2, 3), (2, 4, 6, 2)), ((1, 2, 2), (1, 2, 4, 2, 3))]
)
def test_patchify_lays_patches_in_a_row(size, shape):
    x = numbers(*shape)
    y = np.asarray(Patchify(size).apply({}, x))
    axes = len(shape) - 2
    extents = size if isinstance(size, tuple) else (size,) * axes
    counts = [n // extent for n, extent in zip(shape[1:-1], extents, strict=True)]
    assert y.shape == (shape[0], np.prod(counts), np.prod(extents) * shape[-1])
    for n, place in enumerate(np.ndindex(*counts)):
        cut = tuple(slice(p * e, (p + 1) * e) for p, e in zip(place, extents, strict=True))
        np.testing.assert_array_equal(y[:, n], x[(slice(None), *cut)].reshape(shape[0], -1))


def test_a_dense_on_patches_is_a_convolution_with_strides():
    x = numbers(2, 4, 6, 2) / 50
    conv = fn.Conv(5, (2, 3), strides=(2, 3), padding="VALID")
    params = conv.init(jax.random.key(0), x)
    dense = {"dense": {**params, "kernel": params["kernel"].reshape(-1, 5)}}
    net = fn.Sequential(Patchify((2, 3)), ("dense", fn.Dense(5)))
    np.testing.assert_allclose(net.apply(dense, x), conv.apply(params, x).reshape(2, 4, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", [PixelShuffle(2), PixelUnshuffle(2), Patchify(2)])
def test_they_take_any_dtype(net):
    for dtype in (jnp.int8, jnp.bool_, jnp.complex64):
        assert net.apply({}, jnp.ones((2, 4, 6), dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: PixelShuffle(0),
            "PixelShuffle takes factor as a whole number, at least 1, got 0. It is by how much each spatial axis grows",
        ),
        (
            lambda: PixelUnshuffle((2, 2)),
            "PixelUnshuffle takes factor as a whole number, at least 1, got (2, 2). It is by how much each spatial "
            "axis shrinks",
        ),
        (lambda: Patchify(0), "Patchify takes size as a whole number, at least 1, or as one for each spatial axis, "),
    ],
)
def test_they_refuse_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "shape", "text"),
    [
        (
            PixelShuffle(2),
            (1, 3, 3, 6),
            "PixelShuffle with factor=2 takes a multiple of 4 channels, 2 for each of 2 spatial axes, got 6 in "
            "float32[1,3,3,6]. Make so many in the layer before: Conv(features * 4, ...)",
        ),
        (PixelShuffle(2), (1, 4), "PixelShuffle takes (batch, *spatial, channels) with one to three spatial axes, got"),
        (
            PixelUnshuffle(2),
            (1, 4, 3, 6),
            "PixelUnshuffle(2) takes spatial axes that are multiples of (2, 2), got float32[1,4,3,6]. Pad or crop them "
            "first: fn.Pad, fn.Crop",
        ),
        (PixelUnshuffle(2), (4, 4), "PixelUnshuffle takes (batch, *spatial, channels) with one to three spatial axes"),
        (Patchify((2, 3)), (1, 4, 4, 3), "Patchify((2, 3)) takes spatial axes that are multiples of (2, 3), got float"),
        (Patchify(2), (4, 4), "Patchify takes (batch, *spatial, channels) with one to three spatial axes, got"),
        (
            Patchify((2, 3)),
            (1, 4, 4),
            "Patchify with size=(2, 3) takes (batch, *spatial, channels) with 2 spatial axes, got float32[1,4,4]. Give",
        ),
    ],
)
def test_they_refuse_inputs_before_arithmetic(net, shape, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        net.plan(jax.ShapeDtypeStruct(shape, jnp.float32))
