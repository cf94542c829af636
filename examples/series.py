"""An LSTM that tells nine speakers apart, and is surer the longer it listens.

    python examples/series.py     # 15 seconds on two CPU cores; the picture is runs/series/listening.png

Each recording is a vowel, 7 to 29 frames of 12 coefficients (Japanese Vowels, Kudo et al. 1999, which comes with
sktime). Recordings are padded to one length; `lengths` tells the LSTM how long each is, and nothing depends on what
comes after. It answers at every frame, and is trained to be right at every one.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sktime.datasets import load_japanese_vowels

import funcnets as fn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FRAMES = 29  # in the longest recording


@fn.compose(
    noise=fn.GaussianNoise(0.6),
    lstm=fn.Scan(fn.LSTMCell(64)),
    out=fn.Sequential(fn.LayerNorm(), fn.Dropout(0.3), fn.Dense(9)),
)
def net(m, frames, lengths):
    return m.out(m.lstm(m.noise(frames), lengths=lengths))  # (batch, time, 9)


def read():
    """Recordings to learn from, and others: of each its frames, padded with zeros, its length and its speaker."""
    parts = {split: load_japanese_vowels(split, return_type="df-list") for split in ("train", "test")}
    learned = np.concatenate(parts["train"][0])
    for recordings, speakers in parts.values():
        frames = [((each - learned.mean(0)) / learned.std(0)).to_numpy(np.float32) for each in recordings]
        yield {
            "frames": np.stack([np.pad(each, ((0, FRAMES - len(each)), (0, 0))) for each in frames]),
            "lengths": np.array([len(each) for each in frames], np.int32),
            "speaker": speakers.astype(np.int32) - 1,
        }


def loss(model, batch):
    logits = model(batch["frames"], batch["lengths"])
    speaker = jnp.broadcast_to(batch["speaker"][:, None], logits.shape[:2])
    there = jnp.arange(FRAMES) < batch["lengths"][:, None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, speaker).mean(where=there)


def told_right(params, recordings):
    """The share told right after each number of frames, or at the end where there are fewer: (FRAMES,)."""
    answers = jax.jit(net.apply)(params, recordings["frames"], recordings["lengths"]).argmax(-1)
    heard = np.minimum(np.arange(FRAMES), recordings["lengths"][:, None] - 1)
    return (np.take_along_axis(np.asarray(answers), heard, 1) == recordings["speaker"][:, None]).mean(0)


def by_means(train, test):
    """How many a linear classifier gets right, given the mean of the frames alone."""
    means = [each["frames"].sum(1) / each["lengths"][:, None] for each in (train, test)]
    classifier = LogisticRegression(max_iter=1000).fit(means[0], train["speaker"])
    return classifier.score(means[1], test["speaker"])


def main():
    parser = argparse.ArgumentParser(description="Train an LSTM to tell nine speakers apart.")
    parser.add_argument("--steps", type=int, default=600, help="steps to train (default 600)")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("runs/series"), help="for the picture")
    arguments = parser.parse_args()

    train, test = read()
    data = fn.train.batches(train, 45, jax.random.key(1))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3, weight_decay=1e-2), fn.train.ema(0.99))
    state = fn.train.create(net, optimizer, jax.random.key(0), data[0]["frames"], data[0]["lengths"])
    step = fn.train.make_step(net, loss, optimizer)
    for i in range(arguments.steps):
        state, metrics = step(state, data[i])
        if (i + 1) % 200 == 0:
            print(f"step {i + 1:4d}  training loss {metrics['loss']:.3f}", flush=True)

    right = told_right(fn.train.averaged(state).params, test)
    linear, most = by_means(train, test), np.bincount(test["speaker"]).max() / len(test["speaker"])
    print(f"speakers told right in {len(test['speaker'])} recordings not trained on")
    print(f"  after the whole recording   {right[-1]:.1%}")
    print(f"  after one frame of it       {right[0]:.1%}")
    print(f"  a linear classifier         {linear:.1%}  (given the mean of the frames)")
    print(f"  the most frequent speaker   {most:.1%}")

    figure, ax = plt.subplots(figsize=(7, 3.6), constrained_layout=True)
    ax.plot(range(1, FRAMES + 1), right, marker=".")
    ax.axhline(linear, color="grey", linestyle="--", label="a linear classifier, given the mean of all frames")
    ax.set(xlabel="frames heard, or all where there are fewer", ylabel="speakers told right", ylim=(0.85, 1))
    ax.legend(loc="lower right")
    ax.grid(alpha=0.3)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.directory / "listening.png", dpi=120)
    print(f"how it gets there is in {arguments.directory / 'listening.png'}")


if __name__ == "__main__":
    main()
