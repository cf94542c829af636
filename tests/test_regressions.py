"""Faults that were found by trying awkward designs, each with the smallest program that showed it."""

import dataclasses
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn

KEY, RUN = jax.random.key(0), jax.random.key(1)
X = jnp.asarray(floats(4, 3))


@fn.compose(mid=fn.Dense(3))
def times(m, x, n):
    for _ in range(n):
        x = m.mid(x)
    return x


def test_a_child_that_control_flow_leaves_out_may_have_parameters():
    params = times.init(KEY, X, 3)
    assert jnp.array_equal(times.apply(params, X, 0), X)
    with pytest.raises(ValueError, match="unread    other"):
        times.apply({**params, "other": X}, X, 0)


def test_a_stranger_deep_inside_wrappers_is_refused():
    for wrapper in (lambda b: fn.Repeat(b, 2), fn.Remat, lambda b: fn.Ensemble(b, 2), fn.Freeze):
        net = fn.Sequential(("r", wrapper(fn.Sequential(fn.Dense(3)))))
        params = net.init(KEY, X)
        with pytest.raises(ValueError, match="unread    r/junk"):
            net.apply({"r": {**params["r"], "junk": jnp.ones((2, 3))}}, X)


def test_an_untied_checkpoint_in_a_tied_net_is_refused():
    net = fn.Sequential(fn.Dense(2), fn.Dense(3))
    tied = fn.tie(net, "dense_1/kernel", to="dense_0/kernel", via=jnp.transpose)
    with pytest.raises(ValueError, match="unread    dense_1/kernel"):
        tied.apply(net.init(KEY, X), X)
    with pytest.raises(ValueError, match="missing   dense_0"):
        tied.apply({"dense_1": {"bias": jnp.zeros(3)}}, X)


def test_a_state_of_another_net_is_refused():
    norm = fn.Sequential(fn.BatchNorm())
    state = norm.init_state(X)
    with pytest.raises(ValueError, match="unread    batch_norm_0"):
        fn.Sequential(fn.Dense(3)).apply(fn.Sequential(fn.Dense(3)).init(KEY, X), X, state=state)
    with pytest.raises(ValueError, match="unread    zz"):
        norm.apply(norm.init(KEY, X), X, state={**state, "zz": X})
    with pytest.raises(ValueError, match="takes state"):
        norm.apply(norm.init(KEY, X), X, state={"batch_norm_0": {"mean": jnp.zeros(5), "var": jnp.zeros(5)}})


@fn.compose(r=fn.Repeat(fn.Sequential(fn.Dense(3), fn.BatchNorm()), 2))
def carried(m, xs):
    def step(state, x):
        return m.r(x, state=state)[::-1]

    return jax.lax.scan(step, m.r.init_state(xs[0]), xs)[1]


def test_a_repeat_with_its_state_carried_by_hand():
    xs = jnp.stack([X, X + 1])
    params, state = carried.init(KEY, xs), carried.init_state(xs)
    assert state == {}
    assert carried.apply(params, xs, train=True).shape == xs.shape


@fn.compose(r=fn.Repeat(fn.BatchNorm(), 3))
def called_with_own(m, x):
    x = m.r(x)
    return m.r(x, params=jax.tree.map(lambda p: 2 * p, m.r.params))


def test_a_repeat_called_again_with_parameters_made_of_its_own():
    params, state = called_with_own.init(KEY, X), called_with_own.init_state(X)
    assert state["r"]["mean"].shape == (3, 3)
    assert called_with_own.apply(params, X, state=state, train=True)[0].shape == X.shape


def test_a_reader_may_stand_inside_a_wrapper():
    ids = jnp.zeros((2, 4), jnp.int32)
    net = fn.Sequential(("embed", fn.Embedding(11, 8)), fn.Dense(8), ("embed", fn.Cast(fn.Unembed(), "bfloat16")))
    assert net.apply(net.init(KEY, ids), ids).shape == (2, 4, 11)


def test_composites_under_one_name_are_compared():
    two, one = fn.Sequential(fn.Dense(3), fn.Dense(3)), fn.Sequential(fn.Dense(3))
    other = fn.Sequential(("q", fn.Dense(3)))
    for a, b in ((two, one), (one, other)):
        with pytest.raises(ValueError, match="disagree"):
            fn.Sequential(("a", a), ("a", b)).init(KEY, X)
    fn.Sequential(("a", two), ("a", two)).init(KEY, X)


def test_nets_that_close_over_arrays_are_not_kept_alive():
    def net(array):
        return fn.Sequential(lambda x: x + array.sum())

    arrays = [jnp.ones(8) for _ in range(3)]
    dead = [weakref.ref(array) for array in arrays]
    for array in arrays:
        made = net(array)
        made.apply(made.init(KEY, X), X)
    del arrays, array, made
    gc.collect()
    assert [ref() is None for ref in dead] == [True] * 3


def test_nothing_leaks_from_a_net_made_inside_a_trace():
    with jax.checking_leaks():
        jax.jit(lambda x, s: fn.Sequential(lambda y: y * s).apply({}, x))(X, 2.0)


def test_constants_keep_the_dtype_of_arrays():
    with jax.enable_x64(True):
        assert fn.Constant(jnp.ones(3)).apply({}).dtype == jnp.float64
        assert fn.Constant(np.ones(3, np.float32)).apply({}).dtype == jnp.float32
    assert fn.Constant([1.0, 2.0]).apply({}).dtype == jnp.float32


class Codebook(fn.Layer):
    def params(self, x):
        return {"index": fn.Param((2,), fn.initializers.Zeros(), "int32"), "w": fn.Param((2,), fn.initializers.Ones())}

    def forward(self, p, x):
        return x


def test_casting_the_stored_parameters_leaves_whole_numbers():
    params = fn.Cast(Codebook(), "bfloat16", param_dtype="bfloat16").init(KEY, X)
    assert (params["index"].dtype, params["w"].dtype) == (jnp.int32, jnp.bfloat16)


class ByType(fn.Layer):
    def params(self, x, n):
        return {"w": fn.Param((1,), fn.initializers.Zeros(), "int32" if type(n) is int else "float32")}

    def forward(self, p, x, n):
        return x


def test_what_is_declared_for_an_int_is_not_remembered_for_a_float():
    assert [ByType().init(KEY, X, n)["w"].dtype for n in (1, 1.0)] == [jnp.int32, jnp.float32]


@dataclasses.dataclass(frozen=True)
class Settings:
    n: object


def test_dataclasses_in_fields_compare_by_type_too():
    assert fn.Dense(3, kernel_init=lambda *_: Settings(2)) != fn.Dense(3)
    assert fn.compose(s=Settings(2))(times.function) != fn.compose(s=Settings(2.0))(times.function)


def test_a_partial_that_holds_an_array_is_refused_where_it_is_built():
    import functools

    with pytest.raises(TypeError, match="Sequential.layers holds an array"):
        fn.Sequential(functools.partial(jnp.add, X))


def test_parameters_that_are_no_arrays():
    for net in (fn.Repeat(fn.Dense(3), 2), fn.Ensemble(fn.Dense(3), 2), fn.Dense(3)):
        with pytest.raises(ValueError, match="do not belong together|takes parameters"):
            net.apply({"kernel": 1.0, "bias": 2}, X)


def test_a_bound_net_takes_numpy_and_lists_what_does_not_fit():
    net = fn.Sequential(lambda x: x.at[0].set(0), fn.Dense(3))
    params = net.init(KEY, X)
    assert net.bind(params)(np.asarray(X)).shape == (4, 3)
    with pytest.raises(ValueError, match="unread    zz"):
        net.bind({**params, "zz": X})
    with pytest.raises(ValueError, match="missing   dense_0/bias"):
        net.bind({"dense_0": {"kernel": X}})(X)


def test_children_are_reached_through_wrappers():
    inner = fn.compose(gen=fn.Dense(2))(times.function)
    for wrap in (fn.Remat, fn.Freeze, lambda net: fn.Cast(net, "float32"), lambda net: fn.Repeat(net, 2)):
        assert wrap(inner)["gen"] == wrap(inner).at("gen") == fn.Dense(2)
    net = fn.compose(a=fn.Dense(3, use_bias=False), b=fn.Dense(3, use_bias=False))(two_layers)
    tied = fn.tie(net, "b/kernel", to="a/kernel")
    params = tied.init(KEY, X)
    model = tied.bind(params)
    assert jnp.array_equal(model.b(X), X @ params["a"]["kernel"])
    assert jnp.array_equal(model.body.b(X), model.b(X))


def two_layers(m, x):
    return m.b(m.a(x))


def test_one_child_may_run_in_another_mode():
    @fn.compose(drop=fn.Dropout(0.5))
    def net(m, x):
        return m.drop(x, train=False)

    assert jnp.array_equal(net.apply({}, X, train=True), X)


class Cache(fn.Layer):
    state_once = True

    def states(self, x):
        return {"seen": fn.Param(x.shape, fn.initializers.Zeros())}

    def forward(self, p, x, *, state):
        return x, {"seen": x}


def test_a_cache_met_twice_in_a_pass_raises_and_names_the_remedy():
    net = fn.Sequential(("c", Cache()), ("c", Cache()))
    with pytest.raises(RuntimeError, match=r"called twice in one pass.*fn\.Repeat\(body, n, shared=True\)"):
        net.apply({}, X, state=net.init_state(X))
    each = fn.Repeat(Cache(), 2, shared=True)
    assert each.apply({}, X, state=each.init_state(X))[1]["seen"].shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        (lambda: fn.Dense(3)(X), TypeError, r"net\.apply\(params, x\).*m\.hidden\(x\), not self\.hidden\(x\)"),
        (
            lambda: fn.Dense(3).init(KEY),
            TypeError,
            r"Dense\(3\).* takes \(x\), got nothing: missing .*'x'. Sizes come from a sample: init\(key, x\)",
        ),
        (lambda: fn.Dense(3).init(X, KEY), TypeError, "a key is taken"),
        (lambda: fn.Dense(3).init(KEY, (4, 8)), TypeError, r"write jax\.ShapeDtypeStruct\(\(4, 8\), jnp\.float32\)"),
        (lambda: fn.Dense(3).init(KEY, X, train=True), TypeError, "but not train"),
        (lambda: fn.Sequential(("head", fn.Dense)), TypeError, r"the class Dense: write Dense\(\.\.\.\)"),
        (lambda: fn.compose(lambda m, x: x), TypeError, "@fn.compose\\(hidden="),
        (lambda: fn.Sequential(fn.Dense(3))[1.5], TypeError, "number or name"),
        (lambda: fn.Sequential(("h", fn.Dense(3))).bind({"h": fn.Dense(3).init(KEY, X)}).hh, AttributeError, "'h'"),
        (lambda: fn.Unembed().init(KEY, X), Exception, "table"),
    ],
)
def test_likely_slips_are_answered_by_name(program, error, message):
    with pytest.raises(error, match=message):
        program()


def test_an_authors_slips_are_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="after a \\*"):

        class Positional(fn.Layer):
            def forward(self, p, x, key, train):
                return x

    with pytest.raises(TypeError, match="names no state"):

        class Stateless(fn.Layer):
            def states(self, x):
                return {}

            def forward(self, p, x):
                return x

    with pytest.raises(TypeError, match="is a composite and declares params"):

        class Both(fn.Composite):
            def params(self, x):
                return {}

    with pytest.raises(TypeError, match="has a field named plan"):

        class Field(fn.Layer):
            plan: int

    with pytest.raises(ValueError, match="the name 'train' is taken"):

        class Mode(fn.Composite):
            train: bool = True

        Mode()


def test_a_failure_while_the_training_mode_is_planned_says_so():
    @fn.compose(aux=fn.Dense(1))
    def net(m, x, target=None):
        return m.aux(x) + target if m.train else m.aux(x)

    with pytest.raises(TypeError) as caught:
        net.init(KEY, X)
    assert any(
        "while shapes are planned for training, where an input that the sample lacks" in n
        for n in caught.value.__notes__
    )


def test_an_attribute_error_of_a_property_is_not_hidden():
    class Net(fn.Composite):
        h: fn.Layer = fn.Dense(3)

        @property
        def width(self):
            return self.h.no_such_field

        def forward(self, m, x):
            return m.h(x) * m.width

    with pytest.raises(AttributeError, match="no_such_field"):
        Net().init(KEY, X)


def test_given_names_are_attributes_of_m():
    net = fn.Sequential(("h", fn.Dense(3)))
    params = net.init(KEY, X)
    assert jnp.array_equal(net.bind(params).h(X), net.apply(params, X))


def test_a_plan_cannot_be_changed():
    plan = fn.Dense(3).plan(X)
    with pytest.raises(TypeError):
        plan.declared["params"]["x"] = 1


def test_many_layers_plan_in_little_time():
    # Linear in the number of layers, told without a clock: the recorder looks at few sites per declaration.
    deep = fn.Sequential(*[fn.Dense(3) for _ in range(400)])
    assert len(deep.plan(X).declared["params"]) == 800


# Where explicit, wrapped and planned meet


class Plain(fn.Layer):
    """A leaf that promotes nothing by itself."""

    features: int = 3

    def params(self, x):
        return {"k": fn.Param((x.shape[-1], self.features), fn.initializers.Normal(1.0))}

    def forward(self, p, x):
        return x @ p["k"]


@fn.compose(dense=Plain())
def plain_cell(m, carry, x):
    carry = jnp.tanh(m.dense(x) + carry)
    return carry, carry


def test_a_plan_computes_in_the_precision_that_the_net_does():
    net = fn.Cast(Plain(), "bfloat16")
    assert net.plan(X).output.dtype == net.apply(net.init(KEY, X), X).dtype == jnp.bfloat16
    fn.Repeat(fn.Cast(Plain(), "bfloat16"), 2).init(KEY, X.astype(jnp.bfloat16))
    scan = fn.Cast(fn.Scan(plain_cell), "bfloat16")
    carry, xs = X, jnp.stack([X, X], 1)
    params = scan.init(KEY, carry, xs)
    assert scan.apply(params, carry, xs)[1].dtype == scan.plan(carry, xs).output[1].dtype == jnp.bfloat16


@fn.compose(a=fn.BatchNorm(), b=fn.BatchNorm())
def deeper_in_training(m, x):
    return m.b(m.a(x)) if m.train else m.a(x)


def test_what_only_training_reads_may_be_given_explicitly():
    net = fn.compose(c=deeper_in_training)(with_own_state)
    assert net.init_state(X) == {}
    assert net.apply(net.init(KEY, X), X, train=True).shape == X.shape
    assert net.apply(net.init(KEY, X), X).shape == X.shape


def with_own_state(m, x):
    return m.c(x, state=m.c.init_state(x))[0]


@fn.compose(body=Plain(), aux=Plain())
def aux_in_training(m, x):
    h = m.body(x)
    return (h, m.aux(h)) if m.train else h


def test_a_tie_to_what_only_training_meets():
    tied = fn.tie(aux_in_training, "aux/k", to="body/k")
    params = tied.init(KEY, X)
    assert jax.tree.map(jnp.shape, params) == {"body": {"k": (3, 3)}}
    assert tied.apply(params, X, train=True)[1].shape == X.shape
    with pytest.raises(ValueError, match="'aux/k' is met in training only"):
        fn.tie(aux_in_training, "body/k", to="aux/k").init(KEY, X)


def test_no_memo_holds_what_a_function_closes_over():
    with jax.checking_leaks():
        jax.jit(lambda x, s: fn.pair(lambda k, x: {}, lambda p, x: x * s).apply({}, x))(X, 2.0)

        def dropped(x, s):
            return fn.compose(d=fn.Dropout(0.5))(lambda m, x: m.d(x) * s).apply({}, x, key=RUN, train=True)

        jax.jit(dropped)(X, 2.0)
    assert not fn.Sequential(fn.Constant(np.ones(1 << 20)))._memoable
    assert fn.Sequential(fn.Constant(np.ones(3)))._memoable


class Reader(fn.Layer):
    def forward(self, p, x):
        return x @ p["k"]


def test_a_reader_in_copies_sees_one_copy():
    net = fn.Sequential(("d", fn.Repeat(Plain(), 2)), ("d", fn.Repeat(Reader(), 2)))
    params = net.init(KEY, X)
    by_hand = X
    for i in (0, 1, 0, 1):
        by_hand = by_hand @ params["d"]["k"][i]
    np.testing.assert_allclose(net.apply(params, X), by_hand, rtol=1e-5)
    ensemble = fn.Sequential(("d", fn.Ensemble(Plain(), 2)), lambda y: y[0], ("d", fn.Ensemble(Reader(), 2)))
    params = ensemble.init(KEY, X)
    assert ensemble.plan(X).output.shape == ensemble.apply(params, X).shape == (2, 4, 3)


@fn.compose(norm=fn.BatchNorm())
def resetting(m, x):
    m.norm.state = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    return m.norm(x)


def test_a_state_that_is_set_is_never_dropped_in_silence():
    params, state = resetting.init(KEY, X), resetting.init_state(X)
    moved = jax.tree.map(lambda s: s + 1, state)
    assert float(resetting.apply(params, X, state=moved)[1]["norm"]["mean"][0]) == 0.0
    with pytest.raises(ValueError, match="carries state, and none was given"):
        resetting.apply(params, X)


def test_a_cache_is_met_once_also_inside_remat():
    net = fn.Sequential(("c", fn.Remat(Cache())), ("c", fn.Remat(Cache())))
    with pytest.raises(RuntimeError, match="called twice in one pass"):
        net.apply({}, X, state=net.init_state(X))


class Many(fn.Layer):
    def params(self, x, **rest):
        return {"k": fn.Param(x.shape[-1:], fn.initializers.Ones())} | (
            {"v": fn.Param(rest["mask"].shape, fn.initializers.Ones())} if "mask" in rest else {}
        )

    def forward(self, p, x, *, mask=None):
        return x * p["k"][None] if mask is None else x * p["k"][None] + p["v"]


def test_params_may_take_any_keyword():
    assert set(Many().init(KEY, X)) == {"k"}
    assert set(Many().init(KEY, X, mask=X)) == {"k", "v"}


def test_declarations_that_cannot_be():
    class Empty(fn.Layer):
        def params(self, x):
            return {"k": fn.Param((3,), fn.initializers.Ones()), "e": {}}

        def forward(self, p, x):
            return x

    with pytest.raises(TypeError, match="e: an empty dict declares nothing"):
        Empty().init(KEY, X)

    class Bare(fn.Layer):
        def states(self, x):
            return fn.Param((3,), fn.initializers.Ones())

        def forward(self, p, x, *, state):
            return x, state

    with pytest.raises(TypeError, match="states returns a dict of fn.Param"):
        Bare().init_state(X)

    class Two(fn.Wrapper):
        body: fn.Layer
        extra: tuple

        def forward(self, m, x):
            return m.body(x)

    with pytest.raises(TypeError, match="has one child, and got 2"):
        Two(fn.Dense(3), (fn.Dense(3),))


def test_a_part_that_a_composite_does_not_have():
    net = fn.compose(gen=fn.Dense(2))(times.function)
    assert dataclasses.replace(net, gen=fn.Dense(3)).gen == fn.Dense(3)
    with pytest.raises(TypeError, match=r"no part 'gn' \(did you mean 'gen'\?\)"):
        dataclasses.replace(net, gn=fn.Dense(5))


def test_of_a_running_net_only_the_state_may_be_set():
    @fn.compose(h=fn.Dense(3))
    def net(m, x):
        m.h = 3
        return x

    with pytest.raises(AttributeError, match="the state may be set, and nothing else"):
        net.init(KEY, X)


def test_whole_numbers_among_the_parameters_are_refused_by_training():
    import optax

    with pytest.raises(TypeError, match=r"index is int32\[2\]: declare it among the layer's states"):
        fn.train.create(Codebook(), optax.sgd(0.1), KEY, X)


def test_a_stranger_in_explicit_parameters_is_refused():
    @fn.compose(c=fn.Sequential(fn.Dense(3)))
    def net(m, x, p):
        return m.c(x, params=p)

    given = fn.Sequential(fn.Dense(3)).init(KEY, X)
    assert net.apply(net.init(KEY, X, given), X, given).shape == X.shape
    with pytest.raises(ValueError, match="unread    zz"):
        net.apply({}, X, {**given, "zz": X})

    @fn.compose(d=Plain(), r=fn.Sequential(fn.Remat(Reader())))
    def reading(m, x):
        return m.r(m.d(x), params={"reader_0": m.d.params})

    assert reading.apply(reading.init(KEY, X), X).shape == X.shape


def test_an_array_where_a_param_belongs():
    class Wrong(fn.Layer):
        def params(self, x):
            return {"w": jnp.ones(3)}

        def forward(self, p, x):
            return x * p["w"]

    class WrongState(Wrong):
        def params(self, x):
            return {}

        def states(self, x):
            return {"w": jnp.ones(3)}

        def forward(self, p, x, *, state):
            return x, state

    for program in (lambda: Wrong().init(KEY, X), lambda: WrongState().init_state(X)):
        with pytest.raises(TypeError, match=r"declare each array as fn\.Param\(shape, initializer\), got float32\[3\]"):
            program()


def test_the_table_shows_copies_and_ties():
    ids = jnp.zeros((1, 4), jnp.int32)
    net = fn.Sequential(("embed", fn.Embedding(9, 3)), fn.Repeat(fn.Dense(3), 6), ("embed", fn.Unembed()))
    rows = {(path, layer): size for path, layer, _, size in net.plan(ids).rows()}
    assert rows == {("embed", "Embedding(9, 3)"): 27, ("dense_0", "Dense(3) ×6"): 72, ("embed", "Unembed() (tied)"): 0}


# What a review of plans that remember found


def test_composites_under_one_name_are_compared_also_where_one_was_noted_before():
    first, other = fn.Sequential(fn.Dense(3)), fn.Sequential(("other", fn.Dense(3)))
    with pytest.raises(ValueError, match="two layers disagree"):
        fn.Sequential(("a", first), ("b", first), ("b", other)).init(KEY, X)
    inner, outer = fn.Sequential(("in", first)), fn.Sequential(("in", other))
    with pytest.raises(ValueError, match="two layers disagree"):
        fn.Sequential(("a", inner), ("b", inner), ("b", outer)).init(KEY, X)


def reads_the_mode_and_goes_on(m, x):
    training = m.train
    try:
        y = m.bad(x)
    except ValueError:
        y = x
    return m.more(y) if training else y


def test_a_forward_that_catches_an_error_keeps_its_training_pass_and_its_recorder():
    bad = fn.Residual(fn.Sequential(fn.Dense(4)))
    params = fn.compose(bad=bad, more=fn.Dense(5))(reads_the_mode_and_goes_on).init(KEY, X)
    assert set(params) == {"more"}

    @fn.compose(c=fn.Cast(fn.Dense(3), "float32"))
    def tries_twice(m, x):
        c = m.c
        try:
            return c(None)
        except TypeError:
            return c(x)

    assert set(tries_twice.init(KEY, X)) == {"c"}


class Gathered(fn.Layer):
    axis_name: str = "i"

    def forward(self, p, x):
        return jax.lax.all_gather(x, self.axis_name, axis=-1, tiled=True)


def test_a_named_axis_that_is_bound_already_is_the_one_that_a_plan_sees():
    net = fn.Sequential(Gathered(), fn.Dense(2))
    batch = jnp.ones((4, 2, 3))
    outside = net.plan(batch[0]).params["dense_0"]["kernel"].shape
    inside = jax.vmap(lambda x: net.init(KEY, x), axis_name="i", out_axes=None)(batch)["dense_0"]["kernel"].shape
    assert (outside, inside) == ((3, 2), (12, 2))

    class Paired(fn.Layer):
        axis_name: str = "i"

        def forward(self, p, x):
            return jax.lax.all_gather(x, self.axis_name, axis_index_groups=[[0, 1]])

    with pytest.raises(Exception) as caught:
        Paired().init(KEY, X)
    assert "planned with size 1 for the axes i" in "".join(caught.value.__notes__)


@jax.tree_util.register_pytree_node_class
class Tagged:
    def __init__(self, x, tag):
        self.x, self.tag = x, tag

    def tree_flatten(self):
        return (self.x,), self.tag

    @classmethod
    def tree_unflatten(cls, tag, children):
        return cls(children[0], tag)


def test_containers_of_ones_own_are_no_mark():
    block = fn.compose(d=fn.Dense(3))(lambda m, t: m.d(t.x) * t.tag)
    net = fn.compose(a=block, b=block)(lambda m, x: (m.a(Tagged(x, 2)), m.b(Tagged(x, 2.0))))
    net.init(KEY, X)
    arrays = fn.compose(a=block, b=block)(lambda m, x: m.a(Tagged(x, np.ones(3))) + m.b(Tagged(x, np.ones(3))))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        arrays.init(KEY, X)


def test_init_owns_what_it_hands_out():
    kept = jax.random.normal(KEY, (7, 3))
    net = fn.compose(w=fn.Param((7, 3), lambda *_: kept), v=fn.pair(lambda key: {"v": kept}, lambda p: p["v"]))(
        lambda m: m.w() + m.v()
    )
    jax.jit(lambda p: jax.tree.map(lambda a: a + 1, p), donate_argnums=0)(net.init(KEY))
    net.init(KEY)
    assert not kept.is_deleted()


def test_constants_stand_where_the_key_does():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    key = jax.device_put(KEY, jax.NamedSharding(mesh, jax.P()))
    params = fn.Dense(3).init(key, X)
    assert {len(array.devices()) for array in jax.tree.leaves(params)} == {8}


def test_no_copies_have_parameters_to_hand_on():
    net = fn.compose(r=fn.Repeat(fn.Dense(3), 0))(lambda m, x: m.r(m.r(x), params=m.r.params))
    x = jnp.ones((2, 3))
    assert net.apply(net.init(KEY, x), x).shape == (2, 3)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: fn.PositionEmbedding(8, 16), r"PositionEmbedding takes table_init as an initialiser, .* got 16"),
        (lambda: fn.Embedding(4, 3, 5), r"Embedding takes table_init as an initialiser, .* got 5. Such as"),
        (lambda: fn.Dense(4, kernel_init="ones"), r"Dense takes kernel_init as an initialiser, .* got 'ones'"),
        (lambda: fn.Conv(4, 3, bias_init=0), r"Conv takes bias_init as an initialiser, .* got 0"),
        (lambda: fn.Attention(4, kernel_init=0.02), r"Attention takes kernel_init as an initialiser, .* got 0.02"),
    ],
)
def test_initialisers_are_checked_where_they_are_given(build, text):
    with pytest.raises(TypeError, match=text):
        build()


def test_a_field_of_ones_own_that_ends_like_one_may_be_a_number():
    class Gain(fn.Layer):
        scale_init: float = 1.0

    assert Gain(2.0).scale_init == 2.0
