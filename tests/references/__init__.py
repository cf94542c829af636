"""Reference vectors: what PyTorch computes, in float64, for small inputs, with gradients for a random cotangent.

`<family>.npz` beside this file is written by the script `<family>.py`, which needs PyTorch and a seed, and nothing of
this library; the tests need only the vectors. A test maps PyTorch's parameters to ours, and asks the case to check:

    @references.each("linear", "bilinear")
    def test_bilinear_is_that_of_torch(case):
        layer = fn.Bilinear(4, **case.options)
        case.check(layer.apply, lambda p: {"kernel": p["weight"].transpose(1, 2, 0), "bias": p["bias"]})
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-5  # of the largest value of an array


def same(x: Any) -> Any:
    return x


class Case(NamedTuple):
    """One call of a PyTorch module or function.

    Attributes:
      name: "conv_transpose-stride-groups", its kind first.
      options: What our layer is built with, as the script noted it.
      inputs: Arrays; floating ones in float32.
      outputs: Likewise.
      cotangents: One an output.
      input_gradients: One an input; None for whole numbers.
      params: By PyTorch's name ("weight"), in PyTorch's layout.
      gradients: Likewise.
      buffers: Before the call; those after it are `after`.
      after: See buffers.
    """

    name: str
    options: dict[str, Any]
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    cotangents: list[np.ndarray]
    input_gradients: list[np.ndarray | None]
    params: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    after: dict[str, np.ndarray]

    def check(
        self,
        apply: Callable[..., Any],
        to_params: Callable[[dict[str, np.ndarray]], Any] = lambda params: {},
        to_gradients: Callable[[dict[str, np.ndarray]], Any] | None = None,
        to_input: Callable[[Any], Any] = same,
        to_output: Callable[[Any], Any] = same,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Compares outputs and all gradients of `apply(params, *inputs)` with PyTorch's.

        Args:
          apply: Ours; it returns one array, or as many as PyTorch's call in any containers.
          to_params: From PyTorch's parameters to ours.
          to_gradients: The same for gradients, where it is another map.
          to_input: From PyTorch's layout to ours, for inputs and their gradients.
          to_output: Likewise for outputs and cotangents.
          tolerance: Relative to the largest value of an array.
        """
        arrays = lambda tree: jax.tree.map(jnp.asarray, tree)  # noqa: E731
        params, inputs = arrays(to_params(self.params)), arrays([to_input(x) for x in self.inputs])
        floating = [i for i, gradient in enumerate(self.input_gradients) if gradient is not None]

        def run(params: Any, given: list[Any]) -> tuple[list[Any], Any]:
            filled = [given[floating.index(i)] if i in floating else x for i, x in enumerate(inputs)]
            output = apply(params, *filled)
            weights = [to_output(c) for c in self.cotangents]
            ys = jax.tree.leaves(output)
            assert [y.shape for y in ys] == [w.shape for w in weights], "the outputs have other shapes"
            return sum(jnp.vdot(y, w) for y, w in zip(ys, weights, strict=True)), ys

        differentiate = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))
        (gradients, input_gradients), ys = differentiate(params, [inputs[i] for i in floating])
        for i, (ours, theirs) in enumerate(zip(ys, self.outputs, strict=True)):
            close(ours, to_output(theirs), tolerance, f"output {i}")
        for i, ours in zip(floating, input_gradients, strict=True):
            close(ours, to_input(self.input_gradients[i]), tolerance, f"gradient of input {i}")
        wanted = (to_gradients or to_params)(self.gradients)
        assert jax.tree.structure(wanted) == jax.tree.structure(gradients)
        for (path, ours), theirs in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(wanted), strict=True):
            close(ours, theirs, tolerance, f"gradient of {jax.tree_util.keystr(path)}")


def close(ours: Any, theirs: Any, tolerance: float = TOLERANCE, what: str = "") -> None:
    """Raises unless two arrays are equal up to a share of the largest value."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    scale = float(np.abs(theirs).max()) if theirs.size else 0.0
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(scale, 1e-30), err_msg=what)


def cases(family: str, kind: str = "") -> list[Case]:
    """The cases of a family whose name begins with a kind."""
    found: list[Case] = []
    with np.load(HERE / f"{family}.npz") as held:
        arrays = dict(held)
    for name, counts in json.loads(str(arrays["index"])).items():
        if name != kind and not name.startswith(f"{kind}-" if kind else ""):
            continue

        def listed(what: str, name: str = name, counts: dict[str, Any] = counts) -> list[Any]:
            return [arrays.get(f"{name}/{what}/{i}") for i in range(counts[what])]

        def named(what: str, name: str = name) -> dict[str, np.ndarray]:
            start = f"{name}/{what}/"
            return {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}

        found.append(
            Case(
                name,
                tuples(counts["options"]),
                listed("inputs"),
                listed("outputs"),
                listed("cotangents"),
                listed("input_gradients"),
                named("params"),
                named("gradients"),
                named("buffers"),
                named("after"),
            )
        )
    assert found, f"{family}.npz has no case of kind {kind!r}"
    return found


def tuples(held: Any) -> Any:
    """JSON's lists as tuples."""
    if isinstance(held, dict):
        return {name: tuples(value) for name, value in held.items()}
    return tuple(map(tuples, held)) if isinstance(held, list) else held


def each(family: str, kind: str = "") -> Any:
    """Runs a test once for each case."""
    return pytest.mark.parametrize("case", cases(family, kind), ids=lambda case: case.name)


def channels_last(x: np.ndarray) -> np.ndarray:
    """(batch, channels, *spatial) as (batch, *spatial, channels)."""
    return np.moveaxis(x, 1, -1)
