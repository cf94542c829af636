"""A training run as one would write it, for the tests that end it: python run.py DIRECTORY STEPS [KEEP].

With Dropout, BatchNorm, a schedule and shuffled data, so that a resume has much to get wrong; the losses and the rows
of each batch are saved too, in arrays that are written to while they are saved. What it has reached is told on its
output, a line at a time. FAULT="moment,milliseconds,signal,..." in the environment has it send itself the signal that
long after the moment: "begun 37", "saved 12", "2. saved" or "done".
"""

import os
import signal
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnets as fn


def tell(moment):
    os.write(1, f"{moment}\n".encode())
    at, *signals = os.environ.get("FAULT", "").split(",")
    if at == moment:
        for milliseconds, number in zip(signals[::2], signals[1::2], strict=True):
            timer = threading.Timer(float(milliseconds) / 1000, os.kill, (os.getpid(), int(number)))
            timer.daemon = True
            timer.start()


def loss(model, batch):
    return jnp.mean((model(batch["x"])[:, 0] - batch["y"]) ** 2)


def train(directory, steps, keep):
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    data = fn.train.batches({"x": x, "y": x[:, 0] * x[:, 1], "row": np.arange(40)}, 8, jax.random.key(1))
    net = fn.Sequential(fn.Dense(8), fn.BatchNorm(), jax.nn.relu, fn.Dropout(0.3), fn.Dense(1))
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, 100))
    state = fn.train.create(net, optimizer, jax.random.key(0), x[:1])
    step = fn.train.make_step(net, loss, optimizer)
    run = {"state": state, "losses": np.zeros(steps, np.float32), "rows": np.zeros((steps, 8), np.int64)}
    with fn.Checkpoints(directory, every=3, keep=keep) as checkpoints:
        run = checkpoints.resume(run)
        first, saved = int(run["state"].step), 0
        tell(f"resumed {first}")
        for i in range(first, steps):
            batch = data[i]
            run["state"], metrics = step(run["state"], batch)
            run["losses"][i], run["rows"][i] = metrics["loss"], batch["row"]
            tell(f"begun {i + 1}")
            if checkpoints.save(i + 1, run, force=i + 1 == steps):
                saved += 1
                tell(f"saved {i + 1}")
                tell(f"{saved}. saved")
        tell("done")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may be started without
    jax.config.update("jax_compilation_cache_dir", os.environ["CACHE"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
