"""Eight nets trained as one: what they disagree about is what they do not know.

    python examples/ensemble.py     # ten seconds on two CPU cores; the picture is runs/ensemble/digits.png

`fn.Ensemble(net, 8)` holds the parameters of eight nets, stacked, each with initial values and randomness of its own,
and runs them side by side: one compiled step trains all. They learn from 100 labelled digits; their mean probability
is better than that of a member, and where they dispute, it is often wrong.
"""

import argparse
import pathlib

import jax
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import funcnets as fn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEMBERS = 8

member = fn.Sequential(fn.Dense(128), jax.nn.relu, fn.Dropout(0.3), fn.Dense(128), jax.nn.relu, fn.Dense(10))
net = fn.Ensemble(member, MEMBERS)


def loss(model, batch):
    logits = model(batch["image"])  # (members, batch, 10)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return jax.vmap(cross_entropy, in_axes=(0, None))(logits, batch["label"]).mean()


def score(probabilities, labels):
    """How many are read right, and the mean log probability of the right digit."""
    right = np.take_along_axis(probabilities, labels[:, None], -1)
    return (probabilities.argmax(-1) == labels).mean(), np.log(right).mean()


def plot(path, images, labels, guesses, order):
    """The digits that members agree about most, and least, with what each of them reads."""
    figure, grid = plt.subplots(2, 10, figsize=(11, 3.2), constrained_layout=True)
    for axes, chosen, title in zip(grid, (order[:10], order[::-1][:10]), ("agreed", "disputed"), strict=True):
        for ax, i in zip(axes, chosen, strict=True):
            ax.imshow(images[i].reshape(8, 8), cmap="gray_r")
            ax.set_title(f"is {labels[i]}")
            ax.set_xlabel("".join(map(str, guesses[:, i])), family="monospace")
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(title)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description="Train eight nets as one, on a hundred handwritten digits.")
    parser.add_argument("--steps", type=int, default=600, help="steps to train (default 600)")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("runs/ensemble"), help="for the picture")
    arguments = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, train_size=100, random_state=0, stratify=labels
    )
    data = fn.train.batches({"image": train, "label": train_labels}, 50, jax.random.key(1))
    optimizer = optax.adam(2e-3)
    state = fn.train.create(net, optimizer, jax.random.key(0), train[:1])
    step = fn.train.make_step(net, loss, optimizer)
    for i in range(arguments.steps):
        state, _ = step(state, data[i])

    probabilities = np.asarray(jax.nn.softmax(jax.jit(net.apply)(state.params, test)))  # (members, images, 10)
    alone = np.array([score(one, test_labels) for one in probabilities])
    together = score(probabilities.mean(0), test_labels)
    print(f"{len(test):,} digits not trained on     read right   log probability of the right one")
    rows = {"a member, on average": alone.mean(0), "the best member": alone.max(0), "the ensemble": together}
    for name, (right, log) in rows.items():
        print(f"{name:30s}{right:10.2%}{log:14.3f}")

    order = np.argsort(probabilities.var(0).sum(-1))  # from what they agree about to what they dispute
    right = (probabilities.mean(0).argmax(-1) == test_labels)[order]
    tenth = len(test) // 10
    print(
        f"of the tenth that members dispute most {right[-tenth:].mean():.1%}, of the rest {right[:-tenth].mean():.1%}"
    )

    arguments.directory.mkdir(parents=True, exist_ok=True)
    plot(arguments.directory / "digits.png", test, test_labels, probabilities.argmax(-1), order)
    print(f"what they agree about, and what not, is in {arguments.directory / 'digits.png'}")


if __name__ == "__main__":
    main()
