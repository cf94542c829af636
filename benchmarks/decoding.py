"""Tokens a second of `fn.generate` with a cache for keys and values, against a decoding loop in JAX by hand.

A decoder of 6 layers, 256 wide, goes on greedily after a prompt of 16 ids. By hand the caches are plain arrays, heads
before time, with one position for all rows, and the loop is a `lax.scan`. Both are found to give the same ids before
they are timed; the table shows the run of three whose ratio lies in the middle.

    python benchmarks/decoding.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from measure import interleaved

import funcnets as fn

LAYERS, WIDTH, HEADS, VOCAB, PROMPT, STEPS = 6, 256, 4, 1024, 16, 256
RUNS, ROUNDS, BOUND = 3, 5, 0.95


def gpt(cache=None):
    attention = fn.Attention(HEADS, causal=True, rope=fn.rotary, cache=cache)
    blocks = [fn.TransformerBlock(attention)] * LAYERS
    return fn.Sequential(("embed", fn.Embedding(VOCAB, WIDTH)), *blocks, fn.LayerNorm(), ("embed", fn.Unembed()))


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def rotated(x, cos, sin):
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(p, x, cache, start):
    """The output for tokens from this position on, and the cache with their keys and values."""
    at = start + jnp.arange(x.shape[1])
    angles = at[:, None] * 10_000.0 ** (-jnp.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    split = (*x.shape[:2], HEADS, -1)
    q, k, v = (dense(p[name], x).reshape(split).swapaxes(1, 2) for name in ("query", "keys", "values"))
    new = rotated(k, cos, sin), v
    k, v = cache = [
        jax.lax.dynamic_update_slice(held, each, (0, 0, start, 0)) for held, each in zip(cache, new, strict=True)
    ]
    scores = rotated(q, cos, sin) @ k.swapaxes(-1, -2) * (WIDTH // HEADS) ** -0.5  # (batch, heads, queries, keys)
    weights = jax.nn.softmax(jnp.where(jnp.arange(k.shape[2]) <= at[:, None], scores, -1e30))
    return dense(p["out"], (weights @ v).swapaxes(1, 2).reshape(x.shape)), cache


def by_hand(params, ids, caches, start):
    """Logits after the last id, and the caches."""
    x, after = params["embed"]["table"][ids], []
    for i, cache in enumerate(caches):
        p = params[f"transformer_block_{i}"]
        y, cache = attention(p["attention"], norm(p["attention_norm"], x), cache, start)
        x = x + y
        x = x + dense(p["mlp"]["out"], jax.nn.gelu(dense(p["mlp"]["hidden"], norm(p["mlp_norm"], x))))
        after.append(cache)
    return norm(params["layer_norm_0"], x[:, -1]) @ params["embed"]["table"].T, after


@jax.jit
def generated_by_hand(params, prompt):
    def step(carry, position):
        last, caches = carry
        logits, caches = by_hand(params, last[:, None], caches, position)
        last = logits.argmax(-1)
        return (last, caches), last

    place = jnp.zeros((len(prompt), HEADS, PROMPT + STEPS, WIDTH // HEADS))
    logits, caches = by_hand(params, prompt, [[place, place] for _ in range(LAYERS)], 0)
    first = logits.argmax(-1)
    _, others = jax.lax.scan(step, (first, caches), PROMPT + jnp.arange(STEPS - 1))
    return jnp.concatenate([first[:, None], others.T], 1)


def main():
    print(f"{'tokens a second':<20}{'ours':>10}{'by hand':>10}{'ratio':>8}")
    for batch in (1, 8):
        prompt = jax.random.randint(jax.random.key(1), (batch, PROMPT), 0, VOCAB)
        params = gpt().init(jax.random.key(0), prompt)
        net = gpt(cache=PROMPT + STEPS)
        calls = {
            "ours": lambda net=net, params=params, prompt=prompt: fn.generate(net, params, prompt, STEPS),
            "hand": lambda params=params, prompt=prompt: generated_by_hand(params, prompt),
        }
        np.testing.assert_array_equal(calls["ours"](), calls["hand"]())
        runs = [interleaved(calls, ROUNDS, warm=1) for _ in range(RUNS)]
        times = sorted(runs, key=lambda one: one["hand"] / one["ours"])[RUNS // 2]
        ours, hand = (batch * STEPS / times[name] for name in ("ours", "hand"))
        print(f"batch {batch:<14}{ours:>10.0f}{hand:>10.0f}{ours / hand:>8.3f}  (at least {BOUND})", flush=True)


if __name__ == "__main__":
    main()
