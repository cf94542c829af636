"""From one net value to another."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.rewrite import find, replace

KEY = jax.random.key(0)
X = jnp.ones((2, 8))


def block_forward(m, x):
    return x + m.out(m.activation(m.hidden(x)))


def block():
    return fn.compose(hidden=fn.Dense(16), activation=jax.nn.relu, out=fn.Dense(8), width=3)(block_forward)


def net():
    return fn.Sequential(
        fn.Dense(8), jax.nn.relu, fn.Dense(8), fn.Remat(fn.Repeat(block(), 2)), ("head", fn.Freeze(fn.Dense(2)))
    )


def test_find_by_class_pattern_layer_and_function():
    there = find(net(), fn.Dense)
    assert list(there) == ["dense_0", "dense_1", "block_forward_0/hidden", "block_forward_0/out", "head"]
    assert there["head"] == fn.Dense(2)  # inside its wrapper
    assert list(find(net(), "**/hidden")) == ["block_forward_0/hidden"]
    assert list(find(net(), jax.nn.relu)) == ["relu_0", "block_forward_0/activation"]
    assert list(find(net(), fn.Dense(8))) == ["dense_0", "dense_1", "block_forward_0/out"]
    assert find(net(), "head") == {"head": fn.Freeze(fn.Dense(2))} == {"head": net().at("head")}
    assert find(net(), fn.Freeze) == {"head": fn.Freeze(fn.Dense(2))}
    assert find(net(), fn.Conv) == {}
    assert list(find(net(), "")) == [""]


def test_what_is_replaced_and_what_stays():
    old = net()
    new = replace(old, {"dense_0": {"features": 4}, "head": fn.Dense(3), "block_forward_0": lambda b: fn.Residual(b)})
    assert old == net()
    assert new["dense_0"] == fn.Dense(4)
    assert new[4] == fn.Dense(3)
    assert new[3] == fn.Residual(fn.Remat(fn.Repeat(block(), 2)))
    params = new.init(KEY, X)
    assert params["head"]["kernel"].shape == (8, 3)


def test_the_first_rule_wins_and_children_come_first():
    seen = []

    def note(layer):
        seen.append(type(layer).__name__)
        return layer

    new = replace(
        net(), {"head": {"use_bias": False}, fn.Dense: {"features": 8}, fn.Repeat: note, "block_forward_0": note}
    )
    assert new["head"] == fn.Freeze(fn.Dense(2, use_bias=False))
    assert find(new, "**/hidden")["block_forward_0/hidden"] == fn.Dense(8)
    assert seen == ["Repeat", "Remat"]


def test_names_stay_where_automatic_ones_would_change():
    old = fn.Sequential(fn.Dense(8), fn.Dense(8), ("named", jnp.tanh), fn.LayerNorm())
    new = replace(old, {"dense_0": lambda _: fn.RMSNorm(), "named": lambda _: jax.nn.gelu})
    assert [name for name, _ in new._entries()] == [name for name, _ in old._entries()]
    assert new == fn.Sequential(
        ("dense_0", fn.RMSNorm()), ("dense_1", fn.Dense(8)), ("named", jax.nn.gelu), ("layer_norm_0", fn.LayerNorm())
    )
    params = old.init(KEY, X)
    params["dense_0"] = {"scale": jnp.ones(8)}
    new.apply(params, X)
    assert replace(old, {"dense_0": {"features": 3}}) == fn.Sequential(
        fn.Dense(3), fn.Dense(8), ("named", jnp.tanh), fn.LayerNorm()
    )


def test_tied_layers_are_replaced_together():
    tied = fn.Sequential(("a", fn.Dense(8)), ("a", fn.Dense(8)), fn.Dense(3))
    new = replace(tied, {"a": {"use_bias": False}})
    assert [layer.use_bias for layer in new.layers[:2] for layer in [layer[1]]] == [False, False]
    new.init(KEY, X)


def test_a_whole_net_and_what_is_written_in_every_kind_of_field():
    class Pair(fn.Composite):
        first: fn.Layer
        others: tuple
        width: int = 3

        def forward(self, m, x):
            x = m.first(x)
            for layer in m.others:
                x = layer(x)
            return x

    old = Pair(fn.Dense(3), (jnp.tanh, ("out", fn.Dense(2))))
    assert replace(old, {fn.Dense: lambda d: fn.Remat(d)}) == Pair(
        fn.Remat(fn.Dense(3)), (jnp.tanh, ("out", fn.Remat(fn.Dense(2))))
    )
    assert replace(old, {"": {"width": 5}}) == Pair(fn.Dense(3), (jnp.tanh, ("out", fn.Dense(2))), 5)
    assert replace(fn.Dense(3), {"": fn.Dense(4)}) == fn.Dense(4)
    parallel = fn.Parallel(fn.Dense(3), fn.Dense(3), merge=jnp.add)
    assert replace(parallel, {jnp.add: lambda _: jnp.multiply}) == fn.Parallel(
        fn.Dense(3), fn.Dense(3), merge=jnp.multiply
    )
    assert replace(fn.Parallel(fn.Dense(3), merge="sum"), {"": {"merge": "mean"}}) == fn.Parallel(
        fn.Dense(3), merge="mean"
    )
    tied = fn.tie(fn.Sequential(("a", fn.Dense(8)), ("b", fn.Dense(8))), "b/kernel", to="a/kernel")
    np.testing.assert_array_equal(list(replace(tied, {"b": {"use_bias": False}}).init(KEY, X)["a"]), ["kernel", "bias"])


def test_a_part_of_a_composed_is_a_field():
    assert replace(block(), {"": {"width": 5}}).width == 5
    with pytest.raises(ValueError, match=r"has no field 'widht' \(did you mean 'width'\?\); it has hidden, activation"):
        replace(block(), {"": {"widht": 5}})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"dense_7": fn.Dense(2)},
            ValueError,
            r"'dense_7' matches no layer \(did you mean 'dense_[01]'\?\); there are",
        ),
        ({fn.Conv: fn.Dense(2)}, ValueError, "matches no layer"),
        ({"head": {"feature": 3}}, ValueError, r"head: Dense\(2\).* has no field 'feature' \(did you mean 'features'"),
        ({"head": lambda layer: 3}, TypeError, "head: a replacement is a layer.*returned 3.*lambda _: the_function"),
    ],
)
def test_what_cannot_be_replaced(changes, error, message):
    with pytest.raises(error, match=message):
        replace(net(), changes)


def test_where_a_layer_was_built_is_kept():
    old = fn.Sequential(fn.Dense(8), fn.Dense(2))
    assert replace(old, {"dense_0": {"features": 3}})[0]._created == old[0]._created


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_any_layer_in_any_net_is_wrapped_and_nothing_else_changes(row):
    """Remat adds no name: with it around each layer in turn the net computes the same with the same parameters."""
    params, state = row.layer.init(KEY, *row.sample), row.layer.init_state(*row.sample)
    wanted, _ = jax.jit(row.layer.apply)(params, *row.sample, state=state)
    for what in dict.fromkeys(type(layer) for layer in find(row.layer, fn.Layer).values()):
        if issubclass(what, fn.Wrapper) or fn.Parametrized in map(type, find(row.layer, fn.Layer).values()):
            continue
        try:
            new = replace(row.layer, {what: lambda layer: fn.Remat(layer)})
        except TypeError as error:
            assert "makes its child 'table' itself" in str(error)
            continue
        assert new != row.layer
        assert new.plan(*row.sample).params == row.layer.plan(*row.sample).params
        output, _ = jax.jit(new.apply)(params, *row.sample, state=state)
        for a, b in zip(jax.tree.leaves(output), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-5, atol=1e-5)


def test_what_stumbles_over_a_function_in_place_of_a_rewriter_is_told():
    with pytest.raises(TypeError) as caught:
        replace(net(), {jax.nn.relu: jax.nn.gelu})
    assert "For jax.nn.gelu itself in place of a layer, write lambda _: jax.nn.gelu" in str(caught.value)
    assert find(replace(net(), {"block_forward_0": {"n": 5}}), fn.Repeat)["block_forward_0"].n == 5
    assert find(replace(net(), {"block_forward_0": {"width": 5}}), fn.Repeat)["block_forward_0"].body.width == 5


def test_layers_made_of_fields_give_way_to_a_row_of_them():
    mlp = fn.Sequential(fn.MLP(4, 2, dropout=0.5))
    new = replace(mlp, {jax.nn.relu: lambda _: jnp.tanh})
    assert new["mlp_0"] == fn.Sequential(fn.Dense(4), jnp.tanh, fn.Dropout(0.5), fn.Dense(2))
    assert new.plan(X).params == mlp.plan(X).params
    assert replace(mlp, {fn.MLP: {"activation": jnp.tanh}})["mlp_0"] == fn.MLP(4, 2, dropout=0.5, activation=jnp.tanh)
    assert fn.parametrize(fn.MLP(4, 2), {"**/kernel": fn.WeightNorm()}, X).plan(X).params["dense_1"]["kernel"]
    separable = fn.SeparableConv(4, 3)
    images = jnp.ones((1, 5, 5, 2))
    wrapped = replace(separable, {"pointwise": fn.Freeze})
    assert wrapped.plan(images).params == separable.plan(images).params
    attention = fn.Attention(2, dropout=0.1)
    assert replace(attention, {fn.Dropout: lambda _: fn.Dropout(0.3)}).dropout == fn.Dropout(0.3)


def test_a_child_that_its_layer_makes_is_made_again_once_it_is_back():
    net = fn.Sequential(fn.TransformerBlock(fn.Attention(2)), fn.MLP(4, 2))
    other = replace(net, {"**/query": lambda old: fn.Remat(old), "**/mlp_norm": fn.RMSNorm()})
    assert isinstance(other.at("transformer_block_0/attention")._entries()[0][1], fn.Remat)
    back = replace(other, {fn.Remat: lambda old: old.body, fn.RMSNorm: fn.LayerNorm()})
    assert back == net
    assert repr(back) == repr(net)


class Picky(fn.Composite):
    """It takes an inner layer of its own where it is wide."""

    width: int
    inner: fn.Layer | None = None

    def __post_init__(self):
        if self.width > 2 and self.inner is None:
            raise ValueError("a wide one takes an inner layer")

    def forward(self, m, x):
        return x if self.inner is None else m.inner(x)


def test_a_field_that_cannot_be_none_stays_as_it_is():
    assert replace(Picky(3, fn.Dense(2)), {fn.Dense: fn.Dense(4)}) == Picky(3, fn.Dense(4))
    assert replace(Picky(2, fn.Dense(2)), {fn.Dense: fn.Dense(4)}) == Picky(2, fn.Dense(4))


def test_several_are_spoken_of_in_a_tuple():
    assert list(find(net(), ("head", "**/hidden"))) == ["block_forward_0/hidden", "head"]
    assert find(net(), ("head", "**/hidden")) == find(net(), ["**/hidden", "head"])
    assert list(find(net(), (jax.nn.relu, fn.Freeze))) == ["relu_0", "block_forward_0/activation", "head"]
    assert find(net(), ()) == find(net(), ("heda", fn.Conv)) == find(net(), "heda") == {}
    assert replace(net(), {("dense_0", "dense_1"): fn.Dense(9)}) == replace(
        net(), {"dense_0": fn.Dense(9), "dense_1": fn.Dense(9)}
    )
    wider = replace(net(), {("dense_0", "head"): {"features": 5}})
    assert wider["dense_0"] == fn.Dense(5) and wider.at("head") == fn.Freeze(fn.Dense(5))
    with pytest.raises(ValueError, match=r"the pattern 'heda' matches no layer \(did you mean 'head'\?\)"):
        replace(net(), {("dense_0", "heda"): fn.Dense(5)})
    with pytest.raises(ValueError, match="the rule for 'head' does nothing, as another before it is for that too: ke"):
        replace(net(), {("dense_0", "head"): fn.Dense(5), "head": fn.Dense(6)})
    with pytest.raises(ValueError, match="the rule for 'dense_0' does nothing"):
        replace(net(), {("dense_*", "head"): fn.Dense(5), "dense_0": fn.Dense(6)})


@pytest.mark.parametrize(
    ("owner", "act"),
    [
        ("find", lambda net: find(net, "a")),
        ("replace", lambda net: replace(net, {"": lambda _: jnp.sin})),
        ("frozen", fn.params.frozen),
        ("of", lambda net: fn.params.of(net, "")),
        ("reinit", lambda net: fn.rewrite.reinit(net, {}, KEY, X, patterns=())),
    ],
)
def test_they_take_a_net(owner, act):
    act(jnp.tanh)  # a function is a layer
    for wrong, got in (({"a": X}, r"\{'a': float32\[2,8\]\}"), (fn.Dense, "the class Dense"), (None, "None")):
        with pytest.raises(TypeError, match=f"^{owner} takes a net first, a layer or function, got {got}: give the"):
            act(wrong)


def test_neither_a_bound_net_nor_a_function_of_one_is_a_net():
    dense = fn.Dense(2)
    for wrong in (dense.apply, dense.init, dense.bind(dense.init(KEY, X))):
        with pytest.raises(
            TypeError, match="find takes a net first, a layer or function, got .*: give the layer itself"
        ):
            find(wrong, "")


def test_what_speaks_of_no_layers_is_told():
    for wrong, got in ((3, "3"), (fn.initializers.Ones(), r"Ones\(\)"), (("head", None), "None")):
        with pytest.raises(TypeError, match=f"find takes layers by a pattern of paths, a class .* got {got}: find"):
            find(net(), wrong)
        with pytest.raises(TypeError, match=f"replace takes layers by a pattern of paths, a class .* got {got}: find"):
            replace(net(), {wrong: fn.Dense(2)})
    with pytest.raises(
        TypeError, match=r"replace takes a mapping from layers to what stands in their place, got 'head'"
    ):
        replace(net(), "head")
