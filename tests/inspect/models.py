"""Models that the tables, the pictures and the rest of the room are tried on: each a function that gives (net, sample).

Widths are small; depth and structure are the real ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcnets as fn

Model = tuple[fn.Layer, tuple[Any, ...]]


def image(size: int, channels: int = 3) -> np.ndarray:
    return np.linspace(-1.0, 1.0, 2 * size * size * channels, dtype=np.float32).reshape(2, size, size, channels)


def ids(length: int, vocab: int) -> np.ndarray:
    return (np.arange(2 * length, dtype=np.int32) % vocab).reshape(2, length)


def mlp() -> Model:
    """A perceptron with one hidden layer: 20 → 256 → 10."""
    return fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10)), (np.ones((2, 20), np.float32),)


# Arbitrary code in a forward


@fn.compose(linear=fn.Dense(20), fixed=fn.Constant(np.random.default_rng(0).uniform(size=(20, 20)).astype(np.float32)))
def fixed_hidden(m, x):
    x = m.linear(x)
    x = m.linear(jax.nn.relu(x @ m.fixed() + 1))
    return jax.lax.while_loop(lambda x: jnp.abs(x).sum() > 1, lambda x: x / 2, x).sum()


def fixed_hidden_mlp() -> Model:
    """One layer twice, a constant matrix between, and a loop that halves until the sum is at most 1."""
    return fixed_hidden, (np.ones((2, 20), np.float32),)


# Convolutions


def conv_norm(features: int, size: int = 3, strides: int = 1) -> fn.Layer:
    return fn.Sequential(fn.Conv(features, size, strides=strides, use_bias=False), fn.BatchNorm())


def basic_block(m, x):
    y = m.second(jax.nn.relu(m.first(x)))
    return jax.nn.relu(y + (x if y.shape == x.shape else m.project(x)))


def stage(features: int, strides: int) -> fn.Layer:
    def block(strides: int) -> fn.Layer:
        return fn.compose(
            first=conv_norm(features, strides=strides),
            second=conv_norm(features),
            project=conv_norm(features, 1, strides),
        )(basic_block)

    return fn.Sequential(block(strides), block(1))


def resnet18(width: int = 8, size: int = 32, classes: int = 10) -> Model:
    """He et al. 2015: a stem, four stages of two basic blocks (each two 3×3 convolutions), pooling and a head."""
    net = fn.Sequential(
        ("stem", conv_norm(width, 7, 2)),
        jax.nn.relu,
        fn.MaxPool(3, strides=2, padding="SAME"),
        *((f"stage_{i + 1}", stage(width * 2**i, 1 if i == 0 else 2)) for i in range(4)),
        fn.GlobalAvgPool(),
        ("head", fn.Dense(classes)),
    )
    return net, (image(size),)


def double(features: int) -> fn.Layer:
    return fn.Sequential(fn.Conv(features, 3), jax.nn.relu, fn.Conv(features, 3), jax.nn.relu)


@fn.compose(
    down_1=double(4),
    down_2=double(8),
    middle=double(16),
    up_2=fn.ConvTranspose(8, 2, strides=2),
    join_2=double(8),
    up_1=fn.ConvTranspose(4, 2, strides=2),
    join_1=double(4),
    out=fn.Conv(2, 1),
    pool=fn.MaxPool(2),
)
def u_net(m, x):
    skip_1 = m.down_1(x)
    skip_2 = m.down_2(m.pool(skip_1))
    y = m.middle(m.pool(skip_2))
    y = m.join_2(jnp.concatenate([m.up_2(y), skip_2], axis=-1))
    y = m.join_1(jnp.concatenate([m.up_1(y), skip_1], axis=-1))
    return m.out(y)


def unet() -> Model:
    """Ronneberger et al. 2015: down twice, up twice, and what was on the way down joined on the way up."""
    return u_net, (image(16),)


# Sequences


def gpt_forward(m, ids):
    x = m.blocks(m.places(m.embed(ids)))
    return m.unembed(m.norm(x), params=m.embed.params)


def gpt(depth: int = 3, width: int = 16, vocab: int = 50) -> Model:
    """A causal transformer whose head is its embedding's table, with its blocks in a Repeat."""
    net = fn.compose(
        embed=fn.Embedding(vocab, width),
        places=fn.PositionEmbedding(32),
        blocks=fn.Repeat(fn.TransformerBlock(fn.Attention(4, causal=True), dropout=0.1), depth),
        norm=fn.LayerNorm(),
        unembed=fn.Unembed(),
    )(gpt_forward)
    return net, (ids(8, vocab),)


def lstm(vocab: int = 50, rows: int = 2) -> Model:
    """Two LSTMs over time between an embedding and a head."""
    net = fn.Sequential(
        fn.Embedding(vocab, 6), fn.Scan(fn.LSTMCell(8)), fn.Dropout(0.5), fn.Scan(fn.LSTMCell(8)), fn.Dense(vocab)
    )
    return net, (ids(7, vocab).repeat(rows // 2, 0),)


ALL = (mlp, fixed_hidden_mlp, resnet18, unet, gpt, lstm)
