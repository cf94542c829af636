"""What a picture calls things: layers, operations, shapes; and which family of layers each belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from funcnets.combinators import Ensemble, Repeat, Sequential
from funcnets.compose import Composed, Composite
from funcnets.layer import Layer
from funcnets.leaves import Constant, Function, Param, function_name
from funcnets.parametrization import Parametrized
from funcnets.scan import Scan
from funcnets.shapes import names_of
from funcnets.wrappers import Cast, Freeze, Remat

_LONGEST = 26  # characters of a label

_FAMILIES = {
    "linear": "linear einsum experts conditioning attention_projection",
    "convolution": "convolution transposed_convolution local_convolution patches",
    "pooling": "pooling adaptive_pooling unpooling resizing",
    "normalization": "normalization batch_normalization",
    "attention": "attention transformer position_bias",
    "recurrent": "recurrent sequences state_space scan",
    "embedding": "embedding positions quantization",
    "activation": "activation",
    "array": "Param Constant",
}
_FAMILY_OF = {name: family for family, names in _FAMILIES.items() for name in names.split()}

_SIGNS = {
    "add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "dot_general": "matmul", "concatenate": "concat",
    "select_n": "where", "conv_general_dilated": "conv", "dynamic_update_slice": "update", "dynamic_slice": "slice",
}  # fmt: skip

_WRITTEN_OUT: tuple[tuple[frozenset[str], str], ...] = tuple(
    (frozenset(primitives.split()), name)
    for primitives, name in (
        ("exp reduce_sum div", "softmax"),
        ("tanh integer_pow", "gelu"),
        ("erfc", "gelu"),
        ("erf", "gelu"),
        ("reduce_sum rsqrt", "normalise"),
        ("reduce_sum sqrt div", "normalise"),
        ("tanh", "tanh"),
        ("logistic mul", "silu"),
        ("logistic", "sigmoid"),
        ("exp", "exp"),
        ("log", "log"),
        ("argmax", "argmax"),
        ("sort", "sort"),
        ("reduce_max", "max"),
        ("reduce_min", "min"),
        ("reduce_sum div", "mean"),
        ("reduce_sum", "sum"),
    )
)
"""Functions that leave no name in a jaxpr, by primitives that give them away; the first that fits is meant."""


def written_out(primitives: Iterable[str]) -> str | None:
    """The function that operations on one value amount to; None where nothing is worth a word."""
    found = set(primitives)
    return next((name for signs, name in _WRITTEN_OUT if signs <= found), None)


def operation(primitive: str) -> str:
    """What an operation on several values is called."""
    return _SIGNS.get(primitive, primitive.strip("_").replace("_", " "))


def given_name(path: str, layer: Layer) -> str:
    """The name of a layer's place, unless it is an automatic one."""
    last, automatic = names_of(path)[-1] if path else "", re.escape(layer._auto_name().lstrip("_"))
    return "" if re.fullmatch(rf"_?{automatic}(_\d+)?", last) else last


def label(layer: Layer) -> str:
    """A layer in a few words, its code if that is short."""
    if isinstance(layer, Function):
        return function_name(layer.function)
    if isinstance(layer, Param | Constant):
        return type(layer).__name__
    if isinstance(layer, Sequential) and layer.layers:
        return _row([kind(child) for _, child in layer._entries()])
    if isinstance(layer, Composite) or any(isinstance(held, Layer) for held in layer._settings().values()):
        return kind(layer)
    text = " ".join(repr(layer).split()).lstrip("_").removesuffix("()")
    if len(text) <= _LONGEST:
        return text
    cut = text[:_LONGEST].rfind(", ")
    return f"{text[:cut]}, …)" if cut > 0 else kind(layer)


def kind(layer: Layer) -> str:
    """The class of a layer, or the function that it is made of; of a wrapper, its child's."""
    if isinstance(layer, Composed | Function):
        return function_name(layer.function)
    if layer._is_wrapper:
        return kind(layer._entries()[0][1])
    return type(layer).__name__.lstrip("_")


def _row(kinds: list[str]) -> str:
    text = " → ".join(kinds)
    return text if len(text) <= _LONGEST else f"{len(kinds)} layers"


def family(layer: Layer) -> str:
    """The family of layers that one belongs to, of which it takes its colour; of a composite, a child's."""
    if isinstance(layer, Function):
        return "activation"
    own = next(base for base in type(layer).__mro__ if base.__module__.startswith("funcnets."))
    found = _FAMILY_OF.get(own.__name__) or _FAMILY_OF.get(own.__module__.split(".")[-1], "other")
    if found != "other":
        return found
    inside = [family(child) for _, child in layer._entries()]
    return next((one for one in inside if one not in ("activation", "array", "other")), "other")


def tag(wrapper: Layer) -> str:
    """The word that a wrapper leaves on what it holds; "" for one that shows in the flow."""
    if isinstance(wrapper, Freeze):
        return f"frozen but {', '.join(wrapper.but)}" if wrapper.but else "frozen"
    if isinstance(wrapper, Cast):
        return str(wrapper.dtype)
    if isinstance(wrapper, Remat):
        return "remat"
    if isinstance(wrapper, Parametrized):
        return ", ".join(dict.fromkeys(kind(how) for _, how in wrapper.by))
    return ""


def badge(wrapper: Layer, steps: int | None = None) -> str:
    """How many times what a wrapper holds runs."""
    if isinstance(wrapper, Repeat):
        return f"× {wrapper.n}{' shared' if wrapper.shared else ''}"
    if isinstance(wrapper, Ensemble):
        return f"{wrapper.n} side by side"
    if isinstance(wrapper, Scan):
        return f"over time{'' if steps is None else f' × {steps}'}{', reversed' if wrapper.reverse else ''}"
    return ""


def shape(spec: Any) -> str:
    """`32×256`; with the dtype where that is not float32."""
    sizes = "×".join(map(str, spec.shape)) or "scalar"
    dtype = getattr(spec.dtype, "name", str(spec.dtype))
    return sizes if dtype == "float32" else f"{sizes} {dtype}"
