"""Quantisation: vectors replaced by the nearest of a codebook."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.initializers import LecunUniform, Ones
from funcnets.layer import Layer
from funcnets.layers.fields import check_share, check_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import at_least_float32, in_dtype_of
from funcnets.leaves import Initializer, Param


class VectorQuantizer(Layer):
    """y = the row of the codebook that is nearest to x, and dy/dx = 1: gradients go straight through to x.

    With a decay, the codebook follows what is quantised. In training the state moves towards the batch, new = decay ·
    old + (1 − decay) · batch, for the count of each code's vectors and for their sum, and the codebook is sums /
    counts, with the counts smoothed: (count + epsilon) / (n + codes · epsilon) · n, n being their total. The batch
    itself is quantised with the codebook as it was. With decay=None the codebook is a table that the codebook loss
    teaches.

    Losses are returned, for the training loss to weigh and add; means are over all values of x.

      commitment: mean of (x − y)², which draws x to its code; 0.25 is a usual weight
      codebook: mean of (y − x)², which draws the code to x; with decay=None
      perplexity: exp of the entropy of the batch's codes, from 1 to codes: how many are in use. It has no gradient.

    Args:
      codes: The number of codes.
      decay: The weight of the old counts and sums; None for a codebook learned by gradients.
      epsilon: What smooths the counts, so that a code without vectors divides by no 0.
      table_init: The initialiser of the codebook, (codes, features).

    Params:
      table: (codes, features); with decay=None

    States:
      counts: (codes,), float32; with a decay
      sums: (codes, features), float32; likewise

    Inputs: x (..., features), floating → y, of the same shape and dtype, and {"indices": (...), int32, "commitment":
      (), "codebook": (), "perplexity": ()}, in float32 at least. Of codes equally near the first is taken. An empty
      batch has losses of 0, and leaves the state as it is.

    Raises:
      ValueError: Fields that cannot be; an input without axes.
      TypeError: An input of whole numbers.

    Source: van den Oord et al. 2017, Neural discrete representation learning, and its appendix A.1 for the running
      codebook; decay, epsilon and table_init are Sonnet's. There the counts begin at 0 with their bias taken off; here
      at 1.

    Example:
      >>> layer, x = fn.VectorQuantizer(codes=16), jnp.ones((2, 5, 4))
      >>> state = layer.init_state(x)
      >>> (y, found), state = layer.apply({}, x, state=state, train=True)
      >>> y.shape, found["indices"].shape
      ((2, 5, 4), (2, 5))
      >>> layer.codebook(state)[found["indices"]].shape  # from indices to vectors
      (2, 5, 4)
    """

    codes: int
    decay: float | None = 0.99
    epsilon: float = 1e-5
    table_init: Initializer = LecunUniform(in_axis=-1, out_axis=-2)

    def __post_init__(self) -> None:
        check_whole(self, "codes", "It is the size of the codebook; the width comes from the sample")
        if self.decay is not None:
            takes = "as the weight of the old counts and sums, in [0, 1), or as None"
            check_share(self, "decay", takes, "None is for a codebook learned by gradients", one=False)
        check_share(self, "epsilon", "as a number above 0, below 1", "Leave it out for 1e-5", one=False)
        if self.epsilon == 0:
            raise refusal(self, "epsilon", "as a number above 0, below 1", "Leave it out for 1e-5")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(..., features)", 1)
        return {"table": Param((self.codes, x.shape[-1]), self.table_init)} if self.decay is None else {}

    def states(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        if self.decay is None:
            return {}
        return {
            "counts": Param((self.codes,), Ones()),
            "sums": Param((self.codes, x.shape[-1]), self.table_init),
        }

    def codebook(self, arrays: dict[str, jax.Array]) -> jax.Array:
        """The codes (codes, features), from the layer's parameters or, with a decay, from its state."""
        if self.decay is None:
            return arrays["table"]
        counts, total = arrays["counts"], arrays["counts"].sum()
        smoothed = (counts + self.epsilon) * (total / (total + self.codes * self.epsilon))
        return arrays["sums"] / smoothed[:, None]

    def forward(
        self, p: dict[str, jax.Array], x: jax.Array, *, state: dict[str, jax.Array] | None = None, train: bool
    ) -> Any:
        wide = at_least_float32(x)
        vectors = wide.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        table = in_dtype_of(wide, self.codebook(p if state is None else state))
        indices = _nearest(jax.lax.stop_gradient(vectors), jax.lax.stop_gradient(table))
        nearest = table[indices].reshape(x.shape)
        fixed_x, fixed_nearest = jax.lax.stop_gradient((wide, nearest))
        counts = jnp.zeros(self.codes, wide.dtype).at[indices].add(1)
        share = counts / max(len(vectors), 1)
        found = {"indices": indices.reshape(x.shape[:-1]), "commitment": _mean_square(wide - fixed_nearest)}
        if state is None:
            found["codebook"] = _mean_square(nearest - fixed_x)
        found["perplexity"] = jnp.exp(jax.scipy.special.entr(share).sum())
        result = (fixed_nearest + (wide - fixed_x)).astype(x.dtype), found  # exactly the code, with x's gradient
        if state is None:
            return result
        if train and len(vectors):
            state = self._moved(state, counts, jnp.zeros_like(table).at[indices].add(vectors))
        return result, state

    def _moved(self, old: dict[str, jax.Array], counts: jax.Array, sums: jax.Array) -> dict[str, jax.Array]:
        keep, new = self.decay or 0.0, {"counts": counts, "sums": sums}
        return {name: keep * held + (1 - keep) * new[name].astype(held.dtype) for name, held in old.items()}


def _nearest(x: jax.Array, table: jax.Array) -> jax.Array:
    """The index of the row of the table that is nearest to each x (vectors, features).

    |x − e|² / 2 is |e|² / 2 − x · e but for a term of x alone. Far from the origin both are large and their difference
    is lost, so the codebook's mean is taken for origin; in few digits, since subtracting those rounds nothing near.
    """
    origin = table.mean(0, keepdims=True).astype(jnp.bfloat16).astype(table.dtype)
    x, table = x - origin, table - origin
    scores = jnp.square(table).sum(1)[None] / 2 - jnp.matmul(x, table.T, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.argmin(scores, 1, jnp.int32)


def _mean_square(x: jax.Array) -> jax.Array:
    """The mean of x², 0 of nothing."""
    return jnp.square(x).sum() / max(x.size, 1)
