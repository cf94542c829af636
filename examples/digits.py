"""Handwritten digits: a small convolutional net, trained with checkpoints.

    python examples/digits.py             # under two minutes on two CPU cores
    python examples/digits.py             # again: it resumes, and has nothing left to do
    python examples/digits.py --fresh     # starts over

The 1,797 images of 8 × 8 pixels come with scikit-learn. Killed at any moment and run again, it ends with the same
parameters, bit for bit, as a run that was left alone; Ctrl-C saves first.
"""

import argparse
import pathlib
import shutil

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import funcnets as fn
from funcnets import train

net = fn.Sequential(
    *(fn.Conv(32, 3), fn.BatchNorm(), jax.nn.relu),
    *(fn.Conv(32, 3), fn.BatchNorm(), jax.nn.relu, fn.MaxPool(2), fn.Dropout(0.2)),
    *(fn.Conv(64, 3), fn.BatchNorm(), jax.nn.relu, fn.MaxPool(2), fn.Dropout(0.3)),
    *(fn.Flatten(), fn.Dense(10)),
)


def read_data():
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
    parts = train_test_split(images, labels.astype(np.int32), test_size=0.2, random_state=0, stratify=labels)
    return {"image": parts[0], "label": parts[2]}, {"image": parts[1], "label": parts[3]}


def measures(model, batch):
    logits = model(batch["image"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return {"loss": loss, "accuracy": logits.argmax(-1) == batch["label"]}


def loss(model, batch):
    found = measures(model, batch)
    return found["loss"].mean(), {"accuracy": found["accuracy"].mean()}


def draw_predictions(state, test):
    """The test images that are misread, and others up to 24."""
    guesses = np.asarray(net.apply(state.params, test["image"], state=state.state)[0].argmax(-1))
    misread = guesses != test["label"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, i in zip(figure.subplots(3, 8).flat, np.argsort(~misread, stable=True)[:24], strict=True):
        axes.imshow(test["image"][i, ..., 0], cmap="gray_r")
        title = f"{guesses[i]}, is {test['label'][i]}" if misread[i] else f"{guesses[i]}"
        axes.set_title(title, color="crimson" if misread[i] else "black")
        axes.axis("off")
    figure.suptitle(f"{misread.sum()} of {len(guesses)} test images are misread, in red; the rest are read right")
    return figure


def main():
    parser = argparse.ArgumentParser(
        description="Train a small convolutional net on scikit-learn's handwritten digits."
    )
    parser.add_argument("--epochs", type=int, default=40, help="epochs to train in all (default 40)")
    parser.add_argument("--directory", type=pathlib.Path, default="runs/digits", help="where the run is kept")
    parser.add_argument("--fresh", action="store_true", help="remove what is kept there and start over")
    arguments = parser.parse_args()
    directory = arguments.directory
    if arguments.fresh:
        shutil.rmtree(directory, ignore_errors=True)

    training, test = read_data()
    print(net.plan(training["image"][:1]))
    checkpoints = fn.Checkpoints(directory / "checkpoints", keep=2)
    if (step := checkpoints.latest_step) is not None:
        print(f"going on from step {step}")
    optimizer = optax.adamw(optax.exponential_decay(2e-3, 200, 0.5), weight_decay=1e-3)
    run = train.fit(
        train.make_step(net, loss, optimizer),
        train.create(net, optimizer, jax.random.key(0), training["image"][:1]),
        train.batches(training, 64, jax.random.key(1)),
        epochs=arguments.epochs,
        evaluate=lambda state: train.evaluate(net, measures, state, train.batches(test, 120)),
        checkpoints=checkpoints,
    )
    run.history.plot().savefig(directory / "learning_curve.png", dpi=120)
    draw_predictions(run.state, test).savefig(directory / "predictions.png", dpi=120)
    print(f"test accuracy {run.history['accuracy'][-1]:.4f} after {run.state.step} steps; pictures are in {directory}")


if __name__ == "__main__":
    main()
