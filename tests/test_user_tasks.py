"""Programs a user would write, run with assertions; the statements of each are counted from this file's own syntax
tree.
"""

import ast
import inspect
import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import floats
from trees import assert_same

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


IDS = jnp.arange(16).reshape(2, 8)


@pytest.fixture
def standard_promotion():
    """optax's Adam raises a float to a whole power, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# Parameters as data


@within(10)
def test_an_embedding_and_a_transposed_head_tied_across_nested_blocks():
    encoder = fn.Sequential(("embed", fn.Embedding(32, 16)), ("block", fn.Residual(fn.Dense(16))))
    decoder = fn.Sequential(("block", fn.Residual(fn.Dense(16))), ("head", fn.Dense(32, use_bias=False)))
    both = fn.Sequential(("encoder", encoder), ("decoder", decoder))
    net = fn.tie(both, "decoder/head/kernel", to="encoder/embed/table", via=jnp.transpose)
    params = net.init(key, jnp.zeros((1, 8), int))
    gradient = jax.grad(lambda p: net.apply(p, jnp.arange(8)[None]).sum())(params)
    assert "head" not in params["decoder"]
    assert gradient["encoder"]["embed"]["table"].shape == (32, 16)
    assert (gradient["encoder"]["embed"]["table"][8:] != 0).any()  # through the head: these ids were not embedded


def squared(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)


NET = fn.Sequential(
    ("encoder", fn.Sequential(fn.Dense(8), fn.LayerNorm(), jax.nn.relu)),
    ("block_1", fn.Dense(8)),
    ("block_2", fn.Dense(8)),
    ("head", fn.Dense(2)),
)
BATCH = {"x": floats(16, 3), "y": floats(16, 2)}
TRAINED = NET.init(jax.random.key(5), BATCH["x"])


@pytest.mark.usefixtures("standard_promotion")
@within(5)
def test_an_encoder_frozen_and_a_head_trained_without_state_for_it(net=NET, batch=BATCH, params=TRAINED):
    net = fn.rewrite.replace(net, {"encoder": fn.Freeze})
    state = fn.train.create(net, optax.adamw(1e-2), key, batch["x"], params=params)
    step = fn.train.make_step(net, squared, optax.adamw(1e-2))
    for _ in range(3):
        state, _ = step(state, batch)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state.params["encoder"], params["encoder"]))
    assert not jnp.array_equal(state.params["head"]["kernel"], params["head"]["kernel"])
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == 2 * (2 * (8 * 8 + 8) + 8 * 2 + 2) + 1


@within(1)
def test_another_initialiser_for_one_block(net=NET, x=BATCH["x"]):
    net = fn.rewrite.with_init(net, {"block_2/kernel": fn.initializers.Constant(0.5)})
    assert (net.init(key, x)["block_2"]["kernel"] == 0.5).all()
    assert jnp.array_equal(net.init(key, x)["block_1"]["kernel"], NET.init(key, x)["block_1"]["kernel"])


@within(1)
def test_a_head_of_another_size_on_a_trained_net(net=NET, params=TRAINED, x=BATCH["x"]):
    new = fn.rewrite.migrate(net, fn.rewrite.replace(net, {"head": {"features": 5}}), params, key, x).params
    assert new["head"]["kernel"].shape == (8, 5)
    assert all(fn.params.get(new, path) is array for path, array in fn.params.paths(params) if path[:4] != "head")


@within(3)
def test_twelve_layers_scanned_rematerialised_and_with_dropout_in_each():
    block = fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(8), jax.nn.gelu, fn.Dropout(0.1)))
    net = fn.Repeat(fn.Remat(block, prevent_cse=False), 12)
    y = net.apply(net.init(key, floats(4, 8)), floats(4, 8), key=key, train=True)
    assert y.shape == (4, 8)
    assert str(jax.make_jaxpr(net.apply)(net.init(key, floats(4, 8)), floats(4, 8))).count(" scan[") == 1


@within(2)
def test_an_ensemble_of_eight(net=NET, x=BATCH["x"]):
    ensemble = fn.Ensemble(net, 8)
    y = ensemble.apply(ensemble.init(key, x), x)
    assert y.shape == (8, 16, 2)
    assert len({float(member.sum()) for member in y}) == 8


@within(2)
def test_bfloat16_throughout_with_float32_parameters_and_norms(net=NET, x=BATCH["x"]):
    net = fn.Cast(
        fn.rewrite.replace(net, {fn.LayerNorm: lambda norm: fn.Cast(norm, "float32", "bfloat16")}), "bfloat16"
    )
    assert dtypes(net.init(key, x)) == {"float32"}
    assert dtypes(fn.capture(net, fn.LayerNorm)(net.init(key, x), x)[1]) == {"float32"}
    assert dtypes(fn.capture(net, ("**/dense_0", "block_*", "head"))(net.init(key, x), x)) == {"bfloat16"}


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


@pytest.fixture
def directory(tmp_path):
    """Where a trained net was saved."""
    with fn.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, TRAINED)
    return tmp_path


@within(2)
def test_the_encoder_alone_from_a_checkpoint_and_the_rest_fresh(directory, net=NET, x=BATCH["x"]):
    saved = fn.Checkpoints(directory).restore()
    new = fn.params.update(net.init(key, x), {"encoder/**": lambda path, _: fn.params.get(saved, path)})
    assert jax.tree.all(jax.tree.map(jnp.array_equal, new["encoder"], TRAINED["encoder"]))
    assert jnp.array_equal(new["head"]["kernel"], net.init(key, x)["head"]["kernel"])


def next_token(model, ids):
    return optax.softmax_cross_entropy_with_integer_labels(model(ids[:, :-1]), ids[:, 1:]).mean()


@pytest.mark.usefixtures("standard_promotion")
@within(5)
def test_lora_on_every_linear_layer_trained_and_merged(gpt=GPT, params=GPT_PARAMS, ids=IDS):
    adapted, start = fn.rewrite.lora(gpt, {"**/kernel": 2}, params, key, ids)
    state, step = fn.train.create(adapted, ADAM, key, ids, params=start), fn.train.make_step(adapted, next_token, ADAM)
    for _ in range(5):
        state, _ = step(state, ids)
    plain, merged = fn.rewrite.merge_lora(adapted, state.params, ids)
    assert plain == gpt
    assert jnp.allclose(plain.apply(merged, ids), adapted.apply(state.params, ids), rtol=1e-5, atol=1e-5)
    assert jnp.array_equal(state.params["embed"]["table"], params["embed"]["table"])
    assert {path.split("/")[-2] for path, _ in fn.params.paths(merged) if path.endswith("kernel")} >= {"query", "out"}
    assert fn.params.get(merged, QUERY).shape == (3, 16, 16)
    assert not jnp.array_equal(fn.params.get(merged, QUERY), fn.params.get(params, QUERY))


QUERY, ADAM = "transformer_block_0/attention/query/kernel", optax.adam(1e-2)


@within(3)
def test_two_architectures_compared_and_one_written_to_json_and_built_again(a=NET, b=GPT):
    difference = fn.diff(a, fn.rewrite.replace(a, {"head": {"features": 5}}))
    text = json.dumps(fn.files.to_config(b), indent=2)
    again = fn.files.from_config(json.loads(text))
    assert str(difference).split() == ["field", "head.features", "2", "->", "5"]
    assert again == b


# A run that was broken off

STEADY = fn.Sequential(fn.Dense(8), fn.BatchNorm(), jax.nn.relu, fn.Dropout(0.3), fn.Dense(1))
SLOWER = optax.adamw(optax.cosine_decay_schedule(1e-2, 20))
DATA = fn.train.batches(np.random.default_rng(0).normal(size=(40, 4)).astype("float32"), 8, jax.random.key(1))
STEP = fn.train.make_step(STEADY, lambda model, x: jnp.square(model(x)[:, 0] - x[:, 0] * x[:, 1]).mean(), SLOWER)


def start():
    return fn.train.create(STEADY, SLOWER, key, DATA[0])


def trained(state, steps, checkpoints):
    for i in range(steps):
        state, _ = STEP(state, DATA[i])
        checkpoints.save(i + 1, state)


@pytest.fixture
def broken_off(tmp_path):
    """Where the checkpoints are of a run that ended at step 7."""
    with fn.Checkpoints(tmp_path / "broken off", every=3) as checkpoints:
        trained(start(), 7, checkpoints)
    return tmp_path / "broken off"


@pytest.fixture
def left_alone(tmp_path):
    """The state after 20 steps at one go."""
    with fn.Checkpoints(tmp_path / "left alone", every=20) as checkpoints:
        trained(start(), 20, checkpoints)
        return checkpoints.restore(start())


def same(found, expected):
    assert_same(found, expected)  # which says where they differ
    return True


@pytest.mark.usefixtures("standard_promotion")  # a schedule of optax's mixes dtypes
@within(3)
def test_a_run_resumed_to_the_bit(broken_off, left_alone, step=STEP, data=DATA):
    state = fn.Checkpoints(broken_off).resume(start())
    for i in range(int(state.step), 20):
        state, _ = step(state, data[i])
    assert fn.Checkpoints(broken_off).steps() == (3, 6)
    assert same(state, left_alone)


# The inside of a net


@within(1)
def test_all_intermediates_by_name(gpt=GPT, params=GPT_PARAMS, ids=IDS[:1]):
    logits, seen = jax.jit(fn.capture(gpt, "**"))(params, ids)
    assert seen["transformer_block_0/attention"].shape == (3, 1, 8, 16)
    assert jnp.array_equal(logits, jax.jit(gpt.apply)(params, ids))


@within(2)
def test_one_activation_replaced_by_path(gpt=GPT, params=GPT_PARAMS, ids=IDS[:1]):
    edited = fn.edit(gpt, {"transformer_block_0/attention": lambda y, copy: jnp.where(copy == 1, 0.0, y)})
    logits = jax.vmap(jax.jit(edited.apply), (None, 0))(params, jnp.stack([ids, ids]))
    assert logits.shape == (2, 1, 8, 32)
    assert not jnp.array_equal(logits[0], gpt.apply(params, ids))


@within(2)
def test_the_gradient_with_respect_to_an_intermediate(gpt=GPT, params=GPT_PARAMS, ids=IDS[:1]):
    still = jax.tree.map(jnp.zeros_like, fn.capture(gpt, "**/attention")(params, ids)[1])
    gradient = jax.jit(jax.grad(lambda move: fn.edit(gpt, move, add=True).apply(params, ids).max()))(still)
    assert gradient["transformer_block_0/attention"].shape == (3, 1, 8, 16)
    assert (gradient["transformer_block_0/attention"] != 0).any(axis=(1, 2, 3)).all()


@within(1)
def test_a_table_with_shapes_and_counts(gpt=GPT, ids=IDS[:1]):
    table = fn.summary(gpt, ids)
    assert table.totals.parameters == fn.params.count(GPT_PARAMS)
    assert "×3" in str(table)


def test_the_count_counts():
    def task():
        a = 1
        if a:
            a = 2
        assert a == 2

    within(3)(task)
    with pytest.raises(AssertionError, match="takes 3 statements"):
        within(2)(task)
