from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.combinators import Sequential
from funcnets.initializers import Constant, GlorotUniform, HeNormal, LecunNormal, Normal, Ones, Zeros
from funcnets.layers.linear import Bias, Bilinear, Dense, Scale
from funcnets.wrappers import Residual

KEY = jax.random.key(0)


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_output_and_gradients_are_those_of_the_sum_over_the_last_axis(shape, use_bias):
    x, kernel, bias, weight = arrays(shape, (4, 3), (3,), (*shape[:-1], 3))
    params = {"kernel": kernel, "bias": bias} if use_bias else {"kernel": kernel}
    net = Dense(3, use_bias=use_bias)

    def loss(params, x):
        y = net.apply(params, x)
        return (y * weight).sum(), y

    (_, y), (grads, grad_x) = jax.value_and_grad(loss, (0, 1), has_aux=True)(jax.tree.map(jnp.asarray, params), x)

    expected = np.zeros((*shape[:-1], 3))
    expected_kernel, expected_x = np.zeros((4, 3)), np.zeros(shape)
    for at in np.ndindex(*shape[:-1]):
        for i, j in np.ndindex(4, 3):
            expected[at][j] += x[at][i] * kernel[i, j]
            expected_kernel[i, j] += x[at][i] * weight[at][j]
            expected_x[at][i] += weight[at][j] * kernel[i, j]
    np.testing.assert_allclose(y, expected + (bias if use_bias else 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grads["kernel"], expected_kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad_x, expected_x, rtol=1e-5, atol=1e-6)
    if use_bias:
        np.testing.assert_allclose(grads["bias"], weight.reshape(-1, 3).sum(0), rtol=1e-5, atol=1e-6)


def test_its_jaxpr_is_that_of_the_formula():
    params, x = Dense(3).init(KEY, jnp.ones((2, 5, 4))), jnp.ones((2, 5, 4))

    def formula(p, x):
        return x @ p["kernel"] + p["bias"]

    ours = jax.make_jaxpr(Dense(3).apply)(params, x)
    our_gradient = jax.make_jaxpr(jax.grad(lambda p, x: Dense(3).apply(p, x).sum()))(params, x)
    with jax.numpy_rank_promotion("allow"):
        assert str(ours) == str(jax.make_jaxpr(formula)(params, x))
        assert str(our_gradient) == str(jax.make_jaxpr(jax.grad(lambda p, x: formula(p, x).sum()))(params, x))


def test_it_declares_its_arrays_and_draws_them_from_the_initialisers():
    x = jax.ShapeDtypeStruct((2, 20), jnp.float32)
    assert Dense(3).plan(x).params == {
        "kernel": jax.ShapeDtypeStruct((20, 3), jnp.float32),
        "bias": jax.ShapeDtypeStruct((3,), jnp.float32),
    }
    params = Dense(3, kernel_init=Ones(), bias_init=Ones()).init(KEY, x)
    assert (params["kernel"] == 1).all() and (params["bias"] == 1).all()
    assert (Dense(3).init(KEY, x)["bias"] == 0).all()
    assert list(Dense(3, use_bias=False).init(KEY, x)) == ["kernel"]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_low_precision_input_gives_its_own_dtype_and_leaves_the_parameters_theirs(dtype):
    x = jnp.ones((2, 4), dtype)
    params = Dense(3).init(KEY, x)
    assert Dense(3).apply(params, x).dtype == dtype
    grads = jax.grad(lambda p: Dense(3).apply(p, x).sum().astype(jnp.float32))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Dense(0), "Dense takes features as a whole number, at least 1, got 0. It is the width of the output"),
        (lambda: Dense(2.0), "Dense takes features as a whole number, at least 1, got 2.0."),
        (lambda: Dense(True), "Dense takes features as a whole number, at least 1, got True."),
        (
            lambda: Dense(20, 256),
            "Dense takes use_bias as True or False, got 256. Dense takes one width, its output's; the input's comes "
            "from the sample",
        ),
    ],
)
def test_it_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("x", "kind", "text"),
    [
        (jnp.ones(()), ValueError, "Dense takes (..., in), got float32[]. Add the missing axis first: x[None]"),
        (
            jnp.ones((2, 3), jnp.int32),
            TypeError,
            "Dense takes floating numbers (..., in), got int32[2,3]. Convert them first, x.astype(jnp.float32); whole "
            "numbers that are ids go through fn.Embedding",
        ),
        (
            (jnp.ones(2), jnp.ones(3)),
            TypeError,
            "Dense takes one array (..., in), got (float32[2], float32[3]). Take the array out of what holds it first",
        ),
    ],
)
def test_it_refuses_inputs_before_arithmetic(x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        Dense(3).plan(x)
    with pytest.raises(kind, match=re.escape(text)):
        Dense(3).apply({"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}, x)


# Over other axes, at low rank


@references.each("linear", "dense")
def test_it_is_that_of_torch(case):
    case.check(Dense(3, **case.options).apply, lambda p: renamed(p, kernel=p["weight"].T))


@references.each("linear", "axes")
def test_over_several_axes_it_is_that_of_torch_with_its_matrix_reshaped(case):
    layer = Dense(**case.options)
    shape = {name: spec.shape for name, spec in layer.plan(case.inputs[0]).params.items()}

    def ours(p):
        named = {name.split(".")[-1]: array for name, array in p.items()}
        return {"kernel": named["weight"].T.reshape(shape["kernel"]), "bias": named["bias"].reshape(shape["bias"])}

    case.check(layer.apply, ours)


@references.each("linear", "low_rank")
def test_at_low_rank_it_is_two_of_torch(case):
    layer = Dense(3, **case.options)
    case.check(layer.apply, lambda p: {"down": p["0.weight"].T, "up": p["1.weight"].T, "bias": p["1.bias"]})


def renamed(p, **arrays):
    return arrays | ({"bias": p["bias"]} if "bias" in p else {})


@pytest.mark.parametrize(
    ("shape", "features", "axis", "equation"),
    [
        ((2, 3, 4), (5, 6), 1, "abc,bde->acde"),
        ((2, 3, 4), 5, (2, 0), "abc,cad->bd"),
        ((2, 3, 4), (2, 5), (-1, -2), "abc,cbde->ade"),
        ((2, 3, 4), (), -1, "abc,c->ab"),
        ((2, 3), 4, (), "ab,c->abc"),
        ((), (2, 3), (), ",ab->ab"),
        ((0, 3, 4), (5, 6), (1, 2), "abc,bcde->ade"),
    ],
)
@pytest.mark.parametrize("rank", [None, 2])
def test_over_any_axes_it_is_the_einsum(shape, features, axis, equation, rank):
    (x,) = arrays(shape)
    layer = Dense(features, axis=axis, rank=rank, bias_init=Normal(1.0))
    params = layer.init(KEY, x)
    kernel = np.asarray(params["kernel"] if rank is None else jnp.tensordot(params["down"], params["up"], 1))
    expected = np.einsum(equation, x, kernel) + np.asarray(params["bias"])
    y = layer.apply(params, x)
    assert y.shape == layer.plan(x).output.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert list(params) == (["kernel", "bias"] if rank is None else ["down", "up", "bias"])


@pytest.mark.parametrize("init", [LecunNormal(), HeNormal(), GlorotUniform(), Normal(0.3)])
def test_a_kernel_of_several_axes_starts_out_as_the_matrix_that_it_stands_for(init):
    x = jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)
    merged = jax.ShapeDtypeStruct((2, 12), jnp.float32)
    matrix = Dense(10, kernel_init=init).init(KEY, merged)["kernel"]
    for layer in (Dense((2, 5), axis=(1, 2), kernel_init=init), Dense(10, axis=(-2, -1), kernel_init=init)):
        assert (layer.init(KEY, x)["kernel"].reshape(12, 10) == matrix).all()


def test_an_initialiser_of_ones_own_is_asked_for_the_kernel_s_shape_and_keeps_its_axes():
    asked = []

    def init(key, shape, dtype):
        asked.append(shape)
        return jnp.zeros(shape, dtype)

    x = jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)
    Dense((5, 6), axis=(1, 2), kernel_init=init).init(KEY, x)
    assert set(asked) == {(3, 4, 5, 6)}
    own = HeNormal(in_axis=0, out_axis=(1, 2, 3))
    declared = Dense((5, 6), axis=(1, 2), kernel_init=own).plan(x).declared["params"]["kernel"].what
    assert declared.initializer == own


def test_both_factors_keep_the_variance():
    params = Dense(300, rank=60, use_bias=False).init(KEY, jax.ShapeDtypeStruct((2, 500), jnp.float32))
    np.testing.assert_allclose(params["down"].var(), 1 / 500, rtol=0.05)
    np.testing.assert_allclose(params["up"].var(), 1 / 60, rtol=0.05)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Dense((8, 0)),
            "Dense takes features as whole numbers, at least 1, got (8, 0). They are the output's axes: Dense((8, 64))",
        ),
        (lambda: Dense((8, 2.0)), "Dense takes features as whole numbers, at least 1, got (8, 2.0)."),
        (
            lambda: Dense(8, axis=True),
            "Dense takes axis as an axis, or a tuple of different axes, got True. They are the axes of the input to "
            "contract: Dense(256, axis=(-2, -1))",
        ),
        (lambda: Dense(8, axis=(1, 1)), "Dense takes axis as an axis, or a tuple of different axes, got (1, 1)."),
        (
            lambda: Dense(8, rank=0),
            "Dense takes rank as a whole number, at least 1, got 0. It is the width between two factors; rank=None "
            "has one kernel in their place",
        ),
    ],
)
def test_it_refuses_axes_and_ranks_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize("axis", [2, -3, (0, -2), (1, 5)])
def test_it_refuses_inputs_without_its_axes(axis):
    text = (
        f"Dense with axis={axis!r} takes inputs that have these axes, each once, got float32[2,3]. Axes count from "
        f"0 at the front, or from -1 at the end"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        Dense(4, axis=axis).plan(jnp.ones((2, 3)))


def test_over_other_axes_it_takes_floats_of_any_rank():
    with pytest.raises(TypeError, match=re.escape("Dense takes floating numbers (...), got int32[2,3]. Convert")):
        Dense(4, axis=0).plan(jnp.ones((2, 3), jnp.int32))


# Bilinear


@references.each("linear", "bilinear")
def test_bilinear_is_that_of_torch(case):
    def ours(p):
        return renamed(p, kernel=p["weight"].transpose(1, 2, 0))

    case.check(Bilinear(2, **case.options).apply, ours)


def test_bilinear_starts_out_with_the_fan_of_all_its_products():
    x1, x2 = (jax.ShapeDtypeStruct((2, n), jnp.float32) for n in (3, 4))
    kernel = Bilinear(5).init(KEY, x1, x2)["kernel"]
    matrix = Dense(5).init(KEY, jax.ShapeDtypeStruct((2, 12), jnp.float32))["kernel"]
    assert (kernel.reshape(12, 5) == matrix).all()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Bilinear(0),
            "Bilinear takes features as a whole number, at least 1, got 0. It is the width of the output: "
            "Bilinear(256)",
        ),
        (
            lambda: Bilinear(3, 4),
            "Bilinear takes use_bias as True or False, got 4. Bilinear takes one width, its output's; the inputs' "
            "come from the sample",
        ),
        (
            lambda: Bilinear(3).plan(jnp.ones((2, 3)), jnp.ones((1, 4))),
            "Bilinear takes (..., in1) and (..., in2) of one dtype, alike in all but the last axis, got float32[2,3] "
            "and float32[1,4]. Nothing is broadcast: spread or convert one of them first, with jnp.broadcast_to or "
            "astype",
        ),
        (
            lambda: Bilinear(3).plan(jnp.ones((2, 3)), jnp.ones((2, 4), jnp.bfloat16)),
            "alike in all but the last axis, got float32[2,3] and bfloat16[2,4].",
        ),
        (lambda: Bilinear(3).plan(jnp.ones(2), jnp.ones(())), "Bilinear takes (..., in2), got float32[]. Add the"),
        (
            lambda: Bilinear(3).plan(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 4))),
            "Bilinear takes floating numbers (..., in1), got int32[2,3]. Convert them first",
        ),
    ],
)
def test_bilinear_refuses(build, text):
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        build()


# Bias and Scale


@pytest.mark.parametrize(
    ("axis", "spread"),
    [
        (-1, (1, 1, 4)),
        (1, (1, 3, 1)),
        ((-1, 0), (2, 1, 4)),
        ((1, 2), (1, 3, 4)),
        ((), (1, 1, 1)),
        ((2, 0, 1), (2, 3, 4)),
    ],
)
def test_bias_and_scale_vary_along_the_named_axes_alone(axis, spread):
    x, weight, value = arrays((2, 3, 4), (2, 3, 4), spread)
    others = tuple(i for i, n in enumerate(spread) if n == 1)

    for layer, name, formula, by_array, by_x in (
        (Bias(axis), "bias", np.add, weight, weight),
        (Scale(axis), "scale", np.multiply, weight * x, weight * value),
    ):
        assert layer.plan(x).params[name].shape == np.squeeze(value, others).shape
        params = {name: jnp.asarray(np.squeeze(value, others))}
        y, pull = jax.vjp(layer.apply, params, jnp.asarray(x))
        grads, grad_x = pull(jnp.asarray(weight))
        np.testing.assert_allclose(y, formula(x, value), rtol=1e-6)
        np.testing.assert_allclose(grads[name], by_array.sum(others), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(grad_x, by_x, rtol=1e-6)


def test_bias_and_scale_start_out_as_the_identity():
    (x,) = arrays((2, 3))
    for layer in (Bias(), Scale(), Bias(()), Scale(())):
        assert (layer.apply(layer.init(KEY, x), x) == x).all()
    assert (Scale(scale_init=Constant(3.0)).init(KEY, x)["scale"] == 3).all()
    assert (Bias(bias_init=Ones()).init(KEY, x)["bias"] == 1).all()


def test_scale_is_layer_scale():
    """Touvron et al. 2021, eq. 3: x + diag(λ) · F(x), λ = 1e-5 in the beginning."""
    (x,) = arrays((2, 3))
    net = Residual(Sequential(Dense(3), Scale(scale_init=Constant(1e-5))))
    params = net.init(KEY, x)
    assert params["scale_0"]["scale"].shape == (3,)
    expected = x + 1e-5 * (x @ np.asarray(params["dense_0"]["kernel"]))
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-6)


def test_scale_is_rezero():
    """Bachlechner et al. 2020, eq. 5: x + α · F(x), α = 0 in the beginning; its gradient is not."""
    x, weight = arrays((2, 3), (2, 3))
    net = Residual(Sequential(Dense(3), Scale((), scale_init=Zeros())))
    params = net.init(KEY, x)
    assert params["scale_0"]["scale"].shape == ()
    y, pull = jax.vjp(lambda params: net.apply(params, x), params)
    assert (y == x).all()
    grads = pull(jnp.asarray(weight))[0]
    branch = x @ np.asarray(params["dense_0"]["kernel"])
    np.testing.assert_allclose(grads["scale_0"]["scale"], (weight * branch).sum(), rtol=1e-5)
    assert (grads["dense_0"]["kernel"] == 0).all()


@pytest.mark.parametrize("kind", [Bias, Scale])
def test_bias_and_scale_refuse(kind):
    name = kind.__name__
    text = (
        f"{name} takes axis as an axis, or a tuple of different axes, got 256.0. Sizes come from the sample: "
        f"{name}(-1) has a value for each channel, {name}(()) one"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        kind(256.0)
    with pytest.raises(ValueError, match=re.escape(f"{name} with axis=3 takes inputs that have these axes")):
        kind(3).plan(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match=re.escape(f"{name} takes floating numbers (...), got int32[2,3]. Convert")):
        kind().plan(jnp.ones((2, 3), jnp.int32))
