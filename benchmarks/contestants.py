"""Who is timed against whom: a layer of ours, and the same function in JAX by hand, Flax (Linen) and Equinox."""

import dataclasses
import functools
import importlib
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def optional(name):
    """A module, or None with a line on the page where it is not installed."""
    if importlib.util.find_spec(name.split(".")[0]):
        return importlib.import_module(name)
    print(f"{name} is not installed: left out")
    return None


linen, eqx = optional("flax.linen"), optional("equinox")


@dataclasses.dataclass
class Contestant:
    """f(params, x) → y; stateful, f(params, x) → (y, state). With channels_first, x is (batch, channels, *spatial) for
    it, and so is y.
    """

    f: Any
    params: Any
    channels_first: bool = False
    stateful: bool = False

    def call(self, x, dy):
        """What is timed: y, and the gradients of params and x for the gradient dy of y."""

        def whole(params, x, dy):
            y, pull, *state = jax.vjp(self.f, params, x, has_aux=self.stateful)
            return y, pull(dy), state

        x, dy = (jnp.moveaxis(a, -1, 1) if self.channels_first else a for a in (x, dy))
        compiled = jax.jit(whole)
        return lambda: compiled(self.params, x, dy)

    def answer(self, call):
        """y and the gradient of x."""
        y, (_, dx), _ = call()
        return tuple(np.moveaxis(a, 1, -1) if self.channels_first else np.asarray(a) for a in (y, dx))


def normal(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def started(net, x):
    """Parameters with biases that are not 0 and scales that are not 1, or a mistake in them would not show."""
    return jax.tree.map(lambda a: a + 0.1 * normal(*a.shape, seed=a.size), net.init(jax.random.key(0), x))


def of_linen(module, params):
    return Contestant(lambda p, x: module.apply({"params": p}, x), params)


def of_equinox(module, arrays, *, axes=1, channels_first=False, call=lambda module, x: module(x)):
    """A module whose arrays, in the order of its leaves, are these, called over so many leading axes of its input."""
    leaves, structure = jax.tree.flatten(eqx.filter(module, eqx.is_array))
    assert [a.shape for a in leaves] == [a.shape for a in arrays]
    static = eqx.filter(module, eqx.is_array, inverse=True)

    def f(params, x):
        each = functools.partial(call, eqx.combine(params, static))
        for _ in range(axes):
            each = jax.vmap(each)
        return each(x)

    return Contestant(f, jax.tree.unflatten(structure, arrays), channels_first)
