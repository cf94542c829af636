"""Mistakes that users are likely to make, and what they are told: where, what is taken, what was got, what to do.

A mistake is a function that makes it. One with a parameter `run` makes it both at once and under `jax.jit`.
"""

import functools
import inspect
import os
import pickle
import re
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnets as fn
from funcnets import train


class Mistake(NamedTuple):
    """What is read of a mistake, as regexes of the message and its notes, in this order of importance."""

    make: Callable[..., Any]
    error: type[Exception]
    where: str
    takes: str
    got: str
    do: str


MISTAKES: list[Mistake] = []


def mistake(error, *, where, takes, got, do):
    def add(make):
        MISTAKES.append(Mistake(make, error, where, takes, got, do))
        return make

    return add


KEY = jax.random.key(0)
X = jnp.ones((4, 8))
WIDE = jnp.ones((4, 9))
IDS = jnp.zeros((2, 5), jnp.int32)
IMAGES = jnp.ones((2, 8, 8, 3))
SEQUENCES = jnp.ones((2, 5, 8))
MLP = fn.Sequential(fn.Dense(16), jax.nn.relu, ("head", fn.Dense(4)))
PARAMS = MLP.init(KEY, X)
NORMED = fn.Sequential(fn.Dense(8), fn.BatchNorm())
DROPPED = fn.Sequential(fn.Dense(8), fn.Dropout(0.5))
BLOCKS = fn.Sequential(("stem", fn.Dense(8)), ("blocks", fn.Repeat(fn.Residual(fn.Dense(8)), 3)))

MAKE_PARAMS = r"make them with params = net\.init\(key, \*sample\)"
MAKE_STATE = r"make it with state = net\.init_state\(\*sample\)"


# Inputs


@mistake(
    ValueError,
    where=r"in layer dense_0: Dense\(16\)",
    takes=r"dense_0/kernel  expected float32\[9,16\]",
    got=r"got float32\[8,16\](.|\n)*called with float32\[4,9\]",
    do="Either the inputs have other axes or sizes than the sample .* made for",
)
def wrong_width(run):
    run(MLP.apply)(PARAMS, WIDE)


@mistake(
    ValueError,
    where=r"in layer head: Dense\(4\)",
    takes=r"head/kernel  expected float32\[8,4\]",
    got=r"got float32\[16,4\](.|\n)*called with float32\[4,8\]",
    do=f"inputs have other axes or sizes .* {MAKE_PARAMS}",
)
def wrong_width_for_a_bound_child(run):
    run(lambda params, x: MLP.bind(params).head(x))(PARAMS, X)


@mistake(
    ValueError,
    where=r"in layer blocks: Dense\(8\)",
    takes=r"takes parameters \{'kernel': float32\[9,8\]",
    got=r"there are .*'kernel': float32\[8,8\](.|\n)*called with float32\[4,9\]",
    do=f"inputs have other axes or sizes .* {MAKE_PARAMS}",
)
def wrong_width_in_a_repeat_of_a_remat(run):
    net = fn.Sequential(("blocks", fn.Repeat(fn.Remat(fn.Residual(fn.Dense(8))), 3)))
    run(net.apply)(net.init(KEY, X), WIDE)


@mistake(
    ValueError,
    where=r"in layer rnn: LSTMCell\(4\)",
    takes=r"rnn/kernel  expected float32\[7,16\]",
    got=r"got float32\[8,16\](.|\n)*called with .*float32\[2,7\]",
    do="inputs have other axes or sizes",
)
def wrong_width_in_a_scan(run):
    net = fn.Sequential(("rnn", fn.Scan(fn.LSTMCell(4))), fn.Dense(2))
    run(net.apply)(net.init(KEY, SEQUENCES), SEQUENCES[..., :7])


@mistake(
    ValueError,
    where=r"in layer conv_0: Conv\(4, 3\)",
    takes=r"conv_0/kernel  expected float32\[3,3,4\]",
    got=r"got float32\[3,3,3,4\](.|\n)*called with float32\[8,8,3\]",
    do=r"the batch comes first, x\[None\] is a batch of one",
)
def forgot_the_batch(run):
    net = fn.Sequential(fn.Conv(4, 3), fn.GlobalAvgPool())
    run(net.apply)(net.init(KEY, IMAGES), IMAGES[0])


@mistake(
    ValueError,
    where=r"in layer conv_0: Conv\(4, 3\)",
    takes=r"conv_0/kernel  expected float32\[3,3,8,4\]",
    got=r"got float32\[3,3,3,4\](.|\n)*called with float32\[2,3,8,8\]",
    do="features come last",
)
def channels_first(run):
    net = fn.Sequential(fn.Conv(4, 3), fn.GlobalAvgPool())
    run(net.apply)(net.init(KEY, IMAGES), jnp.ones((2, 3, 8, 8)))


@mistake(
    ValueError,
    where=r"in layer conv_0: Conv\(4, 5, padding='VALID'\)",
    takes=r"takes inputs that hold its window, \(5, 5\) along the spatial axes",
    got=r"got float32\[2,3,8,8\]",
    do="Make the window smaller, or pad: padding='SAME'; channels come last",
)
def channels_first_at_init():
    fn.Sequential(fn.Conv(4, 5, padding="VALID")).init(KEY, jnp.ones((2, 3, 8, 8)))


@mistake(
    ValueError,
    where=r"in layer attend: Attention\(2\)",
    takes=r"takes \(batch, time, features\)",
    got=r"got float32\[5,8\]",
    do=r"Add the missing axis first: x\[None\]",
)
def wrong_rank(run):
    net = fn.Sequential(("attend", fn.Attention(2)))
    run(net.apply)(net.init(KEY, SEQUENCES), SEQUENCES[0])


@mistake(
    TypeError,
    where=r"in layer embed: Embedding\(10, 8\)",
    takes="takes whole numbers",
    got=r"got float32\[2,5\]",
    do=r"x\.astype\(jnp\.int32\)",
)
def float_ids(run):
    net = fn.Sequential(("embed", fn.Embedding(10, 8)), fn.Dense(3))
    run(net.apply)(net.init(KEY, IDS), IDS.astype(jnp.float32))


@mistake(
    TypeError,
    where=r"in layer conv_0: Conv\(4, 3\)",
    takes="takes floating numbers",
    got=r"got uint8\[2,8,8,3\]",
    do=r"x\.astype\(jnp\.float32\)",
)
def images_of_bytes(run):
    net = fn.Sequential(fn.Conv(4, 3))
    run(net.apply)(net.init(KEY, IMAGES), np.zeros((2, 8, 8, 3), np.uint8))


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes="takes an array first",
    got="got the Python float 3.0",
    do=r"Wrap it: jnp\.asarray\(3\.0, dtype\)",
)
def python_scalar():
    MLP.apply(PARAMS, 3.0)


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes="takes an array first",
    got="got Python's numbers, a list of 32 numbers",
    do=r"Wrap them: jnp\.asarray\(x, dtype\)",
)
def nested_list():
    MLP.apply(PARAMS, [[1.0] * 8] * 4)


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes="takes an array first",
    got=r"got the numbers \(4, 8\)",
    do=r"write jax\.ShapeDtypeStruct\(\(4, 8\), jnp\.float32\)",
)
def shape_as_sample():
    MLP.init(KEY, (4, 8))


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes=r"takes one array \(\.\.\., in\)",
    got=r"got \(float32\[4,8\], \{'batch_norm_0'",
    do=r"y, state = net\.apply\(params, x, state=state\)",
)
def forgot_that_a_state_comes_back(run):
    y = NORMED.apply(NORMED.init(KEY, X), X, state=NORMED.init_state(X))
    run(MLP.apply)(PARAMS, y)


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes=r"takes \(x\)",
    got=r"got float32\[4,8\], float32\[4,8\]: too many",
    do="a composite of your own hands several inputs to its layers",
)
def inputs_that_a_row_does_not_take(run):
    run(MLP.apply)(PARAMS, X, X)


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(8\)",
    takes=r"takes \(x\)",
    got=r"got float32\[2,5,8\], mask=bool\[2,5,5\]",
    do="A row hands its inputs to its first layer alone",
)
def mask_for_a_later_layer(run):
    net = fn.Sequential(fn.Dense(8), fn.Attention(2))
    run(lambda params, x, mask: net.apply(params, x, mask=mask))(
        net.init(KEY, SEQUENCES), SEQUENCES, jnp.ones((2, 5, 5), bool)
    )


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): Attention\(2\)",
    takes=r"Attention takes a mask",
    got=r"got bool\[2,4,4\]",
    do="keys",
)
def mask_of_wrong_shape(run):
    net = fn.Attention(2)
    run(lambda params, x, mask: net.apply(params, x, mask=mask))(
        net.init(KEY, SEQUENCES), SEQUENCES, jnp.ones((2, 4, 4), bool)
    )


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Attention\(2\)",
    takes="takes a mask of booleans, True for what is seen",
    got=r"got float32\[2,5,5\]",
    do="What is added to the scores goes in as bias",
)
def mask_of_floats(run):
    net = fn.Attention(2)
    run(lambda params, x, mask: net.apply(params, x, mask=mask))(
        net.init(KEY, SEQUENCES), SEQUENCES, jnp.ones((2, 5, 5))
    )


@mistake(
    ValueError,
    where=r"in layer positions: PositionEmbedding\(",
    takes="takes at most 4 tokens",
    got=r"got 5 in float32\[2,5,8\]",
    do="Build it for the longest sequence, or cut this one",
)
def longer_than_the_position_table(run):
    net = fn.Sequential(("positions", fn.PositionEmbedding(4)))
    run(net.apply)(net.init(KEY, SEQUENCES[:, :4]), SEQUENCES)


# Parameters, init and apply


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes=MAKE_PARAMS,
    got="params is a function, <init of sequential>",
    do=MAKE_PARAMS,
)
def forgot_to_call_init():
    MLP.apply(MLP.init, X)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes=r"params comes first and is a dict, net\.apply\(params, \*inputs\)",
    got=r"got float32\[4,8\]",
    do=MAKE_PARAMS,
)
def forgot_params(run):
    run(MLP.apply)(X)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes=r"params comes first and is a dict, net\.apply\(params, \*inputs\)",
    got=r"got float32\[4,8\]: (.|\n)*called with \{'dense_0'",
    do=MAKE_PARAMS,
)
def input_before_params(run):
    run(MLP.apply)(X, PARAMS)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes=r"parameters come first in net\.apply",
    got=r"params is a layer, Sequential\(Dense\(16\)",
    do=MAKE_PARAMS,
)
def net_as_params():
    MLP.apply(MLP, X)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(8\), BatchNorm\(\)\)",
    takes="parameters are a dict",
    got=r"params is a tuple, \(\{'(dense_0|batch_norm_0)'",
    do="the state goes in as state=",
)
def params_and_state_as_params(run):
    run(NORMED.apply)((NORMED.init(KEY, X), NORMED.init_state(X)), X)


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes=r"missing   head/kernel     expected float32\[16,4\], got nothing",
    got=r"unread    dense_1/kernel  expected nothing, got float32\[16,4\]",
    do=f"The parameters are of another net, or were made for another sample: {MAKE_PARAMS}",
)
def params_of_another_net(run):
    other = fn.Sequential(fn.Dense(16), jax.nn.relu, fn.Dense(4))
    run(MLP.apply)(other.init(KEY, X), X)


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes="expected nothing",
    got=r"unread    params  expected nothing, got \{'dense_0'",
    do=MAKE_PARAMS,
)
def params_of_another_library():
    MLP.bind({"params": PARAMS})


@mistake(
    ValueError,
    where=r"in layer blocks: Repeat\(Residual\(Dense\(8\)\), 4\)",
    takes=r"blocks/kernel  expected float32\[4,8,8\]",
    got=r"got float32\[3,8,8\]",
    do=MAKE_PARAMS,
)
def params_stacked_for_another_repeat(run):
    longer = fn.Sequential(("stem", fn.Dense(8)), ("blocks", fn.Repeat(fn.Residual(fn.Dense(8)), 4)))
    run(longer.apply)(BLOCKS.init(KEY, X), X)


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): Ensemble\(",
    takes=r"dense_0/kernel  expected float32\[5,8,16\]",
    got=r"got float32\[3,8,16\]",
    do=MAKE_PARAMS,
)
def params_of_another_ensemble(run):
    run(fn.Ensemble(MLP, 5).apply)(fn.Ensemble(MLP, 3).init(KEY, X), X)


@mistake(
    ValueError,
    where=r"in layer dense_0: Dense\(16\)",
    takes=r"replaced  dense_0/kernel  expected float32\[8,16\]",
    got="got a list of 128 numbers",
    do=MAKE_PARAMS,
)
def params_read_from_json():
    MLP.apply(jax.tree.map(lambda array: array.tolist(), PARAMS), X)


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes=r"takes \(x\)",
    got="got nothing",
    do=r"Sizes come from a sample: init\(key, x\)",
)
def init_without_a_sample():
    MLP.init(KEY)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes=r"a key is taken, as jax\.random\.key\(0\) makes it",
    got=r"got float32\[4,8\]\.",
    do=r"It comes first in init\(key, \*sample\)",
)
def sample_before_the_key():
    MLP.init(X, KEY)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes="a key is taken",
    got="got 7",
    do=r"Write jax\.random\.key\(7\)",
)
def seed_as_key():
    MLP.init(7, X)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes="one key is taken",
    got="got an array of 2 keys",
    do=r"pick one, or jax\.vmap over them",
)
def keys_as_key():
    MLP.init(jax.random.split(jax.random.key(1)), X)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(8\), Dropout\(0\.5\)\)",
    takes="take the inputs that apply takes",
    got="but not train",
    do="leave it out",
)
def init_for_training():
    DROPPED.init(KEY, X, train=True)


@mistake(
    TypeError,
    where=r"Sequential\(Dense\(16\), .* is a value",
    takes="not a function of its inputs",
    got="is a value",
    do=r"net\.apply\(params, x\)",
)
def net_called_directly():
    MLP(X)


# Keys, states and modes


@mistake(
    ValueError,
    where=r"in layer dropout_0: Dropout\(0\.5\)",
    takes="is random and needs a key",
    got=r"called with float32\[4,8\]",
    do=r"net\.apply\(params, x, key=key, train=True\)",
)
def missing_key(run):
    run(functools.partial(DROPPED.apply, train=True))(DROPPED.init(KEY, X), X)


@mistake(
    ValueError,
    where=r"in layer body/batch_norm_0: BatchNorm\(\)",
    takes="carries state",
    got="and none was given",
    do=r"state = net\.init_state\(\*sample\) and call y, state = net\.apply\(params, x, state=state\)",
)
def missing_state(run):
    net = fn.Sequential(("body", fn.Repeat(fn.Sequential(fn.Dense(8), fn.BatchNorm()), 2)))
    run(net.apply)(net.init(KEY, X), X)


@mistake(
    ValueError,
    where=r"in layer batch_norm_0: BatchNorm\(\)",
    takes=r"takes state \{'mean': float32\[8\], 'var': float32\[8\]\}",
    got=r"there is \{'mean': float32\[9\], 'var': float32\[9\]\}",
    do=r"Make the state with net\.init_state\(\*sample\) of this very net",
)
def state_of_another_net(run):
    state = fn.Sequential(fn.Dense(9), fn.BatchNorm()).init_state(X)
    run(lambda params, state, x: NORMED.apply(params, x, state=state))(NORMED.init(KEY, X), state, X)


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes="unread    batch_norm_0  expected nothing",
    got=r"got \{'mean': float32\[8\], 'var': float32\[8\]\}",
    do=f"The state is of another net, or was made for another sample: {MAKE_STATE}",
)
def state_for_a_net_without(run):
    run(lambda params, state, x: MLP.apply(params, x, state=state))(PARAMS, NORMED.init_state(X), X)


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(8\)",
    takes=r"takes \(x\)",
    got=r"got float32\[4,8\], \{'batch_norm_0': \{'mean'",
    do="go in by name: train=True, key=key, state=state",
)
def state_by_position(run):
    run(NORMED.apply)(NORMED.init(KEY, X), X, NORMED.init_state(X))


@mistake(
    ValueError,
    where=r"hidden: the params given to Dense\(8\)",
    takes=r"missing   kernel  expected float32\[8,8\]",
    got="got nothing",
    do=r"what its own init\(key, \*sample\) gives",
)
def explicit_params_that_do_not_fit():
    wrong(lambda self, m, x: m.hidden(x, params={"kernal": jnp.ones((8, 8))})).init(KEY, X)


@mistake(
    RuntimeError,
    where=r"in layer drop: Dropout\(0\.5\)",
    takes="where it would leak or repeat",
    got="drop: randomness inside a raw JAX transform",
    do=r"Use fn\.Repeat, fn\.Scan or fn\.Remat",
)
def random_child_in_a_raw_scan(run):
    @fn.compose(drop=fn.Dropout(0.5))
    def net(m, x):
        return jax.lax.scan(lambda carry, row: (carry, m.drop(row)), 0, x)[1]

    run(lambda key, x: net.apply({}, x, key=key, train=True))(KEY, X)


@mistake(
    RuntimeError,
    where=r"in layer norm: BatchNorm\(\)",
    takes="where it would leak or repeat",
    got="norm: a new state inside a raw JAX transform",
    do=r"m\.child\(x, state=state, key=key\)",
)
def stateful_child_in_a_raw_loop(run):
    @fn.compose(norm=fn.BatchNorm())
    def net(m, x):
        return jax.lax.fori_loop(0, 3, lambda i, x: m.norm(x), x)

    run(lambda params, state, x: net.apply(params, x, state=state, train=True))(net.init(KEY, X), net.init_state(X), X)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(8\), Dropout\(0\.5\)\)",
    takes="train is True or False, a Python bool",
    got=r"got bool\[\]",
    do=r"mark it static in jax\.jit, static_argnames='train'",
)
def traced_train():
    apply = jax.jit(lambda params, x, train: DROPPED.apply(params, x, key=KEY, train=train))
    apply(DROPPED.init(KEY, X), X, True)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes="train is True or False",
    got="got 'yes'",
    do="write train=True",
)
def train_in_words():
    MLP.apply(PARAMS, X, train="yes")


@mistake(
    TypeError,
    where=r"in layer dropout_0: Dropout\(0\.5\)",
    takes=r"takes \(x\)",
    got=r"got float32\[4,8\], deterministic=False",
    do="go in by name: train=True",
)
def mode_of_another_library(run):
    net = fn.Sequential(fn.Dropout(0.5))
    run(functools.partial(net.apply, deterministic=False))({}, X)


# Building


@mistake(
    TypeError,
    where="Sequential takes",
    takes="takes its layers one by one",
    got=r"got \[Dense\(3\), Dense\(4\)\]",
    do=r"write Sequential\(\*layers\)",
)
def layers_in_a_list():
    fn.Sequential([fn.Dense(3), fn.Dense(4)])


@mistake(
    TypeError,
    where="Sequential takes",
    takes="takes layers",
    got="got the class GlobalAvgPool",
    do=r"write GlobalAvgPool\(\.\.\.\)",
)
def class_for_an_instance():
    fn.Sequential(fn.Conv(3, 3), fn.GlobalAvgPool)


@mistake(
    TypeError,
    where="Sequential takes",
    takes=r"takes layers, functions, and \(name, layer\) pairs",
    got=r"got float32\[4,8\]",
    do=r"give the function itself, jax\.nn\.relu",
)
def activation_that_was_called():
    fn.Sequential(fn.Dense(3), jax.nn.relu(X))


@mistake(
    TypeError,
    where="Sequential takes",
    takes=r"names as \(name, layer\)",
    got=r"got \(Dense\(3\), 'head'\)",
    do="put the name first",
)
def name_after_the_layer():
    fn.Sequential((fn.Dense(3), "head"))


@mistake(
    TypeError,
    where="Dense has",
    takes="it has features, use_bias",
    got="no field 'use_bais'",
    do=r"did you mean 'use_bias'\?",
)
def misspelt_keyword():
    fn.Dense(3, use_bais=False)


@mistake(
    TypeError,
    where="Dense takes",
    takes="takes features, use_bias",
    got="got no features",
    do=r"write Dense\(features=\.\.\.\)",
)
def no_width():
    fn.Dense()


@mistake(
    ValueError,
    where="Dense takes",
    takes="use_bias as True or False",
    got="got 16",
    do="the input's comes from the sample",
)
def width_of_the_input():
    fn.Dense(8, 16)


@mistake(
    ValueError,
    where="Dense takes",
    takes="features as a whole number",
    got=r"got 5\.0",
    do=r"Dense\(256\)",
)
def width_that_is_a_float():
    fn.Dense(10 / 2)


@mistake(
    ValueError,
    where="Conv takes",
    takes="strides as a whole number",
    got=r"got 2\.0",
    do="Write strides=3",
)
def strides_that_are_floats():
    fn.Conv(4, 3, strides=2.0)


@mistake(
    ValueError,
    where="Conv takes",
    takes="padding as 'SAME'",
    got="got 'same'",
    do="Names are in capitals",
)
def padding_in_small_letters():
    fn.Conv(4, 3, padding="same")


@mistake(
    ValueError,
    where="Dropout takes",
    takes=r"rate as the share of values dropped, in \[0, 1\)",
    got=r"got 1\.5",
    do="rate=1 - keep",
)
def rate_above_one():
    fn.Dropout(1.5)


@mistake(
    ValueError,
    where="BatchNorm takes",
    takes="momentum as the weight of the old statistics, from 0 to 1",
    got=r"got 1\.5",
    do="It is 1 minus PyTorch's",
)
def momentum_above_one():
    fn.BatchNorm(momentum=1.5)


@mistake(
    TypeError,
    where="Dense takes",
    takes=r"kernel_init as an initialiser, a function \(key, shape, dtype\) -> array",
    got="got 'zeros'",
    do=r"Such as initializers\.Normal\(0\.02\)",
)
def initialiser_by_name():
    fn.Dense(3, kernel_init="zeros")


@mistake(
    ValueError,
    where=r"in layer attend: Attention\(3\)",
    takes="takes features that its heads divide",
    got=r"got 8 features in float32\[2,5,8\]",
    do="take a divisor of 8 for heads",
)
def heads_that_do_not_divide():
    fn.Sequential(("attend", fn.Attention(3))).init(KEY, SEQUENCES)


@mistake(
    ValueError,
    where=r"in layer block: Residual\(Dense\(4\)\)",
    takes="they have one shape",
    got=r"float32\[4,8\] became float32\[4,4\]",
    do="A composite of your own adds a projection",
)
def residual_that_changes_the_width():
    fn.Sequential(("block", fn.Repeat(fn.Residual(fn.Dense(4)), 2))).init(KEY, X)


@mistake(
    ValueError,
    where=r"in layer blocks: Repeat\(Dense\(4\), 2\)",
    takes="the body keeps shape and dtype",
    got=r"float32\[4,8\] became float32\[4,4\]",
    do="A layer that changes them stands before or after it",
)
def repeat_that_changes_the_width():
    fn.Sequential(("blocks", fn.Repeat(fn.Dense(4), 2))).init(KEY, X)


@mistake(
    ValueError,
    where="Repeat takes",
    takes="n as a whole number",
    got=r"got Dense\(8\)",
    do=r"It comes after the layer: Repeat\(layer, 3\)",
)
def number_before_the_layer():
    fn.Repeat(3, fn.Dense(8))


@mistake(
    ValueError,
    where=r"in layer mix: Parallel\(",
    takes="merge='sum' takes outputs of one shape",
    got=r"a: float32\[4,3\]\n  b: float32\[4,4\]",
    do="Make them alike, or take merge='tuple'",
)
def branches_that_cannot_merge():
    fn.Sequential(("mix", fn.Parallel(("a", fn.Dense(3)), ("b", fn.Dense(4)), merge="sum"))).init(KEY, X)


@mistake(
    ValueError,
    where=r"in layer d: Dense\(9\)",
    takes="a name stands for one set of arrays",
    got=r"Dense\(8\) .* declares d/kernel float32\[8,8\](.|\n)*Dense\(9\) .* declares d/kernel float32\[8,9\]",
    do="Give the layers different names, or make them agree",
)
def two_layers_under_one_name():
    fn.Sequential(("d", fn.Dense(8)), jax.nn.relu, ("d", fn.Dense(9))).init(KEY, X)


@mistake(
    ValueError,
    where="Sequential: a name",
    takes="a non-empty string without '/', '.', ':' and '@'",
    got="got 'enc/dense'",
    do="A path is made by layers in layers",
)
def path_as_a_name():
    fn.Sequential(("enc/dense", fn.Dense(8)))


@mistake(
    AttributeError,
    where=r"Dense\.features cannot be set",
    takes="values never change",
    got="features cannot be set",
    do=r"dataclasses\.replace\(value, features=\.\.\.\)",
)
def net_that_is_mutated():
    MLP["head"].features = 5


@mistake(
    TypeError,
    where=r"Sequential\(Dense\(16\), .*\) \(built at",
    takes="values never change",
    got="cannot be changed in place",
    do=r"fn\.rewrite\.replace\(net, \{'head': layer\}\)",
)
def child_that_is_replaced_in_place():
    MLP["head"] = fn.Dense(3)


@mistake(
    TypeError,
    where=r"Scale\.factor holds",
    takes="a layer holds no arrays",
    got=r"an array, float32\[8\]",
    do=r"fn\.Param if it is learned; wrap it in fn\.Constant",
)
def array_in_a_field():
    class Scale(fn.Layer):
        factor: Any

        def forward(self, p, x):
            return x * self.factor

    Scale(jnp.ones(8))


@mistake(
    KeyError,
    where=r"Sequential\(Dense\(16\)",
    takes="its children are dense_0, relu_0, head",
    got="no child 'haed'",
    do=r"did you mean 'head'\?",
)
def misspelt_child_of_a_net():
    MLP["haed"]


# Forward functions


class Wrong(fn.Composite):
    """A composite whose forward is what a mistake makes it."""

    hidden: fn.Layer = fn.Dense(8)


def wrong(forward):
    return fn.Sequential(("net", type("Net", (Wrong,), {"__annotations__": {}, "forward": forward})()))


@mistake(
    TypeError,
    where=r"in layer net: Net\(\)",
    takes=r"is a value, not a function of its inputs",
    got=r"Dense\(8\) \(built at",
    do=r"m\.hidden\(x\), not self\.hidden\(x\)",
)
def self_for_m():
    wrong(lambda self, m, x: self.hidden(x)).init(KEY, X)


@mistake(
    AttributeError,
    where=r"in layer net: Net\(\)",
    takes="it has hidden",
    got="no child or field 'hiden'",
    do=r"did you mean 'hidden'\?",
)
def misspelt_child():
    wrong(lambda self, m, x: m.hiden(x)).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer net: Net\(\)",
    takes="no array to compute with",
    got=r"<net/hidden: Dense\(8\).* is a layer",
    do=r"call it, .* m\.name\(x\)",
)
def child_that_is_not_called():
    wrong(lambda self, m, x: x + m.hidden).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer net: Net\(\)",
    takes="no array to compute with",
    got=r"Dense\(8\) \(built at .* is a layer",
    do=r"a child is m's, m\.name\(x\)",
)
def self_for_m_in_a_product():
    wrong(lambda self, m, x: x * self.hidden).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer net: Net\(\)",
    takes="where an array is taken",
    got=r"funcnets\.bound\.Bound",
    do=r"call it, m\.name\(x\)",
)
def child_given_to_a_function():
    wrong(lambda self, m, x: jnp.tanh(m.hidden)).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer net: Net\(\)",
    takes="where an array is taken",
    got=r"got <class 'funcnets\.layers\.linear\.Dense'>",
    do=r"call it, m\.name\(x\)",
)
def layer_given_to_a_function():
    wrong(lambda self, m, x: jax.nn.gelu(self.hidden)).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer net: Net\(\)",
    takes="return what it gives",
    got=r"forward returns the layer <net/hidden: Dense\(8\).*> itself",
    do=r"m\.name\(x\)",
)
def child_that_is_returned():
    wrong(lambda self, m, x: m.hidden).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer out: Dense\(3\)",
    takes=r"takes one array \(\.\.\., in\)",
    got="got None",
    do="None is also what a function without a return gives",
)
def forward_without_return():
    def forward(m, x):
        m.hidden(x)

    fn.Sequential(fn.compose(hidden=fn.Dense(8))(forward), ("out", fn.Dense(3))).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer net: Net\(\)",
    takes=r"takes \(\)",
    got=r"got float32\[4,8\]: too many",
    do=r"def forward\(self, m, x\)",
)
def composite_without_m():
    wrong(lambda self, x: x).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer double: Double\(\)",
    takes=r"takes \(\)",
    got=r"got float32\[4,8\]: too many",
    do=r"def forward\(self, p, x\)",
)
def leaf_without_p():
    class Double(fn.Layer):
        def forward(self, x):
            return 2 * x

    fn.Sequential(("double", Double())).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer net/hidden: Param\(",
    takes=r"takes \(\)",
    got=r"got float32\[4,8\]: too many",
    do="a Param is called without any",
)
def param_called_with_inputs():
    class Net(Wrong):
        hidden: fn.Layer = fn.Param((8,), fn.initializers.Ones())

        def forward(self, m, x):
            return m.hidden(x)

    fn.Sequential(("net", Net())).init(KEY, X)


@mistake(
    TypeError,
    where="Net is a composite",
    takes="its arrays are its children's",
    got="declares params",
    do=r"a field that holds fn\.Param\(shape, initializer\)",
)
def params_of_a_composite():
    class Net(fn.Composite):
        def params(self, x):
            return {"scale": fn.Param((8,), fn.initializers.Ones())}

        def forward(self, m, x):
            return x


@mistake(
    TypeError,
    where="in layer sum: Sum",
    takes=r"declare each array as fn\.Param\(shape, initializer\)",
    got=r"got float32\[8,3\]",
    do=r"sum/kernel: .* fn\.Param",
)
def arrays_for_declarations():
    class Sum(fn.Layer):
        def params(self, x):
            return {"kernel": jnp.zeros((8, 3))}

        def forward(self, p, x):
            return x @ p["kernel"]

    fn.Sequential(("sum", Sum())).init(KEY, X)


@mistake(
    TypeError,
    where="in layer mean: Mean",
    takes=r"names state, so it returns \(output, new state\)",
    got=r"it returned float32\[4,8\]",
    do=r"returns \(output, new state\)",
)
def forgot_to_return_the_state():
    class Mean(fn.Layer):
        def states(self, x):
            return {"mean": fn.Param((8,), fn.initializers.Zeros())}

        def forward(self, p, x, *, state):
            return x

    fn.Sequential(("mean", Mean())).init(KEY, X)


@mistake(
    AttributeError,
    where=r"Net\.hidden cannot be set",
    takes="A field is declared in the class, hidden: type",
    got=r"Net\.hidden cannot be set",
    do=r"Net\(hidden=\.\.\.\)",
)
def children_set_in_init():
    class Net(fn.Composite):
        def __init__(self, width):
            self.hidden = fn.Dense(width)

    Net(3)


@mistake(
    TypeError,
    where=r"Net\.sizes",
    takes="write a tuple",
    got="has a list for its default",
    do="write a tuple",
)
def list_for_a_default():
    class Net(fn.Composite):
        sizes: Any = [1, 2]


@mistake(
    TypeError,
    where=r"Net\.layers holds",
    takes=r"write a tuple of \(name, value\) pairs",
    got="holds a dict",
    do="write a tuple",
)
def layers_in_a_dict():
    class Net(fn.Composite):
        layers: Any

    Net({"a": fn.Dense(3)})


@mistake(
    jax.errors.TracerBoolConversionError,
    where=r"in layer net: Net\(\)",
    takes="arrays have no values",
    got=r"traced array with shape bool\[\]",
    do=r"choose with jnp\.where or jax\.lax\.cond",
)
def choice_by_value():
    wrong(lambda self, m, x: x if x.sum() > 0 else -x).init(KEY, X)


@mistake(
    TypeError,
    where=r"in layer blocks: Net\(\)",
    takes="add got incompatible shapes for broadcasting",
    got=r"\(4, 8\), \(4, 3\)(.|\n)*called with float32\[4,8\]",
    do=r"built at tests",
)
def shapes_that_do_not_add():
    net = wrong(lambda self, m, x: m.hidden(x) + jnp.ones((4, 3)))["net"]
    fn.Sequential(("blocks", fn.Repeat(fn.Remat(net), 2))).init(KEY, X)


# Cells over time


@mistake(
    TypeError,
    where=r"in layer rnn: Scan\(Dense\(8\)\)",
    takes="give the carry to start from",
    got=r"the cell has no initial_carry\(x\)",
    do="A layer that is no cell, .* takes .* as it is, without a Scan",
)
def scan_of_no_cell():
    fn.Sequential(("rnn", fn.Scan(fn.Dense(8)))).init(KEY, SEQUENCES)


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): LSTMCell\(8\)",
    takes=r"takes a carry \(float32\[2,8\], float32\[2,8\]\)",
    got=r"got float32\[2,8\]\.",
    do=r"Start from cell\.initial_carry\(x\)",
)
def wrong_carry(run):
    net = fn.Scan(fn.LSTMCell(8))
    run(net.apply)(net.init(KEY, SEQUENCES), jnp.zeros((2, 8)), SEQUENCES)


@mistake(
    TypeError,
    where=r"in layer lstm_cell_0: LSTMCell\(8\)",
    takes=r"takes \(carry, x\)",
    got=r"got float32\[2,5,8\]",
    do=r"over time it runs inside fn\.Scan",
)
def cell_without_a_scan():
    fn.Sequential(fn.LSTMCell(8)).init(KEY, SEQUENCES)


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): Scan\(GRUCell\(8\)\)",
    takes="takes lengths as an array of whole numbers, one for each row",
    got=r"got \[5, 3\]",
    do=r"lengths=jnp\.asarray\(lengths\)",
)
def lengths_in_a_list():
    net = fn.Scan(fn.GRUCell(8))
    net.apply(net.init(KEY, SEQUENCES), SEQUENCES, lengths=[5, 3])


# Paths


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): tie\(",
    takes="it has dense_0/kernel, dense_0/bias, head/kernel, head/bias",
    got="no parameter 'head/kernell'",
    do=r"did you mean 'head/kernel'\?",
)
def tie_to_a_path_that_is_not_there():
    fn.tie(MLP, "head/kernell", to="dense_0/kernel").init(KEY, X)


@mistake(
    ValueError,
    where=r"in layer \(the net itself\): tie\(",
    takes=r"'head/kernel' is float32\[8,10\]",
    got=r"'embed/table', float32\[10,8\], unchanged, is float32\[10,8\]",
    do="give via= a function",
)
def tie_of_other_shapes():
    net = fn.Sequential(("embed", fn.Embedding(10, 8)), ("head", fn.Dense(10, use_bias=False)))
    fn.tie(net, "head/kernel", to="embed/table").init(KEY, IDS)


@mistake(
    ValueError,
    where="'blokcs'",
    takes="there are '', 'stem', 'blocks'",
    got="the pattern 'blokcs' matches no layer",
    do=r"did you mean 'blocks'\?",
)
def misspelt_path_to_replace():
    fn.rewrite.replace(BLOCKS, {"blokcs": fn.Identity()})


@mistake(
    ValueError,
    where=r"head: Dense\(4\)",
    takes="it has features, use_bias",
    got="has no field 'feature'",
    do=r"did you mean 'features'\?",
)
def misspelt_field_to_replace():
    fn.rewrite.replace(MLP, {"head": {"feature": 3}})


@mistake(
    TypeError,
    where="relu_0: a replacement",
    takes="a replacement is a layer, a function old layer -> new layer, or new values of fields",
    got=r"jax\.nn\.gelu of .* raised a TypeError",
    do=r"write lambda _: jax\.nn\.gelu",
)
def function_for_a_function():
    fn.rewrite.replace(MLP, {jax.nn.relu: jax.nn.gelu})


@mistake(
    ValueError,
    where="'blocks/dense_0'",
    takes="there are '', 'stem', 'blocks'",
    got="matches no layer",
    do=r"did you mean 'blocks'\?",
)
def misspelt_path_to_capture():
    fn.capture(BLOCKS, "blocks/dense_0")


@mistake(
    ValueError,
    where="'stme'",
    takes="there are '', 'stem', 'blocks'",
    got="matches no layer",
    do=r"did you mean 'stem'\?",
)
def misspelt_path_to_edit():
    fn.edit(BLOCKS, {"stme": 0.0})


@mistake(
    TypeError,
    where="^TypeError: summary is called",
    takes=r"summary\(net, x\)",
    got=r"got parameters among the inputs, \{'dense_0'.*, float32\[4,8\]",
    do="leave them out",
)
def params_to_summary():
    fn.summary(MLP, PARAMS, X)


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes=r"draw takes inputs of the net, draw\(net, x\)",
    got="got none",
    do=r"give a sample, an array or its jax\.ShapeDtypeStruct",
)
def draw_without_a_sample():
    fn.draw(MLP)


@mistake(
    TypeError,
    where="^TypeError: capture takes what to keep",
    takes="a pattern of paths, a class, a layer or a function",
    got=r"got \{'dense_0'",
    do=r"go to the function that it returns, capture\(net\)\(params, x\)",
)
def params_to_capture():
    fn.capture(MLP, PARAMS)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes=r"params comes first and is a dict",
    got=r"got float32\[4,8\]",
    do=MAKE_PARAMS,
)
def input_before_params_of_a_captured_net(run):
    run(fn.capture(MLP))(X, PARAMS)


@mistake(
    TypeError,
    where="^TypeError: edit takes the net first",
    takes=r"edit\(net, \{'path': new\}\)",
    got=r"got \{'head': 0\.0\}",
    do="give the layer itself",
)
def edits_before_the_net():
    fn.edit({"head": 0.0}, MLP)


@mistake(
    TypeError,
    where="^TypeError: check is called",
    takes=r"check\(net, params, x\)",
    got=r"got parameters among the inputs, float32\[4,8\], \{'dense_0'",
    do="they come right after the net",
)
def input_before_params_to_check():
    fn.check(MLP, X, PARAMS)


@mistake(
    TypeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes=r"check takes inputs of the net, check\(net, params, x\)",
    got=r"got float32\[4,8\] and no inputs",
    do="give them last",
)
def forgot_params_to_check():
    fn.check(MLP, X)


@mistake(
    TypeError,
    where="^TypeError: check takes the net first",
    takes=r"check\(net, params, x\)",
    got="got <apply of sequential>",
    do=r"the layer itself, neither net\.apply nor params",
)
def apply_to_check():
    fn.check(MLP.apply, PARAMS, X)


@mistake(
    TypeError,
    where="^TypeError: check takes a loss",
    takes="that gives one floating number",
    got=r"got float32\[4\]",
    do="take its mean",
)
def loss_of_every_row_to_check():
    fn.check(MLP, PARAMS, X, loss=lambda y: (y**2).sum(-1))


@mistake(
    RuntimeError,
    where="^RuntimeError: check",
    takes="looks at numbers",
    got="got tracers",
    do="call it outside",
)
def check_inside_jit():
    jax.jit(lambda params: fn.check(MLP, params, X).first is None)(PARAMS)


@mistake(
    ValueError,
    where=r"in layer encoder: Freeze\(",
    takes="there are .*'head/kernel', 'head/bias'",
    got=r"the pattern 'haed/\*\*' matches no parameter that Freeze holds",
    do=r"there are",
)
def misspelt_pattern_to_train():
    fn.Sequential(("encoder", fn.Freeze(MLP, but="haed/**"))).init(KEY, X)


# Training, files, generation


BATCH = {"x": X, "y": jnp.zeros(4, jnp.int32)}
SGD = optax.sgd(0.1)


def loss(model, batch):
    return optax.softmax_cross_entropy_with_integer_labels(model(batch["x"]), batch["y"]).mean()


def start():
    return train.create(MLP, SGD, jax.random.key(1), X)


@mistake(
    TypeError,
    where="make_step takes",
    takes=r"a function loss\(model, batch\)",
    got="got a GradientTransformation",
    do=r"\(net, loss, \.\.\.\), in this order",
)
def optimizer_before_the_loss():
    train.make_step(MLP, SGD, loss)


@mistake(
    TypeError,
    where="make_step takes",
    takes="takes the net first",
    got="got <apply of sequential>",
    do="give the layer itself",
)
def apply_for_the_net():
    train.make_step(MLP.apply, loss, SGD)


@mistake(
    TypeError,
    where="an optimizer",
    takes="is one of optax's",
    got="got a function",
    do=r"such as optax\.adam\(1e-3\), called already",
)
def optimizer_that_is_not_called():
    train.create(MLP, optax.adam, KEY, X)


@mistake(
    TypeError,
    where="a loss",
    takes="is one floating number",
    got=r"got float32\[4\]",
    do="take its mean",
)
def loss_that_is_a_vector():
    train.make_step(MLP, lambda model, batch: model(batch["x"]).mean(-1), SGD)(start(), BATCH)


@mistake(
    TypeError,
    where="a loss returns",
    takes=r"\(loss, metrics\) with a dict of these",
    got=r"got float32\[\]",
    do="write {'accuracy': accuracy}",
)
def metrics_without_names():
    train.make_step(MLP, lambda model, batch: (loss(model, batch),) * 2, SGD)(start(), BATCH)


@mistake(
    TypeError,
    where="make_step takes",
    takes=r"a function loss\(model, batch\)",
    got=r"got one of \(model, x, y\)",
    do="a batch is one tree",
)
def loss_of_two_arrays():
    train.make_step(MLP, lambda model, x, y: loss(model, {"x": x, "y": y}), SGD)


@mistake(
    TypeError,
    where=r"in layer \(the net itself\): Sequential\(Dense\(16\)",
    takes="holds its parameters already",
    got="params is a model",
    do=r"call it, model\(x\)",
)
def loss_that_applies_the_net():
    train.make_step(MLP, lambda params, batch: MLP.apply(params, batch["x"]).mean(), SGD)(start(), BATCH)


@mistake(
    ValueError,
    where="this state",
    takes="go on with the state that it returned",
    got="was consumed by an earlier step",
    do=r"state, metrics = step\(state, batch\)",
)
def state_that_was_consumed():
    state, step = start(), train.make_step(MLP, loss, SGD)
    step(state, BATCH)
    step(state, BATCH)


@mistake(
    RuntimeError,
    where=r"in layer dense_0: Dense\(16\)",
    takes="take what it returned",
    got="Array has been deleted",
    do="a step consumed these arrays, .* take what it returned",
)
def params_that_were_consumed():
    state = start()
    train.make_step(MLP, loss, SGD)(state, BATCH)
    MLP.apply(state.params, X)


@mistake(
    ValueError,
    where="the optimizer's state",
    takes="make both with the same one",
    got="is of another optimizer than make_step was given",
    do=r"train\.create\(net, optimizer, key, \*sample\)",
)
def another_optimizer():
    train.make_step(MLP, loss, optax.adam(0.1))(start(), BATCH)


@mistake(
    TypeError,
    where="evaluate takes",
    takes="takes a TrainState",
    got=r"got \{'dense_0'",
    do=r"train\.create\(net, optimizer, key, \*sample\)",
)
def params_for_a_train_state():
    train.evaluate(MLP, lambda model, batch: {"mean": model(batch["x"]).mean(-1)}, PARAMS, [BATCH])


@mistake(
    TypeError,
    where="for 'mean'",
    takes="measure returns one number an example, a vector",
    got=r"got float32\[\]",
    do="evaluate takes the means",
)
def metric_that_is_a_mean():
    train.evaluate(MLP, lambda model, batch: {"mean": model(batch["x"]).mean()}, start(), [BATCH])


@mistake(
    ValueError,
    where="batches takes",
    takes="arrays with one length of their first axes",
    got=r"got \{'x': float64\[5,2\], 'y': float64\[4\]\}",
    do="cut them to the same examples",
)
def batches_of_unequal_lengths():
    train.batches({"x": np.ones((5, 2)), "y": np.ones(4)}, 2)


@mistake(
    ValueError,
    where="dense_0/bias: checkpoint",
    takes="restore takes a tree like the one saved",
    got=r"dense_0/kernel: checkpoint float32\[8,16\], model float32\[8,8\]",
    do="Restore into what was saved, or what fits",
)
def checkpoint_of_another_net(directory):
    with fn.Checkpoints(directory) as checkpoints:
        checkpoints.save(0, PARAMS)
        checkpoints.restore(NORMED.init(KEY, X))


@mistake(
    TypeError,
    where=r"net is Sequential\(Dense\(16\)",
    takes="a checkpoint takes arrays",
    got="a value without any",
    do=r"save its parameters, and the net itself as fn\.files\.to_config\(net\)",
)
def checkpoint_of_a_net(directory):
    with fn.Checkpoints(directory) as checkpoints:
        checkpoints.save(0, {"net": MLP, "params": PARAMS})


@mistake(
    ValueError,
    where="dense_0/bias: file",
    takes="load_tree takes a tree like the one saved",
    got=r"dense_0/kernel: file float32\[8,16\], model float32\[8,8\]",
    do="Load into the model that was saved",
)
def file_of_another_net(directory):
    fn.files.save_tree(f"{directory}.npz", PARAMS)
    fn.files.load_tree(f"{directory}.npz", NORMED.init(KEY, X))


@mistake(
    TypeError,
    where=r"save_tree\(path, tree\)",
    takes="takes the name of a file first",
    got=r"got \{'dense_0': \{'kernel': float32",
    do=r"a string or pathlib\.Path",
)
def tree_before_the_name_of_its_file():
    fn.files.save_tree(PARAMS, "model.npz")


@mistake(
    ValueError,
    where=r"\.npz is an archive without",
    takes="load_tree reads what save_tree wrote",
    got=r"without a tree\.json",
    do=r"read with numpy\.load",
)
def file_of_numpy(directory):
    np.savez(f"{directory}.npz", x=X)
    fn.files.load_tree(f"{directory}.npz")


@mistake(
    TypeError,
    where=r"net\.layers\[1\]",
    takes="define it with def at module level",
    got=r"the function .*<lambda>",
    do=r"fn\.files\.register it",
)
def lambda_in_a_net_to_be_saved():
    fn.files.to_config(fn.Sequential(fn.Dense(3), lambda x: 2 * x))


@mistake(
    pickle.PicklingError,
    where="<lambda>",
    takes="Define it with def at the top of a module",
    got="is a lambda",
    do="Define it with def",
)
def lambda_in_a_net_to_be_pickled():
    pickle.dumps(fn.Sequential(fn.Dense(3), lambda x: 2 * x))


def decoder(cache=None):
    attention = fn.Attention(2, causal=True, rope=fn.rotary, cache=cache)
    return fn.Sequential(("embed", fn.Embedding(10, 8)), fn.TransformerBlock(attention), ("embed", fn.Unembed()))


@mistake(
    ValueError,
    where="generate takes",
    takes="a net that carries state from id to id",
    got="got one without state",
    do="Build the decoding net, with cache=n",
)
def generation_without_a_cache():
    fn.generate(decoder(), decoder().init(KEY, IDS), IDS, 3)


@mistake(
    ValueError,
    where="in transformer_block_0/attention/cache",
    takes="takes a cache for the prompt and all new ids but the last, 13",
    got="got 6",
    do="Build the net with a cache of that length",
)
def generation_beyond_the_cache():
    fn.generate(decoder(6), decoder().init(KEY, IDS), IDS, 9)


@mistake(
    TypeError,
    where="generate takes",
    takes=r"a prompt \(batch, time\) of whole numbers",
    got=r"got float32\[2,5\]",
    do=r"jnp\.asarray\(ids\)\[None\]",
)
def prompt_of_floats():
    fn.generate(decoder(16), decoder().init(KEY, IDS), IDS.astype(jnp.float32), 3)


# What is said of them


def parameters(made):
    return list(inspect.signature(made.make).parameters)


CASES = [
    pytest.param(made, jit, id=f"{made.make.__name__}{'_jitted' if jit else ''}")
    for made in MISTAKES
    for jit in ([False, True] if parameters(made) == ["run"] else [False])
]


def at_once(function):
    return function


def caught(made, jit, directory):
    given = {"run": jax.jit if jit else at_once, "directory": str(directory)}
    with pytest.raises(made.error) as caught:
        made.make(*(given[name] for name in parameters(made)))
    return caught.value


@pytest.mark.parametrize(("made", "jit"), CASES)
def test_a_mistake_is_told_by_where_it_is_what_is_taken_what_was_got_and_what_to_do(made, jit, tmp_path):
    error = caught(made, jit, tmp_path)
    text = "".join(traceback.format_exception_only(error))
    for part in (made.where, made.takes, made.got, made.do):
        assert re.search(part, text), f"{part!r} is not in:\n{text}"
    first = text.splitlines()[0]
    assert len(first) <= 400, text
    assert not re.search(r"jaxlib|_src|Misfit", first), text
    assert "Array(" not in text, text
    assert max(map(len, text.splitlines())) <= 500, text
    ours = [note for note in getattr(error, "__notes__", ()) if note.startswith("in layer ")]
    assert len(ours) == ("in layer" in made.where or bool(ours)), text
    assert error.__cause__ is None or made.make is function_for_a_function  # nothing else is read before it


def test_there_are_mistakes_enough():
    names = [made.make.__name__ for made in MISTAKES]
    assert len(names) == len(set(names))
    assert len(names) >= 50
    assert sum(parameters(made) == ["run"] for made in MISTAKES) >= 10


# The note


def test_the_note_tells_where_the_layer_was_built_which_is_no_part_of_the_layer():
    line = inspect.currentframe().f_lineno + 1
    net = fn.Sequential(fn.Dense(7), ("head", fn.Dense(5)))
    other = fn.Sequential(fn.Dense(7), ("head", fn.Dense(6)))
    for built, at in ((net, line), (other, line + 1)):
        with pytest.raises(ValueError, match="belong together") as caught:
            built.apply(built.init(KEY, X), WIDE)
        (note,) = (note for note in caught.value.__notes__ if note.startswith("in layer "))
        place = os.path.join("tests", "test_errors.py")
        assert note.splitlines() == [
            f"in layer dense_0: Dense(7) (built at {place}:{at})",
            "  called with float32[4,9]",
        ]
    assert net[0] == other[0]
    assert hash(net[0]) == hash(other[0])
    assert net == fn.Sequential(fn.Dense(7), ("head", fn.Dense(5)))
    assert net[0] is not other[0]


def test_the_note_is_of_the_innermost_layer_alone():
    def fails(x):
        raise ArithmeticError("its own words")

    inner = fn.Sequential(("last", fails))
    net = fn.Sequential(("outer", fn.Repeat(fn.Remat(fn.Residual(inner)), 2)))
    with pytest.raises(ArithmeticError, match="^its own words") as caught:
        net.init(KEY, X)
    notes = [note for note in caught.value.__notes__ if note.startswith("in layer ")]
    assert len(notes) == 1
    assert notes[0].startswith("in layer outer/last: ")
    assert notes[0].endswith("called with float32[4,8], while shapes are planned")


def test_an_error_is_raised_where_it_came_from():
    @fn.compose(hidden=fn.Dense(8))
    def net(m, x):
        return m.hidden(x)  # this line is in the traceback

    with pytest.raises(ValueError, match="belong together") as caught:
        net.apply(net.init(KEY, X), WIDE)
    lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert any("this line is in the traceback" in line for line in lines)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
