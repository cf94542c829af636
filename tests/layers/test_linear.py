from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.initializers import Ones
from funcnets.layers.linear import Dense

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
