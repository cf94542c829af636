"""A GAN that draws digits: two losses over one net, each with the part of the parameters that it moves.

    python examples/gan.py            # half a minute on two CPU cores; the picture is runs/gan/digits.png

The generator draws the digit it is asked for, the critic says how real it looks, and a step plays both: of
{"critic/**": ..., "generator/**": ...} each loss moves the parameters that its pattern fits, with an optimiser of its
own. The critic's loss holds its gradient with respect to images: `jax.grad` of a child, inside a loss. Both losses are
relativistic (the critic compares a real and a drawn image of the same digit), after Huang et al. 2024.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

import funcnets as fn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NOISE = 32


@fn.compose(
    digit=fn.Embedding(10, 16, table_init=fn.initializers.Normal(1.0)),
    body=fn.Sequential(fn.Dense(256), jax.nn.leaky_relu, fn.Dense(256), jax.nn.leaky_relu, fn.Dense(64), jnp.tanh),
)
def generator(m, noise, label):
    return m.body(jnp.concatenate([noise, m.digit(label)], -1))


@fn.compose(
    body=fn.Sequential(fn.Dense(256), jax.nn.leaky_relu, fn.Dense(256), jax.nn.leaky_relu),
    digit=fn.Embedding(10, 256),
    out=fn.Dense(1),
)
def critic(m, image, label):
    h = m.body(image)
    return m.out(h)[:, 0] + (h * m.digit(label)).sum(-1)  # (batch,)


@fn.compose(generator=generator, critic=critic)
def gan(m, noise, label):
    return m.critic(m.generator(noise, label), label)


def draw(model, label):
    return model.generator(jax.random.normal(model.key(), (len(label), NOISE)), label)


def critic_loss(model, batch):
    real, label = batch["image"], batch["label"]
    drawn = draw(model, label)

    def slope(images):
        gradient = jax.grad(lambda images: model.critic(images, label).sum())(images)
        return jnp.square(gradient).sum(-1).mean()

    lead = model.critic(real, label) - model.critic(drawn, label)
    return jax.nn.softplus(-lead).mean() + 0.05 * (slope(real) + slope(drawn)), {"lead": lead.mean()}


def generator_loss(model, batch):
    real, label = batch["image"], batch["label"]
    return jax.nn.softplus(model.critic(real, label) - model.critic(draw(model, label), label)).mean()


def plot(path, real, drawn):
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), width_ratios=[1, 2], constrained_layout=True)
    for ax, images, title in zip(axes, (real, drawn), ("real", "drawn"), strict=True):
        rows = np.pad(images.reshape(10, -1, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
        ax.imshow(rows.transpose(0, 2, 1, 3).reshape(100, -1), cmap="gray_r")
        ax.set_title(title)
        ax.axis("off")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description="Train a GAN that draws the digit it is asked for.")
    parser.add_argument("--steps", type=int, default=6000, help="steps to train (default 6000)")
    parser.add_argument(
        "--directory", type=pathlib.Path, default=pathlib.Path("runs/gan"), help="where the picture goes"
    )
    arguments = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 8 - 1).astype(np.float32), labels.astype(np.int32)
    train, test, train_labels, test_labels = train_test_split(images, labels, test_size=0.2, random_state=0)
    data = fn.train.batches({"image": train, "label": train_labels}, 64, jax.random.key(1))

    adam = optax.adam(5e-4, b1=0.0, b2=0.99)
    optimizers = {"critic/**": adam, "generator/**": optax.chain(adam, fn.train.ema(0.995))}
    step = fn.train.make_step(gan, {"critic/**": critic_loss, "generator/**": generator_loss}, optimizers)
    state = fn.train.create(gan, optimizers, jax.random.key(0), jnp.zeros((1, NOISE)), train_labels[:1])
    for i in range(arguments.steps):
        state, metrics = step(state, data[i])
        if (i + 1) % 1000 == 0:
            print(f"step {i + 1:5d} ", *(f" {name} {value:.3f}" for name, value in metrics.items()), flush=True)

    asked = np.repeat(np.arange(10, dtype=np.int32), 50)
    drawn = np.asarray(draw(gan.bind(fn.train.averaged(state).params, key=jax.random.key(2)), asked))
    reader = KNeighborsClassifier(1).fit(train, train_labels)  # reads a digit as the training image nearest to it
    print("\n                    read as what they are to be   distance to the nearest training image")
    for name, images, labels in (("drawn", drawn, asked), ("real, not trained on", test, test_labels)):
        print(f"{name:20s}{reader.score(images, labels):27.1%}{reader.kneighbors(images)[0].mean():31.2f}")

    arguments.directory.mkdir(parents=True, exist_ok=True)
    real = [train[train_labels == digit][:6] for digit in range(10)]
    plot(arguments.directory / "digits.png", np.stack(real), drawn.reshape(10, 50, 64)[:, :12])
    print(f"the digits are in {arguments.directory / 'digits.png'}")


if __name__ == "__main__":
    main()
