"""Windows that slide over spatial axes: sizes, strides and padding, given once for all axes or axis by axis.

An input is (batch, *spatial, channels) with one to three spatial axes. A whole number means the same along each of
them; a tuple has an entry for each, and so says how many there are.
"""

from __future__ import annotations

from typing import Any

from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, check_whole, is_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.shapes import show

Sizes = int | tuple[int, ...]
Padding = str | int | tuple[int | tuple[int, int], ...]
Pairs = tuple[tuple[int, int], ...]
"""Positions added in front of and behind each axis."""

BATCH_SPATIAL_CHANNELS = "(batch, *spatial, channels) with one to three spatial axes"
FILLS = {"CIRCULAR": "wrap", "REFLECT": "reflect"}
"""Paddings with the input's own values, and what jnp.pad calls them."""

CONVOLUTION_FIELDS = ("kernel_size", "strides", "padding", "dilation")


# At construction


def check_sizes(layer: Layer, name: str) -> None:
    """Raises unless the field holds a positive whole number, or one for each of one to three axes."""
    held: Any = getattr(layer, name)
    entries: tuple[Any, ...] = held if isinstance(held, tuple) else (held,)
    if not 1 <= len(entries) <= 3 or not all(is_whole(entry, least=1) for entry in entries):
        raise refusal(
            layer,
            name,
            "as a whole number, at least 1, or as one for each spatial axis",
            f"Write {name}=3 for the same along every axis, {name}=(3, 5) for two",
        )


def check_padding(layer: Layer, names: tuple[str, ...]) -> None:
    """Raises unless the field `padding` holds one of these names, a whole number, or numbers or pairs for each
    axis.
    """
    held: Any = getattr(layer, "padding")  # noqa: B009
    if isinstance(held, str):
        valid = held in names
    else:
        entries: tuple[Any, ...] = held if isinstance(held, tuple) else (held,)
        valid = 1 <= len(entries) <= 3 and all(_is_amount(entry, pairs=isinstance(held, tuple)) for entry in entries)
    if not valid:
        raise refusal(
            layer,
            "padding",
            f"as {', '.join(map(repr, names))}, a whole number, or a number or (low, high) pair for each spatial axis",
            "Names are in capitals; one axis with two different ends is ((1, 0),)",
        )


def check_convolution_fields(layer: Any) -> None:
    """Raises unless the fields that all convolutions have hold what they may."""
    check_sizes(layer, "kernel_size")
    check_sizes(layer, "strides")
    check_padding(layer, ("SAME", "VALID", "CAUSAL", "CIRCULAR", "REFLECT"))
    check_sizes(layer, "dilation")
    check_agreement(layer, *CONVOLUTION_FIELDS)
    check_flag(layer, "use_bias", "Write use_bias=False where a normalisation with a bias of its own follows")


def check_pool_fields(pool: Any) -> None:
    """Raises unless the fields that all pools with windows have hold what they may."""
    check_sizes(pool, "window")
    if pool.strides is not None:
        check_sizes(pool, "strides")
    check_padding(pool, ("SAME", "VALID"))
    check_sizes(pool, "dilation")
    check_agreement(pool, "window", "strides", "padding", "dilation")
    if isinstance(pool.padding, str):
        return
    # Beyond that a window could lie in the padding alone, and have neither maximum nor mean.
    axes = max(len(held) if isinstance(held, tuple) else 1 for held in (pool.window, pool.padding, pool.dilation))
    extents = extents_of(pool.window, pool.dilation, axes)
    pairs = padding_pairs(pool.padding, extents, extents, extents)
    if any(max(ends) >= extent for ends, extent in zip(pairs, extents, strict=True)):
        dilated = f", dilation={pool.dilation!r}" if pool.dilation != 1 else ""
        raise ValueError(
            f"{type(pool).__name__} takes padding smaller than its window, got window={pool.window!r}{dilated} and "
            f"padding={pool.padding!r}. Pad less, or pad the input first with jnp.pad"
        )


def check_groups(layer: Any) -> None:
    """Raises unless the field `groups` holds a number that divides the field `features`."""
    check_whole(layer, "groups", "Write groups=1 for a plain convolution")
    if layer.features % layer.groups:
        raise ValueError(
            f"{type(layer).__name__} takes features that its groups divide, got features={layer.features} and "
            f"groups={layer.groups}. Take a multiple of {layer.groups} for features"
        )


def _is_amount(entry: Any, *, pairs: bool) -> bool:
    if pairs and isinstance(entry, tuple):
        return len(entry) == 2 and all(is_whole(end, least=0) for end in entry)
    return is_whole(entry, least=0)


def check_agreement(layer: Layer, *names: str) -> None:
    """Raises if two of these fields speak of different numbers of axes."""
    counts = {name: len(held) for name in names if isinstance(held := getattr(layer, name), tuple)}
    if len(set(counts.values())) > 1:
        fields = ", ".join(f"{name}={getattr(layer, name)!r}" for name in counts)
        raise ValueError(
            f"{type(layer).__name__} takes tuples with one entry for each spatial axis, got {fields}. Make them "
            f"equally long, or give a whole number for every axis"
        )


# For an input


def check_convolution_input(layer: Any, x: Any) -> int:
    """The number of spatial axes of what a convolution is given; raises for what it does not take."""
    check_floats(layer, x, BATCH_SPATIAL_CHANNELS, 3, 5)
    axes = spatial_axes(layer, x, *CONVOLUTION_FIELDS)
    if layer.padding == "CAUSAL" and axes != 1:
        raise ValueError(
            f"{type(layer).__name__} with padding='CAUSAL' takes (batch, time, channels), got {show(x)}. Over more "
            f"axes say which of them is time: padding=((kernel - 1, 0), (0, 0))"
        )
    return axes


def spatial_axes(layer: Layer, x: Any, *names: str) -> int:
    """The number of spatial axes of x; raises unless it is what these fields speak of."""
    axes = len(x.shape) - 2
    for name in names:
        held: Any = getattr(layer, name)
        if isinstance(held, tuple) and len(held) != axes:
            raise ValueError(
                f"{type(layer).__name__} with {name}={held!r} takes (batch, *spatial, channels) with {len(held)} "
                f"spatial axes, got {show(x)}. Give {name} one entry for each of them, or x the rank {len(held) + 2}"
            )
    return axes


def check_channels(layer: Any, x: Any) -> None:
    """Raises unless the field `groups` divides the channels of x."""
    channels = x.shape[-1]
    if channels % layer.groups:
        raise ValueError(
            f"{type(layer).__name__} with groups={layer.groups} takes channels that its groups divide, got {channels} "
            f"channels in {show(x)}. Take a divisor of {channels} for groups"
        )


def each_axis(held: Sizes, axes: int) -> tuple[int, ...]:
    """One entry for each axis."""
    return held if isinstance(held, tuple) else (held,) * axes


def padding_pairs(
    padding: Padding, spatial: tuple[int, ...], extents: tuple[int, ...], strides: tuple[int, ...]
) -> Pairs:
    """What is added at the ends of each axis, for windows of these extents (dilation counted)."""
    if isinstance(padding, str):
        rule = _RULES[padding]
        return tuple(rule(n, extent, stride) for n, extent, stride in zip(spatial, extents, strides, strict=True))
    entries = padding if isinstance(padding, tuple) else (padding,) * len(spatial)
    return tuple(entry if isinstance(entry, tuple) else (entry, entry) for entry in entries)


def _same(n: int, extent: int, stride: int) -> tuple[int, int]:
    total = max((-(-n // stride) - 1) * stride + extent - n, 0)
    return total // 2, total - total // 2


def _around(n: int, extent: int, stride: int) -> tuple[int, int]:
    return (extent - 1) // 2, extent // 2


_RULES = {
    "VALID": lambda n, extent, stride: (0, 0),
    "SAME": _same,
    "CAUSAL": lambda n, extent, stride: (extent - 1, 0),
    "CIRCULAR": _around,
    "REFLECT": _around,
}


def extents_of(width: Sizes, dilation: Sizes, axes: int) -> tuple[int, ...]:
    """How far a window reaches along each axis."""
    pairs = zip(each_axis(width, axes), each_axis(dilation, axes), strict=True)
    return tuple((taps - 1) * step + 1 for taps, step in pairs)


def check_fit(layer: Layer, x: Any, extents: tuple[int, ...], pairs: Pairs) -> None:
    """Raises if a window is wider than the padded input."""
    for n, extent, (low, high) in zip(x.shape[1:-1], extents, pairs, strict=True):
        if n + low + high < extent or n == 0:
            raise ValueError(
                f"{type(layer).__name__} takes inputs that hold its window, {extents} along the spatial axes with "
                f"padding {pairs}, got {show(x)}. Make the window smaller, or pad: padding='SAME'; channels come last"
            )


def check_fill(layer: Any, x: Any, pairs: Pairs) -> None:
    """Raises if a padding with the input's own values needs more of them than there are."""
    mirrored = layer.padding == "REFLECT"
    for n, ends in zip(x.shape[1:-1], pairs, strict=True):
        if max(ends) > n - mirrored:  # a mirror does not repeat the value at the edge
            raise ValueError(
                f"{type(layer).__name__} with padding={layer.padding!r} takes at least {max(ends) + mirrored} "
                f"positions along an axis that it pads by {ends}, got {show(x)}. Make the kernel smaller, or pad with "
                f"zeros: padding='SAME'"
            )


def check_positions(layer: Layer, x: Any) -> None:
    """Raises if a spatial axis holds nothing."""
    if 0 in x.shape[1:-1]:
        raise ValueError(
            f"{type(layer).__name__} takes at least one position along each spatial axis, got {show(x)}. Leave out "
            f"empty inputs"
        )
