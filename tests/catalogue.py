"""A row for every public layer and combinator: its name, a layer, a sample. Every law of test_laws.py runs over every
row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnets as fn


class Row(NamedTuple):
    name: str  # the public name
    layer: fn.Layer
    sample: tuple[Any, ...]
    batched: bool = True  # whether the first axis of every input counts examples that do not see each other
    out_axis: int = 0  # where the outputs have that axis


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ids(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 7, size=shape).astype(np.int32)


@fn.compose(hidden=fn.Dense(5), out=fn.Dense(3))
def mlp(m, x):
    return m.out(jnp.tanh(m.hidden(x)))


@fn.compose(inner=fn.Dense(3), out=fn.Dense(3))
def cell(m, carry, x):
    carry = jnp.tanh(m.inner(x) + carry)
    return carry, m.out(carry)


@fn.compose(w=fn.Param((3,), fn.initializers.Normal(1.0)), c=fn.Constant(np.float32([1, 2, 3])))
def weighted(m, x):
    return x * m.w().astype(x.dtype)[None] + m.c().astype(x.dtype)[None]


def scale_init(key, x):
    return {"scale": jax.random.normal(key, x.shape[-1:])}


def scale_apply(params, x):
    return x * params["scale"].astype(x.dtype)[None]


block = fn.Sequential(fn.Dense(3), fn.BatchNorm(), jax.nn.relu, fn.Dropout(0.5))

ROWS = [
    Row("Dense", fn.Dense(4), (floats(2, 3),)),
    Row("Dense", fn.Dense(4, use_bias=False), (floats(3),), batched=False),
    Row("Conv", fn.Conv(4, 3), (floats(2, 5, 2),)),
    Row("Conv", fn.Conv(4, (3, 2), strides=2, groups=2, dilation=(1, 2), padding="VALID"), (floats(2, 6, 7, 2),)),
    Row("Conv", fn.Conv(2, 2, padding="CIRCULAR"), (floats(1, 3, 4, 3, 2),)),
    Row("MaxPool", fn.MaxPool(2), (floats(2, 4, 4, 3),)),
    Row("AvgPool", fn.AvgPool(3, strides=1, padding="SAME"), (floats(2, 4, 3),)),
    Row("GlobalAvgPool", fn.GlobalAvgPool(), (floats(2, 4, 3, 3),)),
    Row("GlobalMaxPool", fn.GlobalMaxPool(), (floats(2, 4, 3),)),
    Row("BatchNorm", fn.BatchNorm(), (floats(4, 3, 2),)),
    Row("LayerNorm", fn.LayerNorm(), (floats(2, 5),)),
    Row("RMSNorm", fn.RMSNorm(), (floats(2, 5),)),
    Row("GroupNorm", fn.GroupNorm(2), (floats(2, 3, 3, 4),)),
    Row("Dropout", fn.Dropout(0.4), (floats(2, 5),)),
    Row("Embedding", fn.Embedding(7, 3), (ids(2, 4),)),
    Row("EmbeddingBag", fn.EmbeddingBag(7, 3), (ids(2, 4),)),
    Row("Unembed", fn.Sequential(("embed", fn.Embedding(7, 3)), jnp.tanh, ("embed", fn.Unembed())), (ids(2, 4),)),
    Row("Attention", fn.Attention(2), (floats(2, 3, 4),)),
    Row(
        "Attention",
        fn.Attention(4, kv_heads=2, causal=True, window=1, softcap=3.0, dropout=0.2, rope=fn.rotary),
        (floats(2, 3, 8),),
    ),
    Row("Attention", fn.Attention(2, query_norm=fn.RMSNorm(), features=3), (floats(2, 3, 4), floats(2, 5, 6))),
    Row("TransformerBlock", fn.TransformerBlock(fn.Attention(2), dropout=0.2), (floats(2, 3, 4),)),
    Row(
        "TransformerBlock",
        fn.TransformerBlock(fn.Attention(2), mlp=jnp.tanh, cross=fn.Attention(1), norm=fn.RMSNorm(), pre_norm=False),
        (floats(2, 3, 4), floats(2, 2, 3)),
    ),
    Row("ALiBi", fn.Attention(2, causal=True, position_bias=fn.ALiBi()), (floats(2, 3, 4),)),
    Row("RelativeBias", fn.Attention(2, position_bias=fn.RelativeBias(4, 8)), (floats(2, 3, 4),)),
    Row("PositionEmbedding", fn.PositionEmbedding(5), (floats(2, 3, 4),)),
    Row("SinusoidalPositions", fn.SinusoidalPositions(), (floats(2, 3, 4),)),
    Row("Flatten", fn.Flatten(), (floats(2, 3, 4),)),
    Row("Identity", fn.Identity(), (floats(2, 3),)),
    Row("Sequential", fn.Sequential(fn.Dense(4), jax.nn.relu, ("head", fn.Dense(2))), (floats(2, 3),)),
    Row("Sequential", fn.Sequential(), (floats(2, 3),)),
    Row("Parallel", fn.Parallel(fn.Dense(2), fn.Dense(3), jnp.tanh), (floats(2, 3),)),
    Row("Parallel", fn.Parallel(fn.Dense(3), fn.Identity(), merge=jnp.multiply), (floats(2, 3),)),
    Row("Each", fn.Each(fn.Dense(2), jnp.tanh), (floats(2, 3), floats(2, 4))),
    Row("Residual", fn.Residual(fn.Dense(3)), (floats(2, 3),)),
    Row("Repeat", fn.Repeat(block, 3), (floats(4, 3),)),
    Row("Repeat", fn.Repeat(fn.Residual(fn.Dense(3)), 2, scan=False), (floats(4, 3),)),
    Row("Repeat", fn.Repeat(block, 2, shared=True), (floats(4, 3),)),
    Row("Scan", fn.Scan(cell), (floats(2, 3), floats(2, 5, 3))),
    Row("Ensemble", fn.Ensemble(fn.Sequential(block, fn.Dense(2)), 3), (floats(4, 3),), out_axis=1),
    Row("Remat", fn.Sequential(fn.Remat(block), fn.Dense(2)), (floats(4, 3),)),
    Row("Cast", fn.Cast(mlp, "bfloat16", output="float32"), (floats(2, 3),)),
    Row("Freeze", fn.Sequential(fn.Freeze(fn.Dense(3)), fn.Dense(2)), (floats(2, 3),)),
    Row("tie", fn.tie(mlp, "out/kernel", to="hidden/kernel", via=jnp.transpose), (floats(2, 3),)),
    Row("compose", mlp, (floats(2, 3),)),
    Row("Param", weighted, (floats(2, 3),)),
    Row("Constant", weighted, (floats(2, 3),)),
    Row("pair", fn.pair(scale_init, scale_apply), (floats(2, 3),)),
]
"""Rows may share a public name; `test_house` checks that every public layer has one."""
