"""Layers: values with pure functions.

    params = layer.init(key, *sample)          # sizes come from the sample: arrays or jax.ShapeDtypeStruct
    output = layer.apply(params, *inputs)      # a plain function: jit, grad, vmap, scan it with JAX's own

A forward pass is written once, and everything else is derived from it. A *leaf* declares its arrays and computes with
them:

    class Dense(fn.Layer):
        features: int

        def params(self, x):
            return {"kernel": fn.Param((x.shape[-1], self.features), LecunNormal())}

        def forward(self, p, x):
            return x @ p["kernel"]

A leaf's forward names what else it needs and gets just that: `forward(self, p, x, *, key, train)`; one that names
`state` declares it in `states(self, x)` as `params` does, and returns (output, new state). With a default,
`state=None`, it is given only where something is declared, and returns the output alone where nothing is. `params` and
`states` read only `.shape` and `.dtype`. A leaf that declares nothing reads what stands under its name: that is how an
output head shares an embedding's table. A *composite* (see `funcnets.compose`) has children and calls them.

Laws, for every layer:

    layer.apply(layer.init(key, x), x)                   has the shapes of  layer.plan(x).output
    layer.init(key, x) == layer.init(key, spec of x)     bit for bit, also under jit and vmap
    y, state = layer.apply(params, x, state=state)       keeps the structure of state; without train, its content too
                                                         (save what goes on in evaluation: a cache, a carry)
"""

from __future__ import annotations

import functools
import inspect
import re
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NoReturn, TypeVar, cast, final, overload

import jax
import numpy as np

from funcnets.bound import Bound, refuse_arithmetic
from funcnets.plan import Plan, Sample, all_differences, make_plan
from funcnets.probe import Probe
from funcnets.random import as_key
from funcnets.record import Arrays, Kind
from funcnets.scope import Misfit, Scope, States, explain, given_keys
from funcnets.shapes import Tree, describe, is_empty, join, misfit_error, near, show, unread
from funcnets.signatures import MODES, Takes, Wants, as_inputs, check_arity, check_first_input, takes_of, wants_of
from funcnets.values import Value, fields_of

_OWN = ("init", "init_state", "apply", "plan", "bind")  # what every layer has


class Layer(Value):
    """A layer: an immutable value with `init` and `apply`.

    A subclass is a leaf: it declares arrays in `params` (and `states`) and computes in `forward`; its annotated names
    are its fields. A forward names what else it needs, after a `*`: `key`, `train`, and `state`, which it returns anew.

    Example:
      >>> class RunningMean(fn.Layer):
      ...     momentum: float = 0.9
      ...     def states(self, x):
      ...         return {"mean": fn.Param(x.shape[-1:], fn.initializers.Zeros())}
      ...     def forward(self, p, x, *, state, train):
      ...         new = self.momentum * state["mean"] + (1 - self.momentum) * x.mean(0)
      ...         state = {"mean": new} if train else state
      ...         return x - state["mean"], state
      >>> layer, x = RunningMean(), jnp.ones((4, 2))
      >>> y, state = layer.apply({}, x, state=layer.init_state(x), train=True)
      >>> state["mean"]
      Array([0.1, 0.1], dtype=float32)

    Attributes:
      state_once: Whether the state takes one call a pass (a cache); a second call then raises.
    """

    state_once: ClassVar[bool] = False
    _is_wrapper: ClassVar[bool] = False
    _seen_inside: ClassVar[bool] = False  # whether a probe looks at its child's outputs in place of its own

    def _settled(self) -> None:
        for field in fields_of(type(self)):
            if field.name.endswith("_init") and "Init" in str(field.type):
                held = getattr(self, field.name)
                if not all(map(callable, held if isinstance(held, tuple) and held else (held,))):
                    raise TypeError(
                        f"{type(self).__name__} takes {field.name} as an initialiser, a function (key, shape, dtype) "
                        f"-> array, got {held!r}. Such as initializers.Normal(0.02); widths come from the sample"
                    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        own = [name for name in _OWN if name in cls.__dict__]
        if own:
            raise TypeError(
                f"{cls.__name__} defines {', '.join(own)}, which every layer has from its forward: write forward (and "
                f"params)"
            )
        fields = [name for name in inspect.get_annotations(cls) if name in (*_OWN, "params", "states", "forward")]
        if fields:
            raise TypeError(
                f"{cls.__name__} has a field named {', '.join(fields)}, which a layer has as a function: rename it"
            )
        cls._check_author()
        super().__init_subclass__(**kwargs)

    @classmethod
    def _check_author(cls) -> None:
        """Foresees slips in a leaf's definition."""
        forward = cls.__dict__.get("forward")
        if forward is None:
            return
        positional = [
            name
            for name, parameter in inspect.signature(forward).parameters.items()
            if name in MODES and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        if positional:
            raise TypeError(
                f"{cls.__name__}.forward takes {', '.join(positional)} as inputs; they come by name, after a *: "
                "def forward(self, p, x, *, key, train)"
            )
        if cls.states is not Layer.states and "state" not in inspect.signature(forward).parameters:
            raise TypeError(
                f"{cls.__name__} declares states, but its forward names no state: def forward(self, p, x, *, state)"
            )

    # What a leaf's author writes

    def params(self, *inputs: Any, **kwargs: Any) -> Any:
        """The arrays that the layer learns, for inputs of these shapes: a dict of `Param`."""
        return {}

    def states(self, *inputs: Any, **kwargs: Any) -> Any:
        """The arrays that the layer carries from call to call: a dict of `Param`."""
        return {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation: `forward(self, p, *inputs)`."""
        raise NotImplementedError(f"{type(self).__name__} has no forward: write def forward(self, p, x)")

    # What every layer has

    @functools.cached_property
    @final
    def init(self) -> Init:
        """`init(key, *sample)`: the parameters, a nested dict. The sample is what `apply` takes: arrays or their
        specs.
        """
        return _function_of(self, Init)

    @functools.cached_property
    @final
    def apply(self) -> Apply:
        """`apply(params, *inputs, state=None, key=None, train=False)`: the output; with a state given, (output, new
        state).
        """
        return _function_of(self, Apply)

    @final
    def init_state(self, *sample: Any, **kwargs: Any) -> dict[str, Any]:
        """The state before the first call; {} for a layer that carries none."""
        return self.plan(*sample, **kwargs).draw("states", _state_key())

    @final
    def plan(self, *sample: Any, **kwargs: Any) -> Plan:
        """What the net declares for a sample, found on shapes alone; print it for a table."""
        try:
            _check_modes("plan and init", kwargs)
            return make_plan(self, sample, kwargs)
        except Exception as error:
            explain(error, "", self, sample, kwargs, ", while shapes are planned")
            raise

    @final
    def bind(self, params: Tree, *, state: Tree = None, key: Any = None, train: bool = False) -> Bound:
        """The net with its parameters, as its own forward sees it: call it, or its children.

        `model(x)` gives the output alone; the new state is `model.state` afterwards. It is the one thing that changes,
        and lives for one pass.
        """
        try:
            scope = _root(self, params, state, key, train)
            strangers = list(self._strangers("params", params, ""))
            if strangers:
                raise misfit_error(unread(strangers, params))
        except Exception as error:
            explain(error, "", self, None, {})
            raise
        return _BoundNet(scope)

    @final
    def __call__(self, *inputs: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{describe(self)} is a value, not a function of its inputs. Outside: net.apply(params, x). In a forward, "
            f"the "
            "child of m: m.hidden(x), not self.hidden(x)"
        )

    # How a pass runs it

    def _run(self, scope: Scope, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        wants = self._wants
        check_first_input(scope, inputs)
        check_arity(scope, wants.inputs, inputs, kwargs)
        if any(isinstance(x, np.ndarray) for x in inputs):
            inputs = as_inputs(inputs)
        extra: dict[str, Any] = {}
        if wants.train:
            extra["train"] = scope.train
        if wants.key:
            extra["key"] = scope.own_key(both_modes=not wants.train, required=wants.key_required)
        p = scope.own_params(self._declares("params", inputs, kwargs))
        declared = self._declares("states", inputs, kwargs) if wants.state else {}
        if not wants.state or not (declared or wants.state_required or scope.read_state()):
            return self.forward(p, *inputs, **kwargs, **extra)
        old = scope.own_state(declared)
        result = self.forward(p, *inputs, **kwargs, **extra, state=old)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"{type(self).__name__}.forward names state, so it returns (output, new state), but it returned "
                f"{show(result)}"
            )
        output, new = result
        scope.new_state(old, new)
        return output

    @property
    def _wants(self) -> Wants:
        return _wants_of(type(self))

    def _declares(self, kind: Kind, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        takes = _takes(type(self), kind)
        if takes is None:
            return {}
        named = {name: value for name, value in kwargs.items() if takes.names is None or name in takes.names}
        sample = Sample((inputs[: takes.positional], named))
        remember = sample.mark is not None and self._memoable
        return (_declared if remember else _declare)(self, kind, sample)

    # What a wrapper makes of its child's arrays; see `funcnets.compose.Wrapper`

    def _copies(self, kind: Kind) -> int | None:
        return None

    def _seen(self, tree: Tree) -> Tree:
        return tree

    def _view(self, params: Tree) -> Tree:
        return params

    def _lift(self, kind: Kind, arrays: Arrays) -> Arrays:
        return arrays

    def _check_plan(self, arrays: Arrays, lifted: bool) -> None:
        """Raises if a wrapper cannot be what it says, given all that is declared below it in either mode."""

    def _outline(self, scope: Scope, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._run(scope, inputs, kwargs)

    # What it is made of

    def _entries(self) -> tuple[tuple[str, Layer], ...]:
        """The children by name, in order; a name may stand twice (tied)."""
        return ()

    def _members(self) -> dict[str, int | tuple[int, ...]]:
        """Where the child or children of a field stand among the entries."""
        return {}

    def _hyperparameters(self) -> tuple[str, ...]:
        """Names that are reached as attributes beside the class's own."""
        return ()

    def _child(self, which: int | str) -> tuple[str, Layer]:
        entries = self._entries()
        names = [name for name, _ in entries]
        if isinstance(which, int):
            if -len(entries) <= which < len(entries):
                return entries[which]
            raise IndexError(f"{describe(self)} has {len(entries)} children, so none is number {which}")
        if which in names:
            return entries[names.index(which)]
        if not names:
            raise KeyError(f"{describe(self)} has no children, so none named {which!r}: its fields are attributes")
        listed = ", ".join(dict.fromkeys(names))
        if "/" in which:
            raise KeyError(f"{which!r} is a path, of which net.at({which!r}) is the layer; children are {listed}")
        raise KeyError(f"{describe(self)} has no child {which!r}{near(which, names)}; its children are {listed}")

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        """The paths of entries that nothing in this layer can read, whatever its inputs."""
        if _takes(type(self), kind) is None and not is_empty(tree):
            yield path

    @property
    def _random_paths(self) -> tuple[str, ...]:
        """The paths that may take keys, relative to this layer, as far as they are known before it runs."""
        return ("",) if self._wants.key else ()

    @functools.cached_property
    def _axis_names(self) -> tuple[str, ...]:
        """The named axes that the layer and its children reduce over, which they say in a field `axis_name`."""
        own: Any = getattr(self, "axis_name", None)
        mine = own if isinstance(own, tuple) else () if own is None else (own,)
        return tuple(dict.fromkeys((*mine, *(name for _, layer in self._entries() for name in layer._axis_names))))

    def _freezes(self) -> bool:
        """Whether some parameter in it may take no gradient, as a wrapper says."""
        return False

    def _is_frozen(self, path: str) -> bool:
        """Whether the parameter at a path takes no gradient, for all in this layer who read it."""
        return False

    def _is_bare(self) -> bool:
        """Whether its parameters may be something else than a dict: one array, say."""
        return False

    def _auto_name(self) -> str:
        return snake_case(type(self).__name__)


refuse_arithmetic(Layer, describe, "in a forward, a child is m's, m.name(x), or m.name() for the array of a Param")


def snake_case(name: str) -> str:
    """`BatchNorm` → `batch_norm`, `LSTMCell` → `lstm_cell`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@functools.cache
def _state_key() -> jax.Array:  # made on first use: a key starts the backend
    with jax.ensure_compile_time_eval():
        return jax.random.key(0x57A7E, impl="threefry2x32")


def _check_modes(what: str, kwargs: dict[str, Any]) -> None:
    taken = [name for name in MODES if name in kwargs]
    if taken:
        raise TypeError(
            f"{what} take the inputs that apply takes, but not {', '.join(taken)}: shapes do not depend on it, so "
            f"leave it out"
        )


# What its functions name


@functools.cache
def _wants_of(kind: type[Layer]) -> Wants:
    return wants_of(kind.forward, skip=2)


@functools.cache
def _takes(kind: type[Layer], which: Kind) -> Takes | None:
    """Which inputs `params` and `states` are called with; None: the class declares nothing."""
    method = getattr(kind, which)
    return None if method is getattr(Layer, which) else takes_of(method)


def _declare(layer: Layer, kind: Kind, sample: Sample) -> Any:
    inputs, kwargs = sample.filled(sample.specs)
    return getattr(layer, kind)(*inputs, **kwargs)


_declared = functools.lru_cache(maxsize=1024)(_declare)


# The two functions


class _Function:
    """A function of a net with value equality, so that `jax.jit` of an equal net's function finds the compiled one."""

    __slots__ = ("__name__", "__weakref__", "net")

    def __init__(self, net: Layer) -> None:
        self.net = net
        self.__name__ = type(self).__name__.lower()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and cast(_Function, other).net == self.net

    def __hash__(self) -> int:
        return hash((type(self), self.net))

    def __repr__(self) -> str:
        return f"<{self.__name__} of {self.net._auto_name()}>"  # short: JAX asks for it at each trace

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.net, self.__name__)


_F = TypeVar("_F", bound=_Function)
_living: weakref.WeakValueDictionary[tuple[Layer, type[_Function]], _Function] = weakref.WeakValueDictionary()


def _function_of(net: Layer, kind: type[_F]) -> _F:
    # One living instance for equal nets, since JAX drops what it compiled with the function; but a net that may hold
    # tracers or much memory in a closure keeps its own.
    if not net._memoable:
        return kind(net)
    found = _living.get((net, kind))
    if found is None:
        found = _living[net, kind] = kind(net)
    return cast(_F, _kept(found))


@functools.lru_cache(maxsize=128)
def _kept(function: _Function) -> _Function:
    """The function itself; those asked for last stay alive though their nets do not."""
    return function


class Init(_Function):
    """`net.init`; see `Layer.init`."""

    __slots__ = ()

    def __call__(self, key: Any, /, *sample: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            key = as_key(key)
        except TypeError as error:
            explain(error, "", self.net, sample, kwargs, ", to be initialised")
            raise
        return self.net.plan(*sample, **kwargs).draw("params", key)


class Apply(_Function):
    """`net.apply`; see `Layer.apply`."""

    __slots__ = ()

    @overload
    def __call__(
        self, params: Tree, /, *inputs: Any, state: None = None, key: Any = None, train: bool = False, **kwargs: Any
    ) -> Any: ...
    @overload
    def __call__(
        self,
        params: Tree,
        /,
        *inputs: Any,
        state: Mapping[str, Any],
        key: Any = None,
        train: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]: ...

    def __call__(
        self, params: Tree, /, *inputs: Any, state: Tree = None, key: Any = None, train: bool = False, **kwargs: Any
    ) -> Any:
        return applied(self.net, params, inputs, kwargs, state, key, train)


def applied(
    net: Layer,
    params: Tree,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
    state: Tree,
    key: Any,
    train: bool,
    probe: Probe | None = None,
) -> Any:
    """What `net.apply` returns; a probe looks at the outputs of the layers meanwhile."""
    try:
        scope = _root(net, params, state, key, train)
        scope.probe = probe
        inputs, kwargs = as_inputs(inputs), as_inputs(kwargs)
        strangers = list(net._strangers("params", params, ""))
        if strangers:
            raise misfit_error(all_differences(net, params, inputs, kwargs) or unread(strangers, params))
    except Exception as error:
        explain(error, "", net, inputs, kwargs)
        raise
    output = _run_root(scope, inputs, kwargs)
    return output if state is None else (output, cast(States, scope.states).tree)


class _BoundNet(Bound):
    """A net, or a layer in it, that is bound outside of any forward."""

    __slots__ = ()

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        if any(name in kwargs for name in ("params", *MODES)):
            return super().__call__(*as_inputs(inputs), **kwargs)
        return _run_root(self._scope, as_inputs(inputs), as_inputs(kwargs))


def _run_root(scope: Scope, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs a net from its root; parameters that do not fit are reported all at once."""
    try:
        return scope.run(inputs, kwargs)
    except Misfit as first:
        rows = all_differences(scope.layer, scope.params, inputs, kwargs) or []
        rows = [row._replace(path=join(scope.path, row.path)) for row in rows]
        error = misfit_error(rows) if rows else ValueError(*first.args)
        for note in getattr(first, "__notes__", []):
            error.add_note(note)
        raise error.with_traceback(first.__traceback__) from None  # the same error, told of the whole net


def _root(net: Layer, params: Tree, state: Tree, key: Any, train: bool) -> Scope:
    if not isinstance(train, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"train is True or False, a Python bool that JAX does not trace, got {show(train)}: write train=True, and "
            f"mark it static in jax.jit, static_argnames='train'"
        )
    _check_params(net, params)
    states = None if state is None else States(state, "")
    strangers = [] if state is None else list(net._strangers("states", state, ""))
    if strangers:
        raise misfit_error(unread(strangers, state), "state")
    return Scope(net, "", params, states, None if key is None else given_keys(key, net, ""), train)


def _check_params(net: Layer, params: Tree) -> None:
    """Raises for what is no tree of parameters at all."""
    make = "make them with params = net.init(key, *sample)"
    if isinstance(params, Bound):
        raise TypeError(f"params is a model that holds its parameters already, {params!r}: call it, model(x)")
    if isinstance(params, Layer):
        raise TypeError(f"params is a layer, {describe(params)}: parameters come first in net.apply; {make}")
    if callable(params):
        raise TypeError(f"params is a function, {show(params)}: {make}")
    if params is None:
        raise TypeError(f"params is None: {make}")
    if isinstance(params, (tuple, list)):
        raise TypeError(
            f"params is a {type(params).__name__}, {show(params)}: parameters are a dict, and the state goes in as "
            f"state="
        )
    if not isinstance(params, dict) and not net._is_bare():
        raise TypeError(f"params comes first and is a dict, net.apply(params, *inputs), got {show(params)}: {make}")
