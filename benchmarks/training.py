"""The two-layer net of many a tutorial, trained for 500 steps, against JAX written by hand and PyTorch.

64 rows, 1000 → 100 → 10 with relu between, all numbers from a normal distribution, summed squares, plain SGD. Then the
same with one row and every width 1, where next to nothing is left but what a step costs beside its arithmetic. Times
are of all 500 steps, from the same weights; each loss is kept, and all contestants are found to have the same before
they are timed.

By hand is a dict of parameters and a compiled function that donates it, as quick as JAX can be: the update is written
out, or optax's, whichever is faster. PyTorch is eager: plain tensors, or nn.Linear with optim.SGD, whichever is faster.
The contestants take turns, run by run; the table shows the middle one of three ratios, each of new compilations.

    pip install -e '.[benchmarks]'
    python benchmarks/training.py
    taskset -c 0 python benchmarks/training.py      with one thread, for XLA and PyTorch alike
"""

import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import HEADER, row

import funcnets as fn

try:
    import torch
except ImportError:
    torch = None

STEPS, RATE, RUNS, ROUNDS = 500, 1e-6, 3, 11


class Task(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    up: np.ndarray
    down: np.ndarray


class Contestant(NamedTuple):
    start: Callable[[], Any]
    train: Callable[[Any], tuple[Any, Any]]  # what the start has become, and the losses


def task(rows, inputs, hidden, outputs):
    rng = np.random.default_rng(0)
    shapes = (rows, inputs), (rows, outputs), (inputs, hidden), (hidden, outputs)
    return Task(*(rng.standard_normal(shape).astype(np.float32) for shape in shapes))


def called(step, start, *batch, times=STEPS):
    """A function (what moves, *batch) → (what moves, losses), and as often as it is to be called."""

    def train(moving):
        losses = []
        for _ in range(times):
            moving, loss = step(moving, *batch)
            losses.append(loss)
        return moving, losses

    return Contestant(lambda: jax.tree.map(jnp.copy, start), train)


def of_funcnets(task):
    x, y = jnp.array(task.x), jnp.array(task.y)
    net = fn.Sequential(
        fn.Dense(task.up.shape[1], use_bias=False), jax.nn.relu, fn.Dense(task.down.shape[1], use_bias=False)
    )

    def loss(model, batch):
        x, y = batch
        return jnp.square(model(x) - y).sum()

    optimizer = optax.sgd(RATE)
    params = {"dense_0": {"kernel": task.up}, "dense_1": {"kernel": task.down}}
    state = fn.train.create(net, optimizer, jax.random.key(0), x, params=params)
    once = fn.train.make_step(net, loss, optimizer)
    whole = fn.train.make_step(net, lambda model, _: loss(model, (x, y)), optimizer, steps_per_call=STEPS)
    return {"calls": called(once, state, (x, y)), "scan": called(whole, state, None, times=1)}


def by_hand(task):
    x, y = jnp.array(task.x), jnp.array(task.y)
    params = {"up": jnp.array(task.up), "down": jnp.array(task.down)}
    optimizer = optax.sgd(RATE)

    def loss(params, x, y):
        return jnp.square(jax.nn.relu(x @ params["up"]) @ params["down"] - y).sum()

    def written_out(params, x, y):
        value, gradients = jax.value_and_grad(loss)(params, x, y)
        return jax.tree.map(lambda p, g: p - RATE * g, params, gradients), value

    def of_optax(moving, x, y):
        params, opt_state = moving
        value, gradients = jax.value_and_grad(loss)(params, x, y)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    found = {}
    for name, step, start in (("", written_out, params), (", optax", of_optax, (params, optimizer.init(params)))):

        def scan(moving, x, y, step=step):
            return jax.lax.scan(lambda moving, _: step(moving, x, y), moving, None, STEPS)

        found[f"calls{name}"] = called(jax.jit(step, donate_argnums=0), start, x, y)
        found[f"scan{name}"] = called(jax.jit(scan, donate_argnums=0), start, x, y, times=1)
    return found


def of_torch(task):
    if torch is None:
        return {}
    x, y = torch.from_numpy(task.x), torch.from_numpy(task.y)

    def tensors():
        return [torch.tensor(weight, requires_grad=True) for weight in (task.up, task.down)]

    def train_tensors(weights):
        up, down = weights
        losses = []
        for _ in range(STEPS):
            loss = (x.mm(up).clamp(min=0).mm(down) - y).pow(2).sum()
            loss.backward()
            with torch.no_grad():
                for weight in weights:
                    weight -= RATE * weight.grad
                    weight.grad = None
            losses.append(loss.detach())
        return weights, losses

    def module():
        layers = [torch.nn.Linear(*weight.shape, bias=False) for weight in (task.up, task.down)]
        for layer, weight in zip(layers, (task.up, task.down), strict=True):
            layer.load_state_dict({"weight": torch.tensor(weight.T)})
        return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])

    def train_module(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
        criterion = torch.nn.MSELoss(reduction="sum")
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = criterion(module(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return module, losses

    return {"tensors": Contestant(tensors, train_tensors), "modules": Contestant(module, train_module)}


def check_losses(contestants):
    """Raises unless all have the same, as far as another order of sums lets them."""
    found = {}
    for name, (start, train) in contestants.items():
        losses = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(train(start())[1])])
        assert losses.shape == (STEPS,), name
        found[name] = losses
    for name, losses in found.items():
        np.testing.assert_allclose(losses, found["hand calls"], rtol=0.02, atol=1e-6 * losses[0], err_msg=name)


def seconds(contestants):
    """The median seconds of each contestant's 500 steps."""
    order, times = random.Random(0), {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name in order.sample(list(contestants), len(contestants)):
            begun = jax.block_until_ready(contestants[name].start())
            start = time.perf_counter()
            jax.block_until_ready(contestants[name].train(begun))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def rows(what, task, bounds):
    """Lines of the table."""
    runs = []
    for _ in range(RUNS):
        groups = {"ours": of_funcnets(task), "hand": by_hand(task), "PyTorch": of_torch(task)}
        contestants = {f"{who} {name}": each for who, group in groups.items() for name, each in group.items()}
        check_losses(contestants)
        runs.append(seconds(contestants))
    for ours, other, bound in bounds:
        names = [name for name in runs[0] if name.startswith(other)]
        if names:
            pairs = [(run[f"ours {ours}"], *min((run[name], name) for name in names)) for run in runs]
            one, least, name = sorted(pairs, key=lambda pair: pair[0] / pair[1])[RUNS // 2]
            how = {"calls": "calls", "scan": "one call"}[ours]
            print(row(f"{what}, {how}", one, least, name.replace(f"hand {ours}", "JAX by hand"), bound), flush=True)


def main():
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch is None:
        print("torch is not installed: left out")
    else:
        torch.set_num_threads(threads)
    print(f"{STEPS} steps, {threads} thread(s) for each contestant\n{HEADER}")
    bounds = [("calls", "hand calls", 1.05), ("scan", "hand scan", 1.05), ("calls", "PyTorch", None)]
    rows("1000 → 100 → 10", task(64, 1000, 100, 10), [*bounds, ("scan", "PyTorch", 1 / 1.4)])
    rows("1 → 1 → 1", task(1, 1, 1, 1), [("scan", "PyTorch", 0.01)])


if __name__ == "__main__":
    main()
