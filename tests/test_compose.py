"""Composites: children, names, tying, control flow, explicit calls."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn

KEY = jax.random.key(0)
X = jnp.asarray(floats(4, 3))


def shapes(tree):
    return jax.tree.map(lambda a: a.shape, tree)


# Names


def test_given_names_win_and_the_others_are_counted_by_class():
    net = fn.Sequential(
        fn.Dense(3),
        jax.nn.relu,
        fn.Dense(3),
        ("head", fn.Dense(3)),
        fn.BatchNorm(),
        fn.Residual(fn.Dense(3)),
        lambda x: x,
        fn.Repeat(fn.Residual(fn.Dense(3)), 2),
        fn.Ensemble(fn.LayerNorm(), 2),
    )
    names = [name for name, _ in net._entries()]
    assert names == [
        "dense_0",
        "relu_0",
        "dense_1",
        "head",
        "batch_norm_0",
        "dense_2",
        "function_0",
        "dense_3",
        "layer_norm_0",
    ]
    assert set(net.init(KEY, X)) == {"dense_0", "dense_1", "head", "batch_norm_0", "dense_2", "dense_3", "layer_norm_0"}


def test_inserting_a_layer_without_parameters_changes_no_other_bit():
    plain = fn.Sequential(fn.Dense(5), fn.Dense(2)).init(KEY, X)
    longer = fn.Sequential(fn.Dense(5), jax.nn.relu, fn.Dropout(0.5), fn.Dense(2)).init(KEY, X)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, plain, longer))


def test_adding_wrappers_changes_no_name_and_no_bit():
    bare = fn.Sequential(fn.Dense(3), fn.Dense(2))
    for wrap in (fn.Residual, fn.Remat, fn.Freeze, lambda layer: fn.Cast(layer, "float32")):
        wrapped = fn.Sequential(wrap(fn.Dense(3)), fn.Dense(2))
        assert jax.tree.all(jax.tree.map(jnp.array_equal, bare.init(KEY, X), wrapped.init(KEY, X)))


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "train", "key", "params", "state", "_x", 3])
def test_names_that_cannot_be(name):
    with pytest.raises((ValueError, TypeError), match="name"):
        fn.Sequential((name, fn.Dense(3)))


def test_a_given_name_that_is_also_automatic_raises():
    with pytest.raises(ValueError, match="'dense_0' is given to .* automatic name"):
        fn.Sequential(("dense_0", fn.Dense(3)), fn.Dense(3))


def test_layers_that_disagree_under_one_name_raise_with_both_places():
    net = fn.Sequential(("a", fn.Dense(3)), ("a", fn.Dense(4)))
    with pytest.raises(
        ValueError, match=r"(?s)^a: .*Dense\(3\) .*a/kernel float32\[3,3\].*Dense\(4\) .*a/kernel float32\[3,4\]"
    ):
        net.init(KEY, X)
    with pytest.raises(ValueError, match="disagree"):
        fn.Sequential(("a", fn.Sequential(fn.Dense(3))), ("a", fn.Dense(3))).init(KEY, X)


def test_reaching_children():
    net = fn.Sequential(fn.Dense(3), ("inner", fn.Sequential(fn.Dense(4), fn.Remat(fn.Sequential(("x", fn.Dense(5)))))))
    assert net[0] == net["dense_0"] == fn.Dense(3)
    assert net[-1] == net["inner"]
    assert net.at("inner/sequential_0/x") == fn.Dense(5)
    with pytest.raises(IndexError, match="2 children"):
        net[2]
    with pytest.raises(KeyError, match="did you mean 'inner'"):
        net["iner"]


# Composites


@fn.compose(hidden=fn.Dense(3), out=fn.Dense(2), scale=2.0)
def mlp(m, x):
    return m.out(jnp.tanh(m.hidden(x))) * m.scale


def test_a_decorated_composite_is_a_value_that_pickles_by_its_name():
    assert pickle.loads(pickle.dumps(mlp)) == mlp
    assert eval(repr(mlp), {**vars(fn), "mlp": mlp}) == mlp
    assert mlp.hidden == fn.Dense(3)
    assert mlp.scale == 2.0
    wide = fn.compose(hidden=fn.Dense(30), out=fn.Dense(2), scale=2.0)(mlp)
    assert wide.init(KEY, X)["hidden"]["kernel"].shape == (3, 30)
    with pytest.raises(AttributeError, match="did you mean 'hidden'"):
        mlp.hiden  # noqa: B018


def test_a_misspelt_child_in_a_forward_names_the_near_one():
    @fn.compose(hidden=fn.Dense(3))
    def wrong(m, x):
        return m.hiden(x)

    with pytest.raises(AttributeError, match="no child or field 'hiden' \\(did you mean 'hidden'\\?\\)"):
        wrong.init(KEY, X)


def test_a_child_met_in_neither_mode_has_no_parameters():
    @fn.compose(used=fn.Dense(3), unused=fn.Dense(4))
    def net(m, x):
        return m.used(x)

    assert set(net.init(KEY, X)) == {"used"}


@fn.compose(trunk=fn.Dense(3), aux=fn.Dense(1))
def with_aux(m, x):
    h = m.trunk(x)
    return (h, m.aux(h)) if m.train else h


def test_a_head_that_only_training_uses_is_planned_and_may_go_unread():
    params = with_aux.init(KEY, X)
    assert set(params) == {"trunk", "aux"}
    assert with_aux.apply(params, X).shape == (4, 3)
    assert with_aux.apply(params, X, train=True)[1].shape == (4, 1)
    assert [call.path for call in with_aux.plan(X).calls if call.train_only] == ["aux"]


@fn.compose(encoder=fn.Dense(4), decoder=fn.Dense(3))
def vae(m, x):
    mean, scale = jnp.split(m.encoder(x), 2, -1)
    return m.decoder(mean + scale * jax.random.normal(m.key(), mean.shape))


def test_a_net_that_samples_in_its_forward():
    params = vae.init(KEY, X)
    a, b = (vae.apply(params, X, key=jax.random.key(i)) for i in (1, 2))
    assert not jnp.allclose(a, b)
    assert jnp.array_equal(a, vae.apply(params, X, key=jax.random.key(1)))
    with pytest.raises(ValueError, match="is random and needs a key"):
        vae.apply(params, X)


@fn.compose(dropout=fn.Dropout(0.5))
def twice(m, x):
    return m.dropout(x), m.dropout(x)


def test_a_second_call_draws_anew():
    a, b = twice.apply({}, jnp.ones((50,)), key=KEY, train=True)
    assert not jnp.array_equal(a, b)


def test_keys_follow_the_path_and_not_the_order():
    x = jnp.ones((50,))
    one = fn.Sequential(("drop", fn.Dropout(0.5))).apply({}, x, key=KEY, train=True)
    more = fn.Sequential(("other", fn.Dropout(0.0)), ("drop", fn.Dropout(0.5))).apply({}, x, key=KEY, train=True)
    assert jnp.array_equal(one, more)


# Children inside raw transforms

TRANSFORMS = {
    "scan": lambda f, x: jax.lax.scan(lambda c, _: (f(c), None), x, length=2)[0],
    "fori_loop": lambda f, x: jax.lax.fori_loop(0, 2, lambda _, c: f(c), x),
    "while_loop": lambda f, x: jax.lax.while_loop(lambda c: jnp.abs(c).sum() < 0, f, x),
    "cond": lambda f, x: jax.lax.cond(x.sum() > 0, f, lambda x: x, x),
    "switch": lambda f, x: jax.lax.switch(1, [lambda x: x, f], x),
    "vmap": lambda f, x: jax.vmap(f)(x),
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
    "grad": lambda f, x: jax.grad(lambda x: f(x).sum())(x),
    "jit": lambda f, x: jax.jit(f)(x),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_child_may_first_be_called_inside_a_raw_transform(transform):
    @fn.compose(inner=fn.Dense(3), out=fn.Dense(2))
    def net(m, x):
        return m.out(TRANSFORMS[transform](m.inner, x))

    params = net.init(KEY, X)
    assert shapes(params) == {"inner": {"kernel": (3, 3), "bias": (3,)}, "out": {"kernel": (3, 2), "bias": (2,)}}

    def dense(p, x):
        return x @ p["kernel"] + jnp.broadcast_to(p["bias"], (*x.shape[:-1], p["bias"].size))

    by_hand = dense(params["out"], TRANSFORMS[transform](lambda x: dense(params["inner"], x), X))
    np.testing.assert_allclose(net.apply(params, X), by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(net.apply)(params, X), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_randomness_and_new_state_inside_a_raw_transform_raise_with_the_remedy(transform):
    @fn.compose(drop=fn.Dropout(0.5))
    def random(m, x):
        return TRANSFORMS[transform](m.drop, x)

    @fn.compose(norm=fn.BatchNorm())
    def stateful(m, x):
        return TRANSFORMS[transform](lambda x: m.norm(jnp.atleast_2d(x)).reshape(x.shape), x)

    random.init(KEY, X)
    random.apply({}, X)  # evaluation draws nothing
    with pytest.raises(
        RuntimeError, match=r"(?s)^drop: randomness inside a raw JAX transform.*fn\.Repeat, fn\.Scan or fn\.Remat"
    ):
        random.apply({}, X, key=KEY, train=True)
    params, state = stateful.init(KEY, X), stateful.init_state(X)
    stateful.apply(params, X, state=state)  # evaluation changes nothing
    with pytest.raises(RuntimeError, match="norm: a new state inside a raw JAX transform"):
        stateful.apply(params, X, state=state, train=True)


@fn.compose(cell=fn.Sequential(fn.Dense(3), fn.Dropout(0.5), fn.BatchNorm()))
def carried_by_hand(m, x):
    if not m.train:
        return m.cell(x)
    start = (x, m.cell.init_state(x))

    def step(carry, key):
        x, state = carry
        return m.cell(x, state=state, key=key), None

    return jax.lax.scan(step, start, jax.random.split(m.key(), 3))[0][0]


def test_state_and_key_may_be_carried_by_hand_in_a_raw_loop():
    params, state = carried_by_hand.init(KEY, X), carried_by_hand.init_state(X)
    y, same = carried_by_hand.apply(params, X, state=state, key=KEY, train=True)
    assert y.shape == X.shape
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state, same))


@fn.compose(cell=fn.Dense(3))
def recurrent(m, xs):
    return jax.vmap(lambda x: jax.lax.scan(lambda c, x: (jnp.tanh(m.cell(c + x)), None), jnp.zeros(3), x)[0])(xs)


def test_a_cell_in_a_raw_scan_in_a_raw_vmap():
    xs = jnp.asarray(floats(2, 5, 3))
    params = recurrent.init(KEY, xs)
    by_hand = []
    for x in xs:
        c = jnp.zeros(3)
        for step in x:
            c = jnp.tanh((c + step) @ params["cell"]["kernel"] + params["cell"]["bias"])
        by_hand.append(c)
    np.testing.assert_allclose(recurrent.apply(params, xs), jnp.stack(by_hand), rtol=1e-5, atol=1e-6)


# Explicit parameters


def standardised(p):
    kernel = p["kernel"]
    return {**p, "kernel": (kernel - kernel.mean(0, keepdims=True)) / (kernel.std(0, keepdims=True) + 1e-5)}


@fn.compose(dense=fn.Dense(4))
def weight_standardised(m, x):
    return m.dense(x, params=standardised)


def test_a_child_with_a_function_of_its_parameters():
    params = weight_standardised.init(KEY, X)
    assert shapes(params) == {"dense": {"kernel": (3, 4), "bias": (4,)}}
    np.testing.assert_allclose(
        weight_standardised.apply(params, X), fn.Dense(4).apply(standardised(params["dense"]), X), rtol=1e-6
    )


@fn.compose(encoder=fn.Dense(2), decoder=fn.Dense(3, use_bias=False))
def tied_by_hand(m, x):
    h = m.encoder(x)
    return m.decoder(h, params={"kernel": m.encoder.params["kernel"].T})


def test_a_decoder_with_the_encoders_transposed_kernel():
    params = tied_by_hand.init(KEY, X)
    assert set(params) == {"encoder"}
    kernel = params["encoder"]["kernel"]
    np.testing.assert_allclose(tied_by_hand.apply(params, X), (X @ kernel) @ kernel.T, rtol=1e-5, atol=1e-6)


def test_parameters_read_before_the_first_call_raise_while_planning():
    @fn.compose(dense=fn.Dense(3))
    def early(m, x):
        return m.dense(x @ m.dense.params["kernel"])

    with pytest.raises(RuntimeError, match="read before its first call"):
        early.init(KEY, X)


# Two losses over one composite


@fn.compose(
    generator=fn.Sequential(fn.Dense(8), jnp.tanh, fn.Dense(3)),
    critic=fn.Sequential(fn.Dense(8), fn.BatchNorm(), fn.Dense(1)),
)
def gan(m, z):
    return m.critic(m.generator(z))


def test_two_nets_in_one_composite_with_two_losses():
    z, real = jnp.asarray(floats(6, 2)), jnp.asarray(floats(6, 3))
    params, state = gan.init(KEY, z), gan.init_state(z)

    def critic_loss(params):
        model = gan.bind(params, state=state, key=KEY, train=True)
        return model.critic(real).mean() - model.critic(jax.lax.stop_gradient(model.generator(z))).mean(), model.state

    gradients, new_state = jax.grad(critic_loss, has_aux=True)(params)
    assert all((g == 0).all() for g in jax.tree.leaves(gradients["generator"]))
    assert any((g != 0).any() for g in jax.tree.leaves(gradients["critic"]))
    assert not jnp.array_equal(new_state["critic"]["batch_norm_0"]["mean"], state["critic"]["batch_norm_0"]["mean"])
    model = gan.bind(params, state=state)
    assert jnp.array_equal(model(z), gan.apply(params, z, state=state)[0])
    assert jnp.array_equal(model["generator"](z), model.generator(z))


# Inputs of every kind


@fn.compose(dense=fn.Dense(3))
def masked(m, batch, *, mask=None, times=1):
    x = batch["x"]
    for _ in range(times):
        x = m.dense(x)
    return x if mask is None else jnp.where(mask[:, None], x, 0)


def test_inputs_are_any_pytree_positional_and_keyword():
    batch, mask = {"x": X, "unused": None}, jnp.array([True, False, True, True])
    params = masked.init(KEY, batch, mask=mask, times=2)
    y = masked.apply(params, batch, mask=mask, times=2)
    assert (y[1] == 0).all()
    assert masked.apply(params, batch).shape == (4, 3)
    assert masked.init_state(batch, mask=jax.ShapeDtypeStruct((4,), bool)) == {}


def test_a_python_scalar_as_a_leafs_first_input_raises():
    with pytest.raises(TypeError, match="takes an array first, got the Python float 1.5. Wrap it"):
        fn.Dense(3).init(KEY, 1.5)


# Errors carry the place


def test_an_error_inside_keeps_its_type_and_gains_one_note():
    def broken(x):
        raise KeyError("mine")

    net = fn.Sequential(("outer", fn.Sequential(fn.Dense(3), ("here", broken))))
    with pytest.raises(KeyError, match="mine") as caught:
        net.init(KEY, X)
    notes = [note for note in caught.value.__notes__ if note.startswith("in layer")]
    assert len(notes) == 1
    assert notes[0].startswith("in layer outer/here:")
    assert "float32[4,3]" in notes[0]


def test_wrong_parameters_are_listed_all_at_once():
    net = fn.Sequential(fn.Dense(5), ("head", fn.Dense(2)))
    params = net.init(KEY, X)
    wrong = {"dense_0": {"kernel": params["dense_0"]["kernel"]}, "head": params["head"], "old": {"x": X}}
    wrong["head"] = {**params["head"], "bias": jnp.zeros(3)}
    with pytest.raises(ValueError, match="do not belong together") as caught:
        net.apply(wrong, X)
    text = str(caught.value)
    assert "missing   dense_0/bias  expected float32[5], got nothing" in text
    assert "reshaped  head/bias     expected float32[2], got float32[3]" in text
    assert "unread    old/x         expected nothing, got float32[4,3]" in text
    with pytest.raises(ValueError, match=r"reshaped  dense_0/kernel  expected float32\[7,5\], got float32\[3,5\]"):
        net.apply(params, jnp.ones((2, 7)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, "params is None"),
        (({}, {}), "params is a tuple.*the state goes in as state="),
        (jnp.ones(3), "params comes first and is a dict"),
    ],
)
def test_likely_slips_with_params(params, message):
    with pytest.raises(TypeError, match=message):
        fn.Sequential(fn.Dense(2)).apply(params, X)


def test_train_is_a_python_bool():
    with pytest.raises(TypeError, match="train is True or False"):
        fn.Dropout(0.5).apply({}, X, key=KEY, train=1)
    with pytest.raises(TypeError, match="mark it static in jax.jit"):
        jax.jit(lambda t: fn.Dropout(0.5).apply({}, X, key=KEY, train=t))(True)


def test_init_and_its_kin_are_final():
    with pytest.raises(TypeError, match="write forward"):

        class Wrong(fn.Layer):
            def apply(self, params, x):
                return x


class MaybeCounting(fn.Layer):
    counts: bool

    def states(self, x):
        return {"calls": fn.Param((), fn.initializers.Zeros())} if self.counts else {}

    def forward(self, p, x, *, state=None):
        return x if state is None else (x, {"calls": state["calls"] + 1})


def test_a_state_with_a_default_is_given_where_one_is_declared():
    with_state, without = (fn.Sequential(("it", MaybeCounting(counts))) for counts in (True, False))
    state = with_state.init_state(X)
    assert list(state) == ["it"]
    _, state = with_state.apply({}, X, state=state)
    assert state["it"]["calls"] == 1
    with pytest.raises(ValueError, match="it: MaybeCounting.* carries state, and none was given"):
        with_state.apply({}, X)
    assert without.init_state(X) == {}
    same, kept = without.apply({}, X, state={})
    assert kept == {}
    np.testing.assert_array_equal(without.apply({}, X), same)
    with pytest.raises(ValueError, match=r"takes state \{\} for these inputs, but there is \{'calls'"):
        without.apply({}, X, state=with_state.init_state(X))


@fn.compose(w=fn.Param((3,), fn.initializers.Ones()))
def forgets_the_call(m, x):
    return x * m.w


@fn.compose(w=fn.Param((3,), fn.initializers.Ones()))
def forgets_it_on_the_left(m, x):
    return m.w @ x


@pytest.mark.parametrize("net", [forgets_the_call, forgets_it_on_the_left])
def test_a_param_that_is_not_called_is_no_array(net):
    with pytest.raises(TypeError, match=r"w: Param\(.* is a layer, no array to compute with: call it, m.name\(\)"):
        net.init(KEY, jnp.ones(3))


def test_a_child_whose_parameters_are_one_array():
    net = fn.compose(w=fn.pair(lambda key, x: jnp.full(3, 2.0), lambda p, x: p * x))(lambda m, x: m.w(x))
    params = net.init(KEY, jnp.ones(3))
    np.testing.assert_array_equal(net.apply(params, jnp.ones(3)), np.full(3, 2.0))
    with pytest.raises(
        ValueError,
        match=r"unread +w +expected nothing.*\nThe state is of another net, or was made for another sample: make",
    ):
        net.apply(params, jnp.ones(3), state={"w": jnp.ones(3)})


def test_slips_of_authors_are_answered():
    with pytest.raises(TypeError, match="forward has train, key from m: write m.train, m.key"):

        @fn.compose(a=fn.Dense(2))
        def forward(m, x, *, train=False, key=None):
            return m.a(x)

    with pytest.raises(TypeError, match="Net is a composite, whose forward has state from m: write m.state"):

        class Net(fn.Composite):
            a: fn.Layer

            def forward(self, m, x, *, state):
                return m.a(x)

    class Old(fn.Composite):
        def __init__(self, width):
            self.dense = fn.Dense(width)

        def forward(self, m, x):
            return m.dense(x)

    with pytest.raises(
        AttributeError, match="Old.dense cannot be set: .* A field is declared in the class, dense: type"
    ):
        Old(3)

    class Empty(fn.Composite):
        def __init__(self, width):
            pass

    with pytest.raises(TypeError, match="Empty has an __init__ of its own, which makes no children: .* annotated"):
        Empty(3).init(KEY, X)

    def noise(x, *, key, train=False):
        return x

    with pytest.raises(TypeError, match="noise names key, train, which a function in a net is not given: make it a"):
        fn.Sequential(fn.Dense(3), noise)
    with pytest.raises(
        TypeError, match=r"Dense has no field 'use_bais' \(did you mean 'use_bias'\?\); it has features"
    ):
        fn.Dense(3, use_bais=False)
    with pytest.raises(TypeError, match="Residual adds its input to the body's output, one array, got"):
        fn.Residual(lambda x: (x, x)).init(KEY, X)


def test_inputs_that_a_layer_does_not_take():
    params = fn.Dense(3).init(KEY, X)
    with pytest.raises(
        TypeError, match=r"Dense\(3\).* takes \(x\), got .*too many positional.* by name: train=True, key"
    ):
        fn.Dense(3).apply(params, X, KEY)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'training'. Mode, randomness and state go in by"):
        fn.Dense(3).apply(params, X, training=True)
    with pytest.raises(
        TypeError, match=r"dense_0: .*unexpected keyword argument 'mask'. A row hands its inputs to its"
    ):
        fn.Sequential(fn.Dense(3)).init(KEY, X, mask=X)
    with pytest.raises(TypeError, match=r"takes \(carry, x\), got .* A cell takes one step, .* runs inside fn.Scan"):
        fn.Sequential(fn.LSTMCell(8)).init(KEY, X)
