from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.combinators import Sequential
from funcnets.initializers import Normal
from funcnets.layers.activation import GLU, GatedMLP, Maxout, PReLU
from funcnets.layers.linear import Dense

KEY = jax.random.key(0)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# PReLU


@references.each("activation", "prelu")
def test_prelu_is_that_of_torch(case):
    layer = PReLU(**case.options)
    shape = layer.plan(case.inputs[0]).params["slope"].shape
    case.check(layer.apply, lambda p: {"slope": p["weight"].reshape(shape)})


def test_prelu_has_a_slope_along_each_named_axis():
    x = floats(2, 3, 4)
    slope = floats(2, 4, seed=1)
    layer = PReLU((-1, 0))
    assert layer.plan(x).params["slope"].shape == (2, 4)
    y = layer.apply({"slope": slope}, x)
    np.testing.assert_allclose(y, np.where(x > 0, x, x * slope[:, None]), rtol=1e-6)
    assert (PReLU(-1).init(KEY, x)["slope"] == np.full(4, 0.25, np.float32)).all()
    assert list(Sequential(Dense(3), PReLU()).init(KEY, x)) == ["dense_0", "prelu_0"]


def test_prelu_refuses():
    text = (
        "PReLU takes axis as an axis, or a tuple of different axes, got 0.25. Sizes come from the sample: PReLU(-1) "
        "has a slope for each channel, PReLU() one"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        PReLU(0.25)
    with pytest.raises(ValueError, match=re.escape("PReLU with axis=1 takes inputs that have these axes, each once")):
        PReLU(1).plan(jnp.ones(3))
    with pytest.raises(TypeError, match=re.escape("PReLU takes floating numbers (...), got int32[3]. Convert")):
        PReLU().plan(jnp.ones(3, jnp.int32))


# GLU


@references.each("activation", "glu")
def test_glu_is_that_of_torch(case):
    case.check(GLU(**case.options).apply)


def test_glu_is_that_of_jax_and_takes_other_gates():
    x = jnp.asarray(floats(2, 4, 3))
    assert (GLU(axis=-2).apply({}, x) == jax.nn.glu(x, -2)).all()
    np.testing.assert_allclose(GLU(jnp.sin, 1).apply({}, x), x[:, :2] * np.sin(x[:, 2:]), rtol=1e-6)
    assert GLU().apply({}, jnp.ones((2, 0))).shape == (2, 0)


FUNCTION = (
    "takes {name} as a function of an array, without parameters, got {got}. Pass the function itself, "
    "{name}=jax.nn.gelu; around a layer write a composite of your own"
)


@pytest.mark.parametrize("got", ["relu", None, 3, PReLU(), Normal(1.0)])
def test_activations_are_functions(got):
    for build in (lambda: GLU(got), lambda: GatedMLP(4, activation=got)):
        with pytest.raises(ValueError, match=re.escape(FUNCTION.format(name="activation", got=repr(got)))):
            build()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: GLU(axis=(0, 1)), "GLU takes axis as one axis, got (0, 1). It is the one that is cut in half"),
        (
            lambda: GLU(axis=True),
            "GLU takes axis as one axis, got True. It is the one that is cut in half: GLU(axis=-1)",
        ),
        (
            lambda: GLU().plan(jnp.ones((2, 3))),
            "GLU with axis=-1 takes inputs of an even size along it, got float32[2,3]. Make the layer before it twice "
            "as wide as the output is to be",
        ),
        (lambda: GLU(axis=1).plan(jnp.ones(2)), "GLU with axis=1 takes inputs that have these axes, each once, got"),
        (lambda: GLU().plan(jnp.ones(2, jnp.int32)), "GLU takes floating numbers (...), got int32[2]. Convert them"),
    ],
)
def test_glu_refuses(build, text):
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        build()


# Maxout


@pytest.mark.parametrize("use_bias", [True, False])
def test_maxout_is_the_largest_of_its_pieces_and_only_that_learns(use_bias):
    x = floats(2, 3)
    layer = Maxout(4, 3, use_bias, bias_init=Normal(1.0))
    params = layer.init(KEY, x)
    assert params["kernel"].shape == (3, 3, 4)
    y, pull = jax.vjp(layer.apply, params, jnp.asarray(x))
    weight = floats(2, 4, seed=1)
    grads, grad_x = pull(jnp.asarray(weight))

    expected, by_kernel, by_x, by_bias = np.zeros((2, 4)), np.zeros((3, 3, 4)), np.zeros((2, 3)), np.zeros((3, 4))
    kernel = np.asarray(params["kernel"])
    bias = np.asarray(params["bias"]) if use_bias else np.zeros((3, 4))
    for b, f in np.ndindex(2, 4):
        pieces = [x[b] @ kernel[:, p, f] + bias[p, f] for p in range(3)]
        best = int(np.argmax(pieces))
        expected[b, f] = pieces[best]
        by_kernel[:, best, f] += weight[b, f] * x[b]
        by_bias[best, f] += weight[b, f]
        by_x[b] += weight[b, f] * kernel[:, best, f]
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    np.testing.assert_allclose(grads["kernel"], by_kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad_x, by_x, rtol=1e-5, atol=1e-6)
    if use_bias:
        np.testing.assert_allclose(grads["bias"], by_bias, rtol=1e-5, atol=1e-6)
    else:
        assert list(params) == ["kernel"]


def test_maxout_with_one_piece_is_dense_from_the_start():
    x = floats(2, 3)
    ours, theirs = Maxout(4, 1).init(KEY, x), Dense(4).init(KEY, x)
    assert (ours["kernel"][:, 0] == theirs["kernel"]).all()
    np.testing.assert_allclose(Maxout(4, 1).apply(ours, x), Dense(4).apply(theirs, x), rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Maxout(0),
            "Maxout takes features as a whole number, at least 1, got 0. It is the width of the output: Maxout(256)",
        ),
        (
            lambda: Maxout(4, 0),
            "Maxout takes pieces as a whole number, at least 1, got 0. It is how many products each output is the "
            "largest of: Maxout(256, pieces=2)",
        ),
        (
            lambda: Maxout(4, 2, 3),
            "Maxout takes use_bias as True or False, got 3. The pieces come before it: Maxout(256, 2, False)",
        ),
        (lambda: Maxout(4).plan(jnp.ones(())), "Maxout takes (..., in), got float32[]. Add the missing axis first"),
        (lambda: Maxout(4).plan(jnp.ones(2, jnp.int32)), "Maxout takes floating numbers (..., in), got int32[2]."),
    ],
)
def test_maxout_refuses(build, text):
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        build()


# GatedMLP


@references.each("activation", "gated")
def test_gated_mlp_is_that_of_torch(case):
    layer = GatedMLP(**case.options)

    def ours(p):
        tree = {name: {"kernel": p[f"{name}.weight"].T} for name in ("gate", "up", "down")}
        if layer.use_bias:
            tree = {name: {**one, "bias": p[f"{name}.bias"]} for name, one in tree.items()}
        return tree

    case.check(layer.apply, ours)


def test_gated_mlp_takes_other_gates_and_starts_out_as_dense_layers_under_its_names():
    x = floats(2, 3)
    layer = GatedMLP(5, 2, jax.nn.gelu)
    params = layer.init(KEY, x)
    gate, up, down = (params[name]["kernel"] for name in ("gate", "up", "down"))
    np.testing.assert_allclose(layer.apply(params, x), (jax.nn.gelu(x @ gate) * (x @ up)) @ down, rtol=1e-5)
    theirs = Sequential(("up", Dense(5, use_bias=False)), ("down", Dense(2, use_bias=False))).init(KEY, x)
    assert (up == theirs["up"]["kernel"]).all() and (down == theirs["down"]["kernel"]).all()
    assert list(layer.plan(x).declared["params"]) == ["gate/kernel", "up/kernel", "down/kernel"]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: GatedMLP(0),
            "GatedMLP takes hidden as a whole number, at least 1, got 0. It is the width between: GatedMLP(1024)",
        ),
        (
            lambda: GatedMLP(4, jax.nn.gelu),
            "It is the width of the output; features=None has the input's",
        ),
        (
            lambda: GatedMLP(4, use_bias=0),
            "GatedMLP takes use_bias as True or False, got 0. It comes after the activation: GatedMLP(1024, "
            "use_bias=True)",
        ),
        (lambda: GatedMLP(4).plan(jnp.ones(())), "GatedMLP takes (..., in), got float32[]. Add the missing axis"),
        (lambda: GatedMLP(4).plan(jnp.ones(2, jnp.int32)), "GatedMLP takes floating numbers (..., in), got int32[2]."),
    ],
)
def test_gated_mlp_refuses(build, text):
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        build()
