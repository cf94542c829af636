"""What reading ahead in a thread gains: batches that take the host some time, with and without `train.prefetch`.

A batch is two milliseconds of NumPy's work, or a file that takes as long to come; the step is a convolutional net's.
Beside them the step alone, on a batch that is there: nothing is faster.

    python benchmarks/prefetch.py
"""

import itertools
import statistics
import time

import jax
import numpy as np
import optax

import funcnets as fn

BATCH, STEPS, ROUNDS, WORK = 32, 60, 7, 0.002
LOOKS = (1, 10)
IMAGES = np.random.default_rng(0).standard_normal((BATCH, 16, 16, 3)).astype(np.float32)


def computed():
    """Batches that NumPy works on."""
    while True:
        end = time.perf_counter() + WORK
        images = IMAGES
        while time.perf_counter() < end:
            images = np.sqrt(np.abs(images)) + IMAGES
        yield images


def waited_for():
    """Batches that come from elsewhere."""
    while True:
        time.sleep(WORK)
        yield IMAGES.copy()


def there():
    batch = jax.device_put(IMAGES)
    while True:
        yield batch


def main():
    net = fn.Sequential(fn.Conv(16, 3), jax.nn.relu, fn.Conv(16, 3), jax.nn.relu, fn.GlobalAvgPool(), fn.Dense(1))
    optimizer = optax.adam(1e-3)
    step = fn.train.make_step(net, lambda model, images: (model(images) ** 2).mean(), optimizer)
    held = [fn.train.create(net, optimizer, jax.random.key(0), IMAGES)]

    def seconds(batches, every):
        """Of a step, over many, with a look at the loss every so often."""
        start = time.perf_counter()
        for i, batch in enumerate(itertools.islice(batches, STEPS), 1):
            held[0], metrics = step(held[0], batch)
            if i % every == 0:
                metrics["loss"].block_until_ready()
        return (time.perf_counter() - start) / STEPS

    contestants = {
        "the step alone": (there, None),
        "NumPy's work": (computed, None),
        "NumPy's work, prefetch": (computed, 2),
        "waiting": (waited_for, None),
        "waiting, prefetch": (waited_for, 2),
    }
    seconds(there(), 1)
    times = {(name, every): [] for name in contestants for every in LOOKS}
    for _, every, name in itertools.product(range(ROUNDS), LOOKS, contestants):
        source, size = contestants[name]
        if size is None:
            times[name, every].append(seconds(source(), every))
        else:
            with fn.train.prefetch(source(), size) as ahead:
                times[name, every].append(seconds(ahead, every))
    print(f"{'ms a step, the loss read':<26}" + "".join(f"{f'every {every}':>12}" for every in LOOKS))
    for name in contestants:
        print(f"{name:<26}" + "".join(f"{statistics.median(times[name, every]) * 1e3:>12.2f}" for every in LOOKS))


if __name__ == "__main__":
    main()
