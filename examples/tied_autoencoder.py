"""An autoencoder whose decoder is its encoder, transposed: weights tied across a net.

    python examples/tied_autoencoder.py     # 15 seconds on two CPU cores

`fn.tie(net, "decode/kernel", to="encode/kernel", via=jnp.transpose)` is a net without a decode/kernel: there is one
array, which takes the gradients of both places and is optimised and saved once. Every digit of 64 pixels is put into
8 numbers, and back; principal components are the best that a linear code can do. The picture is
runs/tied_autoencoder/digits.png.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

import funcnets as fn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CODE = 8

free = fn.Sequential(
    *(("encode", fn.Dense(256)), jax.nn.silu, ("squeeze", fn.Dense(CODE))),
    *(("widen", fn.Dense(256)), jax.nn.silu, ("decode", fn.Dense(64))),
)
tied = fn.tie(free, "decode/kernel", to="encode/kernel", via=jnp.transpose)
tied = fn.tie(tied, "widen/kernel", to="squeeze/kernel", via=jnp.transpose)


def loss(model, images):
    return jnp.square(model(images) - images).mean()


def trained(net, images, steps):
    data = fn.train.batches(images, 64, jax.random.key(1))
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-2)
    state = fn.train.create(net, optimizer, jax.random.key(0), data[0])
    step = fn.train.make_step(net, loss, optimizer)
    for i in range(steps):
        state, _ = step(state, data[i])
    return state.params


def plot(path, rows):
    figure, grid = plt.subplots(len(rows), 16, figsize=(10, 0.75 * len(rows)), constrained_layout=True)
    for axes, (name, images) in zip(grid, rows.items(), strict=True):
        for ax, image in zip(axes, images[:16], strict=True):
            ax.imshow(np.reshape(image, (8, 8)), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description="Train an autoencoder whose decoder is its encoder, transposed.")
    parser.add_argument("--steps", type=int, default=5000, help="steps to train each net (default 5000)")
    parser.add_argument(
        "--directory", type=pathlib.Path, default=pathlib.Path("runs/tied_autoencoder"), help="for the picture"
    )
    arguments = parser.parse_args()

    images = (load_digits().data / 16).astype(np.float32)
    train, test = train_test_split(images, test_size=0.2, random_state=0)
    pca = PCA(CODE).fit(train)
    rows = {"real": test, "components": pca.inverse_transform(pca.transform(test))}
    size = pca.components_.size + pca.mean_.size
    print(f"{'':12s}  numbers learned   squared error of a pixel in images not trained on")
    print(f"{'components':12s}{size:17,}{np.square(rows['components'] - test).mean():17.5f}")
    for name, net in (("tied", tied), ("untied", free)):
        params = trained(net, train, arguments.steps)
        rows[name] = np.asarray(jax.jit(net.apply)(params, test))
        print(f"{name:12s}{fn.params.count(params):17,}{np.square(rows[name] - test).mean():17.5f}")

    arguments.directory.mkdir(parents=True, exist_ok=True)
    plot(arguments.directory / "digits.png", rows)
    print(f"the digits are in {arguments.directory / 'digits.png'}")


if __name__ == "__main__":
    main()
