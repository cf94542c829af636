"""Runs of a plain step function on the host, for the tests that are not about nets."""

import json

import jax
import jax.numpy as jnp
import numpy as np

import funcnets as fn

KEY = jax.random.key(7)
ROWS = np.random.default_rng(0).normal(size=20)


def start():
    return {"step": 0, "total": np.zeros(()), "seen": np.zeros(4)}


def step(state, batch):
    total = 0.9 * state["total"] + batch.mean()
    return {"step": state["step"] + 1, "total": total, "seen": state["seen"] + batch}, {"loss": total**2, "mean": total}


def data():
    return fn.train.batches(ROWS, 4, KEY)  # five steps an epoch


def evaluate(state):
    return {"loss": float(abs(state["total"] - 0.1)), "seen": float(state["seen"].sum())}


def by_hand(steps, batch=None):
    """States after each step, and the metrics of each."""
    batches, state, states, metrics = data(), start(), [], []
    for i in range(steps):
        state, found = step(state, batches[i] if batch is None else batch(i))
        states.append(state)
        metrics.append(found)
    return states, metrics


def same(a, b):
    """Raises unless two trees are the same in structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert getattr(one, "dtype", type(one)) == getattr(other, "dtype", type(other))
        if isinstance(one, jax.Array) and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def same_history(a, b):
    for one, other in ((a, b), (a.training, b.training)):
        assert list(one) == list(other)
        same((one.steps, dict(one)), (other.steps, dict(other)))
    assert (a.criterion, a.best_step) == (b.criterion, b.best_step)


def same_run(a, b):
    same((a.state, a.best), (b.state, b.best))
    same_history(a.history, b.history)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
