"""A row for every public layer and combinator: its name, a layer, a sample. Every law of test_laws.py runs over every
row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnets as fn
from funcnets.rewrite import with_init


class Row(NamedTuple):
    name: str  # the public name
    layer: fn.Layer
    sample: tuple[Any, ...]
    batched: bool = True  # whether the first axis of every input counts examples that do not see each other
    out_axis: int = 0  # where the outputs have that axis
    streams: bool = False  # whether evaluation moves the state on, as a carry does
    multiplies: bool = False  # whether initial values are products of matrices themselves


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


def wide_init(key, shape, dtype):
    return 4 * jax.random.normal(key, shape, dtype)  # a power of two: exact, however it is compiled


@fn.compose(moe=fn.MixtureOfExperts(3, 4))
def mixed(m, x):
    y, _ = m.moe(x)
    return y


@fn.compose(quantizer=fn.VectorQuantizer(5))
def quantised(m, x):
    y, _ = m.quantizer(x)
    return y


block = fn.Sequential(fn.Dense(3), fn.BatchNorm(), jax.nn.relu, fn.Dropout(0.5))

ROWS = [
    Row("Dense", fn.Dense(4), (floats(2, 3),)),
    Row("Dense", fn.Dense(4, use_bias=False), (floats(3),), batched=False),
    Row("Dense", fn.Dense((2, 3), axis=(-1, 1)), (floats(2, 3, 2, 4),)),
    Row("Dense", fn.Dense(4, rank=2), (floats(2, 3),)),
    Row("Einsum", fn.Einsum("...ed,edf->...fe", f=2, bias_axes="fe"), (floats(2, 3, 4),)),
    Row("Bilinear", fn.Bilinear(2), (floats(2, 3), floats(2, 4, seed=1))),
    Row("Bias", fn.Bias((2, 1)), (floats(2, 3, 4),)),
    Row("Scale", fn.Scale(), (floats(2, 3),)),
    Row("Scale", fn.Scale(()), (floats(2, 3),)),
    Row("PReLU", fn.PReLU(), (floats(2, 3),)),
    Row("PReLU", fn.PReLU(1), (floats(2, 3, 2),)),
    Row("GLU", fn.GLU(jax.nn.silu, axis=1), (floats(2, 4, 3),)),
    Row("Maxout", fn.Maxout(4, 3), (floats(2, 3),)),
    Row("GatedMLP", fn.GatedMLP(4), (floats(2, 3),)),
    Row("MLP", fn.MLP(4, 3, 2, activation=fn.PReLU(-1), dropout=0.3), (floats(2, 3),)),
    Row("SqueezeExcite", fn.SqueezeExcite(2), (floats(2, 3, 2, 4),)),
    Row("Conv", fn.Conv(4, 3), (floats(2, 5, 2),)),
    Row("Conv", fn.Conv(4, (3, 2), strides=2, groups=2, dilation=(1, 2), padding="VALID"), (floats(2, 6, 7, 2),)),
    Row("Conv", fn.Conv(2, 2, padding="CIRCULAR"), (floats(1, 3, 4, 3, 2),)),
    Row("ConvTranspose", fn.ConvTranspose(3, 3, strides=2), (floats(2, 3, 2),)),
    Row(
        "ConvTranspose",
        fn.ConvTranspose(4, (3, 2), strides=(1, 2), padding=1, dilation=2, groups=2, output_padding=(0, 1)),
        (floats(2, 3, 4, 2),),
    ),
    Row("ConvTranspose", fn.ConvTranspose(2, 3, strides=2, padding="REFLECT", use_bias=False), (floats(2, 3, 2),)),
    Row("DepthwiseConv", fn.DepthwiseConv(3, multiplier=2), (floats(2, 5, 2),)),
    Row("SeparableConv", fn.SeparableConv(4, (3, 2), strides=2), (floats(2, 5, 4, 3),)),
    Row("LocallyConnected", fn.LocallyConnected(3, 2), (floats(2, 4, 2),)),
    Row("LocallyConnected", fn.LocallyConnected(2, (2, 3), strides=2, padding="VALID"), (floats(2, 4, 5, 2),)),
    Row("MaxPool", fn.MaxPool(2), (floats(2, 4, 4, 3),)),
    Row("MaxPool", fn.MaxPool(2, strides=1, padding=1, dilation=2), (floats(2, 5, 3),)),
    Row("MinPool", fn.MinPool(2, padding="SAME"), (floats(2, 5, 3),)),
    Row("SumPool", fn.SumPool(2), (floats(2, 4, 4, 3),)),
    Row("LpPool", fn.LpPool(3, 2), (floats(2, 4, 3),)),
    Row("AdaptiveAvgPool", fn.AdaptiveAvgPool((2, 3)), (floats(2, 5, 4, 3),)),
    Row("AdaptiveMaxPool", fn.AdaptiveMaxPool(3), (floats(2, 5, 3),)),
    Row("MaxUnpool", fn.MaxUnpool(2), (floats(2, 3, 2), ids(2, 3, 2) % 5)),
    Row("AvgPool", fn.AvgPool(3, strides=1, padding="SAME"), (floats(2, 4, 3),)),
    Row("GlobalAvgPool", fn.GlobalAvgPool(), (floats(2, 4, 3, 3),)),
    Row("GlobalMaxPool", fn.GlobalMaxPool(), (floats(2, 4, 3),)),
    Row("BatchNorm", fn.BatchNorm(), (floats(4, 3, 2),)),
    Row("BatchNorm", fn.BatchNorm(use_scale=False), (floats(4, 3, 2), ids(4, 3) < 4)),
    Row("LayerNorm", fn.LayerNorm(), (floats(2, 5),)),
    Row("LayerNorm", fn.LayerNorm(axis=(1, -1)), (floats(2, 5, 2, 3),)),
    Row("RMSNorm", fn.RMSNorm(), (floats(2, 5),)),
    Row("RMSNorm", fn.RMSNorm(axis=(1, 2)), (floats(2, 3, 4),)),
    Row("GroupNorm", fn.GroupNorm(2), (floats(2, 3, 3, 4),)),
    Row("InstanceNorm", fn.InstanceNorm(), (floats(2, 4, 3),)),
    Row("LocalResponseNorm", fn.LocalResponseNorm(3), (floats(2, 4, 5),)),
    Row("FiLM", fn.FiLM(fn.LayerNorm(use_scale=False, use_bias=False)), (floats(2, 4, 3), floats(2, 2))),
    Row("Dropout", fn.Dropout(0.4), (floats(2, 5),)),
    Row("Dropout", fn.Dropout(0.4, -1), (floats(3, 5),)),
    Row("DropPath", fn.DropPath(0.4), (floats(3, 2, 2),)),
    Row("AlphaDropout", fn.AlphaDropout(0.4), (floats(2, 5),)),
    Row("GaussianNoise", fn.GaussianNoise(0.3), (floats(2, 5),)),
    Row("GaussianDropout", fn.GaussianDropout(0.4), (floats(2, 5),)),
    Row("Embedding", fn.Embedding(7, 3), (ids(2, 4),)),
    Row("EmbeddingBag", fn.EmbeddingBag(7, 3), (ids(2, 4),)),
    Row("Unembed", fn.Sequential(("embed", fn.Embedding(7, 3)), jnp.tanh, ("embed", fn.Unembed())), (ids(2, 4),)),
    Row("MixtureOfExperts", mixed, (floats(3, 2, 4),)),
    Row("LRU", fn.LRU(3), (floats(2, 5, 4),)),
    Row("RGLRU", fn.RGLRU(blocks=2), (floats(2, 5, 4),)),
    Row("VectorQuantizer", quantised, (floats(3, 2, 4),)),
    Row("VectorQuantizer", fn.compose(quantizer=fn.VectorQuantizer(5, decay=None))(quantised), (floats(3, 2, 4),)),
    Row("Attention", fn.Attention(2), (floats(2, 3, 4),)),
    Row(
        "Attention",
        fn.Attention(4, kv_heads=2, causal=True, window=1, softcap=3.0, dropout=0.2, rope=fn.rotary),
        (floats(2, 3, 8),),
    ),
    Row("Attention", fn.Attention(2, query_norm=fn.RMSNorm(), features=3), (floats(2, 3, 4), floats(2, 5, 6))),
    Row("Projection", fn.Attention(2, keys=fn.Projection(use_bias=False), out=fn.Dense(4)), (floats(2, 3, 4),)),
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
    Row("Reshape", fn.Reshape(2, -1), (floats(2, 3, 4),)),
    Row("Transpose", fn.Transpose(2, 1), (floats(2, 3, 4),)),
    Row("Rearrange", fn.Rearrange("b (h w) c -> b h (w c)", h=2), (floats(2, 6, 3),)),
    Row("PixelShuffle", fn.PixelShuffle(2), (floats(2, 2, 3, 4),)),
    Row("PixelUnshuffle", fn.PixelUnshuffle(2), (floats(2, 4, 6, 2),)),
    Row("Patchify", fn.Patchify((2, 1)), (floats(2, 4, 3, 2),)),
    Row("Pad", fn.Pad(((1, 2), 0), value=0.5), (floats(2, 3, 2, 2),)),
    Row("Pad", fn.Pad(1, mode="reflect"), (floats(2, 3, 2),)),
    Row("Crop", fn.Crop(((1, 0), 1)), (floats(2, 3, 4, 2),)),
    Row("Upsample", fn.Upsample(2), (floats(2, 3, 2, 2),)),
    Row("Upsample", fn.Upsample(1.7, method="linear"), (floats(2, 3, 2),)),
    Row("Upsample", fn.Upsample(size=(3, 5), method="cubic", align_corners=True), (floats(2, 2, 3, 2),)),
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
    Row("Unrolled", fn.rewrite.Unrolled(block, fn.Residual(fn.Dense(3))), (floats(4, 3),)),
    Row("Scan", fn.Scan(cell), (floats(2, 3), floats(2, 5, 3))),
    Row("Scan", fn.Scan(cell, reverse=True, remat=2, keys="sequence"), (floats(2, 3), floats(2, 5, 3))),
    Row("Streaming", fn.Streaming(fn.Scan(fn.LSTMCell(3))), (floats(2, 5, 3),), streams=True),
    Row("Bidirectional", fn.Bidirectional(fn.GRUCell(3)), (floats(2, 5, 3),)),
    Row("RNNCell", fn.RNNCell(3), (floats(2, 3), floats(2, 4))),
    Row("LSTMCell", fn.Scan(fn.LSTMCell(3)), (floats(2, 5, 3),)),
    Row("GRUCell", fn.GRUCell(3), (floats(2, 3), floats(2, 4))),
    Row("MGUCell", fn.MGUCell(3, use_bias=False), (floats(2, 3), floats(2, 4))),
    Row("ConvLSTMCell", fn.Scan(fn.ConvLSTMCell(3, 2)), (floats(2, 3, 4, 2),)),
    Row("Ensemble", fn.Ensemble(fn.Sequential(block, fn.Dense(2)), 3), (floats(4, 3),), out_axis=1),
    Row("Remat", fn.Sequential(fn.Remat(block), fn.Dense(2)), (floats(4, 3),)),
    Row("Cast", fn.Cast(mlp, "bfloat16", output="float32"), (floats(2, 3),)),
    Row("Freeze", fn.Sequential(fn.Freeze(fn.Dense(3)), fn.Dense(2)), (floats(2, 3),)),
    Row("with_init", with_init(block, {"dense_0/*": wide_init}), (floats(4, 3),)),
    Row("tie", fn.tie(mlp, "out/kernel", to="hidden/kernel", via=jnp.transpose), (floats(2, 3),)),
    Row("compose", mlp, (floats(2, 3),)),
    Row("Parametrized", fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm()), (floats(2, 4),)),
    Row("Parametrized", fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm()), (floats(2, 4),)),
    Row("Parametrized", fn.Parametrized(fn.Conv(3, 2), kernel=fn.Orthogonal()), (floats(2, 5, 4),), multiplies=True),
    Row("Parametrized", fn.Parametrized(fn.Dense(3), kernel=fn.Masked(0.5)), (floats(2, 4),)),
    Row("Parametrized", fn.Parametrized(fn.Dense(3), kernel=fn.LowRank(2)), (floats(2, 4),)),
    Row("Parametrized", fn.Parametrized(fn.Dense(3), kernel=fn.LoRA(2, alpha=3.0)), (floats(2, 4),)),
    Row("Param", weighted, (floats(2, 3),)),
    Row("Constant", weighted, (floats(2, 3),)),
    Row("pair", fn.pair(scale_init, scale_apply), (floats(2, 3),)),
]
"""Rows may share a public name; `test_house` checks that every public layer has one."""
