"""Handwritten digits: a small convolutional net, trained with checkpoints.

    python examples/digits.py             # under two minutes on two CPU cores
    python examples/digits.py             # again: it resumes, and has nothing left to do
    python examples/digits.py --fresh     # starts over

The 1,797 images of 8 × 8 pixels come with scikit-learn. Killed at any moment and run again, it ends with the same
parameters, bit for bit, as a run that was left alone.
"""

import argparse
import pathlib
import shutil

import jax
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import funcnets as fn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

net = fn.Sequential(
    *(fn.Conv(32, 3), fn.BatchNorm(), jax.nn.relu),
    *(fn.Conv(32, 3), fn.BatchNorm(), jax.nn.relu, fn.MaxPool(2), fn.Dropout(0.2)),
    *(fn.Conv(64, 3), fn.BatchNorm(), jax.nn.relu, fn.MaxPool(2), fn.Dropout(0.3)),
    *(fn.Flatten(), fn.Dense(10)),
)

MOST_EPOCHS = 1000  # the room that the history has


def read_data():
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
    parts = train_test_split(images, labels.astype(np.int32), test_size=0.2, random_state=0, stratify=labels)
    names = ("train_images", "test_images", "train_labels", "test_labels")
    part = dict(zip(names, parts, strict=True))
    return ({"image": part[f"{which}_images"], "label": part[f"{which}_labels"]} for which in ("train", "test"))


def loss(model, batch):
    logits = model(batch["image"])
    correct = logits.argmax(-1) == batch["label"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {"accuracy": correct.mean()}


def correct(model, batch):
    return {"accuracy": model(batch["image"]).argmax(-1) == batch["label"]}


def plot(directory, history, state, test):
    done = ~np.isnan(history["loss"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    epochs = np.arange(1, done.sum() + 1)
    left.semilogy(epochs, history["loss"][done], marker=".")
    left.set(title="training loss", xlabel="epoch", ylabel="cross entropy")
    right.plot(epochs, history["accuracy"][done], marker=".")
    right.set(title=f"test accuracy, {history['accuracy'][done][-1]:.4f} at the end", xlabel="epoch")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(directory / "learning_curve.png", dpi=120)

    logits = jax.jit(net.apply)(state.params, test["image"], state=state.state)[0]
    guesses = np.asarray(logits.argmax(-1))
    wrong = np.flatnonzero(guesses != test["label"])
    shown = np.concatenate([wrong, np.flatnonzero(guesses == test["label"])])[:24]
    figure, grid = plt.subplots(3, 8, figsize=(9, 4), constrained_layout=True)
    for axes, i in zip(grid.flat, shown, strict=True):
        axes.imshow(test["image"][i, ..., 0], cmap="gray_r")
        right = guesses[i] == test["label"][i]
        axes.set_title(
            f"{guesses[i]}" if right else f"{guesses[i]}, is {test['label'][i]}", color="black" if right else "crimson"
        )
        axes.axis("off")
    figure.suptitle(f"{len(wrong)} of {len(guesses)} test images are misread, in red; the rest are read right")
    figure.savefig(directory / "predictions.png", dpi=120)


def main():
    parser = argparse.ArgumentParser(
        description="Train a small convolutional net on scikit-learn's handwritten digits."
    )
    parser.add_argument("--epochs", type=int, default=40, help="epochs to train in all (default 40)")
    parser.add_argument(
        "--directory", type=pathlib.Path, default=pathlib.Path("runs/digits"), help="where the run is kept"
    )
    parser.add_argument("--fresh", action="store_true", help="remove what is kept there and start over")
    arguments = parser.parse_args()
    if not 0 < arguments.epochs <= MOST_EPOCHS:
        parser.error(f"--epochs is from 1 to {MOST_EPOCHS}")
    if arguments.fresh:
        shutil.rmtree(arguments.directory, ignore_errors=True)

    train, test = read_data()
    print(net.plan(train["image"][:1]))
    data = fn.train.batches(train, 64, jax.random.key(1))
    optimizer = optax.adamw(optax.exponential_decay(2e-3, 200, 0.5), weight_decay=1e-3)
    step = fn.train.make_step(net, loss, optimizer)

    empty = np.full(MOST_EPOCHS, np.nan, np.float32)
    run = {
        "state": fn.train.create(net, optimizer, jax.random.key(0), train["image"][:1]),
        "history": {"loss": empty, "accuracy": empty.copy()},
    }
    with fn.Checkpoints(arguments.directory / "checkpoints", keep=2) as checkpoints:
        run = checkpoints.resume(run)
        state, history = run["state"], jax.tree.map(np.array, run["history"])
        first = int(state.step) // len(data)
        if first:
            left = "nothing is left to do (--fresh starts over)" if first >= arguments.epochs else "going on"
            print(f"resuming after epoch {first}: {left}")
        bar = tqdm(total=arguments.epochs * len(data), initial=int(state.step), unit="step", mininterval=0.5)
        for epoch in range(first, arguments.epochs):
            losses = []
            for i in range(epoch * len(data), (epoch + 1) * len(data)):
                state, metrics = step(state, data[i])
                losses.append(metrics["loss"])
                bar.update()
            history["loss"][epoch] = np.mean(losses)
            history["accuracy"][epoch] = fn.train.evaluate(net, correct, state, fn.train.batches(test, 120))["accuracy"]
            bar.set_postfix(loss=f"{history['loss'][epoch]:.4f}", accuracy=f"{history['accuracy'][epoch]:.4f}")
            checkpoints.save(epoch + 1, {"state": state, "history": history})
        bar.close()

    plot(arguments.directory, history, state, test)
    accuracy = history["accuracy"][~np.isnan(history["accuracy"])][-1]
    print(
        f"test accuracy {accuracy:.4f} after {int(state.step)} steps; pictures and checkpoints are in "
        f"{arguments.directory}"
    )


if __name__ == "__main__":
    main()
