"""A net as a table: text where it is printed, HTML in a notebook, rows as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from funcnets.inspect.calls import check_net, plan_of
from funcnets.inspect.flow import traced
from funcnets.inspect.rows import Row, rows_of
from funcnets.inspect.tables import html_table, text_table
from funcnets.layer import Layer

_FORM = "summary(net, x)"


@dataclass(frozen=True, repr=False)
class Summary:
    """A net as a table; see `summary`.

    Attributes:
      rows: The rows in the order of the calls, each before those in it.
      totals: The row of the whole net.
      width: How wide the text may be, in characters; None for the terminal's width.
    """

    rows: tuple[Row, ...]
    totals: Row
    width: int | None = None

    def __str__(self) -> str:
        return text_table(self.rows, self.totals, self.width)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self.rows, self.totals)


def summary(net: Layer, *sample: Any, depth: int | None = None, width: int | None = None, **kwargs: Any) -> Summary:
    """A table of a net: paths, layers, shapes, parameters, bytes, FLOPs and state. The net is traced, and does not run.

    Each row is of a place and all that is in it. Parameters that are tied count where they are first met, and those of
    n copies (`Repeat`, `Ensemble`), marked ×n, count n times. FLOPs are two for each multiplication with its addition,
    of the whole sample, in evaluation: those of the forward pass, and what the backward pass adds for the gradients of
    parameters. Only products count; `funcnets.inspect.flops` tells more. What is met in training only is marked so, and
    has none; what is frozen (by `Freeze`, or as `rewrite.lora` does it) likewise, and a line tells how much that is.

    Args:
      net: The net.
      *sample: The inputs that apply takes, arrays or their specs.
      depth: How deep to go: 1 for the net's children, each with all that is in it; None for all.
      width: How wide the printed table may be, in characters; None for the terminal's width. Columns that do not fit
        are left out, and named below the table.
      **kwargs: Inputs by name.

    Returns:
      A `Summary`: print it, show it in a notebook, or read its `rows` and `totals`.

    Raises:
      TypeError: Something that is no layer; inputs that the net does not take.
      ValueError: A depth or width that cannot be.

    Source: XLA's `cost_analysis` counts the compiled program instead: element-wise work too, no padding, and the body
      of a loop once.

    Example:
      >>> net = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
      >>> table = fn.summary(net, jax.ShapeDtypeStruct((2, 20), jnp.float32), width=80)
      >>> print(table)
      path     layer        output          parameters  bytes  FLOPs  gradient FLOPs
      ------------------------------------------------------------------------------
      dense_0  Dense(256)   float32[2,256]       5,376  21.5k  20.5k           20.5k
      relu_0   jax.nn.relu  float32[2,256]           0      0      0               0
      dense_1  Dense(10)    float32[2,10]        2,570  10.3k  10.2k           20.5k
      ------------------------------------------------------------------------------
      total    Sequential   float32[2,10]        7,946  31.8k  30.7k           41.0k
      left out at this width: input, dtype
      >>> table.totals.parameters, table.rows[0].flops
      (7946, 20480)
    """
    check_net(_FORM, net)
    for name, held, least in (("depth", depth, 1), ("width", width, 20)):
        if held is not None and (type(held) is not int or held < least):
            raise ValueError(f"summary takes {name} as None or a whole number, at least {least}, got {held!r}")
    plan, flow = plan_of(_FORM, net, sample, kwargs), traced(net, sample, kwargs)
    totals, *rows = rows_of(plan, flow, depth)
    return Summary(tuple(rows) or (totals,), totals, width)
