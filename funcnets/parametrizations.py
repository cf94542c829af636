"""The usual parametrisations: normed, orthogonal, pruned, of low rank, and LoRA.

Each is a value that `fn.parametrize(net, {"**/kernel": ...}, x)` puts in the place of parameters; see
`funcnets.parametrization`. Where a parameter with more than two axes is taken as a matrix, one axis is kept and all
others together are the other side: a convolution's kernel (*window, in, out) is (Π window · in, out).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcnets.initializers import TorchKernel
from funcnets.layers.fields import check_share, check_whole, refusal
from funcnets.layers.promotion import at_least_float32
from funcnets.leaves import Param
from funcnets.parametrization import Parametrization
from funcnets.shapes import show


class WeightNorm(Parametrization):
    """w = scale · direction / ‖direction‖, with one length for each entry of an axis.

    A parameter that starts out as 0 has no direction, and becomes NaN.

    Args:
      axis: The axis whose entries have a length each: the last, an output's; None for one length of the whole.

    Params (in the parameter's place):
      direction: the parameter's shape
      scale: (size of the axis,); () for the whole

    Source: Salimans & Kingma 2016, Weight normalization. As PyTorch's `parametrizations.weight_norm`, whose dim=0 is
      the output axis there; the length starts out as that of the parameter.

    Example:
      >>> fn.WeightNorm().decompose(jnp.array([[3.0, 0.0], [4.0, 2.0]]))["scale"]
      Array([5., 2.], dtype=float32)
    """

    axis: int | None = -1

    def __post_init__(self) -> None:
        _check_axis_field(self, none=True)

    def decompose(self, w: jax.Array) -> dict[str, jax.Array]:
        _check_axis(self, w, self.axis)
        last = -1 if self.axis is None else self.axis
        squares = _sum_in_order(jnp.square(at_least_float32(jnp.moveaxis(w, last, -1)).reshape(-1, w.shape[last])))
        lengths = jnp.sqrt(_sum_in_order(squares) if self.axis is None else squares)
        return {"direction": w, "scale": lengths.astype(w.dtype)}

    def forward(self, p: dict[str, jax.Array], w: jax.ShapeDtypeStruct) -> jax.Array:
        direction, scale = at_least_float32(p["direction"]), at_least_float32(p["scale"])
        axes = tuple(i for i in range(direction.ndim) if self.axis is None or i != self.axis % direction.ndim)
        norm = jnp.sqrt(jnp.square(direction).sum(axes, keepdims=True))
        return (direction * (scale.reshape(norm.shape) / norm)).astype(p["direction"].dtype)


class SpectralNorm(Parametrization):
    """w = weight / σ, with σ = uᵀ · weight · v, an estimate of the largest singular value.

    The parameter is taken as a matrix (axis, all others). In training u and v, which are state, take some steps of the
    power iteration before they are used; no gradient passes through them. In evaluation they stay as they are.

    Args:
      iterations: Steps of the power iteration a call.
      axis: The axis of the matrix's rows: the last, an output's.
      epsilon: The least length that u and v are divided by.

    Params (in the parameter's place):
      weight: the parameter's shape

    States:
      u: (size of the axis,)
      v: (product of the other axes,)

    Source: Miyato et al. 2018, Spectral normalization for GANs. As PyTorch's `parametrizations.spectral_norm`, except
      that there u and v have taken 15 steps before the first call; here a net that is evaluated before it has been
      trained sees the singular value through random vectors.

    Example:
      >>> net, x = fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm(iterations=50)), jnp.ones((2, 4))
      >>> params, state = net.init(jax.random.key(0), x), net.init_state(x)
      >>> y, state = net.apply(params, x, state=state, train=True)
      >>> plain, params, state = fn.bake(net, params, x, state=state)
      >>> float(jnp.linalg.norm(params["kernel"], 2).round(3))
      1.0
    """

    iterations: int = 1
    axis: int = -1
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        _check_axis_field(self, none=False)
        check_whole(self, "iterations", "It is the steps of the power iteration a call; one is usual")

    def decompose(self, w: jax.Array) -> dict[str, jax.Array]:
        _check_axis(self, w, self.axis)
        return {"weight": w}

    def states(self, w: jax.ShapeDtypeStruct) -> dict[str, Param]:
        _check_axis(self, w, self.axis)
        rows = w.shape[self.axis]
        return {"u": Param((rows,), _unit, w.dtype), "v": Param((math.prod(w.shape) // rows,), _unit, w.dtype)}

    def forward(
        self, p: dict[str, jax.Array], w: jax.ShapeDtypeStruct, *, state: dict[str, jax.Array], train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        weight = at_least_float32(p["weight"])
        matrix = jnp.moveaxis(weight, self.axis, 0).reshape(weight.shape[self.axis], -1)
        fixed = jax.lax.stop_gradient(matrix)
        u, v = state["u"].astype(weight.dtype), state["v"].astype(weight.dtype)
        if train:
            for _ in range(self.iterations):
                u = self._normalised(fixed @ v)
                v = self._normalised(u @ fixed)
            state = {"u": u.astype(state["u"].dtype), "v": v.astype(state["v"].dtype)}
        return (weight / (u @ matrix @ v)).astype(p["weight"].dtype), state

    def _normalised(self, x: jax.Array) -> jax.Array:
        return x / jnp.maximum(jnp.sqrt(jnp.square(x).sum()), self.epsilon)


class Orthogonal(Parametrization):
    """w = (I − A/2)⁻¹ (I + A/2) · base with A = generator · baseᵀ − base · generatorᵀ: orthonormal columns, or rows.

    The parameter is taken as a matrix (all other axes, axis). Its columns are orthonormal, or its rows where these are
    fewer, whatever the generator holds. It starts out as the orthogonal matrix that is nearest to the initial value:
    that value itself if it is orthogonal.

    Args:
      axis: The axis of the matrix's columns: the last, an output's.

    Params (in the parameter's place):
      base: the parameter's shape, orthogonal; it takes no gradient
      generator: the parameter's shape; zeros to begin with

    Raises:
      ValueError: (at init) a parameter with fewer than two axes, or without that axis.

    Source: Wen & Yin 2013, A feasible method for optimization with orthogonality constraints (the Cayley transform).
      PyTorch's `parametrizations.orthogonal` takes an exponential by default, holds the generator as a triangle and the
      base whole, (n, n) for the longer side n. A call solves n equations in n unknowns, here as there.

    Example:
      >>> net, x = fn.Parametrized(fn.Dense(3), kernel=fn.Orthogonal()), jnp.ones((2, 4))
      >>> _, params = fn.bake(net, net.init(jax.random.key(0), x), x)
      >>> np.allclose(params["kernel"].T @ params["kernel"], np.eye(3), atol=1e-6)
      True
    """

    fixed: ClassVar[tuple[str, ...]] = ("base",)
    axis: int = -1

    def __post_init__(self) -> None:
        _check_axis_field(self, none=False)

    def decompose(self, w: jax.Array) -> dict[str, jax.Array]:
        _check_matrix(self, w)
        _check_axis(self, w, self.axis)
        u, _, v = jnp.linalg.svd(_as_matrix(at_least_float32(w), self.axis), full_matrices=False)
        return {"base": _as_array(u @ v, w.shape, self.axis).astype(w.dtype), "generator": jnp.zeros(w.shape, w.dtype)}

    def forward(self, p: dict[str, jax.Array], w: jax.ShapeDtypeStruct) -> jax.Array:
        base, generator = (_as_matrix(at_least_float32(p[name]), self.axis) for name in ("base", "generator"))
        wide = base.shape[0] < base.shape[1]
        if wide:
            base, generator = base.T, generator.T
        base = base * (math.sqrt(base.shape[1]) / jnp.linalg.norm(base))  # weight decay may have shrunk it
        product = generator @ base.T / 2  # (n, n), n the longer side
        skew = product - product.T
        q = jnp.linalg.solve(jnp.eye(len(skew), dtype=skew.dtype) - skew, base + skew @ base)
        return _as_array(q.T if wide else q, p["base"].shape, self.axis).astype(p["base"].dtype)


class Masked(Parametrization):
    """w = weight where the mask is not 0, and 0 elsewhere: a pruned parameter.

    The mask is made of the initial value: the entries with the smallest magnitudes are left out. It is one of the
    parameters, since it is made of one and saved with it, but takes no gradient, and `fn.train` keeps it out of the
    optimiser. Another pattern, of whole rows, or after more training, is written in its place: 1 for what is kept.

    Args:
      sparsity: The share of entries that are left out, rounded to a whole number of them.

    Params (in the parameter's place):
      weight: the parameter's shape
      mask: the parameter's shape; it takes no gradient

    Raises:
      ValueError: A sparsity that is no share.

    Source: Han et al. 2015, Learning both weights and connections for efficient neural networks. As
      `torch.nn.utils.prune.l1_unstructured`, which holds the mask as a buffer; `prune.remove` is `fn.bake`.

    Example:
      >>> fn.Masked(0.5).decompose(jnp.array([3.0, -1.0, 2.0, -4.0]))["mask"]
      Array([1., 0., 0., 1.], dtype=float32)
    """

    fixed: ClassVar[tuple[str, ...]] = ("mask",)
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        check_share(
            self,
            "sparsity",
            "from 0 to 1",
            "It is the share of entries that become 0: Masked(0.9) keeps 10 %",
            one=True,
        )

    def decompose(self, w: jax.Array) -> dict[str, jax.Array]:
        smallest_first = jnp.argsort(jnp.abs(w).ravel(), stable=True)
        left_out = smallest_first[: round(self.sparsity * w.size)]
        return {"weight": w, "mask": jnp.ones(w.size, w.dtype).at[left_out].set(0).reshape(w.shape)}

    def forward(self, p: dict[str, jax.Array], w: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.where(p["mask"] != 0, p["weight"], jnp.zeros_like(p["weight"]))


class LowRank(Parametrization):
    """w = down · up, of a rank that is at most the width between the two factors.

    It starts out as the matrix of that rank that is nearest to the initial value, which is this value itself where the
    rank is that of the matrix. `fn.Dense(features, rank=)` has the same two factors, and multiplies by one after the
    other; this one is for any kernel, and for a net that was trained.

    Args:
      rank: The width between the factors; no more than the matrix (all axes but the last, last axis) has of either is
        held.

    Params (in the parameter's place):
      down: the parameter's shape, with the rank for the last axis
      up: (rank, size of the last axis)

    Raises:
      ValueError: A rank that is no whole number; (at init) a parameter with fewer than two axes.

    Source: Eckart & Young 1936: the truncated singular value decomposition, of which each factor takes a root of the
      singular values. PyTorch has none.

    Example:
      >>> net = fn.Parametrized(fn.Conv(8, 3), kernel=fn.LowRank(2))
      >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), jnp.ones((1, 5, 4))))
      {'bias': (8,), 'kernel': {'down': (3, 4, 2), 'up': (2, 8)}}
    """

    rank: int

    def __post_init__(self) -> None:
        check_whole(self, "rank", "It is the width between two factors")

    def decompose(self, w: jax.Array) -> dict[str, jax.Array]:
        _check_matrix(self, w)
        u, sizes, v = jnp.linalg.svd(_as_matrix(at_least_float32(w), -1), full_matrices=False)
        roots = jnp.sqrt(sizes[: self.rank])
        down, up = u[:, : len(roots)] * roots[None], v[: len(roots)] * roots[:, None]
        return {"down": down.reshape(*w.shape[:-1], len(roots)).astype(w.dtype), "up": up.astype(w.dtype)}

    def forward(self, p: dict[str, jax.Array], w: jax.ShapeDtypeStruct) -> jax.Array:
        return (at_least_float32(p["down"]) @ at_least_float32(p["up"])).astype(p["down"].dtype)


class LoRA(Parametrization):
    """w = weight + (alpha / rank) · down · up: a trained weight, and a change of low rank that starts out as 0.

    `fn.rewrite.lora` puts it in a trained net and freezes all but down and up.

    Args:
      rank: The width between the two factors.
      alpha: What the change is scaled by, times the rank; None for a scale of 1.

    Params (in the parameter's place):
      weight: the parameter's shape
      down: the parameter's shape, with the rank for the last axis; uniform in ±1 / √fan_in
      up: (rank, size of the last axis); zeros to begin with

    Raises:
      ValueError: A rank or an alpha that cannot be; (at init) a parameter with fewer than two axes.

    Source: Hu et al. 2021, LoRA: low-rank adaptation of large language models; down is drawn as in its code, He's
      uniform for a leaky relu of slope √5 (the paper has a normal draw). down is A there and up is B. A convolution's
      down has the kernel's window, as in the PEFT library.

    Example:
      >>> net = fn.Parametrized(fn.Dense(8), kernel=fn.LoRA(2))
      >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), jnp.ones((1, 4))))
      {'bias': (8,), 'kernel': {'down': (4, 2), 'up': (2, 8), 'weight': (4, 8)}}
    """

    rank: int
    alpha: float | None = None

    def __post_init__(self) -> None:
        check_whole(self, "rank", "It is the width between two factors; 4 to 64 are usual")
        held: Any = self.alpha
        if held is not None and (
            not isinstance(held, int | float) or isinstance(held, bool) or not 0 < held < math.inf
        ):
            raise refusal(self, "alpha", "as a number above 0 or None", "The change is scaled by alpha / rank")

    def decompose(self, w: jax.Array, *, key: jax.Array) -> dict[str, jax.Array]:
        _check_matrix(self, w)
        down = TorchKernel()(key, (*w.shape[:-1], self.rank), w.dtype)
        return {"weight": w, "down": down, "up": jnp.zeros((self.rank, w.shape[-1]), w.dtype)}

    def forward(self, p: dict[str, jax.Array], w: jax.ShapeDtypeStruct) -> jax.Array:
        weight, down, up = (at_least_float32(p[name]) for name in ("weight", "down", "up"))
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        return (weight + scale * down @ up).astype(p["weight"].dtype)


def _as_matrix(w: jax.Array, axis: int) -> jax.Array:
    """(product of all other axes, axis)."""
    columns = w.shape[axis]
    return jnp.moveaxis(w, axis, -1).reshape(math.prod(w.shape) // max(columns, 1), columns)


def _as_array(matrix: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """The inverse of `_as_matrix`."""
    others = list(shape)
    del others[axis]
    return jnp.moveaxis(matrix.reshape(*others, shape[axis]), -1, axis)


def _sum_in_order(x: jax.Array) -> jax.Array:
    """The sum over the first axis, one by one, so that initial values have the same bits however they are compiled."""
    return jax.lax.scan(lambda total, row: (total + row, None), jnp.zeros_like(x[0]), x)[0]


def _unit(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    x = at_least_float32(jax.random.normal(key, shape, dtype))
    return (x / jnp.sqrt(jnp.square(x).sum())).astype(dtype)


def _check_axis_field(how: WeightNorm | SpectralNorm | Orthogonal, *, none: bool) -> None:
    if type(how.axis) is not int and not (none and how.axis is None):
        takes = "as a whole number or None" if none else "as a whole number"
        raise refusal(how, "axis", takes, "The axis of a kernel's outputs is the last, -1")


def _check_axis(how: Parametrization, w: Any, axis: int | None) -> None:
    if axis is not None and not -w.ndim <= axis < w.ndim:
        raise ValueError(f"{how!r} takes a parameter that has an axis {axis}, got {show(w)}: name another axis")


def _check_matrix(how: Parametrization, w: Any) -> None:
    if w.ndim < 2 or not jnp.issubdtype(w.dtype, jnp.floating):
        raise ValueError(
            f"{how!r} takes a floating parameter with two axes or more, got {show(w)}: name kernels alone, '**/kernel'"
        )
