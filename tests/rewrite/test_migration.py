"""Trained parameters for a net that has changed."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funcnets as fn
from funcnets.rewrite import migrate
from funcnets.rewrite.initialization import parameters
from funcnets.rewrite.report import Changed, Report
from funcnets.shapes import differences, entry, within

KEY, OTHER = jax.random.key(0), jax.random.key(1)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32))
S, D = fn.Sequential, fn.Dense


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for mine, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def spec(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


# By hand


def test_a_wider_head_on_a_trained_net():
    net, wider = S(D(8), jax.nn.relu, ("head", D(2))), S(D(8), jax.nn.relu, ("head", D(5)))
    trained = net.init(KEY, X)
    params, report = migrate(net, wider, trained, OTHER, X)
    assert params["dense_0"]["kernel"] is trained["dense_0"]["kernel"]
    assert params["dense_0"]["bias"] is trained["dense_0"]["bias"]
    same(params["head"], wider.init(OTHER, X)["head"])
    assert report == Report(
        kept=("dense_0/kernel", "dense_0/bias"),
        reshaped=(
            Changed("head/kernel", spec(8, 2), spec(8, 5), "head/kernel"),
            Changed("head/bias", spec(2), spec(5), "head/bias"),
        ),
    )
    assert (
        repr(report)
        == str(report)
        == (
            "kept       2 as they are\n"
            "reshaped   head/kernel  float32[8,2] -> float32[8,5]  (drawn)\n"
            "reshaped   head/bias  float32[2] -> float32[5]  (drawn)"
        )
    )


def test_an_array_follows_its_layer_where_an_automatic_name_moves():
    old, new = S(D(8), jax.nn.relu, D(2)), S(D(8), jax.nn.relu, D(16), jax.nn.relu, D(8), jax.nn.relu, D(2))
    trained = old.init(KEY, X)
    params, report = migrate(old, new, trained, OTHER, X)
    assert params["dense_3"]["kernel"] is trained["dense_1"]["kernel"]
    assert report.moved == (("dense_1/kernel", "dense_3/kernel"), ("dense_1/bias", "dense_3/bias"))
    assert report.fresh == ("dense_1/kernel", "dense_1/bias", "dense_2/kernel", "dense_2/bias")
    back, report = migrate(new, old, params, OTHER, X)
    same(back, trained)
    assert report.dropped == ("dense_1/kernel", "dense_1/bias", "dense_2/kernel", "dense_2/bias")
    assert "moved      dense_3/kernel -> dense_1/kernel" in str(report)
    assert "dropped    dense_2/bias" in str(report)


def test_what_does_not_fit_where_it_moves_is_drawn_and_what_fits_is_kept():
    old, new = S(D(8), jax.nn.relu, D(2)), S(D(8), jax.nn.relu, D(16), jax.nn.relu, D(2))
    trained = old.init(KEY, X)
    params, report = migrate(old, new, trained, OTHER, X)
    assert params["dense_2"]["bias"] is trained["dense_1"]["bias"]
    same(params["dense_2"]["kernel"], new.init(OTHER, X)["dense_2"]["kernel"])
    assert report.reshaped == (Changed("dense_2/kernel", spec(8, 2), spec(16, 2), "dense_1/kernel"),)


@pytest.mark.parametrize(
    ("old", "new", "moved", "dropped"),
    [
        (S(D(4), ("head", D(4))), S(("head", D(4)), D(4)), {}, set()),  # a given name beats an equal layer
        (S(("a", D(4)), ("b", D(4))), S(("b", D(4)), ("c", D(4))), {"a": "c"}, set()),
        (S(D(4), ("a", D(3))), S(D(4), ("b", D(4))), {}, {"a"}),  # other names and other layers: another thing
        (S(D(3), D(4), D(5)), S(D(4), D(5)), {"dense_1": "dense_0", "dense_2": "dense_1"}, {"dense_0"}),
        (S(D(4), fn.LayerNorm()), S(fn.LayerNorm(), D(4)), {}, set()),
        (S(D(3), D(4)), S(D(4), D(3)), {"dense_0": "dense_1", "dense_1": "dense_0"}, set()),
        (S(D(4), D(4)), S(D(4), fn.Remat(fn.Freeze(D(4)))), {}, set()),
        (S(S(D(4)), S(D(3))), S(S(D(5)), S(D(4)), S(D(3), jnp.tanh)), {"sequential_0/dense_0": "sequential_1/dense_0",
         "sequential_1/dense_0": "sequential_2/dense_0"}, set()),
        (S(D(4)), S(("dense_0", fn.Conv(4, 1))), {}, set()),
    ],
)  # fmt: skip
def test_which_layer_became_which(old, new, moved, dropped):
    x = X[:, None]
    trained = old.init(KEY, x)
    _, report = migrate(old, new, trained, OTHER, x)
    gone = {path.rpartition("/")[0] for path in report.dropped}
    pairs = {(row.old, row.new) for row in report.moved} | {(row.old_path, row.path) for row in report.reshaped}
    assert {a.rpartition("/")[0]: b.rpartition("/")[0] for a, b in pairs if a != b} == moved
    assert gone == dropped


def test_equal_nets_keep_all_and_need_no_draw():
    net = S(D(8), fn.Repeat(D(8), 3), ("head", D(2)))
    trained = net.init(KEY, X)
    params, report = migrate(net, net, trained, OTHER, X)
    assert all(a is b for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(trained), strict=True))
    assert report == Report(kept=tuple(path for path, _ in fn.params.paths(trained)))
    for bare in (fn.Param((3,), fn.initializers.Normal(1.0)), fn.pair(lambda key: jnp.ones(2), lambda p: p)):
        params, report = migrate(bare, bare, bare.init(KEY), OTHER)
        same(params, bare.init(KEY))
        assert report.kept == ("",)
        assert str(migrate(bare, S(), params, OTHER).report) == "kept       0 as they are\ndropped    (all)"
    assert migrate(S(), S(), {}, OTHER, X).params == {}
    norm = fn.LayerNorm()
    params, report = migrate(norm, fn.LayerNorm(use_bias=False), norm.init(KEY, X), OTHER, X)
    assert list(params) == ["scale"] and (report.kept, report.dropped) == (("scale",), ("bias",))


def test_copies_stay_together():
    old = S(fn.Repeat(D(4), 2), D(4))
    trained = old.init(KEY, X)
    _, report = migrate(old, S(fn.Repeat(D(4), 2, scan=False), D(4)), trained, OTHER, X)
    assert len(report.kept) == 4
    _, report = migrate(old, S(fn.Repeat(D(4), 3), D(4)), trained, OTHER, X)
    assert [row[:3] for row in report.reshaped] == [
        ("dense_0/kernel", spec(2, 4, 4), spec(3, 4, 4)),
        ("dense_0/bias", spec(2, 4), spec(3, 4)),
    ]


# Parametrised, cast, tied, with state


@pytest.mark.parametrize("wrap", [lambda layer: layer, lambda layer: fn.Repeat(fn.Repeat(layer, 1), 2)])
def test_a_parameter_that_becomes_parametrised_is_taken_apart_and_put_together_again(wrap):
    plain = S(wrap(D(4)), ("head", D(2)))
    normed = fn.parametrize(plain, {"**/kernel": fn.WeightNorm()}, X)
    trained = plain.init(KEY, X)
    params, report = migrate(plain, normed, trained, OTHER, X)
    same(params, normed.init(KEY, X))
    assert len(report.kept) == 4 and not report.fresh + report.dropped + report.reshaped
    assert [row.path for row in report.converted] == [path for path in report.kept if path.endswith("kernel")]
    assert "converted  head/kernel  float32[4,2] -> {'direction': float32[4,2], 'scale': float32[2]}" in str(report)
    params["head"]["kernel"]["scale"] = jnp.array([2.0, 3.0])
    back, _ = migrate(normed, plain, params, OTHER, X)
    same(back, fn.bake(normed, params, X)[1])
    kept, report = migrate(normed, normed, params, OTHER, X)
    assert kept["head"]["kernel"]["scale"] is params["head"]["kernel"]["scale"] and not report.converted
    wider = fn.rewrite.replace(normed, {"head": lambda layer: fn.Parametrized(D(3), kernel=fn.WeightNorm())})
    params, report = migrate(normed, wider, params, OTHER, X)
    assert [row.path for row in report.reshaped] == ["head/kernel", "head/bias"]
    same(params["head"], wider.init(OTHER, X)["head"])


def test_one_parametrisation_for_another_needs_its_state():
    spectral = S(("it", fn.Parametrized(D(3), kernel=fn.SpectralNorm())))
    normed = S(("it", fn.Parametrized(D(3), kernel=fn.WeightNorm())))
    trained, state = spectral.init(KEY, X), spectral.init_state(X)
    params, report, left = migrate(spectral, normed, trained, OTHER, X, state=state)
    np.testing.assert_allclose(normed.apply(params, X), spectral.apply(trained, X, state=state)[0], rtol=1e-5)
    assert left == {} and report.state == Report(dropped=("it/kernel/u", "it/kernel/v"))
    with pytest.raises(ValueError, match=r"it/kernel: SpectralNorm\(\) carries state: give it too, state=state"):
        migrate(spectral, normed, trained, OTHER, X)


def test_state_goes_along():
    old, new = S(D(4), fn.BatchNorm(), D(2)), S(fn.BatchNorm(), D(4), fn.BatchNorm(), D(2))
    params, state = old.init(KEY, X), old.init_state(X)
    _, state = old.apply(params, X, state=state, train=True)
    moved = migrate(old, new, params, OTHER, X, state=state)
    assert moved.state["batch_norm_1"]["mean"] is state["batch_norm_0"]["mean"]
    same(moved.state["batch_norm_0"], new.init_state(X)["batch_norm_0"])
    assert moved.report.state.moved[0] == ("batch_norm_0/mean", "batch_norm_1/mean")
    assert moved.report.state.fresh == ("batch_norm_0/mean", "batch_norm_0/var")
    assert "state\n  kept       0 as they are\n  moved      batch_norm_0/mean -> batch_norm_1/mean" in str(moved.report)
    with pytest.raises(ValueError, match="the state and the inputs do not belong together"):
        migrate(old, new, params, OTHER, X, state={})
    with pytest.raises(ValueError, match=r"reshaped +batch_norm_0/mean +expected float32\[4\], got float32\[5\]"):
        wrong = {"mean": jnp.zeros(5), "var": jnp.ones(5)}
        migrate(old, new, params, OTHER, X, state={"batch_norm_0": wrong})


def test_a_state_that_is_not_given_is_told_of():
    net, plain = S(D(4), fn.BatchNorm(), D(2)), S(D(4), D(2))
    line = "state      not given: it starts as init_state gives it"
    left = migrate(net, net.append(jnp.tanh), net.init(KEY, X), OTHER, X)
    assert len(left) == 2 and left.report.without_state and str(left.report).splitlines()[-1] == line
    assert not migrate(net, net, net.init(KEY, X), OTHER, X, state=net.init_state(X)).report.without_state
    for old, new in ((net, plain), (plain, net), (plain, plain)):  # there is none to be carried
        report = migrate(old, new, old.init(KEY, X), OTHER, X).report
        assert not report.without_state and line not in str(report)
    begun = migrate(plain, net, plain.init(KEY, X), OTHER, X, state={})
    same(begun.state, net.init_state(X))


def test_ties_survive():
    def tied(*between):
        rows = S(("embed", D(6)), *between, ("head", D(4)))
        return fn.tie(rows, "head/kernel", to="embed/kernel", via=jnp.transpose)

    old, new = tied(jnp.tanh), tied(D(6), jnp.tanh)
    trained = old.init(KEY, X)
    params, report = migrate(old, new, trained, OTHER, X)
    assert params["embed"]["kernel"] is trained["embed"]["kernel"] and list(params["head"]) == ["bias"]
    assert report.fresh == ("dense_0/kernel", "dense_0/bias") and not report.dropped

    def by_hand(params):
        kernel = params["embed"]["kernel"]
        y = X @ kernel + params["embed"]["bias"][None]
        y = jnp.tanh(y @ params["dense_0"]["kernel"] + params["dense_0"]["bias"][None])
        return jnp.square(y @ kernel.T + params["head"]["bias"][None]).sum()

    ours = jax.grad(lambda params: jnp.square(new.apply(params, X)).sum())(params)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(jax.grad(by_hand)(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    _, report = migrate(old.body, old, old.body.init(KEY, X), OTHER, X)
    assert report.dropped == ("head/kernel",)
    _, report = migrate(old, old.body, trained, OTHER, X)
    assert report.fresh == ("head/kernel",)


def test_layers_that_share_a_name_stay_tied():
    ids = jnp.array([[0, 1, 2]])
    old = S(("embed", fn.Embedding(7, 4)), jnp.tanh, ("embed", fn.Unembed()))
    new = S(("embed", fn.Embedding(7, 4)), D(4), jnp.tanh, ("embed", fn.Unembed()))
    trained = old.init(KEY, ids)
    params, report = migrate(old, new, trained, OTHER, ids)
    assert params["embed"]["table"] is trained["embed"]["table"]
    assert (report.kept, report.fresh) == (("embed/table",), ("dense_0/kernel", "dense_0/bias"))


def test_another_precision_is_a_conversion_and_another_kind_of_number_is_not():
    old, new = S(("it", D(3))), S(("it", fn.Cast(D(3), "float32", param_dtype="bfloat16")))
    trained = old.init(KEY, X)
    params, report = migrate(old, new, trained, OTHER, X)
    same(params["it"]["kernel"], trained["it"]["kernel"].astype("bfloat16"))
    assert report.converted[0] == Changed("it/kernel", spec(4, 3), spec(4, 3, dtype="bfloat16"), "it/kernel")
    halved = jax.tree.map(lambda a: a.astype("float16"), trained)  # the user's own choice: it stays
    params, report = migrate(old, old, halved, OTHER, X)
    assert params["it"]["kernel"] is halved["it"]["kernel"] and not report.converted
    whole = fn.compose(w=fn.Param((3,), fn.initializers.Ones(), "int32"))(weight)
    broken = fn.compose(w=fn.Param((3,), fn.initializers.Ones()))(weight)
    _, report = migrate(whole, broken, whole.init(KEY), OTHER)
    assert report.reshaped == (Changed("w", spec(3, dtype="int32"), spec(3), "w"),)


def weight(m):
    return m.w()


def first_or_both(m, x, both):
    return m.second(m.first(x)) if both else m.first(x)


def test_what_the_sample_does_not_meet_is_not_lost():
    net = fn.compose(first=D(4), second=D(4))(first_or_both)
    trained = net.init(KEY, X, True)
    params, report = migrate(net, net, trained, OTHER, X, False)
    assert params["second"]["kernel"] is trained["second"]["kernel"] and len(report.kept) == 4
    alone = fn.compose(first=D(4), second=jnp.tanh)(first_or_both)
    params, report = migrate(net, alone, trained, OTHER, X, False)
    assert report.dropped == ("second/kernel", "second/bias") and list(params) == ["first"]


def test_inputs_of_another_width():
    net, wide = S(D(8), ("head", D(2))), jnp.ones((2, 9))
    trained = net.init(KEY, X)
    for before in (X, spec(2, 4)):
        params, report = migrate(net, net, trained, OTHER, wide, old_sample=(before,))
        assert report.reshaped == (Changed("dense_0/kernel", spec(4, 8), spec(9, 8), "dense_0/kernel"),)
        assert params["head"]["kernel"] is trained["head"]["kernel"]
        same(params["dense_0"]["kernel"], net.init(OTHER, wide)["dense_0"]["kernel"])
    with pytest.raises(
        ValueError, match=r"reshaped +dense_0/kernel +expected float32\[9,8\], got float32\[4,8\]"
    ) as caught:
        migrate(net, net, trained, OTHER, wide)
    assert "If that net took inputs of other sizes than x, say which: migrate(..., old_sample=(old_x,))" in str(
        caught.value.__notes__
    )
    with pytest.raises(
        TypeError, match=r"migrate takes old_sample as a tuple of inputs, got float32\[2,4\]: old_sample="
    ):
        migrate(net, net, trained, OTHER, wide, old_sample=X)


def test_more_inputs_than_the_old_net_took():
    def one(m, x):
        return m.head(m.body(x))

    def two(m, x, z):
        return m.head(m.body(x) + m.other(z))

    old = fn.compose(body=D(8), head=D(2))(one)
    new = fn.compose(body=D(8), other=D(8), head=D(2))(two)
    trained = old.init(KEY, X)
    params, report = migrate(old, new, trained, OTHER, X, X, old_sample=(X,))
    assert params["body"]["kernel"] is trained["body"]["kernel"] and len(report.kept) == 4
    assert report.fresh == ("other/kernel", "other/bias")


def test_under_jit_and_on_specs():
    old, new = S(D(8), D(2)), S(D(8), D(3))
    trained = old.init(KEY, X)
    carried = jax.jit(lambda params, key: migrate(old, new, params, key, X).params)(trained, OTHER)
    same(carried, migrate(old, new, trained, OTHER, X).params)


def test_parameters_of_another_net_are_refused():
    net, other = S(D(8), D(2)), S(D(8), D(3))
    trained = net.init(KEY, X)
    with pytest.raises(ValueError, match=r"do not belong together(.|\n)*missing +dense_1/kernel"):
        migrate(net, other, {"dense_0": trained["dense_0"]}, OTHER, X)
    with pytest.raises(ValueError, match=r"unread +norm/scale"):
        migrate(net, other, {**trained, "norm": {"scale": jnp.ones(3)}}, OTHER, X)
    with pytest.raises(ValueError, match=r"replaced +dense_1 "):
        migrate(net, other, {**trained, "dense_1": jnp.ones(3)}, OTHER, X)
    of_the_new = other.init(KEY, X)
    for old, new, params in ((net, other, of_the_new), (other, net, trained), (net, net, S(D(9), D(2)).init(KEY, X))):
        with pytest.raises(ValueError, match=r"the parameters and the inputs do not belong together(.|\n)*reshaped"):
            migrate(old, new, params, OTHER, X)
    for nets in ((net, trained), (trained, net), (None, net)):
        with pytest.raises(TypeError, match=r"migrate takes two nets, layers or functions, got .*: migrate\(old_n"):
            migrate(*nets, trained, OTHER, X)
    assert migrate(jnp.tanh, net, {}, OTHER, X).report.fresh


# A long report


def block(width=16):
    return fn.Residual(S(fn.LayerNorm(), D(width), jax.nn.gelu, D(4)))


def told(old, new):
    report = migrate(old, new, jax.eval_shape(old.init, KEY, X), OTHER, X).report
    return str(report).splitlines()


def test_deep_nets_are_told_of_by_places():
    deep = S(D(4), *[block()] * 12, ("head", D(2)))
    assert told(deep, S(D(4), *[block()] * 4, ("head", D(2)))) == [
        "kept       28 as they are",
        "dropped    48 in sequential_{4..11}",
    ]
    assert told(S(D(4), *[block()] * 4, ("head", D(2))), deep)[1:] == ["fresh      48 in sequential_{4..11}  (drawn)"]
    assert told(deep, S(D(4), *[block(9)] * 12, ("head", D(2))))[1:] == [
        "reshaped   12 in sequential_{0..11}/dense_0/kernel  float32[4,16] -> float32[4,9]  (drawn)",
        "reshaped   12 in sequential_{0..11}/dense_0/bias  float32[16] -> float32[9]  (drawn)",
        "reshaped   12 in sequential_{0..11}/dense_1/kernel  float32[16,4] -> float32[9,4]  (drawn)",
    ]
    assert "moved      72 in sequential_{0..11} -> sequential_{1..12}" in told(deep, S(D(4), block(9), *deep[1:]))
    assert told(deep, S())[1:] == [
        "dropped    2 in dense_0",
        "dropped    72 in sequential_{0..11}",
        "dropped    2 in head",
    ]


def test_a_run_that_became_a_repeat_gets_a_hint():
    deep = S(D(4), *[block()] * 3, ("head", D(2)))
    own = S(D(4), ("trunk", fn.Repeat(fn.Remat(block()), 3)), ("head", D(2)))
    roll, unroll = ("hint       " + text for text in (
        "equal layers became a Repeat: fn.rewrite.roll stacks their parameters, fn.params.rename moves them",
        "a Repeat became equal layers: fn.rewrite.unroll unstacks its parameters, fn.params.rename moves them",
    ))  # fmt: skip
    groups = S(*[D(4), jnp.tanh] * 3)
    rolled = fn.rewrite.roll(groups, None, X)[0]
    written = fn.rewrite.unroll(own, None)[0]
    for a, b in ((deep, own), (groups, rolled), (written, own)):
        assert told(a, b)[-1] == roll
        assert told(b, a)[-1] == unroll
    for a, b in ((own, own), (deep, S(*deep, D(3))), (S(D(4), D(3)), S(D(4), fn.Repeat(D(4), 2), D(3)))):
        assert not any(line.startswith("hint") for line in told(a, b))
    params = deep.init(KEY, X)
    moved = fn.params.rename(fn.rewrite.roll(deep, params, X)[1], {"sequential_0-2": "trunk"})  # what the hint says
    np.testing.assert_allclose(own.apply(moved, X), deep.apply(params, X), rtol=1e-5)


def meant(text, paths):
    """Which of some paths a printed path, with numbers from a to b, speaks of."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if found is None:
        return {path for path in paths if within(path, text)}
    numbers = range(int(found[1]), int(found[2]) + 1)
    return set().union(*(meant(f"{text[: found.start()]}{i}{text[found.end() :]}", paths) for i in numbers))


PATHS = [
    f"{a}/{b}/{c}" for a in ("x0", "x1", "x2", "y", "10") for b in ("b_0", "b_1", "b_9", "b_10") for c in ("k", "b0")
]


@settings(max_examples=200, deadline=None, database=None)
@given(st.permutations(PATHS), st.integers(0, len(PATHS)), st.booleans())
def test_what_is_printed_is_what_is_meant(paths, n, in_order):
    gone, kept = ((sorted(part) if in_order else part) for part in (paths[:n], paths[n:]))
    lines = str(Report(kept=tuple(kept), dropped=tuple(gone), reshaped=(Changed("z", 1, 2, "z"),))).splitlines()
    rest: set[str] = set(gone)
    for _, number, text in (re.fullmatch(r"dropped    ((\d+) in )?(.*)", line).groups() for line in lines[2:]):
        found = meant(text, PATHS)
        assert len(found) == int(number or 1) and found <= rest
        rest -= found
    assert not rest
    assert len(lines) - 2 <= n


# Any two nets


def rows(*, depth):
    layer = st.one_of(
        st.sampled_from([jnp.tanh, fn.LayerNorm(), fn.LayerNorm(use_bias=False), D(4), D(4, use_bias=False)]),
        st.integers(3, 5).map(lambda width: S(D(width), jax.nn.relu, D(4))),
    )
    if depth:
        inner = rows(depth=depth - 1)
        layer = st.one_of(
            layer,
            inner,
            inner.map(fn.Remat),
            st.builds(fn.Repeat, inner, st.integers(1, 2)),
            st.tuples(layer, inner).map(lambda two: fn.Parallel(*two, merge="sum")),
        )
    names = st.permutations(["a", "b", "c", "d", "e"])
    items = st.lists(st.tuples(layer, st.booleans()), max_size=4)
    return st.builds(
        lambda items, names: S(
            *((name, layer) if named else layer for (layer, named), name in zip(items, names, strict=False))
        ),
        items,
        names,
    )


@st.composite
def edited(draw):
    """A net, and the same with some of its layers taken out and others put in."""
    old, other = draw(rows(depth=1)), draw(rows(depth=1))
    kept = [item for item in old.layers if draw(st.booleans())]
    names = {item[0] for item in kept if isinstance(item, tuple)}
    for item in other.layers:
        if not isinstance(item, tuple) or item[0] not in names:
            kept.insert(draw(st.integers(0, len(kept))), item)
    return S(*old.layers, D(2)), S(*kept, D(draw(st.sampled_from([2, 3]))))


@settings(max_examples=30, deadline=None, database=None)
@given(edited())
def test_each_parameter_of_either_net_stands_once_in_the_report(nets):
    old, new = nets
    trained, wanted = old.init(KEY, X), new.plan(X)
    params, report = migrate(old, new, trained, OTHER, X)
    olds = [*report.kept, *(row.old for row in report.moved), *report.dropped]
    news = [*report.kept, *(row.new for row in report.moved), *report.fresh]
    olds += [row.old_path for row in report.reshaped]
    news += [row.path for row in report.reshaped]
    assert collections.Counter(olds) == collections.Counter(parameters(old.plan(X).declared["params"]))
    assert collections.Counter(news) == collections.Counter(parameters(wanted.declared["params"]))
    assert not differences(wanted.params, params)
    for before, after in [*((path, path) for path in report.kept), *report.moved]:
        assert entry(params, after) is entry(trained, before)
    drawn = new.init(OTHER, X)
    for path in [*report.fresh, *(row.path for row in report.reshaped)]:
        same(entry(params, path), entry(drawn, path))
    assert not report.converted
    again, report = migrate(new, new, params, KEY, X)
    same(again, params)
    assert len(report.kept) == len(news)
