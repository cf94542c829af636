"""Transformer blocks: attention and a network for each token, around a stream of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import jax

from funcnets.compose import Composite
from funcnets.layer import Layer
from funcnets.layers.attention_inputs import refuse_mask
from funcnets.layers.attention_projection import Projection
from funcnets.layers.dropout import Dropout
from funcnets.layers.fields import check_flag, check_share, refusal
from funcnets.layers.normalization import LayerNorm
from funcnets.leaves import is_child
from funcnets.shapes import is_array, show


class FeedForward(Composite):
    """y = out(gelu(hidden(x))), 4 times as wide inside, and as wide as x outside."""

    hidden: Layer = Projection()
    out: Layer = Projection()

    def forward(self, m: Any, x: jax.Array) -> jax.Array:
        return m.out(jax.nn.gelu(m.hidden(x, 4 * x.shape[-1])), x.shape[-1])


class TransformerBlock(Composite):
    """x = x + attention(norm(x)), then x = x + mlp(norm(x)); between them, if given, x = x + cross(norm(x), context).

    Norms come first (pre-norm) or, with `pre_norm=False`, after each sum: x = norm(x + attention(x)). Networks are
    sentences of this block:

        encoder = fn.Repeat(fn.TransformerBlock(fn.Attention(8)), 6)
        decoder = fn.Repeat(fn.TransformerBlock(fn.Attention(8, causal=True), cross=fn.Attention(8)), 6)
        y = m.decoder(m.embed(target), m.encoder(m.embed(source), key_mask=mask), context_mask=mask)

    A pre-norm stack takes one norm more at its end. A decoding net has `cache=n` in its causal attention, and in its
    cross-attention `cache="context"`, which makes keys and values of the context once:

        block = fn.TransformerBlock(fn.Attention(8, causal=True, cache=64), cross=fn.Attention(8, cache="context"))

    A position bias that all layers share (T5) is a child of the net around, `m.blocks(x, bias=m.bias)`.

    Args:
      attention: The layer between tokens, called (x) with key_mask, mask, bias, segments and positions as far as given.
      mlp: The layer for each token; None for out(gelu(hidden(x))) of 4 times the width, as in GPT-2.
      cross: A layer called (x, context), with context_mask as key_mask.
      norm: The norm, one of its own for each sum: attention_norm, cross_norm and mlp_norm.
      pre_norm: Whether norms come before the layers, rather than after the sums.
      dropout: The share of values dropped, in training, from what is added; or a layer for it, `DropPath(0.1)`.
      attention_norm: A layer in place of the norm there; cross_norm and mlp_norm likewise.

    Params: those of attention, attention_norm, cross, cross_norm, mlp and mlp_norm under their names; of the mlp that
      comes with it mlp/hidden/kernel: (features, 4 · features), mlp/out/kernel: (4 · features, features), and biases.

    States: those of its children.

    Inputs: x (batch, time, features) → the same shape and dtype. Further:
      context: (batch, keys, features'), for cross.
      context_mask: (batch, keys), boolean, True for what is seen of the context.
      key_mask, mask, bias, segments, positions: As attention takes them; key_mask (batch, time) is True for tokens that
        are none of padding.

    Raises:
      ValueError: A field that cannot be; a context without cross, or cross without a context.
      TypeError: A mask in the place of a context.

    Source: Vaswani et al. 2017, post-norm; Radford et al. 2019 (GPT-2), pre-norm. PyTorch's TransformerEncoderLayer is
      post-norm by default, has relu, and drops inside the mlp too.

    Example:
      >>> @fn.compose(
      ...     embed=fn.Embedding(100, 16),
      ...     places=fn.PositionEmbedding(32),
      ...     blocks=fn.Repeat(fn.TransformerBlock(fn.Attention(4, causal=True)), 3),
      ...     norm=fn.LayerNorm(),
      ...     unembed=fn.Unembed(),
      ... )
      ... def gpt(m, ids):
      ...     x = m.blocks(m.places(m.embed(ids)))
      ...     return m.unembed(m.norm(x), params=m.embed.params)
      >>> ids = jnp.zeros((2, 7), jnp.int32)
      >>> params = gpt.init(jax.random.key(0), ids)
      >>> params["blocks"]["mlp"]["hidden"]["kernel"].shape, gpt.apply(params, ids).shape
      ((3, 16, 64), (2, 7, 100))
    """

    attention: Layer | Callable[..., Any]
    _: KW_ONLY
    mlp: Layer | Callable[..., Any] | None = None
    cross: Layer | Callable[..., Any] | None = None
    norm: Layer | Callable[..., Any] = LayerNorm()
    pre_norm: bool = True
    dropout: float | Layer | Callable[..., Any] = 0.0
    attention_norm: Layer | Callable[..., Any] | None = None
    cross_norm: Layer | Callable[..., Any] | None = None
    mlp_norm: Layer | Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("attention", "mlp", "cross", "norm", "attention_norm", "cross_norm", "mlp_norm"):
            held = getattr(self, name)
            if not callable(held) and (held is not None or name in ("attention", "norm")):
                example = "Such as TransformerBlock(fn.Attention(8), mlp=fn.Sequential(...), norm=fn.RMSNorm())"
                raise refusal(self, name, "as a layer or a function", example)
        check_flag(self, "pre_norm", "It is where the norms stand; which norm, says norm=")
        if not is_child(self.dropout):
            check_share(self, "dropout", "as the share of values dropped, in [0, 1)", "0.0 keeps all", one=False)

    def _parts(self) -> dict[str, Any]:
        # Children that follow from other fields stand under names of their own.
        made: dict[str, Any] = {"norm": None}
        parts = ("attention", "mlp") if self.cross is None else ("attention", "cross", "mlp")
        made |= {f"{name}_norm": self.norm for name in parts if getattr(self, f"{name}_norm") is None}
        if self.mlp is None:
            made["mlp"] = FeedForward()
        if isinstance(self.dropout, int | float) and self.dropout:
            made["dropout"] = Dropout(self.dropout)
        return {**super()._parts(), **made}

    def forward(
        self,
        m: Any,
        x: jax.Array,
        context: Any = None,
        *,
        mask: Any = None,
        key_mask: Any = None,
        context_mask: Any = None,
        bias: Any = None,
        segments: Any = None,
        positions: Any = None,
    ) -> jax.Array:
        refuse_mask(self, context)
        if (context is None) != (self.cross is None) or (context is None and context_mask is not None):
            raise ValueError(
                f"TransformerBlock takes a context just when it has a cross-attention, got cross={self.cross!r}, "
                f"context {show(context)}, context_mask {show(context_mask)}. Build it with cross=fn.Attention(8), and "
                f"call it (x, context)"
            )
        options = _given(mask=mask, key_mask=key_mask, bias=bias, segments=segments, positions=positions)
        x = self._add(m, m.attention_norm, x, lambda x: m.attention(x, **options))
        if self.cross is not None:
            x = self._add(m, m.cross_norm, x, lambda x: m.cross(x, context, **_given(key_mask=context_mask)))
        return self._add(m, m.mlp_norm, x, m.mlp)

    def _add(self, m: Any, norm: Any, x: jax.Array, layer: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """x and what a layer makes of it."""
        y = layer(norm(x) if self.pre_norm else x)
        if not is_array(y) or y.shape != x.shape or y.dtype != x.dtype:
            raise ValueError(
                f"TransformerBlock takes layers that keep shape and dtype, as what they give is added to {show(x)}, "
                f"got {show(y)}. Leave out features=, or give the width of x; a layer that returns losses beside y "
                f"takes a composite of your own, which hands them on"
            )
        y = x + (m.dropout(y) if self.dropout else y)
        return y if self.pre_norm else norm(y)


def _given(**options: Any) -> dict[str, Any]:
    """The inputs that there are: a layer is asked to take no others."""
    return {name: held for name, held in options.items() if held is not None}
