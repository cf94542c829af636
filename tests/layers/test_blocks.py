from __future__ import annotations

import dataclasses
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.combinators import Sequential
from funcnets.layers.activation import PReLU
from funcnets.layers.blocks import MLP, SqueezeExcite
from funcnets.layers.dropout import Dropout
from funcnets.layers.linear import Dense

KEY = jax.random.key(0)
RUN = jax.random.key(1)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# MLP


@pytest.mark.parametrize(
    ("mlp", "row"),
    [
        (MLP(4, 2), (Dense(4), jax.nn.relu, Dense(2))),
        (MLP(4), (Dense(4),)),
        (MLP(4, activate_final=True), (Dense(4), jax.nn.relu)),
        (
            MLP(5, 4, 2, activation=jnp.tanh, dropout=0.5, use_bias=False),
            (Dense(5, False), jnp.tanh, Dropout(0.5), Dense(4, False), jnp.tanh, Dropout(0.5), Dense(2, False)),
        ),
        (
            MLP(5, 2, activation=PReLU(-1), dropout=0.5, activate_final=True),
            (Dense(5), PReLU(-1), Dropout(0.5), Dense(2), PReLU(-1), Dropout(0.5)),
        ),
    ],
    ids=["plain", "one", "final", "dropout", "learned"],
)
def test_mlp_is_the_row_of_its_layers_in_parameters_output_and_randomness(mlp, row):
    x = floats(3, 6)
    net = Sequential(*row)
    ours, theirs = mlp.init(KEY, x), net.init(KEY, x)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), ours, theirs)))
    for train in (False, True):
        y = mlp.apply(ours, x, key=jax.random.clone(RUN), train=train)
        assert (y == net.apply(theirs, x, key=jax.random.clone(RUN), train=train)).all()


def test_dropout_renames_nothing_and_without_it_training_needs_no_key():
    x = floats(3, 6)
    plain, random = MLP(4, 4, 2), MLP(4, 4, 2, dropout=0.2)
    assert plain.plan(x).params == random.plan(x).params
    assert list(plain.init(KEY, x)) == ["dense_0", "dense_1", "dense_2"]
    plain.apply(plain.init(KEY, x), x, train=True)
    with pytest.raises(ValueError, match=r"dropout_0: Dropout\(0.2\).* is random and needs a key"):
        random.apply(random.init(KEY, x), x, train=True)


def test_mlp_is_a_value_and_prints_as_it_was_built():
    mlp = MLP(256, 10, activation=jax.nn.gelu, dropout=0.1)
    assert repr(mlp) == "MLP(256, 10, activation=jax.nn.gelu, dropout=0.1)"
    assert mlp == MLP(features=[256, 10], activation=jax.nn.gelu, dropout=0.1) != MLP(256, 10)
    assert pickle.loads(pickle.dumps(mlp)) == mlp
    wider = dataclasses.replace(mlp, features=(512, 10))
    assert wider.layers == (Dense(512), jax.nn.gelu, Dropout(0.1), Dense(10))
    assert wider["dense_1"] == wider[3] == Dense(10)
    assert wider.at("dropout_0") == Dropout(0.1)
    assert wider.bind({}).features == (512, 10)


WIDTHS = "They are the widths of its layers: MLP(256, 256, 10)"


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: MLP(), f"MLP takes features as whole numbers, at least 1, one by one, got (). {WIDTHS}"),
        (lambda: MLP((4, 2)), f"as whole numbers, at least 1, one by one, got ((4, 2),). {WIDTHS}"),
        (lambda: MLP(4, 0), f"as whole numbers, at least 1, one by one, got (4, 0). {WIDTHS}"),
        (lambda: MLP(4, jax.nn.relu), "as whole numbers, at least 1, one by one, got (4, <"),
        (
            lambda: MLP(4, activation="relu"),
            "MLP takes activation as a function or a layer, got 'relu'. Pass it itself: activation=jax.nn.gelu",
        ),
        (
            lambda: MLP(4, dropout=1),
            "MLP takes dropout as the share of values dropped, in [0, 1), got 1. A share to keep goes in as dropout=1 "
            "- keep; dropout=0.0 keeps all",
        ),
        (
            lambda: MLP(4, use_bias=2),
            "MLP takes use_bias as True or False, got 2. Widths come one by one: MLP(256, 10, use_bias=False)",
        ),
        (
            lambda: MLP(4, activate_final=2),
            "MLP takes activate_final as True or False, got 2. Widths come one by one: MLP(256, 10, "
            "activate_final=True)",
        ),
    ],
)
def test_mlp_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


def test_mlp_refuses_inputs_by_the_layer_that_takes_them():
    with pytest.raises(TypeError, match=re.escape("Dense takes floating numbers (..., in), got int32[2]")) as caught:
        MLP(4, 2).plan(jnp.ones(2, jnp.int32))
    assert "in layer dense_0: Dense(4)" in caught.value.__notes__[0]


# SqueezeExcite


@references.each("activation", "squeeze_excite")
def test_squeeze_excite_is_that_of_torch(case):
    def ours(p):
        return {
            name: {"kernel": p[f"{name}.weight"][:, :, 0, 0].T, "bias": p[f"{name}.bias"]} for name in ("down", "up")
        }

    case.check(
        SqueezeExcite(**case.options).apply,
        ours,
        to_input=references.channels_last,
        to_output=references.channels_last,
    )


@pytest.mark.parametrize("spatial", [(5,), (3, 2, 2)])
def test_squeeze_excite_over_other_axes_and_with_other_functions(spatial):
    x = floats(2, *spatial, 4)
    layer = SqueezeExcite(hidden=3, activation=jnp.tanh, gate=jax.nn.hard_sigmoid)
    params = layer.init(KEY, x)
    down, up = params["down"], params["up"]
    s = np.tanh(x.reshape(2, -1, 4).mean(1) @ np.asarray(down["kernel"]) + np.asarray(down["bias"]))
    factors = np.asarray(jax.nn.hard_sigmoid(s @ np.asarray(up["kernel"]) + np.asarray(up["bias"])))
    expected = x * factors.reshape(2, *[1] * len(spatial), 4)
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "channels", "hidden"),
    [(SqueezeExcite(), 8, 2), (SqueezeExcite(3), 8, 2), (SqueezeExcite(16), 8, 1), (SqueezeExcite(hidden=5), 8, 5)],
)
def test_the_width_between_follows_the_channels_or_is_given(layer, channels, hidden):
    shapes = layer.plan(jnp.ones((1, 2, channels))).params
    assert shapes["down"]["kernel"].shape == (channels, hidden)
    assert shapes["down"]["bias"].shape == (hidden,)
    assert shapes["up"]["kernel"].shape == (hidden, channels)
    assert shapes["up"]["bias"].shape == (channels,)


ONE_OR_OTHER = "SqueezeExcite(4) has a quarter of the channels between, hidden=8 has 8"
FUNCTION = "as a function of an array, without parameters, got"


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: SqueezeExcite(0), f"SqueezeExcite takes ratio as a whole number, at least 1, got 0. {ONE_OR_OTHER}"),
        (lambda: SqueezeExcite(0.25), f"takes ratio as a whole number, at least 1, got 0.25. {ONE_OR_OTHER}"),
        (lambda: SqueezeExcite(hidden=0), f"takes hidden as a whole number, at least 1, got 0. {ONE_OR_OTHER}"),
        (
            lambda: SqueezeExcite(4, 8),
            "SqueezeExcite takes ratio or hidden, got ratio=4 and hidden=8. Leave one out: ratio follows the channels, "
            "hidden is the same for all",
        ),
        (lambda: SqueezeExcite(activation="relu"), f"SqueezeExcite takes activation {FUNCTION} 'relu'. Pass the"),
        (lambda: SqueezeExcite(gate=PReLU()), f"SqueezeExcite takes gate {FUNCTION} PReLU(). Pass the function"),
        (
            lambda: SqueezeExcite().plan(jnp.ones((2, 3))),
            "SqueezeExcite takes (batch, *spatial, channels) with one to three spatial axes, got float32[2,3]. Add",
        ),
        (
            lambda: SqueezeExcite().plan(jnp.ones((2, 3, 4), jnp.int32)),
            "SqueezeExcite takes floating numbers (batch, *spatial, channels) with one to three spatial axes, got",
        ),
        (
            lambda: SqueezeExcite().plan(jnp.ones((2, 0, 4))),
            "at least one position along each spatial axis, got float32",
        ),
    ],
)
def test_squeeze_excite_refuses(build, text):
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        build()
