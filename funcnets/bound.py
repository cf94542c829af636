"""What a forward function sees of a running net: `m`, `m.child`, and what `net.bind(params)` gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from funcnets.scope import Explicit, Scope
from funcnets.shapes import Tree, describe, misfit_error, names_of, near, unread

if TYPE_CHECKING:
    from funcnets.layer import Layer


class Carried(NamedTuple):
    """What is carried out of a transform beside a layer's output.

    Attributes:
      state: Its new state; None where it did not change.
      seen: What the pass's probe keeps of the outputs inside, by path.
    """

    state: Tree
    seen: dict[str, Any]


class Bound:
    """A layer at its place in a running net: `m` and `m.child` in a forward function, and what `net.bind(params)`
    gives.

    Calling it runs the layer. Attributes are its children, then the layer's own fields; `train`, `key`, `params` and
    `state` are the pass's.
    """

    __slots__ = ("__weakref__", "_scope")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __call__(
        self,
        *inputs: Any,
        params: Any = None,
        state: Any = None,
        key: Any = None,
        train: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs the layer on the inputs.

        Args:
          params: Parameters in place of the layer's own, or a function of its own.
          state: A state to start from in place of the pass's; the call then returns (output, new state).
          key: A key in place of the pass's.
          train: The mode in place of the pass's.
        """
        if params is None and state is None and key is None and train is None:
            return self._scope.run(inputs, kwargs)
        if isinstance(params, dict):
            _check_names(self._scope.layer, params)
        output, new = self._scope.run_with(inputs, kwargs, Explicit(params, state, key, train))
        return output if state is None else (output, state if new is None else new)

    @property
    def train(self) -> bool:
        """Whether the pass trains."""
        return self._scope.mode()

    def key(self) -> jax.Array:
        """A key for the layer's own randomness, another at each call."""
        return self._scope.take_key()

    @property
    def params(self) -> Tree:
        """The layer's parameters."""
        return self._scope.read_params()

    @property
    def state(self) -> Tree:
        """The layer's state as it stands now; {} where there is none. It may be set, to one of the same structure."""
        return self._scope.read_state()

    @state.setter
    def state(self, new: Tree) -> None:
        self._scope.new_state(self._scope.read_state(), new)

    def __getitem__(self, which: int | str) -> Bound:
        layer = self._scope.layer
        if layer._is_wrapper:
            inner = self._inside()
            return inner if which == 0 and not inner._scope.layer._entries() else inner[which]
        name, child = layer._child(which)
        return type(self)(self._scope.child(name, child))

    def _inside(self) -> Bound:
        """What a wrapper stands for."""
        name, child = self._scope.layer._entries()[0]
        return type(self)(self._scope.child(name, child))

    def _at(self, index: int) -> Bound:
        name, child = self._scope.layer._entries()[index]
        return type(self)(self._scope.child(name, child))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        layer = self._scope.layer
        found = layer._members().get(name)
        if isinstance(found, int):
            return self._at(found)
        if found is not None:
            return tuple(map(self._at, found))
        if hasattr(type(layer), name) or name in layer.__dict__ or name in layer._hyperparameters():
            return getattr(layer, name)
        if layer._is_wrapper:
            return getattr(self._inside(), name)
        for i, (given, _) in enumerate(layer._entries()):
            if given == name:
                return self._at(i)
        names = {*layer._members(), *layer._hyperparameters(), *(n for n, _ in layer._entries())}
        raise AttributeError(
            f"{describe(layer)} has no child or field {name!r}{near(name, names)}; it has "
            f"{', '.join(sorted(names)) or 'none'}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("_scope", "state"):
            raise AttributeError(
                f"{self!r}: of a running net the state may be set, and nothing else, such as {name!r}: return it "
                "beside the output, or look at it with fn.capture"
            )
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"<{self._scope.place}: {describe(self._scope.layer)}>"

    # For layers that run a child in a transform of JAX's

    def _pure(
        self,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        params: Tree,
        state: Tree,
        key: Any,
        *,
        once: bool = False,
        index: Any = None,
        count: int = 1,
    ) -> tuple[Any, Carried]:
        """Output, and what is carried out beside it, as a function of all they depend on. In a loop, `index` is the
        number of the copy, of `count`.
        """
        probe = None if self._scope.probe is None else self._scope.probe.inside(index, count)
        output, new = self._scope.run_with(inputs, kwargs, Explicit(params, state, key, once=once, probe=probe))
        return output, Carried(new, {} if probe is None else probe.hand_out())

    @property
    def _counted(self) -> bool:
        """Whether it matters which copy of a loop runs."""
        return self._scope.keys is not None or self._scope.probe is not None

    def _state_or_none(self) -> Tree:
        """The layer's state; None in a pass that was given none."""
        return None if self._scope.states is None else self.state

    def _put(self, carried: Carried) -> None:
        """Takes in what a transform carried out."""
        if carried.state is not None:
            self.state = carried.state
        if self._scope.probe is not None:
            self._scope.probe.take(carried.seen)


_ARITHMETIC = ("add", "sub", "mul", "truediv", "matmul", "pow", "radd", "rsub", "rmul", "rtruediv", "rmatmul", "neg")


def refuse_arithmetic(kind: type, name: Callable[[Any], str], remedy: str) -> None:
    """Gives what is no array, but may be taken for one, an error of its own where it is computed with."""

    def refuse(held: Any, *_: Any) -> Any:
        raise TypeError(f"{name(held)} is a layer, no array to compute with: {remedy}")

    for operation in (*_ARITHMETIC, "array"):
        setattr(kind, f"__{operation}__", refuse)


refuse_arithmetic(Bound, repr, "call it, m.name() for the array of a Param, m.name(x) for what others give")


def _check_names(layer: Layer, params: Tree) -> None:
    """Raises for an entry of explicit parameters under a name that is none of the layer's; a leaf may read any."""
    unknown: list[str] = []
    for path in layer._strangers("params", params, ""):
        here = layer
        for name in names_of(path):
            while here._is_wrapper:  # its child stands in its place
                here = here._entries()[0][1]
            if name not in dict(here._entries()):
                unknown.append(path)
                break
            here = here._child(name)[1]
    if unknown:
        raise misfit_error(unread(unknown, params))
