from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# In test_attention.py rotary is compared with a loop, in both conventions.


def test_rotary_keeps_lengths_and_sees_distances_alone():
    q, k = (np.random.default_rng(i).standard_normal((1, 1, 2, 8)).astype(np.float32) for i in range(2))
    for interleaved in (False, True):
        for shift in (0, 7, 1000):
            a = fn.rotary(q, jnp.array([3 + shift]), 100.0, interleaved)
            b = fn.rotary(k, jnp.array([[1 + shift]]), 100.0, interleaved)
            if shift == 0:
                first = (a * b).sum(-1)
            np.testing.assert_allclose((a * b).sum(-1), first, rtol=1e-3, atol=1e-3)
        close(jnp.linalg.norm(a, axis=-1), np.linalg.norm(q, axis=-1))
    close(fn.rotary(q, jnp.array([0])), q)
    half = fn.rotary(q, jnp.array([5]), features=4)
    np.testing.assert_array_equal(half[..., 4:], q[..., 4:])
    assert fn.rotary(jnp.asarray(q, jnp.bfloat16), jnp.array([5])).dtype == jnp.bfloat16


def test_the_conventions_of_rotary_are_one_but_for_the_order_of_features():
    x, at = np.random.default_rng(0).standard_normal((2, 3, 2, 8)).astype(np.float32), jnp.arange(3)
    order = np.arange(8).reshape(2, 4).T.ravel()  # 0, 4, 1, 5, …
    close(fn.rotary(x, at)[..., order], fn.rotary(x[..., order], at, interleaved=True))


@pytest.mark.parametrize(
    ("shape", "positions", "options", "kind", "text"),
    [
        (
            (2, 3, 4),
            jnp.arange(3),
            {},
            TypeError,
            "rotary takes floating x (batch, time, heads, features), got float32[2",
        ),
        (
            (2, 3, 1, 4),
            jnp.arange(3.0),
            {},
            TypeError,
            "rotary takes positions (batch, time) as whole numbers, got float",
        ),
        (
            (2, 3, 1, 4),
            jnp.arange(4),
            {},
            ValueError,
            "rotary takes positions (2, 3) or (3,) beside x float32[2,3,1,4],",
        ),
        (
            (2, 3, 1, 5),
            jnp.arange(3),
            {},
            ValueError,
            "rotary turns pairs among the 5 features of a head in float32[2,3",
        ),
        ((2, 3, 1, 4), jnp.arange(3), {"features": 6}, ValueError, "got features=6. Take an even number up to that"),
    ],
)
def test_rotary_refuses_inputs(shape, positions, options, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        fn.rotary(jnp.ones(shape), positions, **options)


def test_position_embeddings_are_rows_of_the_table():
    net = fn.PositionEmbedding(7, fn.initializers.Normal(1.0))
    params = net.init(KEY, X)
    table = np.asarray(params["table"])
    assert table.shape == (7, 6)
    close(net.apply(params, X), X + table[:5])
    at = np.array([[6, 0, 1, 2, 3], [0, 0, 0, 5, 5]])
    close(net.apply(params, X, at), X + table[at])
    close(net.apply(params, X, at[0]), X + table[at[0]])
    mask = np.array([[0, 0, 1, 1, 1], [1, 0, 1, 0, 1]], bool)
    close(net.apply(params, X, mask=mask), X + table[[[0, 0, 0, 1, 2], [0, 1, 1, 2, 2]]])
    grads = jax.grad(lambda p: net.apply(p, X, at).sum())(params)["table"]
    close(grads[:, 0], [4, 1, 1, 1, 0, 2, 1])
    out = net.apply(params, X, jnp.array([0, 6, 7, -1, 2]))
    assert np.isnan(out[0]).any(-1).tolist() == [False, False, True, True, False]


def test_sinusoids_are_those_of_the_paper():
    wanted = np.zeros((5, 6))
    for t in range(5):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            wanted[t, 2 * i : 2 * i + 2] = math.sin(angle), math.cos(angle)
    net = fn.SinusoidalPositions()
    close(net.apply({}, X), X + wanted)
    close(net.apply({}, X, jnp.array([4, 3, 2, 1, 0])), X + wanted[::-1])
    close(fn.SinusoidalPositions(100.0).apply({}, X)[0, 1, 2], X[0, 1, 2] + math.sin(1 / 100 ** (1 / 3)))


@pytest.mark.parametrize("net", [fn.PositionEmbedding(9, counting=True), fn.SinusoidalPositions(counting=True)])
def test_counting_goes_on_from_call_to_call(net):
    params, state = net.init(KEY, X), net.init_state(X)
    whole, _ = net.apply(params, X, state=state, mask=np.arange(5)[None] >= np.array([[0], [2]]))
    parts = []
    for t in range(5):
        mask = np.array([[True], [t >= 2]])
        y, state = net.apply(params, X[:, t : t + 1], state=state, mask=mask)
        parts.append(y)
    close(jnp.concatenate(parts, 1), whole)
    assert list(state["counter"]["count"]) == [5, 3]


@pytest.mark.parametrize(
    ("net", "inputs", "kind", "text"),
    [
        (
            fn.PositionEmbedding(4),
            (X,),
            ValueError,
            "PositionEmbedding(4) takes at most 4 tokens, got 5 in float32[2,5,6]. Build it for the longest seq",
        ),
        (
            fn.PositionEmbedding(9),
            (X[0],),
            ValueError,
            "PositionEmbedding takes (batch, time, features), got float32[5,",
        ),
        (
            fn.PositionEmbedding(9),
            (X, jnp.arange(4)),
            ValueError,
            "PositionEmbedding takes positions (2, 5) beside x float32[2,5,6], got int32[4]. Give one for each token",
        ),
        (
            fn.PositionEmbedding(9),
            (X, jnp.arange(5.0)),
            TypeError,
            "PositionEmbedding takes positions (batch, time) of whole numbers, got float32[5]. Convert it first",
        ),
        (
            fn.SinusoidalPositions(),
            (X[..., :3],),
            ValueError,
            "SinusoidalPositions takes an even number of features, a sine and a cosine for each rate, got 3 in f",
        ),
        (
            fn.SinusoidalPositions(),
            (X.astype(np.int32),),
            TypeError,
            "SinusoidalPositions takes floating numbers (batch",
        ),
    ],
)
def test_they_refuse_inputs(net, inputs, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(*inputs)
    with pytest.raises(TypeError, match=re.escape("takes mask (batch, time) of booleans, True for the tokens that c")):
        net.plan(X[:, :4, :4], mask=jnp.ones((2, 4)))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: fn.PositionEmbedding(0),
            "PositionEmbedding takes length as a whole number, at least 1, got 0. It is t",
        ),
        (
            lambda: fn.PositionEmbedding(9, counting=1),
            "PositionEmbedding takes counting as True or False, got 1. It is f",
        ),
        (
            lambda: fn.SinusoidalPositions(1.0),
            "SinusoidalPositions takes base as a number above 1, got 1.0. Widths come",
        ),
        (lambda: fn.SinusoidalPositions(counting=4), "SinusoidalPositions takes counting as True or False, got 4."),
        (
            lambda: fn.RelativeBias(6),
            "RelativeBias takes buckets as a whole number that 4 divides, got 6. The fir",
        ),
        (
            lambda: fn.RelativeBias(3, bidirectional=False),
            "RelativeBias takes buckets as a whole number that 2 divides",
        ),
        (
            lambda: fn.RelativeBias(32, 8),
            "RelativeBias takes max_distance above 8, got 8. So many near distances have a",
        ),
        (
            lambda: fn.RelativeBias(32, 0),
            "RelativeBias takes max_distance as a whole number, at least 1, got 0. It is wh",
        ),
        (
            lambda: fn.RelativeBias(bidirectional=0),
            "RelativeBias takes bidirectional as True or False, got 0. It is Fal",
        ),
    ],
)
def test_they_refuse_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()
