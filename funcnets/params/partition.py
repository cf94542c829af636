"""Trees taken apart and put together: the parameters that train and those that do not, and labels for an optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from funcnets.layer import Layer
from funcnets.params.patterns import Patterns, by_rules, selected
from funcnets.params.reading import leaves, unaliased
from funcnets.shapes import Tree, mapped, names_of, nested, show


def split(params: Tree, patterns: Patterns, *, net: Layer | None = None) -> tuple[Tree, Tree]:
    """Two trees: the arrays that patterns speak of, and the rest. `merge` is the inverse.

    Neither has empty dicts; of a bare array, one of the two is {}.

    Args:
      params: Nested dicts of arrays.
      patterns: A pattern, several, a function path → bool, or rules pattern → bool.
      net: The net, where classes of layers stand in patterns' places.

    Raises:
      ValueError: A pattern or class that fits no array.
      TypeError: Something that is no pattern; a class without a net.

    Example:
      >>> params = {"encoder": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
      >>> head, rest = fn.params.split(params, "head/**")
      >>> gradient = jax.grad(lambda head: fn.params.merge(head, rest)["head"]["kernel"].sum())(head)
      >>> jax.tree.map(jnp.shape, gradient)
      {'head': {'kernel': (2,)}}
    """
    held = leaves(params)
    chosen = selected(held, patterns, net)
    matching = {path: one for path, one in held.items() if path in chosen}
    return nested(matching), nested({path: one for path, one in held.items() if path not in chosen})


def merge(*trees: Tree) -> Tree:
    """One tree of all arrays of several: names stand in the order in which the trees bring them.

    Args:
      *trees: Nested dicts of arrays; {} holds none.

    Raises:
      ValueError: An array in two trees, or an array where another tree has a dict. To put other values in the place of
        what is there, use `update`.

    Example:
      >>> fn.params.merge({"head": {"bias": 1}}, {"head": {"kernel": 2}, "embed": 3})
      {'head': {'bias': 1, 'kernel': 2}, 'embed': 3}
    """
    merged: dict[str, Any] = {}
    above: dict[str, str] = {}  # the dicts on the way to an array, and one such array
    for tree in trees:
        for path, one in leaves(tree).items():
            names = names_of(path)
            ways = ["/".join(names[:i]) for i in range(len(names))]
            other = next((way for way in (*ways, path) if way in merged), above.get(path))
            if other is not None:
                what = "an array in two trees" if other == path else f"an array, but {other!r} is one"
                raise ValueError(
                    f"merge: {path!r}, {show(one)}, is {what}, {show(merged[other])}: drop one of the two, or put "
                    "values in the place of others with update"
                )
            merged[path] = one
            above |= dict.fromkeys(ways, path)
    return nested(unaliased(merged))


def labels(params: Tree, rules: Mapping[Any, Any], *, net: Layer | None = None) -> Tree:
    """A tree of the same structure with a label in the place of each array.

    It is what `optax.partition` takes as labels and, of True and False, what optax takes as a mask. Unlike the usual
    rule by rank, "decay what has two axes or more", it is right where `Repeat` stacks biases into matrices.

    Args:
      params: Nested dicts of arrays, or of their specs.
      rules: From patterns to labels: strings, booleans, numbers. The first rule that fits a path gives its label.
      net: The net, where classes of layers stand in patterns' places.

    Raises:
      ValueError: An array that no rule fits; a pattern or class that fits no array; a label that is None or a
        container.
      TypeError: Something that is no pattern; a class without a net.

    Source: Loshchilov & Hutter 2019, Decoupled weight decay regularization; that norms and biases are spared is the
      custom since BERT.

    Example: decay that spares biases, norms and embeddings, and one learning rate for each part.
      >>> block = fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(4)))
      >>> net = fn.Sequential(("embed", fn.Embedding(9, 4)), fn.Repeat(block, 2), ("head", fn.Dense(2)))
      >>> params = net.init(jax.random.key(0), jnp.array([1, 2]))

      >>> spared = (fn.Embedding, fn.LayerNorm, "**/bias")
      >>> decayed = fn.params.labels(params, {spared: False, "**": True}, net=net)
      >>> optimizer = optax.adamw(1e-3, weight_decay=0.1, mask=decayed)
      >>> [path for path, decays in fn.params.paths(decayed) if decays]
      ['sequential_0/dense_0/kernel', 'head/kernel']

      >>> groups = fn.params.labels(params, {"head/**": "new", "**": "old"})
      >>> optimizer = optax.partition({"new": optax.adam(1e-3), "old": optax.adam(1e-5)}, groups)
      >>> state = optimizer.init(params)
    """
    held = leaves(params)
    given = by_rules(held, rules, net)
    for label in given.values():
        if not jax.tree_util.all_leaves([label]):
            raise ValueError(f"a label is a string, a boolean or a number, got {show(label)}: name the group")
    without = [path for path in held if path not in given]
    if without:
        shown = ", ".join(map(repr, without[:6])) + (", ..." if len(without) > 6 else "")
        raise ValueError(f"labels: no rule fits {shown}: give the rest a label with a last rule, '**'")
    return mapped(lambda path, _: given[path], params)
