"""Values: what a layer is made of.

A *value* never changes, compares by what it holds, and prints as the code that builds it. Subclassing `Value` is all
it takes:

    class Scale(Value):
        factor: float = 1.0

    Scale(2.0) == Scale(2.0)          # and they hash alike, so JAX may compile for one and reuse for the other
    Scale(2.0) != Scale(2)            # a field's type counts: the program compiled for 2 is another than that for 2.0
    dataclasses.replace(Scale(), factor=3.0)

Fields are put into one form when a value is built: lists become tuples, dtype-likes become `np.dtype`, NumPy scalars
become Python's. Arrays, dicts and classes in a field raise, since two nets that hold them could not be told apart by
their contents. Functions compare by identity; a `functools.partial` by its function and arguments.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Self, cast, dataclass_transform

import jax
import numpy as np

from funcnets.printing import beside, bracketed, call_code, elided, plain, unfolding

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


class _Constructor:
    """The signature of a class of values, made when it is asked for. A value that is called has that of its call."""

    def __get__(self, value: object, kind: type) -> inspect.Signature:
        if value is not None:
            raise AttributeError(f"{kind.__name__} has a signature; a value of it has its call's")
        if not dataclasses.is_dataclass(kind):  # help() asks the base of all values too
            raise AttributeError(f"{kind.__name__} has no fields")
        if kind.__init__ is not Value.__init__:
            parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
            return inspect.Signature(parameters)
        fields = sorted((field for field in fields_of(kind) if field.init), key=lambda field: bool(field.kw_only))
        several = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(
                field.name,
                several[bool(field.kw_only)],
                annotation=field.type,
                default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            )
            for field in fields
        ]
        return inspect.Signature(parameters)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
class Value:
    """An immutable value: a frozen dataclass that compares, hashes, prints and pickles by its fields, and is static in
    JAX.

    A subclass that validates its fields does so in `__post_init__`, which finds them normalised already.
    """

    _created: ClassVar[tuple[str, int] | None]  # an instance's own, and no part of it

    __signature__: ClassVar[Any] = _Constructor()  # what help() and editors show of it

    def __init__(self, *args: Any, **named: Any) -> None:
        self._fill(**_given(type(self), args, named))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        validate = cls.__dict__.get("__post_init__")
        if validate is not None:
            cls.__post_init__ = _normalise_then(validate)
        for name in inspect.get_annotations(cls):
            if isinstance(cls.__dict__.get(name), (list, dict, set)):
                held = type(cls.__dict__[name]).__name__
                raise TypeError(
                    f"{cls.__name__}.{name} has a {held} for its default, which can change: write a tuple, of (name, "
                    f"value) pairs where names are needed"
                )
        # One constructor serves all: generating one a class would take most of the time of an import.
        dataclasses.dataclass(eq=False, repr=False, init=False)(cls)
        adds_fields = any("ClassVar" not in str(kind) for kind in inspect.get_annotations(cls).values())
        if adds_fields and "__init__" not in cls.__dict__:
            setattr(cls, "__init__", Value.__init__)  # noqa: B010
        jax.tree_util.register_static(cls)

    def __post_init__(self) -> None:
        _normalise(self)
        self._settled()

    def _fill(self, **fields: Any) -> None:
        """Sets the fields from a constructor of one's own, and does what a generated constructor would do after
        that.
        """
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def _settings(self) -> Mapping[str, Any]:
        """What it is made of, by name: its fields."""
        return {field.name: getattr(self, field.name) for field in fields_of(type(self))}

    def _with(self, changed: Mapping[str, Any]) -> Self:
        """The same value with some settings changed; it remains built where it was built."""
        new = object.__new__(type(self))
        object.__setattr__(new, "_created", self.__dict__.get("_created"))
        new._fill(**{**Value._settings(self), **changed})
        return new

    def _settled(self) -> None:
        """Called once the fields have their form; a kind of value that derives something from them does it here."""

    def __setattr__(self, name: str, value: Any) -> None:
        self.__delattr__(name)

    def __delattr__(self, name: str) -> None:
        kind = type(self).__name__
        names = [field.name for field in fields_of(type(self))]
        if name in names and "_created" in self.__dict__:
            remedy = f"Make a new one: dataclasses.replace(value, {name}=...)"
        elif name in names:
            remedy = f"A constructor of one's own ends with super().__init__({', '.join(f'{n}=...' for n in names)})"
        else:
            remedy = (
                f"A field is declared in the class, {name}: type, and given when it is built, {kind}({name}=...); what "
                f"a call makes is returned"
            )
        raise AttributeError(f"{kind}.{name} cannot be set: values never change. {remedy}")

    @functools.cached_property  # like all that is derived: in no field, so in no comparison and no pickle
    def _key(self) -> tuple[Any, ...]:
        """What this value is compared by."""
        return tuple(comparable(getattr(self, field.name)) for field in fields_of(type(self)))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(other) is type(self) and hash(self) == hash(other) and self._key == cast(Self, other)._key

    @functools.cached_property
    def _hash(self) -> int:
        return hash((type(self), self._key))

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _memoable(self) -> bool:
        """Whether what is known of this value may be kept: not if a function in it may hold tracers or much memory."""
        return all(holds_nothing(getattr(self, field.name)) for field in fields_of(type(self)))

    def _arguments(self) -> list[Argument]:
        """The constructor's arguments; fields at their defaults are left out."""
        shown: list[Argument] = []
        positional = True
        for field in fields_of(type(self)):
            value = getattr(self, field.name)
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            positional = positional and required and not field.kw_only
            if not required:
                default = field.default_factory() if callable(field.default_factory) else field.default  # type: ignore[misc]
                if comparable(_normal(default, type(self).__name__, field.name)) == comparable(value):
                    continue
            shown.append(Argument(value, "" if positional else field.name, f".{field.name}"))
        return shown

    def _call(self) -> tuple[str, list[Argument], str]:
        """The code that builds it: what comes before the arguments, these, and what comes after them."""
        return f"{type(self).__name__}(", self._arguments(), ")"

    def __repr__(self) -> str:
        return elided(code(self), "fn.files.to_config(net) has them, and its parts print alone, net.at(path)")

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        """The same code for treescope, which asks for it by this name."""
        opening, arguments, closing = self._call()
        parts = [_part(*one, path, subtree_renderer) for one in arguments]
        return unfolding(opening, parts, closing, path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            type(self),
            {field.name: _portable(getattr(self, field.name)) for field in fields_of(type(self))},
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def created_at(value: Value) -> str:
    """Where the value was built, as "file.py:12"; empty where that is not known (a value read from a file)."""
    place: tuple[str, int] | None = value.__dict__.get("_created")
    if place is None:
        return ""
    name, line = place
    if name.startswith("<"):  # an interactive prompt
        return f"{name}:{line}"
    if os.path.basename(os.path.dirname(name)).startswith("ipykernel_"):  # a file that only the kernel knows
        return f"<notebook cell>:{line}"
    shown = os.path.relpath(name)
    return f"{os.path.basename(name) if shown.startswith('..') else shown}:{line}"


@functools.cache
def fields_of(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a class of values."""
    return dataclasses.fields(kind)


def _given(kind: type, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """The fields of a class of values that is called with these; raises for what it does not take."""
    fields = {field.name: field for field in fields_of(kind) if field.init}
    positional = [name for name, field in fields.items() if not field.kw_only]
    takes = f"{kind.__name__} takes {', '.join(fields) or 'nothing'}"
    if len(args) > len(positional):
        count = len(positional)
        raise TypeError(f"{takes}, of these {count} by position, got {len(args)}: give the others by name")
    given = dict(zip(positional, args, strict=False))
    for name, value in named.items():
        if name in given:
            raise TypeError(f"{takes}, got {name} twice, by position and by name")
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise TypeError(f"{kind.__name__} has no field {name!r}{hint}; it has {', '.join(fields) or 'none'}")
        given[name] = value
    for field in fields_of(kind):
        if field.name not in given:
            if field.default is not dataclasses.MISSING:
                given[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                given[field.name] = field.default_factory()
            else:
                raise TypeError(f"{takes}, got no {field.name}: write {kind.__name__}({field.name}=...)")
    return given


# One form for every field


def _normalise_then(validate: Callable[[Any], None]) -> Any:
    @functools.wraps(validate)
    def post_init(self: Value) -> None:
        _normalise(self)
        validate(self)
        self._settled()

    return post_init


def _normalise(value: Value) -> None:
    for field in fields_of(type(value)):
        held = getattr(value, field.name)
        object.__setattr__(value, field.name, _normal(held, type(value).__name__, field.name))
    if "_created" not in value.__dict__:
        object.__setattr__(value, "_created", _caller())


def _caller() -> tuple[str, int] | None:
    """The nearest line outside this package and outside generated code."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name != "<string>" and not name.startswith(_PACKAGE):
            return name, frame.f_lineno
        frame = frame.f_back
    return None


def _normal(held: Any, owner: str, field: str) -> Any:
    if held is None or (
        isinstance(held, (Value, str, bool, int, float, np.dtype)) and not isinstance(held, np.generic)
    ):
        return held
    if isinstance(held, (list, tuple)):
        items = [_normal(item, owner, field) for item in held]
        return type(held)(*items) if hasattr(held, "_fields") else tuple(items)
    if isinstance(held, np.generic):
        return held.item()
    if isinstance(held, (np.ndarray, jax.Array)):
        raise TypeError(
            f"{owner}.{field} holds an array, {_array(held)}: a layer holds no arrays. "
            "Declare it with fn.Param if it is learned; wrap it in fn.Constant if it never changes."
        )
    if isinstance(held, type):
        if issubclass(held, np.generic):
            return np.dtype(held)
        if isinstance(getattr(held, "dtype", None), np.dtype):  # jnp.float32 and its kin
            return np.dtype(held.dtype)  # type: ignore[attr-defined]
        if issubclass(held, Value):
            raise TypeError(
                f"{owner}.{field} is the class {held.__name__}, not a value of it: write {held.__name__}(...)"
            )
    if isinstance(held, functools.partial):
        arguments = [_normal(a, owner, field) for a in held.args]
        return type(held)(held.func, *arguments, **{k: _normal(v, owner, field) for k, v in held.keywords.items()})
    if isinstance(held, (set, frozenset)):
        return frozenset(_normal(item, owner, field) for item in held)
    if isinstance(held, Mapping):
        raise TypeError(f"{owner}.{field} holds a dict, which can change: write a tuple of (name, value) pairs")
    try:
        hash(held)
    except TypeError:
        raise TypeError(
            f"{owner}.{field} holds a {type(held).__name__}, which cannot be hashed, so nets could not be compared"
        ) from None
    return held


def _array(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


# Comparing


def comparable(held: Any) -> Any:
    """Something hashable that is equal for two field contents just when a program compiled for one serves the other."""
    if isinstance(held, Value):
        return held
    if isinstance(held, tuple):
        return (type(held), *map(comparable, held))
    if isinstance(held, float):
        return (type(held), "nan" if math.isnan(held) else held.hex())
    if isinstance(held, complex):
        return (complex, comparable(held.real), comparable(held.imag))
    if isinstance(held, frozenset):
        return (frozenset, frozenset(map(comparable, held)))
    if isinstance(held, functools.partial):
        partial = held
        named = tuple(sorted((name, comparable(value)) for name, value in partial.keywords.items()))
        return (
            type(held),
            comparable(partial.func),
            tuple(comparable(a) for a in partial.args),
            named,
        )
    if dataclasses.is_dataclass(held) and not isinstance(held, type):
        return (type(held), *(comparable(getattr(held, field.name)) for field in dataclasses.fields(held)))
    return (type(held), held)


def holds_nothing(held: Any) -> bool:
    """Whether a field's content is no function, or one that holds nothing but plain constants."""
    if isinstance(held, Value):
        return held._memoable
    if isinstance(held, (tuple, frozenset)):
        return all(map(holds_nothing, held))
    if isinstance(held, functools.partial):
        return all(map(holds_nothing, (held.func, *held.args, *held.keywords.values())))
    if held is None or isinstance(held, (str, bool, int, float, complex, np.dtype, type)) or public_name(held):
        return True
    if not callable(held):
        return getattr(held, "small", not hasattr(held, "__dict__"))
    function = inspect.unwrap(held)
    kept = (
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).values(),
    )
    return inspect.isroutine(function) and not getattr(function, "__closure__", None) and all(map(holds_nothing, kept))


# Printing


class Argument(NamedTuple):
    """An argument of the call that builds a value.

    Attributes:
      held: What is given.
      keyword: The keyword that it is given by; "" by position.
      place: The code that reaches it, or the layer in a (name, layer) pair: ".features", "[0]"; "" where none does.
    """

    held: Any
    keyword: str = ""
    place: str = ""

    @property
    def code(self) -> str:
        return f"{self.keyword}={code(self.held)}" if self.keyword else code(self.held)


def code(held: Any) -> str:
    """A field's content as code, however long."""
    if isinstance(held, Value) and type(held).__repr__ is Value.__repr__:
        opening, arguments, closing = held._call()
        return bracketed(opening, [argument.code for argument in arguments], closing)
    if isinstance(held, dict):
        return bracketed("{", [f"{code(name)}: {code(one)}" for name, one in held.items()], "}")
    if isinstance(held, tuple) and not hasattr(held, "_fields"):
        items = [code(item) for item in held]
        return f"({items[0]}, {items[1]})" if _is_named(held) else bracketed("(", items, ")")
    if isinstance(held, np.dtype):
        return repr(held.name)
    if isinstance(held, float) and not math.isfinite(held):
        return f"float('{held}')"
    if isinstance(held, functools.partial):
        partial = held
        named = [f"{name}={code(value)}" for name, value in partial.keywords.items()]
        return call_code("partial", [code(partial.func), *map(code, partial.args), *named])
    if callable(held) and not isinstance(held, Value):
        return public_name(held) or str(getattr(held, "__qualname__", None) or repr(held)).split("<locals>.")[-1]
    return repr(held)


def _is_named(held: tuple[Any, ...]) -> bool:
    return len(held) == 2 and isinstance(held[0], str)


def _part(held: Any, keyword: str, place: str, path: str | None, render: Any) -> Any:
    """An argument for treescope: values unfold, all else is text. The place of a named layer is the layer's."""
    there = f"{path}{place}" if path is not None and place else None
    if isinstance(held, Value):
        part = render(held, path=there)
    elif isinstance(held, tuple) and _is_named(held):
        part = beside(f"({held[0]!r}, ", _part(held[1], "", place, path, render), ")")
    elif isinstance(held, tuple) and any(isinstance(item, (Value, tuple)) for item in held):
        places = [
            f"[{i}][1]" if isinstance(item, tuple) and _is_named(item) else f"[{i}]" for i, item in enumerate(held)
        ]
        parts = [_part(item, "", inside, there, render) for item, inside in zip(held, places, strict=True)]
        part = unfolding("(", parts, ")", there)
    else:
        part = plain(code(held))
    return beside(f"{keyword}=", part) if keyword else part


# Functions by name


class _FunctionName(NamedTuple):
    """A function as it goes into a pickle: by the name a reader can import it under."""

    module: str
    name: str
    unwrap: bool = False  # the name holds something built from the function, which it gives as __wrapped__


class _PartialName(NamedTuple):
    function: Any
    args: Any
    keywords: dict[str, Any]


@functools.cache
def public_functions() -> dict[tuple[str, str], Any]:
    """The functions of JAX's public modules by (module, name); one function may have several."""
    import jax.numpy as jnp
    from jax.nn import initializers
    from jax.scipy import special

    modules: dict[str, ModuleType] = {
        "jax.nn": jax.nn,
        "jax.numpy": jnp,
        "jax.lax": jax.lax,
        "jax.numpy.linalg": jnp.linalg,
        "jax.numpy.fft": jnp.fft,
        "jax.scipy.special": special,
        "jax.nn.initializers": initializers,
        "jax.random": jax.random,
        "jax.image": jax.image,
    }
    policies = {("jax", f"checkpoint_policies.{name}"): held for name, held in vars(jax.checkpoint_policies).items()}
    return policies | {
        (module, name): held
        for module, holder in modules.items()
        for name, held in vars(holder).items()
        if callable(held) and not name.startswith("_") and not isinstance(held, type)
    }


@functools.cache
def _public_functions() -> dict[int, tuple[str, str]]:
    """The same by identity, with the first of a function's names: some (`jax.nn.relu`) have no pickle of their own."""
    table: dict[int, tuple[str, str]] = {}
    for place, held in public_functions().items():
        table.setdefault(id(held), place)
    return table


def public_name(function: object) -> str | None:
    """`jax.nn.relu` for that very function; None for one that JAX does not publish."""
    found = _public_functions().get(id(function))
    return ".".join(found) if found else None


def _portable(held: Any) -> Any:
    """The content of a field as it goes into a pickle: functions by name, all else as it is."""
    if isinstance(held, tuple) and not hasattr(held, "_fields"):
        return tuple(_portable(item) for item in held)
    if isinstance(held, functools.partial):
        partial = held
        return _PartialName(
            _portable(partial.func), _portable(partial.args), {k: _portable(v) for k, v in partial.keywords.items()}
        )
    if not callable(held) or isinstance(held, (Value, type)):
        return held
    found = _public_functions().get(id(held))
    if found:
        return _FunctionName(*found)
    module, name = getattr(held, "__module__", None), getattr(held, "__qualname__", None)
    if module is None or name is None:
        return held  # a callable object: its own pickle serves
    there = _look_up(module, name)
    if there is held:
        return _FunctionName(module, name)
    if getattr(there, "__wrapped__", None) is held:
        return _FunctionName(module, name, unwrap=True)
    raise pickle.PicklingError(
        f"{name} (in {module}) cannot be pickled: it is a lambda, local to a function, or no longer what its name "
        f"stands for. "
        "Define it with def at the top of a module; a factory calls such a function."
    )


def _look_up(module: str, name: str) -> Any:
    try:
        return functools.reduce(getattr, name.split("."), cast(Any, importlib.import_module(module)))
    except (ImportError, AttributeError):
        return None


def _restored(held: Any) -> Any:
    if isinstance(held, _FunctionName):
        there = _look_up(held.module, held.name)
        if there is None:
            raise pickle.UnpicklingError(
                f"the function {held.module}.{held.name} that this net uses cannot be imported here"
            )
        return there.__wrapped__ if held.unwrap else there
    if isinstance(held, _PartialName):
        keywords = {name: _restored(value) for name, value in held.keywords.items()}
        return functools.partial(_restored(held.function), *_restored(held.args), **keywords)
    if type(held) is tuple:
        return tuple(_restored(item) for item in held)
    return held


def _rebuild(kind: type[Value], fields: dict[str, Any]) -> Value:
    value = object.__new__(kind)
    object.__setattr__(value, "_created", None)
    value._fill(**{name: _restored(held) for name, held in fields.items()})
    return value
