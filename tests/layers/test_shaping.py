from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.layers.shaping import Flatten, Identity


@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 3, 4, 5), (0, 3, 2), (2, 0, 3)])
def test_flatten_puts_the_values_of_each_example_in_a_row(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    y = Flatten().apply({}, x)
    assert y.shape == (shape[0], int(np.prod(shape[1:])))
    for b in range(shape[0]):
        assert list(np.asarray(y[b])) == list(x[b].flat)


def test_flatten_keeps_the_dtype_of_whole_numbers_too():
    assert Flatten().apply({}, jnp.ones((2, 3, 4), jnp.int8)).dtype == jnp.int8


@pytest.mark.parametrize(
    ("x", "kind", "text"),
    [
        (jnp.ones(()), ValueError, "Flatten takes (batch, ...), got float32[]. Add the missing axis first: x[None]"),
        ((jnp.ones(2),), TypeError, "Flatten takes one array (batch, ...), got (float32[2]). Take the array out of"),
    ],
)
def test_flatten_refuses_inputs_before_arithmetic(x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        Flatten().plan(x)


def test_identity_gives_back_what_it_got():
    x, tree = jnp.ones((2, 3)), {"a": jnp.zeros(2), "b": (jnp.ones(1, jnp.int32), None)}
    assert Identity().apply({}, x) is x
    assert Identity().apply({}, tree) is not None
    assert jax.tree.structure(Identity().apply({}, tree)) == jax.tree.structure(tree)
    assert Identity().apply({}, x, x) == (x, x)
    assert not jax.make_jaxpr(lambda x: Identity().apply({}, x))(x).eqns
