"""Activations by path."""

from __future__ import annotations

import functools
from typing import Any

from funcnets.inspect.calls import check_net
from funcnets.layer import Layer, applied
from funcnets.leaves import as_layer
from funcnets.places import Place, What, walk
from funcnets.probe import Probe, Seen
from funcnets.rules import chosen, matches
from funcnets.shapes import Tree, show


class Captured:
    """A net's `apply` that returns activations beside the output; see `capture`. It compares by value."""

    def __init__(self, net: Layer, what: tuple[What, ...]) -> None:
        self.net = net
        self.what = what
        self.__name__ = "captured"

    def __call__(
        self, params: Tree, /, *inputs: Any, state: Tree = None, key: Any = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        probe = Probe(lambda seen: any(speaks_of(what, seen) for what in self.what))
        output = applied(self.net, params, inputs, kwargs, state, key, train, probe)
        return output, probe.found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Captured) and (self.net, self.what) == (other.net, other.what)

    def __hash__(self) -> int:
        return hash((self.net, self.what))

    def __repr__(self) -> str:
        return f"<capture of {', '.join(map(repr, self.what))} in {self.net._auto_name()}>"


def capture(net: Layer, what: What | tuple[What, ...] | list[What] = "**") -> Captured:
    """A function like `net.apply` that also returns what layers inside gave, by path.

        output, activations = fn.capture(net, "**/attention")(params, x)

    It is as pure as `apply`, and takes what `apply` takes: jit, grad and vmap it. The output is the same; where a
    state is given, it is (y, new state). Nothing is computed twice.

    Of wrappers that share a path it is the outermost that is meant; those inside have an address with their class,
    "dense_0:Dense", under which they are found where a class, layer or function speaks of them. A further call at an
    address has its number, "dense_0@1". `edit` takes the same addresses.

    Where the layer runs in a loop (`Repeat`, `Scan`, `Ensemble`), its outputs are stacked along a leading axis; more
    loops, more axes, outermost first. The path of a loop itself speaks of what each of its copies gives: for a
    `Repeat` that is the stream after each block, for a `Scan` the cell's (carry, y) at each step. The backward pass of
    a Scan that is looked into goes step by step, so gradients may differ by rounding.

    What no layer gives cannot be kept. The weights of an attention are such: `jax.nn.dot_product_attention` makes and
    uses them within itself. For an `fn.Attention` of plain scores (no groups, mask, bias, positions or normalisation of
    its queries and keys) they follow from the outputs of its "query" and "keys":

        q, k = (y.reshape(*y.shape[:2], heads, -1) for y in (query, keys))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5)

    Args:
      net: The net.
      what: Which layers: a pattern of paths, a class, an equal layer, or a function; or several of these. By default
        all.

    Returns:
      A function (params, *inputs, state=, key=, train=) → (output, {address: activation}). A layer that is not called
      has no entry; what is no array in an output is left out of it.

    Raises:
      TypeError: Something that is no net, or that layers are not spoken of by.
      ValueError: What speaks of no layer.
      RuntimeError: (when called) a layer in a raw JAX transform of a forward function, out of which an activation
        would leak.

    Source: Flax's `sow` and PyTorch's forward hooks are for the same; they are written into the model or its objects.

    Example:
      >>> net = fn.Sequential(fn.Dense(4), fn.Repeat(fn.Residual(fn.Dense(4)), 3), ("head", fn.Dense(2)))
      >>> x = jnp.ones((5, 3))
      >>> y, activations = fn.capture(net, "*")(net.init(jax.random.key(0), x), x)
      >>> {path: a.shape for path, a in activations.items()}
      {'dense_0': (5, 4), 'dense_1': (3, 5, 4), 'head': (5, 2)}
    """
    check_net("capture(net, '**')", net)
    several: tuple[Any, ...] = tuple(what) if isinstance(what, tuple | list) else (what,)
    for one in several:
        if not isinstance(one, str) and not callable(one):
            raise TypeError(
                f"capture takes what to keep as a pattern of paths, a class, a layer or a function, got {show(one)}: "
                "parameters and inputs go to the function that it returns, capture(net)(params, x)"
            )
    check_met("capture", net, several)
    return _captured(net, several) if net._memoable else Captured(net, several)


@functools.lru_cache(maxsize=128)
def _captured(net: Layer, several: tuple[What, ...]) -> Captured:
    """One living instance for equal captures, since JAX drops what it compiled with the function."""
    return Captured(net, several)


def speaks_of(what: Any, seen: Seen) -> bool:
    """Whether a pattern, class, layer or function speaks of a call."""
    if isinstance(what, str):
        place, _, call = what.partition("@")
        pattern, _, kind = place.partition(":")
        if call and seen.call is not None and call != str(seen.call):
            return False
        meant = type(seen.layer).__name__ == kind if kind else seen.spoken
        return meant and matches(pattern, seen.path)
    if isinstance(what, type):
        return isinstance(seen.layer, what)
    return seen.layer == as_layer(what)


def check_met(name: str, net: Layer, several: tuple[Any, ...]) -> None:
    """Raises for what speaks of no layer of a net."""
    if not several:
        raise ValueError(f"{name} takes what it speaks of, a pattern of paths or more, got none: '**' is all")
    places: dict[str, list[Place]] = {}
    for place in walk(Place("", net)):
        places.setdefault(place.path, []).append(place)

    def fits(what: Any, path: str) -> bool:
        return any(speaks_of(what, Seen(path, place.layer, True)) for place in places[path])

    chosen(dict.fromkeys(several), places, "layer", fits, must_fit=lambda what: True)
