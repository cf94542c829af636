"""Programs a user would write, run with assertions; the statements of each are counted from this file's own syntax
tree.
"""

import ast
import inspect
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import floats

import funcnets as fn

key = jax.random.key(0)

GPT = fn.Sequential(
    ("embed", fn.Embedding(32, 16)),
    fn.PositionEmbedding(24),
    fn.Repeat(fn.TransformerBlock(fn.Attention(2, causal=True)), 3),
    fn.LayerNorm(),
    ("embed", fn.Unembed()),
)
GPT_PARAMS = jax.jit(GPT.init)(key, jnp.zeros((1, 8), int))


def within(limit):
    """A task of at most so many statements. Those before the `# then` check are counted; asserts are not."""

    def decorate(task):
        function = ast.parse(textwrap.dedent(inspect.getsource(task))).body[0]
        counted = [
            node
            for node in ast.walk(function)
            if isinstance(node, ast.stmt) and node is not function and not isinstance(node, ast.Assert)
        ]
        assert len(counted) <= limit, f"{task.__name__} takes {len(counted)} statements, more than {limit}"
        assert any(isinstance(node, ast.Assert) for node in ast.walk(function))
        return task

    return decorate


@within(3)
def test_an_mlp_with_sizes_from_a_sample_applied_under_jit():
    net = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
    params = net.init(key, floats(2, 20))
    y = jax.jit(net.apply)(params, floats(2, 20))
    assert y.shape == (2, 10)


@within(6)
def test_a_layer_of_ones_own_with_two_parameters_in_a_sequential():
    class Affine(fn.Layer):
        def params(self, x):
            return {name: fn.Param(x.shape[-1:], fn.initializers.Normal(1.0)) for name in ("scale", "shift")}

        def forward(self, p, x):
            return x * p["scale"][None] + p["shift"][None]

    params = (net := fn.Sequential(Affine(), fn.Dense(2))).init(key, floats(4, 3))
    assert net.apply(params, floats(4, 3)).shape == (4, 2)
    assert params["affine_0"]["scale"].shape == params["affine_0"]["shift"].shape == (3,)


@within(6)
def test_a_residual_block_whose_projection_exists_only_if_widths_differ():
    @fn.compose(body=fn.Dense(8), projection=fn.Dense(8, use_bias=False))
    def block(m, x):
        y = jax.nn.relu(m.body(x))
        return y + (x if x.shape == y.shape else m.projection(x))

    same, wider = block.init(key, floats(2, 8)), block.init(key, floats(2, 4))
    y = block.apply(wider, floats(2, 4))
    assert set(same) == {"body"}
    assert set(wider) == {"body", "projection"}
    assert y.shape == (2, 8)


@within(4)
def test_one_encoder_in_two_places_counted_once():
    encoder = fn.Sequential(fn.Dense(8), jnp.tanh)
    siamese = fn.Each(("encoder", encoder), ("encoder", encoder))
    params = siamese.init(key, floats(2, 5), floats(2, 5, seed=1))
    a, b = siamese.apply(params, floats(2, 5), floats(2, 5))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 5 * 8 + 8
    assert (a == b).all()


@within(12)
def test_a_batch_norm_train_step_with_new_statistics_then_evaluation():
    net = fn.Sequential(fn.Dense(8), fn.BatchNorm(), jax.nn.relu, fn.Dense(1))
    x, y = floats(16, 3), floats(16, 1)
    params, state = net.init(key, x), net.init_state(x)
    optimizer = optax.sgd(0.1)

    def loss(params, state):
        prediction, state = net.apply(params, x, state=state, train=True)
        return jnp.mean((prediction - y) ** 2), state

    gradients, new_state = jax.grad(loss, has_aux=True)(params, state)
    updates, _ = optimizer.update(gradients, optimizer.init(params))
    params = optax.apply_updates(params, updates)
    prediction, same_state = net.apply(params, x, state=new_state)
    assert not np.allclose(new_state["batch_norm_0"]["mean"], state["batch_norm_0"]["mean"])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, new_state, same_state))
    assert prediction.shape == (16, 1)


@within(4)
def test_dropout_same_key_same_mask_and_evaluation_is_the_identity():
    net = fn.Dropout(0.5)
    x = jnp.ones((4, 8))
    first, second = (net.apply({}, x, key=key, train=True) for _ in range(2))
    assert (first == second).all()
    assert not (first == x).all()
    assert (net.apply({}, x) == x).all()


@within(4)
def test_from_a_trained_net_to_cached_decoding(gpt=GPT, params=GPT_PARAMS):
    prompt = jnp.array([[3, 1, 4], [1, 5, 9]])
    decoder = fn.rewrite.replace(gpt, {fn.Attention: {"cache": 16}, fn.PositionEmbedding: {"counting": True}})
    ids = fn.generate(decoder, params, prompt, 8)
    assert ids.shape == (2, 8)
    assert (ids[:, 1] == gpt.apply(params, jnp.concatenate([prompt, ids[:, :1]], 1))[:, -1].argmax(-1)).all()


def test_the_count_counts():
    def task():
        a = 1
        if a:
            a = 2
        assert a == 2

    within(3)(task)
    with pytest.raises(AssertionError, match="takes 3 statements"):
        within(2)(task)
