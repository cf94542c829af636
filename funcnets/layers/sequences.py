"""Layers around a scan: from call to call, and in both directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp

from funcnets.bound import Bound
from funcnets.combinators import check_merge, merged
from funcnets.compose import Composite, Wrapper
from funcnets.layer import Layer
from funcnets.leaves import Param, as_layer
from funcnets.record import Kind
from funcnets.scan import Scan, scan_in, start_of
from funcnets.shapes import ABSENT, Tree, describe, join, show, specs
from funcnets.values import code


class Carry(Layer):
    """The carry of a body as a state: its arrays by number, which start as `initial_carry` makes them."""

    body: Layer | Callable[..., Any]

    def start(self, x: Any) -> Any:
        start = start_of(self.body)
        if start is None:
            raise TypeError(
                f"Streaming takes a cell with initial_carry(x), or a Scan of one, got {describe(as_layer(self.body))}. "
                f"Give the cell that method, or hand the carry from call to call: (carry, xs)"
            )
        return start(x)

    def states(self, x: Any) -> dict[str, Param]:
        def array(i: int) -> Callable[..., jax.Array]:
            return lambda key, shape, dtype: jnp.asarray(jax.tree.leaves(self.start(x))[i], dtype)

        leaves = jax.tree.leaves(jax.eval_shape(self.start, x))
        return {str(i): Param(leaf.shape, array(i), leaf.dtype) for i, leaf in enumerate(leaves)}

    def forward(self, p: Tree, x: Any, *, state: dict[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        start, structure = jax.tree.flatten(jax.eval_shape(self.start, specs(x)))
        leaves = [state[str(i)].astype(one.dtype) for i, one in enumerate(start)]
        return jax.tree.unflatten(structure, leaves), state


class Streaming(Wrapper):
    """ys = body(xs), with the carry kept as state: each call goes on where the one before it ended.

    The state moves on in evaluation too. A batch of new sequences starts from a new `init_state`.

    Args:
      body: A Scan whose cell has an initial_carry, or such a cell itself, to go a step a call.

    Params: the body's, under the same names: a net may be trained with its Scan alone, and stream with the parameters.

    States: the body's, and
      carry: the arrays of the carry by number, "0", "1", ...

    Inputs: xs, and what else the body takes by name (lengths, reset) → ys. Of a bare cell, one step's x → y.

    Raises:
      TypeError: A body without an initial_carry.
      ValueError: No state; a state for another batch.

    Example:
      >>> net = fn.Streaming(fn.Scan(fn.LSTMCell(4)))
      >>> xs = jax.random.normal(jax.random.key(1), (2, 6, 3))
      >>> params, state = net.init(jax.random.key(0), xs), net.init_state(xs)
      >>> first, state = net.apply(params, xs[:, :2], state=state)
      >>> second, state = net.apply(params, xs[:, 2:], state=state)
      >>> whole = fn.Scan(fn.LSTMCell(4)).apply(params, xs)
      >>> bool(jnp.allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6))
      True
    """

    body: Layer | Callable[..., Any]

    def __post_init__(self) -> None:
        scan, inner = scan_in(self.body), as_layer(self.body)
        if scan is not None and scan.reverse:
            raise ValueError(
                f"Streaming takes a Scan that runs forward, got {code(self.body)}. In reverse a sequence ends where it "
                f"begins, so that no call can go on where another ended: give the whole sequence to the Scan"
            )
        while inner._is_wrapper:
            inner = inner._entries()[0][1]
        if any(name == "carry" for name, _ in inner._entries()):
            raise ValueError(
                f"Streaming keeps the carry under the name 'carry', which a child of {code(self.body)} has too. Give "
                f"the child another name"
            )

    def forward(self, m: Any, x: Any, **kwargs: Any) -> Any:
        held = Carry(self.body)
        object.__setattr__(held, "_created", self._created)  # a message names the line of the Streaming
        kept = Bound(m._scope.beside("carry", held, ABSENT))
        carry, y = m.body(kept(x), x, **kwargs)
        old = kept.state
        kept.state = {str(i): one.astype(old[str(i)].dtype) for i, one in enumerate(jax.tree.leaves(carry))}
        return y

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        if kind == "params" or not isinstance(tree, dict):
            yield from super()._strangers(kind, tree, path)
            return
        others = {name: inner for name, inner in tree.items() if name != "carry"}
        for place in super()._strangers(kind, others, path):
            yield from [place] if place != path else [join(path, name) for name in others]


def _changed_scan(rnn: Any, **changed: Any) -> Layer:
    """A Scan, alone or in wrappers, with other settings."""
    if isinstance(rnn, Scan):
        return dataclasses.replace(rnn, **changed)
    field = next(iter(rnn._members()))
    return rnn._with({field: _changed_scan(rnn._entries()[0][1], **changed)})


class Bidirectional(Composite):
    """y = merge(forward_rnn(xs), backward_rnn(xs)): one cell over time, and one against it.

    Args:
      forward_rnn: A cell, or a Scan of one.
      backward_rnn: A cell, run as forward_rnn is but in reverse; or a Scan of one with reverse=True. None: the cell of
        forward_rnn, with parameters of its own.
      merge: As in Parallel: "concat" along the last axis, "sum" or "mean" of equal shapes, "stack" along a new first
        axis, "tuple", or a function (or layer) of the two outputs.

    Params:
      forward_rnn: the cell's
      backward_rnn: the cell's
      merge: a merging layer's

    Inputs: as of Scan, with a pair of carries: (forward's, backward's), xs → (pair of carries, ys); or xs alone → ys.
      lengths and reset go to both; with lengths the way back begins at each row's own last step.

    Raises:
      TypeError: A carry that is no pair.
      ValueError: An unknown merge; a Scan in the wrong direction; Scans that differ in return_carry; outputs that
        cannot be merged.

    Source: Schuster & Paliwal 1997, Bidirectional recurrent neural networks. The names are Flax's. PyTorch's recurrent
      layers concatenate.

    Example:
      >>> net = fn.Sequential(fn.Bidirectional(fn.LSTMCell(8)), fn.Bidirectional(fn.LSTMCell(8), merge="sum"))
      >>> net.plan(jnp.ones((2, 7, 3))).output.shape
      (2, 7, 8)
    """

    forward_rnn: Layer | Callable[..., Any]
    backward_rnn: Layer | Callable[..., Any] | None = None
    merge: Any = "concat"

    def __post_init__(self) -> None:
        ahead, back = self.forward_rnn, self.backward_rnn
        ahead = ahead if scan_in(ahead) else Scan(ahead)
        if back is None:
            back = _changed_scan(ahead, reverse=True)
        elif not scan_in(back):
            back = _changed_scan(ahead, reverse=True, cell=back)
        for name, rnn, reverse in (("forward_rnn", ahead, False), ("backward_rnn", back, True)):
            if cast(Scan, scan_in(rnn)).reverse is not reverse:
                raise ValueError(
                    f"Bidirectional takes {name} as a cell, or a Scan with reverse={reverse}, got {code(rnn)}. Give "
                    f"the cell alone: it is then run in its direction"
                )
            object.__setattr__(self, name, rnn)
        if cast(Scan, scan_in(ahead)).return_carry is not cast(Scan, scan_in(back)).return_carry:
            raise ValueError(
                f"Bidirectional takes two Scans with the same return_carry, got {code(ahead)} and {code(back)}. Set it "
                f"in both"
            )
        check_merge(self)

    def forward(self, m: Any, *inputs: Any, **masks: Any) -> Any:
        if len(inputs) == 2 and not (isinstance(inputs[0], tuple) and len(inputs[0]) == 2):
            raise TypeError(
                f"Bidirectional takes a carry for each direction, (forward's, backward's), got {show(inputs[0])}. Give "
                f"the pair, or xs alone"
            )
        if len(inputs) == 2:
            (ahead, back), xs = inputs
            results = m.forward_rnn(ahead, xs, **masks), m.backward_rnn(back, xs, **masks)
        else:
            results = m.forward_rnn(*inputs, **masks), m.backward_rnn(*inputs, **masks)
        if len(inputs) == 2 or cast(Scan, scan_in(self.forward_rnn)).return_carry:
            carries, outputs = zip(*results, strict=True)
            return carries, merged(m, list(outputs))
        return merged(m, list(results))
