from __future__ import annotations

import dataclasses
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.initializers import HeNormal, LecunNormal, Normal
from funcnets.layers.einsum import Einsum
from funcnets.layers.linear import Dense

KEY = jax.random.key(0)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# The layer, the shape of x, the kernel's, the bias as it stands in y.
CASES = [
    (Einsum("...d,dhk->...hk", h=2, k=3), (2, 5, 4), (4, 2, 3), None),
    (Einsum("...hk,hkd->...d", d=3, bias_axes="d"), (2, 5, 4, 2), (4, 2, 3), (3,)),
    (Einsum("b...d,df->bf...", f=3, bias_axes="f"), (2, 5, 6, 4), (4, 3), (3, 1, 1)),
    (Einsum("bsd,sdf->bsf", f=2, bias_axes="sf"), (2, 3, 4), (3, 4, 2), (3, 2)),
    (Einsum("btc,st->bsc", s=5, bias_axes="s"), (2, 3, 4), (5, 3), (5, 1)),
    (Einsum("...d,d->...d"), (2, 4), (4,), None),
    (Einsum("ab,->ba", bias_axes="ba"), (2, 3), (), (3, 2)),
    (Einsum("...ab,b->...a"), (2, 3), (3,), None),
    (Einsum("abX,bXC->aC", C=2, bias_axes="C"), (2, 3, 4), (3, 4, 2), (2,)),
    (Einsum("...d,df->...f", f=2), (0, 4), (4, 2), None),
]


@pytest.mark.parametrize(("layer", "shape", "kernel", "bias"), CASES, ids=lambda held: str(held))
def test_output_and_gradients_are_those_of_numpy(layer, shape, kernel, bias):
    layer = dataclasses.replace(layer, bias_init=Normal(1.0))
    x = floats(*shape)
    params = layer.init(KEY, x)
    assert params["kernel"].shape == kernel
    assert ("bias" in params) == (bias is not None)
    y, pull = jax.vjp(layer.apply, params, jnp.asarray(x))
    dots = "YZ"[: x.ndim - len(re.findall("[a-zA-Z]", layer.equation.split(",")[0]))]
    named, weights, out = re.split(",|->", layer.equation.replace("...", dots))
    expected = np.einsum(f"{named},{weights}->{out}", x, np.asarray(params["kernel"]))
    if bias is not None:
        expected = expected + np.asarray(params["bias"]).reshape(bias)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    cotangent = floats(*y.shape, seed=1)
    grads, grad_x = pull(jnp.asarray(cotangent))
    wide = np.float64
    np.testing.assert_allclose(
        grads["kernel"],
        np.einsum(f"{named},{out}->{weights}", x.astype(wide), cotangent.astype(wide)),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        grad_x, np.einsum(f"{out},{weights}->{named}", cotangent, np.asarray(params["kernel"])), rtol=1e-5, atol=1e-5
    )
    if bias is not None:
        full = (1,) * (y.ndim - len(bias)) + bias
        others = tuple(i for i, n in enumerate(full) if n == 1)
        np.testing.assert_allclose(grads["bias"], cotangent.sum(others), rtol=1e-5, atol=1e-5)


def test_it_starts_out_as_the_dense_layer_that_it_is():
    x = floats(2, 5, 4)
    for einsum, dense in (
        (Einsum("...d,dhk->...hk", h=2, k=3, bias_axes="hk"), Dense((2, 3))),
        (Einsum("bst,stf->bf", f=3, bias_axes="f"), Dense(3, axis=(1, 2))),
    ):
        ours, theirs = einsum.init(KEY, x), dense.init(KEY, x)
        assert all((ours[name] == theirs[name]).all() for name in ("kernel", "bias"))
        np.testing.assert_allclose(einsum.apply(ours, x), dense.apply(theirs, x), rtol=1e-5, atol=1e-6)


def test_an_initialiser_takes_its_fans_from_the_letters_unless_it_was_told():
    def initializer(layer):
        return layer.plan(floats(2, 3, 4)).declared["params"]["kernel"].what.initializer

    experts = Einsum("ebd,efd->ebf", f=5)
    assert initializer(experts) == LecunNormal(in_axis=(2,), out_axis=(1,), batch_axis=(0,))
    own = HeNormal(in_axis=0, out_axis=1)
    assert initializer(dataclasses.replace(experts, kernel_init=own)) == own
    wide = Einsum("ebd,efd->ebf", f=200).init(KEY, jax.ShapeDtypeStruct((3, 1, 100), jnp.float32))["kernel"]
    np.testing.assert_allclose(wide.var((1, 2)), 1 / 100, rtol=0.05)


def test_it_is_a_value_and_prints_as_the_code_that_builds_it():
    layer = Einsum("...d, dhk -> ...hk", k=3, h=2)
    assert layer == Einsum("...d,dhk->...hk", h=2, k=3)
    assert layer != Einsum("...d,dhk->...hk", h=3, k=2)
    assert layer == Einsum("...d,dhk->...hk", sizes=[("h", 2)], k=np.int64(3))
    assert repr(layer) == "Einsum('...d,dhk->...hk', h=2, k=3)"
    full = Einsum("...d,df->...f", f=3, bias_axes="f", kernel_init=HeNormal())
    assert repr(full) == "Einsum('...d,df->...f', f=3, bias_axes='f', kernel_init=HeNormal())"
    assert pickle.loads(pickle.dumps(full)) == full
    assert dataclasses.replace(full, sizes=(("f", 4),)).sizes == (("f", 4),)
    assert dataclasses.replace(full, bias_axes="") == Einsum("...d,df->...f", f=3, kernel_init=HeNormal())


FORM = "The kernel comes second, a batch of any rank is ...: Einsum('...d,dhk->...hk', h=8, k=64)"


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Einsum("ab->ba"), f"Einsum takes equation as 'x,kernel->y', got 'ab->ba'. {FORM}"),
        (lambda: Einsum(64), f"Einsum takes equation as 'x,kernel->y', got 64. {FORM}"),
        (lambda: Einsum("...a,...ab->...b"), f"Einsum takes equation as 'x,kernel->y', got '...a,...ab->...b'. {FORM}"),
        (lambda: Einsum("a,b,c->d"), f"Einsum takes equation as 'x,kernel->y', got 'a,b,c->d'. {FORM}"),
        (
            lambda: Einsum("aa,ab->b"),
            f"'x,kernel->y' with different letters for the axes of an operand, got 'aa,ab->b'. {FORM}",
        ),
        (
            lambda: Einsum("...a,ab->b"),
            f"'x,kernel->y' with ... in both x and y, or in neither, got '...a,ab->b'. {FORM}",
        ),
        (
            lambda: Einsum("a,ab->bc"),
            f"'x,kernel->y' with every letter of y in x or the kernel, got 'a,ab->bc'. {FORM}",
        ),
        (
            lambda: Einsum("a,abc->b"),
            f"'x,kernel->y' with every letter of the kernel in x or y, got 'a,abc->b'. {FORM}",
        ),
        (
            lambda: Einsum("...d,dhk->...hk", h=8, d=3),
            "Einsum takes sizes, at least 1, of those letters of the kernel that x has not, here h, k, got d=3, h=8. "
            "Write Einsum('...d,dhk->...hk', h=..., k=...); the others come from the sample",
        ),
        (lambda: Einsum("a,ab->b"), "that x has not, here b, got none. Write Einsum('a,ab->b', b=...); the"),
        (lambda: Einsum("a,ab->b", b=0), "that x has not, here b, got b=0. Write Einsum('a,ab->b', b=...); the"),
        (lambda: Einsum("a,a->a", units=3), "that x has not, here none, got units=3. Write Einsum('a,a->a'); the"),
        (
            lambda: Einsum("...a,abc->...bc", b=2, c=3, bias_axes="cb"),
            "Einsum takes bias_axes as letters of y, in y's order, got 'cb'. Choose among 'bc'; bias_axes='' has no "
            "bias",
        ),
        (lambda: Einsum("a,ab->b", b=2, bias_axes="a"), "bias_axes as letters of y, in y's order, got 'a'. Choose"),
        (lambda: Einsum("a,ab->b", b=2, bias_axes=True), "bias_axes as letters of y, in y's order, got True. Choose"),
    ],
)
def test_it_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("equation", "x", "text"),
    [
        ("...td,df->...tf", jnp.ones(3), "Einsum takes (..., t, d), got float32[3]. Add the missing axis first"),
        ("btd,df->btf", jnp.ones((2, 3)), "Einsum takes (b, t, d), got float32[2,3]. Add the missing axis first"),
        ("bd,df->bf", jnp.ones((2, 3, 4)), "Einsum takes (b, d), got float32[2,3,4]. Merge the leading axes first"),
        ("bd,df->bf", jnp.ones((2, 3), jnp.int32), "Einsum takes floating numbers (b, d), got int32[2,3]. Convert"),
    ],
)
def test_it_refuses_inputs_before_arithmetic(equation, x, text):
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        Einsum(equation, f=2).plan(x)
