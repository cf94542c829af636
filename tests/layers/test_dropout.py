from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.combinators import Sequential
from funcnets.layers.dropout import AlphaDropout, Dropout, DropPath, GaussianDropout, GaussianNoise
from funcnets.random import path_key, run_key
from funcnets.wrappers import Residual

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


# The formulas, given the coins or the noise, which the same key gives


def own_key():
    """The key that a net of one layer takes from KEY."""
    return path_key(run_key(jax.random.clone(KEY)), "")


def trained(layer, x):
    return np.asarray(layer.apply({}, x, key=jax.random.clone(KEY), train=True))


def coins(rate, *shape):
    return np.asarray(jax.random.bernoulli(own_key(), 1 - rate, shape))


def noise(*shape):
    return np.asarray(jax.random.normal(own_key(), shape))


@pytest.mark.parametrize(
    ("axes", "shape"),
    [((), (3, 4, 5)), (1, (3, 1, 5)), ((-2,), (3, 1, 5)), ((1, 2), (3, 1, 1)), ((0, -1), (1, 4, 1))],
)
def test_values_along_broadcast_axes_share_a_coin(axes, shape):
    x = floats(3, 4, 5)
    kept = coins(0.4, *shape)
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(trained(Dropout(0.4, axes), x), np.where(kept, x / 0.6, 0), rtol=1e-6)


def test_the_plain_dropout_is_the_formula_alone():
    def formula(x, key):
        kept = jax.random.bernoulli(key, 0.7, x.shape)
        return jnp.where(kept, x / 0.7, jnp.zeros_like(x))

    ours = jax.make_jaxpr(lambda x, key: Dropout(0.3).forward({}, x, key=key, train=True))
    assert str(ours(jnp.ones((2, 3)), KEY)) == str(jax.make_jaxpr(formula)(jnp.ones((2, 3)), KEY))


@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 2, 3)])
def test_drop_path_flips_a_coin_an_example(shape):
    x = floats(*shape)
    kept = coins(0.3, 50, *[1] * (len(shape) - 1))
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(trained(DropPath(0.3), x), np.where(kept, x / 0.7, 0), rtol=1e-6)


def test_drop_path_leaves_examples_out_of_a_branch():
    x = floats(40, 3)
    y = trained(Residual(Sequential(jnp.square, DropPath(0.5))), x)
    out = (y == x).all(1)
    assert 0 < out.mean() < 1
    np.testing.assert_allclose(y[~out], (x + 2 * x**2)[~out], rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_alpha_dropout_sets_values_to_the_selu_s_lowest_and_keeps_mean_and_variance(rate):
    x = floats(300, 300)
    lowest = float(jax.nn.selu(jnp.float32(-1e9)))
    a = 1 / np.sqrt((1 - rate) * (1 + rate * 1.7580993408473766**2))  # as in torch.nn.functional.alpha_dropout
    b = 1.7580993408473766 * a * rate
    kept = coins(rate, 300, 300)
    y = trained(AlphaDropout(rate), x)
    np.testing.assert_allclose(y, a * np.where(kept, x, lowest) + b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([y.mean(), y.var()], [0, 1], atol=0.03)


@pytest.mark.parametrize("stddev", [0.1, 2, 30.0])
def test_gaussian_noise_is_added(stddev):
    x = floats(300, 300)
    drawn = noise(300, 300)
    y = trained(GaussianNoise(stddev), x)
    np.testing.assert_allclose(y, x + stddev * drawn, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose([drawn.mean(), drawn.var()], [0, 1], atol=0.02)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_gaussian_dropout_multiplies_by_factors_with_the_moments_of_dropout_s(rate):
    x = floats(300, 300)
    y = trained(GaussianDropout(rate), x)
    np.testing.assert_allclose(y, x * (1 + np.sqrt(rate / (1 - rate)) * noise(300, 300)), rtol=1e-5, atol=1e-5)
    factors = trained(GaussianDropout(rate), np.ones_like(x))
    coin = np.where(coins(rate, 300, 300), 1 / (1 - rate), 0)
    np.testing.assert_allclose(factors.mean(), coin.mean(), atol=0.03)
    np.testing.assert_allclose(factors.std(), coin.std(), rtol=0.03)


OTHERS = [DropPath(0.5), AlphaDropout(0.5), GaussianNoise(0.5), GaussianDropout(0.5)]


@pytest.mark.parametrize("layer", [*OTHERS, Dropout(0.5, -1)], ids=repr)
def test_all_are_the_identity_in_evaluation_and_take_a_key_in_training(layer):
    x = jnp.asarray(floats(4, 5))
    assert layer.apply({}, x) is x
    with pytest.raises(ValueError, match="is random and needs a key"):
        layer.apply({}, x, train=True)
    assert not (layer.apply({}, x, key=KEY, train=True) == x).all()
    none = type(layer)(0.0)
    assert (none.apply({}, x, key=jax.random.clone(KEY), train=True) == x).all()
    with pytest.raises(TypeError, match=re.escape(f"{type(layer).__name__} takes floating numbers (")):
        layer.apply({}, jnp.ones(3, jnp.int32))


@pytest.mark.parametrize("layer", OTHERS, ids=repr)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_all_keep_a_low_precision(layer, dtype):
    y = layer.apply({}, jnp.ones((4, 5), dtype), key=jax.random.clone(KEY), train=True)
    assert y.dtype == dtype
    assert np.isfinite(np.asarray(y, np.float32)).all()


@pytest.mark.parametrize("kind", [DropPath, AlphaDropout, GaussianDropout])
@pytest.mark.parametrize("rate", [1.0, -0.1, True, "half"])
def test_rates_outside_their_range_are_refused_when_built(kind, rate):
    what = "examples" if kind is DropPath else "values"
    text = (
        f"{kind.__name__} takes rate as the share of {what} dropped, in [0, 1), got {rate!r}. A share to keep goes in "
        f"as rate=1 - keep; rate=0.0 keeps all"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        kind(rate)


@pytest.mark.parametrize("stddev", [-0.1, True, "small", float("nan"), float("inf"), None])
def test_deviations_that_cannot_be_are_refused_when_built(stddev):
    text = (
        f"GaussianNoise takes stddev as a standard deviation, 0 or more, got {stddev!r}. A variance goes in as its root"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        GaussianNoise(stddev)


def test_axes_that_cannot_be_are_refused_in_both_modes():
    text = (
        "Dropout takes broadcast_axes as an axis, or a tuple of different axes, got (1, 1). Dropout(0.1, (1, 2)) drops "
        "whole channels of images; () is a coin a value"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        Dropout(0.5, (1, 1))
    text = (
        "Dropout with broadcast_axes=(1, 2) takes inputs that have these axes, each once, got float32[2,3]. Axes "
        "count from 0 at the front, or from -1 at the end"
    )
    for train in (False, True):
        with pytest.raises(ValueError, match=re.escape(text)):
            Dropout(0.5, (1, 2)).apply({}, jnp.ones((2, 3)), key=jax.random.clone(KEY), train=train)
    with pytest.raises(ValueError, match=re.escape("DropPath takes (batch, ...), got float32[]. Add the missing axis")):
        DropPath(0.5).apply({}, jnp.ones(()))
