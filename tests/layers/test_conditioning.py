from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import funcnets as fn
from funcnets.layers.conditioning import FiLM

KEY = jax.random.key(0)
PLAIN = fn.LayerNorm(use_scale=False, use_bias=False)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def drawn(net, *sample):
    """Parameters that are not zero."""
    return jax.tree.map(lambda a: jnp.asarray(floats(*a.shape, seed=1)), net.plan(*sample).params)


@references.each("normalization", "film")
def test_it_is_that_of_torch(case):
    def to_params(theirs):
        return {"modulation": {"kernel": theirs["projection.weight"].T, "bias": theirs["projection.bias"]}}

    case.check((FiLM(PLAIN) if case.options["norm"] else FiLM()).apply, to_params)


def test_it_begins_as_its_norm_and_learns_from_the_first_step():
    x, condition, net = floats(2, 4, 3), floats(2, 5), FiLM(PLAIN)
    params = net.init(KEY, x, condition)
    assert jax.tree.map(jnp.shape, params) == {"modulation": {"kernel": (5, 6), "bias": (6,)}}
    np.testing.assert_array_equal(net.apply(params, x, condition), PLAIN.apply({}, x))
    grads = jax.grad(lambda p: (net.apply(p, x, condition) ** 2).sum())(params)
    assert all((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3), (2, 4, 2, 3)])
def test_one_condition_an_example_is_the_same_at_each_position(shape):
    x, net = floats(*shape), FiLM()
    condition = floats(*shape[:1], 5) if len(shape) > 1 else floats(5)
    params = drawn(net, x, condition)
    kernel, bias = (np.asarray(params["modulation"][name]) for name in ("kernel", "bias"))
    gamma, beta = np.split(condition @ kernel + bias, 2, -1)
    y = net.apply(params, x, condition)
    for at in np.ndindex(*shape[:-1]):
        mine = at[:1]
        np.testing.assert_allclose(y[at], x[at] * (1 + gamma[mine]) + beta[mine], rtol=1e-5, atol=1e-5)
    if len(shape) > 2:
        wide = np.broadcast_to(condition.reshape(2, *[1] * (len(shape) - 2), 5), (*shape[:-1], 5))
        references.close(net.apply(params, x, wide), net.apply(params, x, condition))


def test_a_norm_with_parameters_and_state_is_a_child_like_any_other():
    x, condition, net = floats(4, 3), floats(4, 2), FiLM(fn.BatchNorm())
    params, state = net.init(KEY, x, condition), net.init_state(x, condition)
    assert list(params) == ["norm", "modulation"]
    y, new = net.apply(params, x, condition, state=state, train=True)
    expected, inner = fn.BatchNorm().apply(params["norm"], x, state=state["norm"], train=True)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(new["norm"]["mean"], inner["mean"])
    assert FiLM(jnp.tanh).apply(FiLM(jnp.tanh).init(KEY, x, condition), x, condition).shape == (4, 3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_output_has_the_dtype_of_x_whatever_the_conditions(dtype):
    x, condition = jnp.ones((2, 4, 3), jnp.bfloat16), jnp.ones((2, 5), dtype)
    params = drawn(FiLM(), x, condition)
    assert FiLM().apply(params, x, condition).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("x", "condition", "kind", "text"),
    [
        (
            jnp.ones((2, 4, 3)),
            jnp.ones((3, 5)),
            ValueError,
            "FiLM takes a condition (2, 'c') or (2, 4, 'c') for x float32[2,4,3], got float32[3,5]. Give an example "
            "one condition, or one a position: add or widen its axes first, condition[:, None], or jnp.broadcast_to",
        ),
        (jnp.ones((2, 4, 3)), jnp.ones((2, 1, 5)), ValueError, "FiLM takes a condition (2, 'c') or (2, 4, 'c') for x"),
        (jnp.ones((2, 4, 3)), jnp.ones(5), ValueError, "for x float32[2,4,3], got float32[5]."),
        (jnp.ones(2), jnp.ones((2, 5)), ValueError, "for x float32[2], got float32[2,5]."),
        (
            jnp.ones((2, 4, 3)),
            jnp.ones(2, jnp.int32),
            TypeError,
            "FiLM takes floating numbers as the condition (batch, ..., c), got int32[2]. Convert them first",
        ),
        (
            jnp.ones(2),
            None,
            TypeError,
            "FiLM takes one array as the condition (batch, ..., c), got None. Give",
        ),
        (
            jnp.ones(()),
            jnp.ones(2),
            ValueError,
            "FiLM takes as x (batch, ..., channels), got float32[]. Add the",
        ),
        (
            jnp.ones(2, jnp.int32),
            jnp.ones(2),
            TypeError,
            "FiLM takes floating numbers as x (batch, ..., channels), g",
        ),
    ],
)
def test_it_refuses_inputs_before_arithmetic(x, condition, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        FiLM().plan(x, condition)
