from __future__ import annotations

import dataclasses
import pickle
import re
import sys

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.layers.shaping import Flatten, Identity, Rearrange, Reshape, Transpose


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 3, 4, 5), (0, 3, 2), (2, 0, 3)])
def test_flatten_puts_the_values_of_each_example_in_a_row(shape):
    x = numbers(*shape)
    y = Flatten().apply({}, x)
    assert y.shape == (shape[0], int(np.prod(shape[1:])))
    for b in range(shape[0]):
        assert list(np.asarray(y[b])) == list(x[b].flat)


@pytest.mark.parametrize("net", [Flatten(), Reshape(4, 6), Transpose(2, 1), Rearrange("b h w -> w h b")])
def test_they_take_any_dtype(net):
    for dtype in (jnp.int8, jnp.bool_, jnp.complex64):
        assert net.apply({}, jnp.ones((2, 4, 6), dtype)).dtype == dtype


def test_identity_gives_back_what_it_got():
    x, tree = jnp.ones((2, 3)), {"a": jnp.zeros(2), "b": (jnp.ones(1, jnp.int32), None)}
    assert Identity().apply({}, x) is x
    assert Identity().apply({}, tree) is not None
    assert jax.tree.structure(Identity().apply({}, tree)) == jax.tree.structure(tree)
    assert Identity().apply({}, x, x) == (x, x)
    assert not jax.make_jaxpr(lambda x: Identity().apply({}, x))(x).eqns


@pytest.mark.parametrize(
    ("sizes", "shape", "out"),
    [
        ((4, 3), (2, 12), (2, 4, 3)),
        ((2, -1), (3, 4, 5), (3, 2, 10)),
        ((-1,), (3, 4, 5), (3, 20)),
        ((), (3, 1, 1), (3,)),
        ((-1, 1), (2,), (2, 1, 1)),
        ((2, -1), (0, 4, 3), (0, 2, 6)),
        ((2, -1), (3, 0, 4), (3, 2, 0)),
    ],
)
def test_reshape_keeps_the_batch_and_the_order(sizes, shape, out):
    x = numbers(*shape)
    y = Reshape(*sizes).apply({}, x)
    assert y.shape == out
    for b in range(shape[0]):
        assert list(np.asarray(y[b]).flat) == list(x[b].flat)


def test_transpose_is_that_of_numpy_with_the_batch_in_its_place():
    x = numbers(2, 3, 4, 5)
    np.testing.assert_array_equal(Transpose(3, 1, 2).apply({}, x), x.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(Transpose(1).apply({}, x[..., 0, 0]), x[..., 0, 0])


PATTERNS = [
    ("b h w c -> b (h w) c", {}, (2, 3, 4, 5)),
    ("b (h p) (w q) c -> b (h w) (p q c)", {"p": 2, "q": 3}, (2, 4, 6, 3)),
    ("b ... c -> b c (...)", {}, (2, 3, 4, 5)),
    ("b 1 c -> c b", {}, (2, 1, 3)),
    ("b (h w) -> h b w 1", {"h": 2}, (0, 6)),
]


@pytest.mark.parametrize(("pattern", "sizes", "shape"), PATTERNS)
def test_rearrange_is_that_of_einops(pattern, sizes, shape):
    x, net = numbers(*shape), Rearrange(pattern, **sizes)
    expected = einops.rearrange(x, pattern, **sizes)
    np.testing.assert_array_equal(jax.jit(net.apply)({}, x), expected)
    assert net.plan(x).output.shape == expected.shape


@pytest.mark.parametrize(
    ("net", "again", "text"),
    [
        (
            Rearrange("b (h w) -> b h w", w=2, h=3),
            Rearrange("b (h w) -> b h w", sizes=(("h", 3),), w=2),
            "Rearrange('b (h w) -> b h w', h=3, w=2)",
        ),
        (Reshape(2, -1), Reshape(sizes=[2, -1]), "Reshape(2, -1)"),
        (Transpose(2, 1), Transpose(axes=(2, 1)), "Transpose(2, 1)"),
    ],
)
def test_they_are_values_whichever_way_they_are_built(net, again, text):
    assert net == again
    assert hash(net) == hash(again)
    assert net.apply is again.apply
    assert repr(net) == text
    assert eval(text, vars(fn)) == net
    assert pickle.loads(pickle.dumps(net)) == net
    assert dataclasses.replace(net) == net


def test_a_field_is_replaced_by_its_name():
    net = Rearrange("b (h w) -> b h w", h=3)
    assert dataclasses.replace(net, sizes=(("w", 2),)) == Rearrange("b (h w) -> b h w", w=2)
    assert dataclasses.replace(Reshape(2, 3), sizes=(6,)) == Reshape(6)


def test_without_einops_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "einops", None)
    text = (
        "Rearrange takes its patterns from the package einops, which is not installed here: pip install "
        "'funcnets[einops]', or write Reshape and Transpose"
    )
    with pytest.raises(ImportError, match=re.escape(text)):
        Rearrange("b h -> h b")


# What they refuse


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Reshape((4, 4)),
            "Reshape takes sizes as whole numbers, at least 1, with at most one -1 among them, got ((4, 4),). Write "
            "them one by one, without the batch: Reshape(4, 4, -1)",
        ),
        (lambda: Reshape(-1, -1), "with at most one -1 among them, got (-1, -1)."),
        (lambda: Reshape(4, 0), "Reshape takes sizes as whole numbers, at least 1, with at most one -1 among them, g"),
        (lambda: Reshape(2, -1.0), "got (2, -1.0)."),
        (
            lambda: Transpose(0, 2, 1),
            "Transpose takes axes as a reordering of 1 to n, the axes after the batch, got (0, 2, 1). Write them one "
            "by one; the batch, axis 0, stays: Transpose(2, 1) is x.transpose(0, 2, 1)",
        ),
        (lambda: Transpose(), "got ()."),
        (lambda: Transpose(1, 3), "got (1, 3)."),
        (lambda: Transpose((2, 1)), "got ((2, 1),)."),
        (
            lambda: Rearrange("b h w"),
            "Rearrange takes pattern as a text with one '->', got 'b h w'. Name x's axes and y's: Rearrange('b h w c "
            "-> b (h w) c')",
        ),
        (lambda: Rearrange("b -> b -> b"), "Rearrange takes pattern as a text with one '->', got 'b -> b -> b'."),
        (lambda: Rearrange(3), "Rearrange takes pattern as a text with one '->', got 3."),
        (
            lambda: Rearrange("b h -> b w"),
            "Rearrange takes pattern as a pattern of einops, got 'b h -> b w'. Identifiers only on one side of "
            "expression",
        ),
        (
            lambda: Rearrange("b (h w) -> b h w"),
            "Rearrange takes pattern as a pattern of einops, got 'b (h w) -> b h w'. Could not infer sizes for",
        ),
        (lambda: Rearrange("b h -> h b", w=2), "Axis w is not used in transform. Give sizes by name: h=4"),
        (
            lambda: Rearrange("b (h w) -> b h w", h=2.0),
            "Rearrange takes sizes as whole numbers, at least 1, got (('h', 2.0),). Give a number for an axis's name: "
            "Rearrange('b (h w) -> b h w', h=4)",
        ),
    ],
)
def test_they_refuse_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("net", "shape", "text"),
    [
        (Flatten(), (), "Flatten takes (batch, ...), got float32[]. Add the missing axis first: x[None]"),
        (Reshape(2), (), "Reshape takes (batch, ...), got float32[]. Add the missing axis first: x[None]"),
        (
            Reshape(4, 4),
            (2, 15),
            "Reshape(4, 4) takes 16 values an example, got 15 in float32[2,15]. Sizes leave the batch out; one of them "
            "may be -1, for what is left",
        ),
        (Reshape(4, -1), (2, 3, 5), "Reshape(4, -1) takes a multiple of 4 values an example, got 15 in float32[2,3,5"),
        (
            Transpose(2, 1),
            (2, 3, 4, 5),
            "Transpose(2, 1) takes (batch, and 2 more), got float32[2,3,4,5]. Name each axis after the batch once",
        ),
        (Transpose(1), (), "Transpose takes (batch, and 1 more), got float32[]. Add the missing axis"),
        (
            Rearrange("b (h w) -> b h w", h=2),
            (2, 5),
            "Rearrange('b (h w) -> b h w', h=2) takes (b (h w)), got float32[2,5]: Shape mismatch, can't divide axis "
            "of length 5 in chunks of 2. Change the pattern, or its sizes",
        ),
        (Rearrange("b h -> h b"), (2, 5, 1), "takes (b h), got float32[2,5,1]: Wrong shape: expected 2 dims."),
    ],
)
def test_they_refuse_inputs_before_arithmetic(net, shape, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        net.plan(jax.ShapeDtypeStruct(shape, jnp.float32))


def test_flatten_refuses_what_is_no_array():
    text = "Flatten takes one array (batch, ...), got (float32[2]). Take the array out of"
    with pytest.raises(TypeError, match=re.escape(text)):
        Flatten().plan((jnp.ones(2),))
