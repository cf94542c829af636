"""A training step of a 6-layer GPT with this library's layer norm, against the same with the textbook formula.

The textbook formula lets XLA's CPU backend compute the residual stream again in every place that reads it; a barrier
on the norm's input keeps it.

    python benchmarks/gpt_step.py
"""

import jax
import jax.numpy as jnp
import optax
from measure import HEADER, interleaved, row

import funcnets as fn

LAYERS, WIDTH, HEADS, LENGTH, BATCH, VOCAB = 6, 128, 4, 128, 8, 256


class TextbookNorm(fn.Layer):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, as books write it."""

    epsilon: float = 1e-5

    def params(self, x):
        return {
            "scale": fn.Param(x.shape[-1:], fn.initializers.Ones()),
            "bias": fn.Param(x.shape[-1:], fn.initializers.Zeros()),
        }

    def forward(self, p, x):
        mean = x.mean(-1, keepdims=True)
        var = jnp.square(x - mean).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(var + self.epsilon) * p["scale"] + p["bias"]


def gpt(norm):
    block = fn.TransformerBlock(fn.Attention(HEADS, causal=True), norm=norm)
    return fn.Sequential(("embed", fn.Embedding(VOCAB, WIDTH)), *[block] * LAYERS, norm, ("embed", fn.Unembed()))


def loss(model, ids):
    logits = model(ids[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()


def main():
    ids = jax.random.randint(jax.random.key(0), (BATCH, LENGTH + 1), 0, VOCAB)
    optimizer = optax.adam(1e-3)
    contestants = {}
    for name, norm in (("ours", fn.LayerNorm()), ("textbook", TextbookNorm())):
        net = gpt(norm)
        held = [fn.train.create(net, optimizer, jax.random.key(0), ids[:, :-1])]
        step = fn.train.make_step(net, loss, optimizer)

        def once(held=held, step=step):
            held[0], metrics = step(held[0], ids)
            return metrics

        contestants[name] = once
    times = interleaved(contestants, 20)
    print(HEADER)
    print(row("GPT step, 6 layers", times["ours"], times["textbook"], "a textbook layer norm", 0.8))


if __name__ == "__main__":
    main()
