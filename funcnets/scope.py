"""One pass through a net, as its layers see it.

A `Scope` is a place in a running net: a layer, its path, and what belongs to it there: its part of the parameters, the
states and keys of the pass, the mode. Here is the scope of a pass that computes; that of a pass that plans, on shapes
alone, is in `funcnets.plan`; the face of a scope that a forward function sees as `m` is in `funcnets.bound`.

States and keys know the JAX trace they were made in. Inside a raw transform a new state would leak out of it, and a key
would be the same in every turn, so both raise there, and only when they are really needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnets.random import as_key, copy_key, path_key, path_keys, run_key
from funcnets.shapes import (
    ABSENT,
    Tree,
    below,
    describe,
    differences,
    entry,
    is_empty,
    join,
    mapped,
    misfit_remedy,
    show,
    with_entry,
)

if TYPE_CHECKING:
    from funcnets.layer import Layer
    from funcnets.probe import Probe


class Explicit(NamedTuple):
    """What a caller gives a layer in place of the pass's own; None: nothing.

    Attributes:
      params: Parameters, or a function of the layer's own.
      state: A state; the call then has a new one to give back.
      key: A key, or the keys of a pass.
      train: The mode.
      once: Whether this is the very call of the pass, seen from inside a transform, and not one more.
      probe: What looks at the outputs inside the call.
    """

    params: Any = None
    state: Any = None
    key: Any = None
    train: bool | None = None
    once: bool = False
    probe: Probe | None = None


class Misfit(ValueError):
    """Parameters that are not those that a layer declares; `apply` lists all differences once one is found."""


def now() -> Any:
    """The trace that JAX is in."""
    from jax.extend.core import get_opaque_trace_state  # jax.extend takes longer to import than all of this package

    return get_opaque_trace_state()


def leak(what: str, path: str) -> RuntimeError:
    return RuntimeError(
        f"{path or 'the net'}: {what} inside a raw JAX transform (scan, while_loop, cond, vmap, grad, checkpoint, "
        f"jit), "
        "where it would leak or repeat. Use fn.Repeat, fn.Scan or fn.Remat, which carry it; or pass it through "
        "yourself: "
        "y, state = m.child(x, state=state, key=key), with the state starting from m.child.init_state(x)"
    )


class Keys:
    """The keys of a pass: one a path, folded from the given key by the path below the root; a second call folds its
    count.

    Nothing is derived before a layer takes a key, so a pass that draws nothing has no trace of randomness in it.
    """

    def __init__(self, given: Callable[[], jax.Array], layer: Layer, root: str, *, sound: bool = True) -> None:
        self._given = given
        self._layer = layer
        self._root = root
        self._counts: Counter[str] = Counter()
        self._sound = sound  # whether no raw transform lies between the pass and these keys
        self._trace = now()
        self._derived: tuple[jax.Array, dict[str, jax.Array]] | None = None

    def take(self, path: str) -> jax.Array:
        """The key of the next call at this path."""
        if not self._sound or self._trace != now():
            raise leak("randomness", path)
        return self._key(path, self._count(path))

    def _count(self, path: str) -> int:
        self._counts[path] += 1
        return self._counts[path] - 1

    def _key(self, path: str, count: int) -> jax.Array:
        if self._derived is None and self._trace == now():
            # All in one vectorised call: a fold for each layer on its own is slow to compile.
            base = run_key(self._given())
            paths = self._layer._random_paths
            self._derived = base, dict(zip(paths, path_keys(base, paths), strict=True)) if paths else {}
        base, known = self._derived or (run_key(self._given()), {})
        place = below(path, self._root)
        key = known[place] if place in known else path_key(base, place)
        return jax.random.fold_in(key, count) if count else key

    def copies(self, layer: Layer, path: str) -> Callable[[Any], Keys]:
        """For a layer that is run many times over at a path: the keys of copy i, to be made inside the loop."""
        sound, count = self._sound and self._trace == now(), self._count(path)
        return lambda i: Keys(lambda: copy_key(self._key(path, count), i), layer, path, sound=sound)

    def admitted(self) -> Callable[[], Keys]:
        """For a transform that runs its function once: these very keys, to be made inside it."""
        sound = self._sound and self._trace == now()

        def admit() -> Keys:
            inner = Keys(self._given, self._layer, self._root, sound=sound)
            inner._counts = self._counts
            return inner

        return admit


class States:
    """The states of a pass, updated by value; the tree keeps its structure."""

    def __init__(self, tree: Tree, root: str) -> None:
        if not isinstance(tree, dict):
            raise TypeError(
                f"{root or 'the net'}: state is the dict that init_state(*sample) gives, {{}} for a net without state; "
                f"got {show(tree)}"
            )
        self.tree: dict[str, Any] = tree
        self._root = root
        self._trace = now()
        self.calls: set[str] = set()

    def read(self, path: str) -> Any:
        return entry(self.tree, below(path, self._root))

    def write(self, path: str, new: Tree) -> None:
        old = self.read(path)
        if old is ABSENT and not jax.tree.leaves(new):
            return
        same_structure(path, old, new)
        if all(a is b for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)):
            return
        if self._trace != now():
            raise leak("a new state", path)
        self.tree = with_entry(self.tree, below(path, self._root), new)

    def only_once(self, layer: Layer, path: str) -> None:
        """Raises at a second call in this pass of a layer whose state takes one."""
        if path in self.calls:
            raise RuntimeError(
                f"{path or 'the net'}: {describe(layer)} is called twice in one pass, and its state takes one call a "
                f"pass. "
                "For one set of parameters with a state for each use: fn.Repeat(body, n, shared=True)"
            )
        self.calls.add(path)


def same_structure(path: str, old: Tree, new: Tree) -> None:
    """Raises unless a new state is like the old one."""
    if jax.tree.structure(old) != jax.tree.structure(new) or any(
        jnp.shape(a) != jnp.shape(b) or jnp.result_type(a) != jnp.result_type(b)
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    ):
        raise ValueError(
            f"{path or 'the net'}: a state keeps its structure, shapes and dtypes; it was {show(old)}, "
            f"the new one is {show(new)}"
        )


class Scope:
    """A place in a net that computes.

    Attributes:
      layer: The layer that stands here.
      path: Where, from the net's root.
      params: Its parameters; ABSENT where there are none.
      states: The states of the pass; None in a pass that was given none.
      keys: The keys of the pass; None in a pass that was given none.
      train: The mode.
      probe: What looks at the layers' outputs; None in most passes.
      wrapped: Whether a wrapper with the same path stands around the layer, and gives what is looked at.
    """

    __slots__ = ("keys", "layer", "params", "path", "probe", "states", "train", "wrapped")

    def __init__(
        self,
        layer: Layer,
        path: str,
        params: Tree,
        states: States | None,
        keys: Keys | None,
        train: bool,
        probe: Probe | None = None,
        wrapped: bool = False,
    ) -> None:
        self.layer = layer
        self.path = path
        self.params = params
        self.states = states
        self.keys = keys
        self.train = train
        self.probe = probe
        self.wrapped = wrapped

    @property
    def place(self) -> str:
        """The path as a message names it."""
        return self.path or "the net"

    def child(self, name: str, layer: Layer) -> Scope:
        """The place of a child; that of a wrapper has no name and stands where the wrapper does."""
        params = self.params
        if name:
            params = params.get(name, ABSENT) if isinstance(params, dict) else ABSENT
        elif params is not ABSENT:
            params = self.layer._view(params)
        wrapped = not name and not self.layer._seen_inside
        place = join(self.path, name)
        return Scope(layer, place, params, self.states, self.keys, self.train, self.probe, wrapped)

    def beside(self, name: str, layer: Layer, params: Tree) -> Scope:
        """The place below this one of a layer that is no child but a wrapper's own means."""
        return Scope(layer, join(self.path, name), params, self.states, self.keys, self.train)

    def run(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer's output."""
        try:
            output = self.layer._run(self, inputs, kwargs)
            return output if self.probe is None else self.probe.see(self, output)
        except Exception as error:
            explain(error, self.path, self.layer, inputs, kwargs)
            raise

    def run_with(self, inputs: tuple[Any, ...], kwargs: dict[str, Any], explicit: Explicit) -> tuple[Any, Tree]:
        """The output with what the caller gives in place of the pass's own, and the new state; None where a given state
        was left as it was.
        """
        params, state, key, train, once, probe = explicit
        if callable(params):
            params = self.params if self.params is ABSENT else params(self.params)
        states = self.states if state is None else States(state, self.path)
        if once and states is not None and self.states is not None:
            states.calls = self.states.calls
        keys = key if isinstance(key, Keys) or key is None else given_keys(key, self.layer, self.path)
        scope = Scope(
            self.layer,
            self.path,
            self.params if params is None else params,
            states,
            keys or self.keys,
            self.train if train is None else train,
            probe or self.probe,
            self.wrapped,
        )
        output = scope.run(inputs, kwargs)
        return output, None if states is None or states.tree is state else states.tree

    # What a leaf asks for

    def own_params(self, declared: Tree) -> Tree:
        """The parameters of a leaf that declares these (nothing: whatever stands under its name)."""
        if is_empty(declared):
            return {} if self.params is ABSENT else self.params
        if not _fits(declared, self.params):
            there = "is nothing" if self.params is ABSENT else f"are {show(self.params)}"
            raise Misfit(
                f"{self.place}: {describe(self.layer)} takes parameters {show(shapes_of(declared))} for these inputs, "
                f"but there {there}.\n{misfit_remedy('params', resized=self.params is not ABSENT)}"
            )
        return self.params

    def own_key(self, *, both_modes: bool, required: bool) -> Any:
        """The key of a leaf that names one: in training, or in both modes where it does not tell them apart."""
        if not (self.train or both_modes):
            return None
        if self.keys is None and not required:
            return None
        return self.take_key()

    def own_state(self, declared: Tree) -> Tree:
        """The state of a leaf that declares this."""
        if self.states is None:
            raise self._no_state()
        if self.layer.state_once:
            self.states.only_once(self.layer, self.path)
        state, shapes = self.states.read(self.path), shapes_of(declared)
        if differences(shapes, state):
            raise ValueError(
                f"{self.place}: {describe(self.layer)} takes state {show(shapes)} for these inputs, but there is "
                f"{show(state)}. Make the state with net.init_state(*sample) of this very net, for inputs of these "
                "shapes"
            )
        return state

    def _no_state(self) -> ValueError:
        return ValueError(
            f"{self.place}: {describe(self.layer)} carries state, and none was given. Make it with "
            "state = net.init_state(*sample) and call y, state = net.apply(params, x, state=state)"
        )

    def new_state(self, old: Tree, new: Tree) -> None:
        """Takes in what a leaf returned as its state."""
        del old  # a planned pass compares the two; here the states know the old one
        if self.states is None:
            raise self._no_state()
        self.states.write(self.path, new)

    # What a composite's author asks for

    def take_key(self) -> jax.Array:
        if self.keys is None:
            how = "net.apply(params, x, key=key, train=True)" if self.train else "net.apply(params, x, key=key)"
            raise ValueError(f"{self.place}: {describe(self.layer)} is random and needs a key: {how}")
        return self.keys.take(self.path)

    def mode(self) -> bool:
        return self.train

    def read_params(self) -> Tree:
        if self.params is ABSENT:
            return {}
        if not self.layer._freezes():
            return self.params
        stop, is_frozen = jax.lax.stop_gradient, self.layer._is_frozen
        return mapped(lambda path, array: stop(array) if is_frozen(path) else array, self.params)

    def read_state(self) -> Tree:
        state = ABSENT if self.states is None else self.states.read(self.path)
        return {} if state is ABSENT else state


def given_keys(key: Any, layer: Layer, root: str) -> Keys:
    """The keys of a pass that is given this key."""
    key = as_key(key)
    return Keys(lambda: key, layer, root)


def shapes_of(declared: Tree) -> Tree:
    """The specs of declared arrays."""
    return {name: shapes_of(one) for name, one in declared.items()} if isinstance(declared, dict) else declared.shapes


def _fits(declared: Tree, given: Tree) -> bool:
    if isinstance(declared, dict):
        same_names = isinstance(given, dict) and given.keys() == declared.keys()
        return same_names and all(_fits(one, given[name]) for name, one in declared.items())
    shape = getattr(declared, "shape", None)  # a Param's, without making its spec: this runs at each call of a layer
    return getattr(given, "shape", None) == shape if shape is not None else not differences(declared.shapes, given)


def explain(
    error: Exception,
    path: str,
    layer: Layer,
    inputs: tuple[Any, ...] | None,
    kwargs: dict[str, Any],
    during: str = "",
) -> None:
    """Notes on an error the innermost layer it came from. JAX adds notes too: ours is known by its first words.

    Args:
      inputs: What the layer was called with; None where it was not called.
      during: What the pass is for, where it does not compute.
    """
    start = "in layer "
    if not any(note.startswith(start) for note in getattr(error, "__notes__", ())):
        got = ", ".join([*map(show, inputs or ()), *(f"{name}={show(value)}" for name, value in kwargs.items())])
        called = "" if inputs is None else f"\n  called with {got or 'no inputs'}{during}"
        hints = [f"\n  {hint}" for kind, words, hint in _HINTS if isinstance(error, kind) and words in str(error)]
        error.add_note(f"{start}{path or '(the net itself)'}: {describe(layer)}{called}{''.join(hints[:1])}")


_BY_VALUE = "JAX traces here, so arrays have no values: choose with jnp.where or jax.lax.cond, compute with jnp, not np"
_HINTS: tuple[tuple[type[Exception], str, str], ...] = (  # what to do where the error is JAX's own, by its words
    (jax.errors.ConcretizationTypeError, "", _BY_VALUE),
    (jax.errors.TracerArrayConversionError, "", _BY_VALUE),
    (jax.errors.TracerIntegerConversionError, "", _BY_VALUE),
    (TypeError, "<class 'funcnets.", "a layer stands where an array is taken: call it, m.name(x)"),
    (RuntimeError, "has been deleted", "a step consumed these arrays, whose buffers it reused: take what it returned"),
)
