"""A training loop by hand: jax.grad and optax, with nothing of `fn.train` between.

    python examples/custom_training_loop.py     # a quarter of a minute on two CPU cores

A net is two pure functions, so a loop of your own is JAX as ever: a net with running statistics and dropout is given
its state and a key, and gives the new state back. Everything that moves is a name in this file. `fn.train.make_step` is
this, made general.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import funcnets as fn

BATCH = 64

net = fn.Sequential(
    *(fn.Conv(32, 3), fn.BatchNorm(), jax.nn.relu, fn.MaxPool(2)),
    *(fn.Conv(64, 3), fn.BatchNorm(), jax.nn.relu, fn.MaxPool(2)),
    *(fn.Flatten(), fn.Dropout(0.3), fn.Dense(10)),
)
optimizer = optax.adamw(2e-3)


def loss(params, state, key, images, labels):
    logits, state = net.apply(params, images, state=state, key=key, train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def step(params, state, opt_state, key, images, labels):
    (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params, state, key, images, labels)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), state, opt_state, value


@jax.jit
def accuracy(params, state, images, labels):
    logits, _ = net.apply(params, images, state=state)  # evaluation: no key, and the state stays as it is
    return (logits.argmax(-1) == labels).mean()


def main():
    parser = argparse.ArgumentParser(description="Train a convolutional net on digits, with a loop by hand.")
    parser.add_argument("--epochs", type=int, default=10, help="epochs to train (default 10)")
    arguments = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images, labels = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels.astype(np.int32)
    images, test_images, labels, test_labels = train_test_split(images, labels, test_size=0.2, random_state=0)

    params, state = net.init(jax.random.key(0), images[:1]), net.init_state(images[:1])
    opt_state = optimizer.init(params)
    print(net.plan(images[:1]))

    order, number = np.random.default_rng(0), 0
    for epoch in range(arguments.epochs):
        losses = []
        for rows in np.split(order.permutation(len(images))[: len(images) // BATCH * BATCH], len(images) // BATCH):
            key = jax.random.fold_in(jax.random.key(1), number)
            params, state, opt_state, value = step(params, state, opt_state, key, images[rows], labels[rows])
            losses.append(value)
            number += 1
        right = accuracy(params, state, test_images, test_labels)
        print(f"epoch {epoch + 1:2d}  loss {jnp.stack(losses).mean():.4f}  accuracy {right:.4f}")

    linear = LogisticRegression(max_iter=1000).fit(images.reshape(-1, 64), labels)
    print(f"a linear classifier has an accuracy of {linear.score(test_images.reshape(-1, 64), test_labels):.4f}")


if __name__ == "__main__":
    main()
