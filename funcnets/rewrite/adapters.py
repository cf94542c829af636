"""LoRA on a trained net: small changes to its kernels are learned, and all else stays as it is.

    adapted, params = fn.rewrite.lora(net, {"**/kernel": 4}, params, key, x)
    ...                                                        # train it as any net
    plain, params = fn.rewrite.merge_lora(adapted, params, x)  # plain == net

An adapted net is `fn.parametrize(net, {pattern: fn.LoRA(rank)}, x)` in an `Adapted`, a Freeze that holds all but the
adapters. Its parameters are the trained ones, with the factors beside each weight that is adapted. Before it is trained
it computes what the net does, to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from funcnets.layer import Layer
from funcnets.parametrization import Decomposed, Parametrized, baked, parametrize, taken_apart
from funcnets.parametrizations import LoRA
from funcnets.places import Place, rebuilt, walk
from funcnets.plan import check_tree
from funcnets.rules import chosen
from funcnets.shapes import Tree, describe, flat, join, nested, show
from funcnets.wrappers import Freeze


class Adapted(Freeze):
    """The body with all parameters frozen but what the LoRAs in it learn, their `down` and `up`.

    Args:
      body: The layer.
      but: A pattern, or several, of further parameters that take a gradient; paths are the body's own.
      was_frozen: Whether it stands for a Freeze that was there before, which it is again once no LoRA is left in it.

    Params: the body's.

    Inputs: those of the body → its output.

    Example:
      >>> net = fn.rewrite.Adapted(fn.Parametrized(fn.Dense(8), kernel=fn.LoRA(2)))
      >>> frozen = fn.params.frozen(net)
      >>> [path for path, _ in fn.params.paths(net.plan(jnp.ones((1, 4))).params) if not frozen(path)]
      ['kernel/down', 'kernel/up']
    """

    was_frozen: bool = False

    def holds(self, path: str) -> bool:
        return path not in self._adapters and super().holds(path)

    def _baked(self) -> Layer:
        if self._adapters:
            return self
        return Freeze(self.body, self.but) if self.was_frozen else self._entries()[0][1]

    @functools.cached_property
    def _adapters(self) -> frozenset[str]:
        """The paths of all that its LoRAs learn."""
        return frozenset(join(path, factor) for path in _adapted_paths(self) for factor in ("down", "up"))

    def _check_plan(self, arrays: Any, lifted: bool) -> None:
        if self.but:  # a pattern may speak of a parameter that was one array before it was adapted
            held = [path for path, _ in flat(nested({path: one.shapes for path, one in arrays.items()}))]
            chosen(dict.fromkeys(self.but), [*arrays, *held], "parameter that Adapted holds")


def lora(
    net: Layer, rules: Mapping[Any, int | LoRA], params: Tree, key: Any, *sample: Any, **kwargs: Any
) -> tuple[Layer, Tree]:
    """A trained net with LoRA on the parameters that patterns speak of, and all else frozen.

    A gradient, an optimiser's memory and weight decay touch the adapters alone, the arrays `down` and `up` of each
    parameter (`fn.params.frozen`). With more patterns it may be called again: all adapters learn. To train a new head
    too, `dataclasses.replace(adapted, but="head/**")`; where the net as a whole is a `Freeze` already, what its `but`
    names goes on learning. A parameter that the sample does not meet is left as it is.

    Args:
      net: The net.
      rules: From patterns of parameter paths, such as "**/kernel", to ranks or `fn.LoRA`s; a layer class stands for
        the kernels of its layers, {fn.Dense: 4, fn.TransformerBlock: 8} (the projections in a block are no Dense of
        their own). What others are tied to by `fn.tie` or by name takes none: the error says what to do.
      params: Its parameters, of which the new ones are made; a step that reuses the buffers of these consumes both.
      key: From which each `down` is drawn, by its path.
      *sample: Inputs of the net, or their specs.

    Returns:
      (net, params). Under `jax.eval_shape` the net and the shapes, as a checkpoint to be restored asks for.

    Raises:
      ValueError: A pattern that matches no parameter, or one that is no kernel, has a parametrisation already or has
        others tied to it; parameters that are not the net's.
      TypeError: A rule that is neither a rank nor a LoRA.

    Source: Hu et al. 2021, LoRA: low-rank adaptation of large language models. In the PEFT library an adapter stands
      beside a linear layer and adds to its output; here it adds to the kernel, of whatever layer.

    Example:
      >>> net, x = fn.Sequential(fn.Attention(2), ("head", fn.Dense(3))), jnp.ones((1, 5, 8))
      >>> params = net.init(jax.random.key(0), x)
      >>> adapted, params = fn.rewrite.lora(net, {"**/query/kernel": 2, "head/kernel": 3}, params, jax.random.key(1), x)
      >>> frozen = fn.params.frozen(adapted)
      >>> {path: array.shape for path, array in fn.params.paths(params) if not frozen(path)}
      {'attention_0/query/kernel/down': (8, 2), 'attention_0/query/kernel/up': (2, 8),
      'head/kernel/down': (8, 3), 'head/kernel/up': (3, 3)}
    """
    before = net.plan(*sample, **kwargs)
    check_tree(before, "params", params)
    by = {pattern: _as_lora(pattern, how) for pattern, how in rules.items()}
    adapted = _adapted(parametrize(net, by, *sample, **kwargs))
    old = before.declared["params"]
    new = {
        path: one
        for path, one in adapted.plan(*sample, **kwargs).declared["params"].items()
        if isinstance(one.what, Decomposed) and not isinstance(old[path].what, Decomposed)
    }
    return adapted, taken_apart(new, params, key)


def _adapted_paths(net: Layer) -> list[str]:
    """The paths of all parameters that a LoRA stands for."""
    return [
        join(place.path, name)
        for place in walk(Place("", net))
        if isinstance(place.layer, Parametrized)
        for name, how in place.layer.by
        if isinstance(how, LoRA)
    ]


def _as_lora(pattern: Any, how: Any) -> LoRA:
    if isinstance(how, int) and not isinstance(how, bool):
        return LoRA(how)
    if not isinstance(how, LoRA):
        raise TypeError(
            f"lora takes a rank or an fn.LoRA for {pattern!r}, got {show(how)}: {{'**/kernel': 4}}. For another "
            "parametrisation there is fn.parametrize"
        )
    return how


def _adapted(net: Layer) -> Layer:
    """The net with everything held but its adapters."""

    def change(place: Place, new: Layer) -> Layer:
        if type(new) is not Freeze:
            return new
        inner = Adapted(new.body, new.but, was_frozen=True)
        return inner if inner._adapters else new

    new = rebuilt(Place("", net), change)
    whole = any(isinstance(place.layer, Adapted) and not place.path for place in walk(Place("", new)))
    return new if whole else Adapted(new)


def merge_lora(net: Layer, params: Tree, *sample: Any, **kwargs: Any) -> tuple[Layer, Tree]:
    """The net as it was before `lora`, and its parameters with the changes added to them.

    It computes what the adapted net does, to the bit where nothing rounds the parameters on their way in, as `fn.Cast`
    does. A state is the same for both. Whoever keeps the old parameters has the adapters still.

    Args:
      net: The adapted net.
      params: Its parameters.
      *sample: Inputs of the net, or their specs, that meet all that is adapted.

    Returns:
      (net, params). Other parametrisations and Freezes stay. A net that made its layers itself and was given others to
      be adapted, as `fn.MLP`, stays the row that it became, and a layer that was written out although its field makes
      the same by default comes back as that default.

    Raises:
      ValueError: A net without LoRA; parameters that are not the net's, or of an adapted layer that the sample does not
        meet.

    Example:
      >>> net, x = fn.Sequential(fn.Dense(4), jnp.tanh), jnp.ones((1, 3))
      >>> params = net.init(jax.random.key(0), x)
      >>> adapted, trained = fn.rewrite.lora(net, {"**/kernel": 2}, params, jax.random.key(1), x)
      >>> plain, merged = fn.rewrite.merge_lora(adapted, trained, x)
      >>> plain == net, merged["dense_0"]["kernel"].shape
      (True, (3, 4))
    """
    if not _adapted_paths(net):
        raise ValueError(
            f"merge_lora takes a net that lora has adapted, and {describe(net)} has no parameter with an fn.LoRA: give "
            "the net that lora returned, with its parameters"
        )
    plain, params, _ = baked(LoRA, net.plan(*sample, **kwargs), params, None)
    return plain, params
