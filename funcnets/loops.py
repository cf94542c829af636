"""Loops that JAX does not have as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def bounded_while(cond: Callable[[Any], Any], body: Callable[[Any], Any], init: Any, max_steps: int) -> Any:
    """`while cond(x): x = body(x)`, at most max_steps times, and differentiable in reverse mode.

    `lax.while_loop` cannot be differentiated backwards, since the number of steps whose values it would have to keep is
    not known; here it is bounded. A loop that has not ended after max_steps stops there; `cond` of the result tells.

    Args:
      cond: Carry → whether to go on.
      body: Carry → carry of the same structure, shapes and dtypes.
      init: The first carry.
      max_steps: The bound. Memory for gradients grows with it; once the loop has ended, no body runs.

    Returns:
      The last carry.

    Raises:
      ValueError: A bound that is no whole number.

    Example:
      >>> float(fn.bounded_while(lambda x: x > 1, lambda x: x / 2, jnp.float32(10), 8))
      0.625
    """
    if not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"bounded_while takes max_steps as a whole number, at least 0, got {max_steps!r}")

    def step(x: Any, _: None) -> tuple[Any, None]:
        return jax.lax.cond(cond(x), body, lambda x: x, x), None

    return jax.lax.scan(step, init, None, length=max_steps)[0]
