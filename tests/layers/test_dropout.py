from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.combinators import Sequential
from funcnets.layers.dropout import Dropout

KEY = jax.random.key(0)
OTHER = jax.random.key(1)


def floats(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_training_drops_the_rate_and_scales_the_rest(rate):
    x = 1 + np.abs(floats(100, 100))
    y = np.asarray(Dropout(rate).apply({}, x, key=KEY, train=True))
    dropped = y == 0
    deviation = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(dropped.mean() - rate) < 5 * deviation
    np.testing.assert_allclose(y[~dropped], x[~dropped] / (1 - rate), rtol=1e-6)


def test_values_fall_independently():
    kept = np.asarray(Dropout(0.5).apply({}, jnp.ones((200, 50)), key=KEY, train=True)) > 0
    both = (kept[:, :-1] & kept[:, 1:]).mean()
    assert abs(both - 0.25) < 0.03
    assert kept.mean(0).min() > 0 and kept.mean(1).max() < 1


def test_the_same_key_drops_the_same_and_another_others():
    x = jnp.ones((4, 50))

    def run(key):
        return Dropout(0.5).apply({}, x, key=key, train=True)

    assert (run(KEY) == run(jax.random.clone(KEY))).all()
    assert (run(jax.random.clone(KEY)) != run(OTHER)).any()


def test_the_gradient_passes_where_values_do():
    x = jnp.asarray(floats(4, 50))
    y, pull = jax.vjp(lambda x: Dropout(0.2).apply({}, x, key=KEY, train=True), x)
    np.testing.assert_allclose(pull(jnp.ones_like(x))[0], np.where(y != 0, np.float32(1 / 0.8), 0), rtol=1e-6)


def test_evaluation_and_a_rate_of_zero_are_the_identity_without_random_bits():
    x = jnp.asarray(floats(4, 5))
    assert Dropout(0.5).apply({}, x) is x
    assert not jax.make_jaxpr(lambda x: Dropout(0.5).apply({}, x))(x).eqns
    training = jax.make_jaxpr(lambda x, key: Dropout(0.0).apply({}, x, key=key, train=True))(x, KEY)
    assert "random_bits" not in str(training)
    assert "random_bits" in str(jax.make_jaxpr(lambda x: Dropout(0.5).apply({}, x, key=KEY, train=True))(x))
    assert (Dropout(0).apply({}, x, key=KEY, train=True) == x).all()


def test_bfloat16_in_bfloat16_out():
    assert Dropout(0.3).apply({}, jnp.ones((2, 5), jnp.bfloat16), key=KEY, train=True).dtype == jnp.bfloat16


def test_training_without_a_key_names_the_layer():
    net = Sequential(("first", Dropout(0.5)))
    with pytest.raises(ValueError, match=r"first: Dropout\(0.5\).* is random and needs a key"):
        net.apply({}, jnp.ones(3), train=True)


@pytest.mark.parametrize("rate", [1.0, 1, -0.1, True, "half", None, float("nan")])
def test_a_rate_outside_its_range_is_refused_when_built(rate):
    text = (
        f"Dropout takes rate as the share of values dropped, in [0, 1), got {rate!r}. A share to keep goes in as "
        "rate=1 - keep; rate=0.0 keeps all"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        Dropout(rate)


def test_whole_numbers_are_refused_in_both_modes():
    for train in (False, True):
        with pytest.raises(TypeError, match=re.escape("Dropout takes floating numbers (...), got int32[3]. Convert")):
            Dropout(0.5).apply({}, jnp.ones(3, jnp.int32), key=jax.random.clone(KEY), train=train)
