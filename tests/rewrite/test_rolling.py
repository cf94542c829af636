"""Equal layers as copies of one, and back: against the net written layer by layer."""

import copy
import re

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funcnets as fn
from funcnets.rewrite import Unrolled, find, roll, stack, unroll, unstack

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
BLOCK = fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(6), jnp.tanh))


def same(a, b):
    """Bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes() and x.shape == y.shape


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def names(row):
    return [name for name, _ in row._entries()]


# Trees


@jax.debug_key_reuse(False)  # keys are taken from the same stack twice
def test_stack_and_unstack_are_inverses_for_any_dtype():
    def tree(i):
        keys = jax.random.split(jax.random.key(i), 2)
        return {
            "a": {"half": jnp.full((2, 1), i / 3, jnp.bfloat16), "key": keys, "raw": jax.random.key_data(keys)},
            "nan": jnp.array([np.nan, -0.0, np.inf]) * (i + 1),
            "none": jnp.zeros((0, 3), jnp.int8),
            "host": np.full(2, i / 3, np.float64),
            "pair": (jnp.asarray(i, jnp.int32), jnp.array([True, i % 2 == 0])),
            "empty": {},
        }

    trees = [tree(i) for i in range(3)]
    stacked = stack(trees)
    assert stacked["a"]["key"].shape == (3, 2)
    assert stacked["host"].dtype == np.float64
    for one, again in zip(trees, unstack(stacked, 3), strict=True):
        same(one, again)
    same(stack(unstack(stacked)), stacked)
    same(jax.jit(lambda trees: stack(trees)["pair"])(trees), stacked["pair"])
    assert unstack({}, 3) == [{}, {}, {}] and stack([{}, {}]) == {}
    assert unstack({}, 0) == unstack({"a": jnp.zeros((0, 2))}) == []
    same(stack(unstack(X)), X)
    specs = [jax.ShapeDtypeStruct((2, 3), "bfloat16")] * 3
    assert stack(specs) == jax.ShapeDtypeStruct((3, 2, 3), "bfloat16") and unstack(stack(specs)) == specs


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: stack([]), ValueError, "stack takes at least one tree, got none. A Repeat of 0"),
        (
            lambda: stack([{"a": {"b": X}}, {"a": {"b": X[:2]}}]),
            ValueError,
            "but a/b is float32[4,6] in the first and float32[2,6] in number 1. They are of equal layers",
        ),
        (
            lambda: stack([{"a": X}, {"a": X}, {"a": X.astype(jnp.float16)}]),
            ValueError,
            "but a is float32[4,6] in the first and float16[4,6] in number 2",
        ),
        (lambda: stack([{"a": X}, {"b": X}]), ValueError, "but a is float32[4,6] in the first and nothing in number 1"),
        (lambda: stack([{}, {"b": X}]), ValueError, "but b is nothing in the first and float32[4,6] in number 1"),
        (
            lambda: stack([(X,), [X]]),
            ValueError,
            "trees of the same structure, got (float32[4,6]) first and [float32[4,",
        ),
        (
            lambda: stack([{"a": 1.0}]),
            TypeError,
            "stack takes trees of arrays, or of their specs, got 1.0 under a. Make it one",
        ),
        (
            lambda: stack([{"a": X}, {"a": jax.ShapeDtypeStruct((4, 6), "float32")}]),
            ValueError,
            "but a is float32[4,6] in the first and the spec float32[4,6] in number 1",
        ),
        (lambda: unstack({}), ValueError, "unstack takes n where a tree holds no array to tell it, got None"),
        (
            lambda: unstack({"a": X, "b": {"c": X[:3]}}),
            ValueError,
            "unstack takes arrays with a leading axis of 4, got float32[3,6] under b/c",
        ),
        (lambda: unstack({"a": X}, 5), ValueError, "a leading axis of 5, got float32[4,6] under a"),
        (lambda: unstack(jnp.float32(1)), ValueError, "a leading axis of one length, got float32[] under no name"),
        (lambda: unstack({}, -1), ValueError, "unstack takes n as a whole number, at least 0, got -1"),
        (lambda: unstack({}, True), ValueError, "unstack takes n as a whole number, at least 0, got True"),
        (
            lambda: unstack({"a": "text"}),
            TypeError,
            "unstack takes trees of arrays, or of their specs, got 'text' under a",
        ),
    ],
)
def test_trees_that_do_not_fit_are_named(act, error, text):
    with pytest.raises(error, match=re.escape(text)):
        act()


# Runs


def check(net, *sample, rolled=None, state=False):
    """A rolled net computes the same, and comes back bit for bit."""
    params, states = net.init(KEY, *sample), net.init_state(*sample)
    before = copy.deepcopy((params, states))
    new, moved, moved_states = roll(net, params, *sample, state=states)
    if rolled is not None:
        assert new == rolled
    declared = new.plan(*sample)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, declared.params)
    assert jax.tree.map(jnp.shape, moved_states) == jax.tree.map(jnp.shape, declared.states)
    y, after = jax.jit(net.apply)(params, *sample, state=states)
    z, moved_after = jax.jit(new.apply)(moved, *sample, state=moved_states)
    close(z, y)
    again, back, back_states = unroll(new, moved, state=moved_after)
    assert again == net
    same(back, params)
    close(back_states, after)
    same((params, states), before)  # not written into
    assert roll(net, None, *sample) == (new, None)
    assert unroll(new, None) == (net, None)
    return new, moved


@pytest.mark.parametrize(
    ("net", "rolled"),
    [
        (
            fn.Sequential(fn.Dense(6), BLOCK, BLOCK, BLOCK, jnp.tanh, ("head", fn.Dense(2))),
            fn.Sequential(fn.Dense(6), ("sequential_0-2", fn.Repeat(BLOCK, 3)), jnp.tanh, ("head", fn.Dense(2))),
        ),
        (  # the first changes the width, and the others' names stay
            fn.Sequential(fn.Dense(5), fn.Dense(5), fn.Dense(5), fn.Dense(2)),
            fn.Sequential(fn.Dense(5), ("dense_1-2", fn.Repeat(fn.Dense(5), 2)), ("dense_3", fn.Dense(2))),
        ),
        (
            fn.Sequential(*[(f"block {i}", BLOCK) for i in range(8, 12)]),
            fn.Sequential(("block 8-11", fn.Repeat(BLOCK, 4))),
        ),
        (
            fn.Sequential(*[(f"b-{i:02d}", BLOCK) for i in range(2)], jnp.tanh),
            fn.Sequential(("b-00-01", fn.Repeat(BLOCK, 2)), jnp.tanh),
        ),
        (
            fn.Sequential(*[fn.Dense(6), fn.BatchNorm(), jax.nn.relu] * 3, fn.Dense(2), fn.BatchNorm(), jax.nn.relu),
            fn.Sequential(
                ("layers_0-8", fn.Repeat(fn.Sequential(fn.Dense(6), fn.BatchNorm(), jax.nn.relu), 3)),
                ("dense_3", fn.Dense(2)),
                ("batch_norm_3", fn.BatchNorm()),
                jax.nn.relu,
            ),
        ),
        (  # twice the same layer in a group: the longest run wins
            fn.Sequential(jnp.tanh, *[fn.Dense(6), fn.Dense(6), fn.LayerNorm()] * 2),
            fn.Sequential(
                jnp.tanh, ("layers_1-6", fn.Repeat(fn.Sequential(fn.Dense(6), fn.Dense(6), fn.LayerNorm()), 2))
            ),
        ),
        (  # runs in runs, and in copies
            fn.Ensemble(fn.Sequential(*[fn.Sequential(fn.Dense(6), fn.Dense(6))] * 2, fn.Dense(2)), 3),
            fn.Ensemble(
                fn.Sequential(
                    (
                        "sequential_0-1",
                        fn.Repeat(fn.Sequential(("dense_0-1", fn.Repeat(fn.Dense(6), 2))), 2),
                    ),
                    fn.Dense(2),
                ),
                3,
            ),
        ),
        (
            fn.Remat(fn.Cast(fn.Residual(fn.Freeze(fn.Sequential(BLOCK, BLOCK))), "float32")),
            fn.Remat(
                fn.Cast(fn.Residual(fn.Freeze(fn.Sequential(("sequential_0-1", fn.Repeat(BLOCK, 2))))), "float32")
            ),
        ),
        (
            fn.Sequential(*[fn.Parametrized(fn.Dense(6), kernel=fn.WeightNorm())] * 2),
            fn.Sequential(("dense_0-1", fn.Repeat(fn.Parametrized(fn.Dense(6), kernel=fn.WeightNorm()), 2))),
        ),
        (  # two runs, functions between them
            fn.Sequential(BLOCK, BLOCK, jnp.tanh, jnp.tanh, fn.Dense(6), fn.Dense(6), jnp.tanh),
            fn.Sequential(
                ("sequential_0-1", fn.Repeat(BLOCK, 2)),
                jnp.tanh,
                jnp.tanh,
                ("dense_0-1", fn.Repeat(fn.Dense(6), 2)),
                jnp.tanh,
            ),
        ),
        (Unrolled(BLOCK, BLOCK), fn.Repeat(BLOCK, 2)),
    ],
)
def test_runs_roll_and_come_back(net, rolled):
    check(net, X, rolled=rolled)


@pytest.mark.parametrize(
    "net",
    [
        fn.Sequential(fn.Dense(5), fn.Dense(5)),  # only one of the two keeps the shape
        fn.Sequential(jnp.tanh, jnp.tanh, fn.Dropout(0.1), fn.Dropout(0.1)),  # hold nothing
        fn.Sequential(("a", BLOCK), ("a", BLOCK)),
        fn.Sequential(("a_0", BLOCK), ("a_1", BLOCK), jnp.tanh, ("a_0", BLOCK)),
        fn.Sequential(("first", BLOCK), ("second", BLOCK)),
        fn.Sequential(("a_0", BLOCK), ("a_2", BLOCK)),
        fn.Sequential(("dense_0-1", fn.LayerNorm()), fn.Dense(6), fn.Dense(6)),  # the run's name is taken
        fn.Parallel(BLOCK, BLOCK),
        fn.Freeze(fn.Sequential(("body", fn.Sequential(BLOCK, BLOCK))), but="body/sequential_0/**"),
        fn.tie(fn.Sequential(BLOCK, BLOCK), "sequential_0/dense_0/bias", to="sequential_1/dense_0/bias"),
        fn.Sequential(fn.Repeat(BLOCK, 2, shared=True), fn.Dense(2)),
        fn.Sequential(),
        fn.Dense(3),
        Unrolled(BLOCK, fn.Dense(6)),
        Unrolled(fn.Dense(5)),
    ],
)
def test_what_is_no_run_stays(net):
    check(net, X, rolled=net)


def test_layers_that_a_composite_calls_one_by_one_stay():
    @fn.compose(trunk=fn.Sequential(BLOCK, BLOCK))
    def taps(m, x):
        return m.trunk[1](m.trunk[0](x)), m.trunk[0](x)

    @fn.compose(trunk=fn.Sequential(BLOCK, BLOCK, ("odd", fn.Dense(6)), ("odd", fn.Dense(6))))
    def twice(m, x):
        return m.trunk(m.trunk(x)[:2])

    check(taps, X, rolled=taps)
    new, _ = check(twice, X)
    assert names(new.trunk) == ["sequential_0-1", "odd", "odd"]


def test_one_name_for_different_layers_holds_one_tree():
    one = fn.Sequential(BLOCK, BLOCK)
    other = fn.Sequential(BLOCK, fn.Remat(BLOCK))  # reads the same, and is no run
    net = fn.Each(("trunk", one), ("trunk", other))
    check(net, X, X, rolled=net)
    both = fn.Each(("trunk", one), ("trunk", one))
    assert find(check(both, X, X)[0], fn.Repeat)


def test_paths_of_other_layers_stay():
    net = fn.Sequential(("e", fn.Dense(6)), BLOCK, BLOCK, ("head", fn.Dense(6)), fn.Dense(6))
    tied = fn.tie(net, "head/kernel", to="e/kernel")
    new, params = check(tied, X)
    assert params.keys() == {"e", "sequential_0-1", "head", "dense_0"}
    assert (new.target, new.to) == ("head/kernel", "e/kernel")


def test_given_names_that_others_have_by_now():
    new, _ = roll(fn.Sequential(fn.Dense(6), fn.Dense(6)), None, X)
    longer = new.append(fn.Dense(6))
    assert names(longer) == ["dense_0-1", "dense_0"]
    params = longer.init(KEY, X)
    flat, apart = unroll(longer, params)
    assert names(flat) == ["dense_0-1", "dense_0"] and isinstance(flat[0], Unrolled)
    close(flat.apply(apart, X), longer.apply(params, X))
    groups, _ = roll(fn.Sequential(*[fn.Dense(6), jnp.tanh] * 2), None, X)
    longer = groups.append(fn.Dense(6))
    assert find(unroll(longer, None)[0], Unrolled).keys() == {"layers_0-3"}


# Copies


def test_copies_are_written_out_wherever_they_stand():
    net = fn.Sequential(
        fn.Repeat(BLOCK, 2),
        ("deep", fn.Repeat(fn.Sequential(fn.Remat(fn.Repeat(fn.Residual(fn.BatchNorm()), 2)), fn.Dense(6)), 3)),
        ("shared", fn.Repeat(fn.Sequential(("inner", fn.Repeat(BLOCK, 2))), 2, shared=True)),
        ("many", fn.Ensemble(fn.Repeat(BLOCK, 2, scan=False), 2)),
        ("none", fn.Repeat(BLOCK, 0)),
        ("act", fn.Repeat(jnp.tanh, 2)),
    )
    params, state = net.init(KEY, X), net.init_state(X)
    flat, apart, states = unroll(net, params, state=state)
    assert list(find(flat, fn.Repeat)) == ["shared"]
    assert names(flat)[0] == "sequential_0"
    same(apart["deep"]["sequential_1"]["dense_0"], unstack(params["deep"]["dense_0"])[1])
    y, new = jax.jit(net.apply, static_argnames="train")(params, X, state=state, train=True)
    z, flat_new = jax.jit(flat.apply, static_argnames="train")(apart, X, state=states, train=True)
    close(z, y)
    close(flat_new, unroll(net, params, state=new)[2])
    assert jax.tree.map(jnp.shape, apart) == jax.tree.map(jnp.shape, flat.plan(X).params)


def test_further_inputs_go_to_every_copy():
    @fn.compose(dense=fn.Dense(6))
    def body(m, x, shift=None, *, scale=None):
        return m.dense(x) * scale + shift

    for net in (fn.Repeat(body, 3), fn.Sequential(fn.Repeat(body, 3), jnp.tanh)):
        params = net.init(KEY, X, X, scale=X)
        flat, apart = unroll(net, params)
        close(flat.apply(apart, X, X, scale=X), net.apply(params, X, X, scale=X))
    net = fn.Repeat(body, 3)
    params = net.init(KEY, X, X, scale=X)
    again, back = roll(*unroll(net, params), X, X, scale=X)
    assert again == net
    same(back, params)
    first = fn.Sequential(body, body)  # in a row they go to the first alone
    with pytest.raises(TypeError):
        first.plan(X, X, scale=X)


def test_bare_arrays_and_empty_trees():
    param = fn.Param((2, 6), fn.initializers.Ones())
    same(roll(param, param.init(KEY))[1], unroll(param, param.init(KEY))[1])
    bare = fn.pair(lambda key, x: jax.random.normal(key, x.shape[-1:]), lambda p, x: x * p[None])
    check(fn.Sequential(bare, bare), X)
    net = fn.Repeat(bare, 2)
    params = net.init(KEY, X)
    flat, apart = unroll(net, params)
    close(flat.apply(apart, X), net.apply(params, X))
    check(fn.Sequential(fn.Residual(jnp.tanh), fn.Residual(jnp.tanh)), X)


def test_a_run_under_a_name_of_ones_own():
    net = fn.Sequential(*[fn.Residual(fn.Sequential(fn.Dense(6), fn.BatchNorm()))] * 3, ("head", fn.Dense(2)))
    own = fn.Sequential(("trunk", fn.Repeat(net[0], 3)), ("head", fn.Dense(2)))
    params, state = net.init(KEY, X), net.init_state(X)
    _, moved, states = roll(net, params, X, state=state)
    moved, states = (fn.params.rename(tree, {"sequential_0-2": "trunk"}) for tree in (moved, states))
    run = jax.jit(lambda net, *trees: net.apply(trees[0], X, state=trees[1], train=True), static_argnums=0)
    y, _ = run(net, params, state)
    z, _ = run(own, moved, states)
    close(y, z)


def test_errors():
    net = fn.Sequential(BLOCK, BLOCK, fn.Dense(2))
    params = net.init(KEY, X)
    with pytest.raises(ValueError, match="(?s)the parameters and the inputs do not belong.*missing +dense_0/bias"):
        roll(net, {**params, "dense_0": {"kernel": params["dense_0"]["kernel"]}}, X)
    norms = fn.Sequential(fn.BatchNorm(), fn.BatchNorm())
    with pytest.raises(ValueError, match="(?s)the state and.*missing +batch_norm_1/mean.*state = net.init_state"):
        roll(norms, norms.init(KEY, X), X, state={"batch_norm_0": norms.init_state(X)["batch_norm_0"]})
    rolled, moved = roll(net, params, X)
    with pytest.raises(ValueError, match="(?s)unread +odd"):
        unroll(rolled, {**moved, "odd": X})
    with pytest.raises(ValueError, match="(?s)unread +odd"):
        unroll(rolled, moved, state={"odd": X})
    for extra, shown in ((X, r"float32\[.*\]"), ({}, "{}")):
        with pytest.raises(TypeError, match=f"got {shown} too: unroll needs no sample, .* state=state"):
            unroll(rolled, moved, extra)
    short = jax.tree.map(lambda a: a[:1], moved)
    text = (
        "sequential_0-1: 2 copies hold their arrays stacked along a leading axis of 2, got float32[1,6] under dense_0/"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        unroll(rolled, short)
    with pytest.raises(
        TypeError, match="sequential_0-1: a net of copies takes trees of arrays, .* got 1.0 under dense_0"
    ):
        unroll(rolled, jax.tree.map(lambda a: 1.0, moved))
    text = r"sequential_0-1/layer_norm_0: unroll takes the parameters of the net, got none, though LayerNorm.* has some"
    with pytest.raises(ValueError, match=text):
        unroll(rolled, {})
    free = fn.Repeat(fn.Dropout(0.1), 2)
    assert unroll(free, {})[1] == {} and unroll(fn.Sequential(jnp.tanh), {})[1] == {}
    mixed = {**params, "sequential_1": jax.tree.map(lambda a: a.astype(jnp.float16), params["sequential_1"])}
    text = (
        "but sequential_0/dense_0/bias is float32[6] and sequential_1/dense_0/bias is float16[6]. Cast them to one dty"
    )
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        roll(net, mixed, X)
    assert "stack" not in str(caught.value)
    row = fn.Sequential(("trunk", Unrolled(fn.Dense(6), fn.Dense(6))))
    half = jax.tree.map(lambda a: a.astype(jnp.float16), row.init(KEY, X)["trunk"]["dense_1"])
    mixed = {"trunk": {**row.init(KEY, X)["trunk"], "dense_1": half}}
    text = "but trunk/dense_0/bias is float32[6] and trunk/dense_1/bias is float16[6]"
    with pytest.raises(ValueError, match=re.escape(text)):
        roll(row, mixed, X)
    into = fn.tie(rolled, "dense_0/bias", to="sequential_0-1/dense_0/bias", via=lambda b: b[0, :2])
    with pytest.raises(ValueError, match="the net: unroll takes a net in which no path leads into a Repeat, got 'sequ"):
        unroll(into, None)
    frozen = fn.Sequential(("trunk", fn.Freeze(fn.Repeat(BLOCK, 2), but="dense_0/bias")))
    text = "trunk: unroll takes a net in which no path leads into a Repeat, got but=('dense_0/bias',) of Freeze"
    with pytest.raises(ValueError, match=re.escape(text)):
        unroll(frozen, None)


def by_name(m, x):
    return m.trunk(x) + m.trunk.params["dense_1"]["bias"].sum()


def test_a_forward_that_reads_a_layer_of_a_run_by_its_name_is_told():
    net = fn.compose(trunk=fn.Sequential(fn.Dense(6), fn.Dense(6)))(by_name)
    text = "with those at 'trunk/dense_0-1' this one cannot be planned (KeyError: 'dense_1'). A forward in it reads one"
    with pytest.raises(ValueError, match=re.escape(text)):
        roll(net, net.init(KEY, X), X)


def test_specs_roll_as_arrays_do():
    norm = fn.Sequential(fn.Dense(6), fn.BatchNorm())
    for net in (
        fn.Sequential(*[norm] * 3, fn.Dense(2)),
        fn.Sequential(*[fn.Dense(6), fn.BatchNorm(), jnp.tanh] * 2),
        fn.Ensemble(Unrolled(norm, norm), 2),
    ):
        plan = net.plan(X)
        new, params, state = roll(net, plan.params, X, state=plan.states)
        assert (params, state) == (new.plan(X).params, new.plan(X).states)
        assert unroll(new, params, state=state) == (net, plan.params, plan.states)


@pytest.mark.parametrize("act", [lambda net: roll(net, {}, X), lambda net: unroll(net, {})])
def test_it_takes_a_net(act):
    act(jnp.tanh)
    for wrong in ({"kernel": X}, None, fn.Dense):
        with pytest.raises(TypeError, match="roll takes a net first, a layer or function, got "):
            act(wrong)


# What it is for


def loss(net, params, x, **options):
    y = net.apply(params, x, **options)
    return jnp.sum(jnp.square(y[0] if isinstance(y, tuple) else y))


def test_gradients_and_training_statistics_are_those_of_the_flat_net():
    layer = fn.Residual(fn.Sequential(fn.Dense(6), fn.BatchNorm(), jnp.tanh))
    net = fn.Sequential(*[layer] * 4, fn.Dense(2))
    params, state = net.init(KEY, X), net.init_state(X)
    new, moved, moved_state = roll(net, params, X, state=state)
    wanted = jax.jit(jax.grad(lambda p: loss(net, p, X, state=state, train=True)))(params)
    got = jax.jit(jax.grad(lambda p: loss(new, p, X, state=moved_state, train=True)))(moved)
    _, after = jax.jit(lambda p: net.apply(p, X, state=state, train=True))(params)
    _, moved_after = jax.jit(lambda p: new.apply(p, X, state=moved_state, train=True))(moved)
    again, got, moved_after = unroll(new, got, state=moved_after)
    assert again == net
    close(got, wanted)
    close(moved_after, after)


def gpt(cache=None):
    block = fn.TransformerBlock(fn.Attention(2, causal=True, rope=fn.rotary, cache=cache))
    return fn.Sequential(("e", fn.Embedding(11, 8)), *[block] * 12, fn.LayerNorm(), ("e", fn.Unembed()))


def test_a_deep_net_rolls_into_one_scan():
    ids = jnp.array([[3, 1, 4, 1], [5, 9, 2, 6]])
    net = gpt()
    params = jax.jit(net.init)(KEY, ids)
    new, moved = roll(net, params, ids)
    assert str(jax.make_jaxpr(new.apply)(moved, ids)).count("scan[") == 1
    flat, rolled = jax.jit(net.apply).lower(params, ids), jax.jit(new.apply).lower(moved, ids)
    assert len(flat.as_text()) > 5 * len(rolled.as_text())
    close(rolled.compile()(moved, ids), flat.compile()(params, ids))
    again, back = unroll(new, moved)
    assert again == net
    same(back, params)


def test_caches_roll_with_the_layers():
    ids = jnp.array([[3, 1, 4, 1]])
    net = fn.Sequential(*gpt(cache=6)[1:4], fn.LayerNorm(), fn.Dense(3))
    net = net.insert(0, ("e", fn.Embedding(11, 8)))
    params, state = jax.jit(net.init)(KEY, ids), net.init_state(ids)
    new, moved, moved_state = roll(net, params, ids, state=state)
    assert names(new) == ["e", "transformer_block_0-2", "layer_norm_0", "dense_0"]
    for step in (ids[:, :3], ids[:, 3:]):
        y, state = jax.jit(net.apply)(params, step, state=state)
        z, moved_state = jax.jit(new.apply)(moved, step, state=moved_state)
        close(z, y)
    close(unroll(new, moved, state=moved_state)[2], state)


def test_it_runs_under_jit_and_on_shapes():
    net = fn.Sequential(BLOCK, BLOCK, BLOCK)
    params = net.init(KEY, X)
    moved = jax.jit(lambda p: roll(net, p, X)[1])(params)
    same(moved, roll(net, params, X)[1])
    shapes = jax.eval_shape(lambda p: roll(net, p, X)[1], net.plan(X).params)
    assert shapes["sequential_0-2"]["dense_0"]["kernel"].shape == (3, 6, 6)


ANY = fn.Residual(fn.LayerNorm())  # takes any width
LAYERS = st.sampled_from([fn.Dense(6), fn.Dense(5), jnp.tanh, fn.LayerNorm(), ANY, fn.Repeat(ANY, 2)])


@st.composite
def nets(draw, deep=1):
    layers = []
    for i in range(draw(st.integers(1, 4))):
        inner = nets(deep=0) if deep else st.nothing()
        group = draw(st.lists(LAYERS | inner, min_size=1, max_size=3))
        times = draw(st.integers(1, 3))
        if draw(st.booleans()) or len(group) > 1:
            layers += group * times
        else:
            layers += [(f"g{i} {k + 2}", group[0]) for k in range(times)]
    return fn.Sequential(*layers)


@settings(database=None, deadline=None, max_examples=25, derandomize=True)
@given(nets())
def test_any_row_comes_back(net):
    def filled(tree):
        leaves, structure = jax.tree.flatten(tree)
        return jax.tree.unflatten(structure, [np.full(a.shape, i, np.float32) for i, a in enumerate(leaves)])

    params = filled(net.plan(X).params)
    before = copy.deepcopy(params)
    new, moved = roll(net, params, X)
    plan = new.plan(X)
    assert plan.output == net.plan(X).output
    assert jax.tree.map(np.shape, moved) == jax.tree.map(np.shape, plan.params)
    flat, wanted = unroll(net, params)
    again, back = unroll(new, moved)
    assert again == flat
    same(back, wanted)
    same(params, before)
    if not find(net, fn.Repeat):
        assert flat == net


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_every_layer_rolls_and_unrolls(row):
    net = row.layer
    params, state = jax.eval_shape(lambda: (net.init(KEY, *row.sample), net.init_state(*row.sample)))
    shapes = lambda net: (net.plan(*row.sample).params, net.plan(*row.sample).states)  # noqa: E731
    for act in (
        lambda params, state: unroll(net, params, state=state),
        lambda params, state: roll(net, params, *row.sample, state=state),
    ):
        new = act(None, None)[0]
        moved = jax.eval_shape(lambda p, s: act(p, s)[1:], params, state)  # noqa: B023
        assert moved == shapes(new)
        assert new.plan(*row.sample).output == net.plan(*row.sample).output
