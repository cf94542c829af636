"""A small GPT that learns to write, character by character, from the manual that ships with Python.

    python examples/char_lm.py                        # under two minutes on two CPU cores
    python examples/char_lm.py --prompt "A class"     # again: it is trained, and goes on with another prompt
    python examples/char_lm.py --steps 6000           # trains on, from where it stopped
    python examples/char_lm.py --fresh                # starts over

Embedding and output share one table, by sharing the name "embed". The net that generates is the net that was trained,
with a cache in its attention. Stopped at any moment and run again, it goes on from its last checkpoint and ends with
the same parameters, bit for bit, as a run that was left alone: parameters, their average, the optimiser and the
randomness of dropout are in the state, and the order of the data follows from the number of the step.
"""

import argparse
import collections
import math
import pathlib
import shutil
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnets as fn

LENGTH = 96  # the characters that the net sees at once
BATCH = 4
NEW = 400  # the characters that it writes in the end

# Topics quote each other, so each paragraph counts once: what is held out is then not among what is learned.
text = "\n\n".join(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))
vocabulary = sorted(set(text))
number = {character: i for i, character in enumerate(vocabulary)}


def encode(characters):
    return np.array([number[character] for character in characters], np.int32)


def windows(ids):
    """Every stretch of LENGTH + 1 ids, as a view: (len(ids) - LENGTH, LENGTH + 1)."""
    return np.lib.stride_tricks.sliding_window_view(ids, LENGTH + 1)


def gpt(width, depth):
    attention = fn.Attention(4, causal=True, rope=fn.rotary)
    return fn.Sequential(
        ("embed", fn.Embedding(len(vocabulary), width)),
        fn.Repeat(fn.TransformerBlock(attention, dropout=0.02), depth),
        fn.LayerNorm(),
        ("embed", fn.Unembed()),
    )


def bits(model, ids):
    """The bits that each character takes, given those before it: (batch, LENGTH)."""
    logits = model(ids[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]) / math.log(2)


def loss(model, ids):
    return bits(model, ids).mean()


def measure(model, ids):
    return {"bits": bits(model, ids)}


def bits_by_counting(learned, held_out, order):
    """The bits a character takes if all that counts is how often it followed the `order` characters before it."""
    grams = collections.Counter(learned[i : i + order + 1] for i in range(len(learned) - order))
    contexts = collections.Counter(learned[i : i + order] for i in range(len(learned) - order))
    total = 0.0
    for i in range(len(held_out) - order):
        gram = held_out[i : i + order + 1]
        total -= math.log2((grams[gram] + 0.01) / (contexts[gram[:-1]] + 0.01 * len(vocabulary)))
    return total / (len(held_out) - order)


def main():
    parser = argparse.ArgumentParser(description="Train a small character-level GPT on Python's own manual.")
    parser.add_argument("--steps", type=int, default=3500, help="steps to train in all (default 3500)")
    parser.add_argument("--width", type=int, default=96, help="the width of the net (default 96)")
    parser.add_argument("--depth", type=int, default=3, help="its number of blocks (default 3)")
    parser.add_argument("--prompt", default="The function", help="what the generated text begins with")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("runs/char_lm"), help="where it is kept")
    parser.add_argument("--fresh", action="store_true", help="remove what is kept there and start over")
    arguments = parser.parse_args()
    if not 0 < len(arguments.prompt) <= LENGTH or not set(arguments.prompt) <= set(vocabulary):
        parser.error(f"--prompt is of 1 to {LENGTH} characters that are in the manual")
    if arguments.fresh:
        shutil.rmtree(arguments.directory, ignore_errors=True)

    learned, held_out = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    data = fn.train.batches(windows(encode(learned)), BATCH, jax.random.key(1))
    net = gpt(arguments.width, arguments.depth)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_constant_schedule(0.0, 3e-3, 50), b2=0.99),
        fn.train.ema(lambda updates: jnp.minimum(0.997, (1 + updates) / (10 + updates))),
    )
    step = fn.train.make_step(net, loss, optimizer)
    state = fn.train.create(net, optimizer, jax.random.key(0), data[0][:, :-1])
    print(f"{fn.params.count(state.params):,} parameters, {len(learned):,} characters to learn from")

    with fn.Checkpoints(arguments.directory / "checkpoints", keep=2, every=250, net=net) as checkpoints:
        state = checkpoints.resume(state)
        if state.step:
            print(f"resuming after step {state.step}")
        for i in range(int(state.step), arguments.steps):
            state, metrics = step(state, data[i])
            if (i + 1) % 500 == 0:
                print(f"step {i + 1:5d}  {metrics['loss']:.2f} bits a character", flush=True)
            checkpoints.save(i + 1, state, force=i + 1 == arguments.steps)

    averaged = fn.train.averaged(state)
    found = fn.train.evaluate(net, measure, averaged, [windows(encode(held_out))[::LENGTH]])["bits"]
    print(f"held-out text takes {found:.4f} bits a character after {state.step} steps;", end=" ")
    alone, best = (bits_by_counting(learned, held_out, order) for order in (0, 3))
    print(f"by counting characters {alone:.2f}, by counting runs of four {best:.2f}\n")

    # It looks no further back than it has learned to.
    decoder = fn.rewrite.replace(net, {fn.Attention: {"cache": LENGTH + NEW, "window": (LENGTH - 1, 0)}})
    prompt = encode(arguments.prompt)[None]
    ids = fn.generate(decoder, averaged.params, prompt, NEW, temperature=0.7, key=jax.random.key(2))
    print(arguments.prompt + "".join(vocabulary[i] for i in np.asarray(ids[0])))


if __name__ == "__main__":
    main()
