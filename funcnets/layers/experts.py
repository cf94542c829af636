"""Mixtures of experts: many perceptrons, of which each token takes a few."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcnets.initializers import LecunNormal
from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, check_whole, refusal
from funcnets.layers.inputs import check_floats, check_mask
from funcnets.layers.promotion import at_least_float32, in_dtype_of
from funcnets.leaves import Initializer, Param

_Product = Callable[[jax.Array, jax.Array], jax.Array]  # rows (n, in), kernel (experts, in, out) → (n, out)


class MixtureOfExperts(Layer):
    """y = Σ over the top_k chosen experts e of weight_e · expert_e(x), with logits = x @ router, the experts of the
    largest logits chosen, and weight = softmax(logits of the chosen).

    expert(x) = (activation(x @ gate) · (x @ up)) @ down, or activation(x @ up) @ down where it is not gated. No expert
    has a capacity: every token gets all that it chose, whatever others choose. The router computes in float32 at least.

    The losses that keep the experts in use are returned beside y, for the training loss to weigh and add; 0.01 and
    0.001 are usual weights. With f_e the share of all choices that fell on expert e, and p_e the mean of its
    softmax(logits), load_balancing = experts · Σ f_e p_e, which is 1 at perfect balance and grows as tokens gather at
    few experts. z is the mean of log(Σ exp(logits))², which keeps logits small. In a `Repeat` they travel with what is
    carried: a body that takes and returns (x, loss).

    Args:
      experts: The number of experts.
      hidden: The width of an expert's hidden layer.
      top_k: How many experts a token takes.
      activation: The experts' activation, a function of one array.
      gated: Whether an expert has a gate.
      renormalize: Whether the weights are a softmax over the chosen alone; if not, over all experts. A single choice
        takes False: its weight over itself would be 1, from which the router learns nothing.
      impl: "blocks": the tokens of an expert are laid out in blocks of tokens/experts, and one batched product takes
        all blocks; it runs well everywhere, and keeps kernels twice over for the backward pass. "ragged":
        `jax.lax.ragged_dot`, for devices with such a product (TPU); elsewhere JAX computes every expert for every
        token, and under `jax.vmap` it raises.
      router_init: The router's initialiser.
      kernel_init: The initialiser of gate, up and down.

    Params:
      router: (in, experts)
      gate: (experts, in, hidden)
      up: (experts, in, hidden)
      down: (experts, hidden, in)

    Inputs: x (..., in), floating; optionally a mask (...), True where a token counts in the losses (y does not depend
      on it) → y (..., in) in x's dtype, and {"load_balancing": (), "z": ()} in float32 at least; both are 0 without
      tokens.

    Raises:
      ValueError: Fields that cannot be; an input without axes; a mask of another shape.
      TypeError: An input of whole numbers; a mask that is not boolean.

    Source: Shazeer et al. 2017; top_k=2 with renormalised weights and gated experts is Mixtral (Jiang et al. 2024),
      top_k=1, renormalize=False is Switch (Fedus et al. 2022), whose load-balancing loss this is; z is that of Zoph et
      al. 2022. Shares of choices sum to top_k in Mixtral's code, so that its loss is top_k at balance. Switch drops
      tokens over an expert's capacity.

    Example:
      >>> layer, x = fn.MixtureOfExperts(experts=8, hidden=32), jnp.ones((2, 5, 16))
      >>> params = layer.init(jax.random.key(0), x)
      >>> params["down"].shape
      (8, 32, 16)
      >>> y, losses = layer.apply(params, x)
      >>> total = jnp.mean(y**2) + 0.01 * losses["load_balancing"] + 0.001 * losses["z"]
    """

    experts: int
    hidden: int
    top_k: int = 2
    activation: Callable[[jax.Array], jax.Array] = jax.nn.silu
    gated: bool = True
    renormalize: bool = True
    impl: str = "blocks"
    router_init: Initializer = LecunNormal()
    kernel_init: Initializer = LecunNormal(batch_axis=0)

    def __post_init__(self) -> None:
        usual = "MixtureOfExperts(experts=8, hidden=1024); the width of tokens comes from the sample"
        check_whole(self, "experts", f"Write {usual}")
        check_whole(self, "hidden", f"It is the width of an expert's hidden layer: {usual}")
        check_whole(self, "top_k", "It is how many experts a token takes; 2 is usual")
        if self.top_k > self.experts:
            raise refusal(self, "top_k", f"as at most its {self.experts} experts", "Take fewer, or make more experts")
        if not callable(self.activation) or isinstance(self.activation, Layer):
            raise refusal(self, "activation", "as a function of one array", "Write activation=jax.nn.silu")
        check_flag(self, "gated", "Write gated=False for experts of two plain matrices")
        check_flag(self, "renormalize", "Write renormalize=False for weights that are a softmax over all experts")
        if self.top_k == 1 and self.renormalize and self.experts > 1:
            raise refusal(
                self,
                "renormalize",
                "as False with top_k=1",
                "The weight of a single choice over itself is 1, and the router would learn nothing from it",
            )
        if self.impl not in _LAYOUTS:
            raise refusal(
                self, "impl", "as 'blocks' or 'ragged'", "Leave it out where the device has no ragged product"
            )

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(..., in)", 1)
        wide = (self.experts, x.shape[-1], self.hidden)
        return {
            "router": Param((x.shape[-1], self.experts), self.router_init),
            **({"gate": Param(wide, self.kernel_init)} if self.gated else {}),
            "up": Param(wide, self.kernel_init),
            "down": Param((self.experts, self.hidden, x.shape[-1]), self.kernel_init),
        }

    def forward(
        self, p: dict[str, jax.Array], x: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if mask is not None:
            check_mask(self, "mask", mask, x, x.shape[:-1])
        tokens = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        wide = at_least_float32(tokens)
        logits = wide @ in_dtype_of(wide, p["router"])  # (tokens, experts)
        chosen_logits, chosen = jax.lax.top_k(logits, self.top_k)  # (tokens, top_k)
        if self.renormalize:
            weights = jax.nn.softmax(chosen_logits)
        else:
            weights = jnp.take_along_axis(jax.nn.softmax(logits), chosen, axis=1)
        each = self._experts(p, tokens, chosen)  # (tokens, top_k, in)
        y = (each.astype(wide.dtype) * weights[..., None]).sum(1)
        return y.astype(x.dtype).reshape(x.shape), self._losses(logits, chosen, mask)

    def _experts(self, p: dict[str, jax.Array], tokens: jax.Array, chosen: jax.Array) -> jax.Array:
        """What the chosen experts make of each token."""
        kernels = {name: in_dtype_of(tokens, kernel) for name, kernel in p.items() if name != "router"}
        places, count, product = _LAYOUTS[self.impl](chosen.reshape(chosen.size), self.experts)
        rows = jnp.zeros((count, tokens.shape[1]), tokens.dtype)
        rows = rows.at[places].set(jnp.repeat(tokens, self.top_k, axis=0), unique_indices=True)
        hidden = product(rows, kernels["up"])
        hidden = self.activation(product(rows, kernels["gate"])) * hidden if self.gated else self.activation(hidden)
        return product(hidden, kernels["down"])[places].reshape(*chosen.shape, tokens.shape[1])

    def _losses(self, logits: jax.Array, chosen: jax.Array, mask: jax.Array | None) -> dict[str, jax.Array]:
        counts = jnp.ones(logits.shape[0], bool) if mask is None else mask.reshape(logits.shape[0])
        total = jnp.maximum(counts.sum(), 1).astype(logits.dtype)
        choices = jax.nn.one_hot(chosen, self.experts, dtype=logits.dtype).mean(1)  # (tokens, experts)
        share = choices.sum(0, where=counts[:, None]) / total
        probability = jax.nn.softmax(logits).sum(0, where=counts[:, None]) / total
        squares = jnp.square(jax.nn.logsumexp(logits, axis=-1))
        return {
            "load_balancing": self.experts * jnp.sum(share * probability),
            "z": squares.sum(where=counts) / total,
        }


# Where the pairs of a token and its expert stand so that one product takes them all. Each layout gives, for the chosen
# expert of every pair: the row of each, the number of rows, and the product of rows with their experts' kernels.


def _by_expert(chosen: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
    """The place of each pair when they are sorted by expert, and the number of each expert's pairs."""
    order = jnp.argsort(chosen, stable=True)
    places = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype), unique_indices=True)
    return places, jnp.zeros(experts, jnp.int32).at[chosen].add(1)


def _ragged(chosen: jax.Array, experts: int) -> tuple[jax.Array, int, _Product]:
    """Sorted by expert, without gaps."""
    places, sizes = _by_expert(chosen, experts)
    return places, chosen.size, lambda rows, kernel: jax.lax.ragged_dot(rows, kernel, sizes)


def _blocks(chosen: jax.Array, experts: int) -> tuple[jax.Array, int, _Product]:
    """Sorted by expert, each expert's filled up with zeros to whole blocks."""
    pairs = chosen.size
    block = max(1, -(-pairs // experts))
    blocks = (pairs + min(pairs, experts) * (block - 1)) // block  # enough, however the pairs fall
    places, sizes = _by_expert(chosen, experts)
    taken = (sizes + block - 1) // block  # blocks of each expert
    ends = jnp.cumsum(taken, dtype=jnp.int32)
    shift = (ends - taken) * block - (jnp.cumsum(sizes, dtype=jnp.int32) - sizes)
    owner = (jnp.arange(blocks, dtype=jnp.int32)[:, None] >= ends[None]).sum(1)
    owner = jnp.minimum(owner, experts - 1)  # blocks left over hold zeros

    def product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
        batched = rows.reshape(blocks, block, rows.shape[1])
        return jax.lax.batch_matmul(batched, kernel[owner]).reshape(blocks * block, kernel.shape[2])

    return places + shift[chosen].astype(places.dtype), blocks * block, product


_LAYOUTS = {"blocks": _blocks, "ragged": _ragged}
