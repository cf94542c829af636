"""Which parameters learn: what `fn.Freeze` in a net says of them, as a function of their paths."""

from __future__ import annotations

from funcnets.compose import Wrapper
from funcnets.layer import Layer
from funcnets.places import as_net
from funcnets.shapes import names_of
from funcnets.values import Value
from funcnets.wrappers import Tied


class Frozen(Value):
    """Whether the parameter at a path of a net takes no gradient, for all who read it are in a `Freeze`; see
    `frozen`.

    Args:
      net: The net.
    """

    net: Layer

    def __call__(self, path: str) -> bool:
        return _is_frozen(self.net, names_of(path))


def frozen(net: Layer) -> Frozen:
    """A function of paths: whether the parameter there takes no gradient, as `fn.Freeze` in the net says, or a
    parametrisation of what it holds.

    It stands in a pattern's place. An array that several layers read is frozen if all of them are.

    Args:
      net: The net.

    Raises:
      TypeError: Something that is no net.

    Example:
      >>> net = fn.Sequential(("encoder", fn.Freeze(fn.Dense(8))), ("head", fn.Dense(1)))
      >>> fn.params.frozen(net)("encoder/kernel"), fn.params.frozen(net)("head/kernel")
      (True, False)
    """
    return Frozen(as_net("frozen", net))


def _is_frozen(layer: Layer, names: list[str]) -> bool:
    path = "/".join(names)
    if isinstance(layer, Wrapper) and layer.holds(path):
        return True
    if isinstance(layer, Tied) and path == layer.to and not _is_frozen(layer, names_of(layer.target)):
        return False
    children = [child for name, child in layer._entries() if name in ("", *names[:1])]
    rest = names if layer._is_wrapper else names[1:]
    return bool(children) and all(_is_frozen(child, rest) for child in children)
