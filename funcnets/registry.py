"""Registry: the names by which files speak of classes and functions.

There are three kinds of names, none of which can be another's:

- this package's own: "Dense", "rotary" and "initializers.Normal", as in `fn.Dense`, `fn.rotary` and
  `fn.initializers.Normal`; a class or function that only stands inside its layers goes by its bare name, "Modulation";
- those of JAX's public functions, "jax.nn.relu". They compute; the few that touch files or settings are left out;
- what `register` adds, always with a "/": "my_lab/softplus2".

A new layer, and what stands in its fields, is known without a word here.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, overload

from funcnets import initializers, rewrite
from funcnets.compose import Composed
from funcnets.shapes import show
from funcnets.values import Value, public_functions

_T = TypeVar("_T")

_registered: dict[str, Any] = {}

_APART: Final = ("fromfile", "load", "printoptions", "save", "savez", "set_printoptions")
"""Functions of jax.numpy that do something beside computing."""


@overload
def register(held: _T, *, name: str | None = None) -> _T: ...
@overload
def register(*, name: str | None = None) -> Callable[[_T], _T]: ...
def register(held: Any = None, *, name: str | None = None) -> Any:
    """Gives a class or function of one's own a name, by which files speak of it.

    The program that writes a file and the one that reads it both import the module where this stands. A name in a file
    lasts: after a move or another name in Python, give the old one as `name`. What has several names is written under
    the first and read under all. A class or function defined again at the top of a module, as by a notebook's cell that
    runs twice, takes the place of the former.

    Args:
      held: A class of layers or other values (or a NamedTuple, dataclass or enum that stands in fields), a function, or
        a composite made by `fn.compose`, whose forward gets the name.
      name: The name, with a "/", such as "my_lab/softplus2". By default the module and the name in it, "module/Name"; a
        script's module is called as its file.

    Returns:
      What it was given; without that, a decorator.

    Raises:
      TypeError: Something else, or something without a name at the top of a module and none given.
      ValueError: A name without "/", or one that stands for something else.

    Example:
      >>> @fn.files.register(name="my_lab/double")
      ... def double(x):
      ...     return 2 * x
      >>> fn.files.to_config(fn.Sequential(double))["net"]["layers"]
      [{'function': 'my_lab/double'}]
    """
    if held is None:
        return lambda held: register(held, name=name)
    target = held.function if isinstance(held, Composed) else held
    if kind_of(target) is None:
        raise TypeError(
            f"register takes a class of layers or other values, a function, or a composite made by fn.compose, got "
            f"{show(held)}. Register the class of a layer, the function in a partial, one that calls a method; a name "
            f"goes in as name=..."
        )
    name = _default_name(target) if name is None else name
    if not isinstance(name, str) or "/" not in name.strip("/"):
        raise ValueError(
            f'register takes a name with a "/", got {show(name)}: those without are the library\'s. Write '
            f'name="my_lab/..."'
        )
    former = _registered.get(name, target)
    if former is not target and not _is_defined_again(former, target):
        raise ValueError(f"the name {name!r} stands for {former!r}: register {target!r} by another, name=...")
    _registered[name] = target
    return held


def kind_of(target: Any) -> str | None:
    """How a file speaks of it: as a "class", an "enum" or a "function"; None for what cannot be registered."""
    if isinstance(target, type):
        is_tuple = issubclass(target, tuple) and hasattr(target, "_fields")
        is_class = dataclasses.is_dataclass(target) or is_tuple
        return "enum" if issubclass(target, enum.Enum) else "class" if is_class else None
    # Methods and partials are other objects at each turn.
    bound = not isinstance(getattr(target, "__self__", None), (types.NoneType, types.ModuleType))
    made = bound or isinstance(target, (Value, functools.partial))
    return "function" if callable(target) and not made else None


def place_of(target: Any) -> tuple[str, str]:
    """The module of a class or function, and its name there; empty where there is none."""
    module, name = (getattr(target, what, None) or "" for what in ("__module__", "__qualname__"))
    if module in ("__main__", "__mp_main__") and module in sys.modules:
        # A script goes by the name that others import it under.
        spec, file = (getattr(sys.modules[module], what, None) for what in ("__spec__", "__file__"))
        module = spec.name if spec else os.path.splitext(os.path.basename(file))[0] if file else module
    return module, name


def _default_name(target: Any) -> str:
    module, name = place_of(target)
    if not module or not name or "<" in name:
        raise TypeError(
            f"{name or show(target)} is a lambda, local to a function, or without a name: define it at the top of a "
            f'module, with def or class, or give it a name, register(..., name="my_lab/...")'
        )
    return f"{module}/{name}"


def _is_defined_again(former: Any, target: Any) -> bool:
    name = place_of(target)[1]
    return bool(name) and "<" not in name and place_of(former) == place_of(target)


def is_replaced(target: Any) -> bool:
    """Whether another definition of the same name is registered."""
    return any(former is not target and _is_defined_again(former, target) for former in _registered.values())


def known() -> dict[str, Any]:
    """All classes and functions that have a name, by name; the first name of each is the one to write."""
    names: dict[str, Any] = {}
    for name, held in vars(initializers).items():
        own = isinstance(held, type) and held.__module__ == initializers.__name__
        if own and not name.startswith("_"):
            names[f"initializers.{name}"] = held
    assert rewrite.Adapted  # imported, as the layers of rewriting have names too
    for kind in _classes_below(Value):
        elsewhere = kind.__module__.startswith("funcnets.") and kind.__module__ != initializers.__name__
        if elsewhere and not kind.__name__.startswith("_"):
            names.setdefault(kind.__name__, kind)
    for module in [module for name, module in sys.modules.items() if name.startswith("funcnets.layers.")]:
        for name, held in vars(module).items():
            own = kind_of(held) == "function" and place_of(held)[0] == module.__name__
            if own and not name.startswith("_"):
                names.setdefault(name, held)
    for (module, name), held in public_functions().items():
        if module != "jax.numpy" or name not in _APART:
            names[f"{module}.{name}"] = held
    return names | _registered


def _classes_below(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from _classes_below(one)
