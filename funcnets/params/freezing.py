"""Which parameters learn: what `fn.Freeze` in a net says of them, as a function of their paths."""

from __future__ import annotations

from funcnets.layer import Layer
from funcnets.places import as_net
from funcnets.values import Value


class Frozen(Value):
    """Whether the parameter at a path of a net takes no gradient, for all who read it are in a `Freeze`; see
    `frozen`.

    Args:
      net: The net.
    """

    net: Layer

    def __call__(self, path: str) -> bool:
        return self.net._is_frozen(path)


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
