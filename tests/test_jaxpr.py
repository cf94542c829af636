"""A net compiles to what one would write by hand: the jaxprs of apply and of its gradient are equal, names erased."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn


def mlp():
    net = fn.Sequential(fn.Dense(8), jax.nn.relu, ("head", fn.Dense(3)))

    def by_hand(p, x):
        x = jax.nn.relu(x @ p["dense_0"]["kernel"] + p["dense_0"]["bias"])
        return x @ p["head"]["kernel"] + p["head"]["bias"]

    return net, by_hand, floats(2, 4)


def conv_net():
    net = fn.Sequential(
        fn.Conv(4, 3),
        fn.BatchNorm(),
        jax.nn.relu,
        fn.Conv(6, 3, strides=2),
        fn.BatchNorm(),
        jax.nn.relu,
        fn.GlobalAvgPool(),
        fn.Dense(3),
    )
    state = net.init_state(floats(2, 8, 8, 1))

    def conv(p, x, stride):
        dims = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        y = jax.lax.conv_general_dilated(
            x, p["kernel"], (stride, stride), "SAME", rhs_dilation=(1, 1), dimension_numbers=dims
        )
        return y + p["bias"]

    def norm(p, s, x):
        scale = jax.lax.rsqrt(s["var"] + 1e-5) * p["scale"]
        return (x - s["mean"]) * scale + p["bias"]

    def by_hand(p, x):
        x = jax.nn.relu(norm(p["batch_norm_0"], state["batch_norm_0"], conv(p["conv_0"], x, 1)))
        x = jax.nn.relu(norm(p["batch_norm_1"], state["batch_norm_1"], conv(p["conv_1"], x, 2)))
        x = x.mean((1, 2))
        return x @ p["dense_0"]["kernel"] + p["dense_0"]["bias"]

    return net, by_hand, floats(2, 8, 8, 1), state


@fn.compose(
    norm_1=fn.LayerNorm(),
    qkv=fn.Dense(24),
    out=fn.Dense(8),
    norm_2=fn.LayerNorm(),
    up=fn.Dense(16),
    down=fn.Dense(8),
    heads=2,
)
def block(m, x):
    qkv = m.qkv(m.norm_1(x))
    q, k, v = (part.reshape(*x.shape[:-1], m.heads, -1) for part in jnp.split(qkv, 3, -1))
    x = x + m.out(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))
    return x + m.down(jax.nn.gelu(m.up(m.norm_2(x))))


def transformer_block():
    def norm(p, x):
        x = jax.lax.optimization_barrier(x)
        mean = x.mean(-1, keepdims=True)
        centred = x - mean
        var = jnp.square(centred).mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["bias"]

    def dense(p, x):
        return x @ p["kernel"] + p["bias"]

    def by_hand(p, x):
        qkv = dense(p["qkv"], norm(p["norm_1"], x))
        q, k, v = (part.reshape(*x.shape[:-1], 2, -1) for part in jnp.split(qkv, 3, -1))
        x = x + dense(p["out"], jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))
        return x + dense(p["down"], jax.nn.gelu(dense(p["up"], norm(p["norm_2"], x))))

    return block, by_hand, floats(2, 5, 8)


@fn.compose(gates=fn.Dense(16))
def lstm_cell(m, carry, x):
    h, c = carry
    i, f, g, o = jnp.split(m.gates(jnp.concatenate([x, h], -1)), 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


@fn.compose(cell=lstm_cell, head=fn.Dense(2))
def lstm(m, x):
    start = (jnp.zeros((x.shape[0], 4)), jnp.zeros((x.shape[0], 4)))
    _, h = jax.lax.scan(m.cell, start, x.swapaxes(0, 1))
    return m.head(h[-1])


def recurrent():
    def by_hand(p, x):
        def cell(carry, x):
            h, c = carry
            gates = jnp.concatenate([x, h], -1) @ p["cell"]["gates"]["kernel"] + p["cell"]["gates"]["bias"]
            i, f, g, o = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = (jnp.zeros((x.shape[0], 4)), jnp.zeros((x.shape[0], 4)))
        _, h = jax.lax.scan(cell, start, x.swapaxes(0, 1))
        return h[-1] @ p["head"]["kernel"] + p["head"]["bias"]

    return lstm, by_hand, floats(3, 6, 5)


def nameless(function, *arguments):
    return re.sub(r"name=\S+", "name=", str(jax.make_jaxpr(function)(*arguments)))


@pytest.mark.parametrize("case", [mlp, conv_net, transformer_block, recurrent])
def test_apply_and_gradient_are_the_hand_written_program(case):
    net, by_hand, x, *rest = case()
    state = rest[0] if rest else None
    params = net.init(jax.random.key(0), x)
    x = jnp.asarray(x)

    def ours(p, x):
        y = net.apply(p, x, state=state)
        return y if state is None else y[0]

    # LayerNorm's and the rest's rank promotion is by hand as a user would write it.
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(ours(params, x), by_hand(params, x), rtol=1e-5, atol=1e-6)
        assert nameless(ours, params, x) == nameless(by_hand, params, x)

        def gradient(f):
            return jax.grad(lambda p, x: (f(p, x) ** 2).sum())

        assert nameless(gradient(ours), params, x) == nameless(gradient(by_hand), params, x)
