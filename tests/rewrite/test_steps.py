"""Paths that wrappers hold, where layers become copies and copies layers."""

import json
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.initializers import Constant, Ones, Zeros
from funcnets.rewrite import find, roll, unroll, with_init
from funcnets.rules import leads

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
D = fn.Dense(6)
ROW = fn.Sequential(D, D, D, D, ("head", fn.Dense(2)))


def same_output(net, *, rolls):
    """A net and its rolled one compute the same, and the latter starts as rules say."""
    params = net.init(KEY, X)
    new, moved = roll(net, params, X)
    assert bool(find(new, fn.Repeat)) == rolls and (rolls or new == net)
    np.testing.assert_allclose(new.apply(moved, X), net.apply(params, X), rtol=1e-5, atol=1e-6)
    again, back = unroll(new, moved)
    assert again == net
    jax.tree.map(np.testing.assert_array_equal, back, params)
    return new


@pytest.mark.parametrize(
    ("pattern", "place", "does"),
    [
        ("a/kernel", "a", True),
        ("a", "a", True),
        ("a/**", "a", True),
        ("*/kernel", "a", True),
        ("**/a/kernel", "a", True),
        ("**/a", "a", True),
        ("[ab]/**", "a/b", False),
        ("a/b/**", "a/b", True),
        ("a/**/kernel", "a/b", False),
        ("a/**/b", "a/b", True),
        ("b/kernel", "a", False),
        ("a", "a/b", False),
        ("**/kernel", "a", False),
        ("**", "a", False),
        ("**", "", False),
        ("**/kernel", "", False),
        ("a/kernel", "", True),
        ("", "a", False),
        ("", "", True),
        ("**/**", "a", True),
        (lambda path: False, "a", True),
    ],
)
def test_which_patterns_lead_to_a_place(pattern, place, does):
    assert leads(pattern, place) is does


@pytest.mark.parametrize(
    ("rules", "rolls"),
    [
        ({fn.Dense: Ones()}, True),
        ({"**/bias": Constant(2.0), "**": Ones()}, True),
        ({"head/*": Ones()}, True),
        ({("head/*", fn.Dense): Ones()}, True),
        ({"dense_1/kernel": Ones()}, False),
        ({"dense_*/kernel": Ones()}, False),
        ({"*/kernel": Ones()}, False),
        ({lambda path: path.startswith("dense_2"): Ones()}, False),
        ({fn.params.of(ROW, fn.Dense, "kernel"): Ones()}, False),
        ({fn.Sequential: Ones()}, False),
        ({fn.Layer: Ones()}, False),
    ],
)
def test_rules_for_initial_values_hold_in_what_is_rolled(rules, rolls):
    net = with_init(ROW, rules)
    new = same_output(net, rolls=rolls)
    flat = new.init(KEY, X) if not rolls else unroll(new, new.init(KEY, X))[1]
    wanted = net.init(KEY, X)
    ruled = [path for path, array in fn.params.paths(wanted) if bool((array == array.ravel()[0]).all())]
    assert ruled
    for path in ruled:
        np.testing.assert_array_equal(fn.params.get(flat, path), fn.params.get(wanted, path))


def test_rules_within_a_run_go_with_it():
    block = with_init(fn.Sequential(D, jnp.tanh), {"dense_0/kernel": Ones()})
    new = same_output(fn.Sequential(block, block, block, fn.Dense(2)), rolls=True)
    assert (new.init(KEY, X)["sequential_0-2"]["dense_0"]["kernel"] == 1).all()


def test_groups_whose_new_names_a_pattern_names_stay():
    pair = fn.pair(lambda key, x: jax.random.normal(key, x.shape[-1:]), lambda p, x: x * p[None])
    net = fn.Sequential(pair, jnp.tanh, *[D, pair] * 2)
    assert find(same_output(net, rolls=True), fn.Repeat).keys() == {"layers_2-5"}  # with another function_0 in it
    same_output(with_init(net, {"**/function_0": Ones()}), rolls=False)


def test_only_the_runs_that_a_path_leads_into_stay():
    row = fn.Sequential(D, D, D)
    net = fn.Sequential(("a", row), ("b", fn.Remat(row)), D, D, jnp.tanh, ("c", fn.rewrite.Unrolled(D, D)))
    for wrap, runs in (
        (lambda net: with_init(net, {"a/dense_1/kernel": Ones()}), ["b/dense_0-2", "dense_0-1", "c"]),
        (lambda net: with_init(net, {"b/dense_1/kernel": Ones(), "a/*/*": Zeros()}), ["dense_0-1", "c"]),
        (lambda net: fn.tie(net, "b/dense_1/kernel", to="c/dense_0/kernel"), ["a/dense_0-2", "dense_0-1"]),
        (lambda net: fn.edit(net, {"dense_1": jnp.tanh}), ["a/dense_0-2", "b/dense_0-2", "c"]),
        (lambda net: fn.Freeze(fn.edit(net, {"a/dense_1": jnp.tanh}), but="c/**"), ["b/dense_0-2", "dense_0-1"]),
    ):
        assert list(find(same_output(wrap(net), rolls=True), fn.Repeat)) == runs


@pytest.mark.parametrize(
    ("changes", "rolls"),
    [
        ({"head": lambda y: y + 1}, True),
        ({"head@0": lambda y: y + 1}, True),
        ({"dense_1": lambda y: y + 1}, False),
        ({"dense_1@0": lambda y: y + 1}, False),
        ({"*": lambda y: y + 1}, False),
        ({"**/dense_1": lambda y: y + 1}, False),
        ({fn.Dense: lambda y: y + 1}, False),
        ({fn.Dense(2): lambda y: y + 1}, False),
    ],
)
def test_edits_hold_in_what_is_rolled(changes, rolls):
    same_output(fn.edit(ROW, changes), rolls=rolls)


@pytest.mark.parametrize(("but", "rolls"), [("head/**", True), ("**/bias", True), ("dense_1/*", False)])
def test_what_learns_all_the_same_does_so_in_what_is_rolled(but, rolls):
    net = fn.Freeze(ROW, but=but)
    new = same_output(net, rolls=rolls)
    gradient = jax.grad(lambda params, net: jnp.square(net.apply(params, X)).sum())
    moved = roll(net, net.init(KEY, X), X)[1]
    got, wanted = unroll(new, gradient(moved, new))[1], gradient(net.init(KEY, X), net)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, wanted)


DEEP = fn.Sequential(("trunk", fn.Repeat(D, 3)), ("head", fn.Dense(2)))


@pytest.mark.parametrize(
    ("net", "held"),
    [
        (with_init(DEEP, {"trunk/kernel": Ones()}), "'trunk/kernel' of with_init"),
        (with_init(DEEP, {"head/*": Ones(), fn.Repeat: Ones()}), "Repeat of with_init"),
        (fn.edit(DEEP, {"head": jnp.tanh, "trunk": jnp.tanh}), "'trunk' of edit"),
        (fn.edit(DEEP, {fn.Dense: jnp.tanh}), "Dense of edit"),
        (fn.Freeze(DEEP, but="trunk/*"), "but=('trunk/*',) of Freeze"),
    ],
)
def test_paths_into_copies_are_refused(net, held):
    with pytest.raises(ValueError, match=re.escape(f"no path leads into a Repeat, got {held}")):
        unroll(net, net.init(KEY, X))


@pytest.mark.parametrize(
    "net",
    [
        with_init(DEEP, {"head/kernel": Ones(), fn.Dense: Zeros()}),
        with_init(DEEP, {"**/kernel": Ones()}),
        fn.edit(DEEP, {"head": jnp.tanh}),
        fn.Freeze(DEEP, but="head/**"),
    ],
)
def test_paths_to_elsewhere_are_none_of_unroll(net):
    params = net.init(KEY, X)
    new, apart = unroll(net, params)
    assert not find(new, fn.Repeat)
    np.testing.assert_allclose(new.apply(apart, X), net.apply(params, X), rtol=1e-5, atol=1e-6)


# A class in a rule


def test_a_class_is_looked_for_when_the_net_is_initialised():
    net = with_init(fn.Sequential(D, ("head", fn.Dense(2))), {fn.Dense: Ones()})
    assert repr(net).endswith("{Dense: Ones()})") and net != with_init(net.body, {"**": Ones()})
    net = fn.rewrite.replace(net, {fn.Sequential: lambda row: row.append(("last", fn.Dense(3)))})
    net = fn.rewrite.replace(net, {"dense_0": lambda old: fn.Sequential(fn.LayerNorm(), old)})
    params = net.init(KEY, X)
    assert (params["dense_0"]["layer_norm_0"]["bias"] == 0).all()
    for layer in (params["dense_0"]["dense_0"], params["head"], params["last"]):
        assert (layer["kernel"] == 1).all() and (layer["bias"] == 1).all()
    without = fn.rewrite.replace(net, {fn.Dense: lambda old: fn.LayerNorm()})
    with pytest.raises(ValueError, match="the net has no layer of the class Dense; it has LayerNorm, Sequential"):
        without.init(KEY, X)


def test_a_rule_with_a_class_is_a_value_that_files_keep():
    net = with_init(ROW, {(fn.Dense, "head/*"): Ones(), "**": Zeros()})
    config = json.loads(json.dumps(fn.files.to_config(net)))
    assert config["net"]["rules"][0][0][0] == {"class": "OfClass", "kind": {"type": "Dense"}}
    for again in (fn.files.from_config(config), pickle.loads(pickle.dumps(net))):
        assert again == net and hash(again) == hash(net) and repr(again) == repr(net)
        jax.tree.map(np.testing.assert_array_equal, again.init(KEY, X), net.init(KEY, X))
    assert net != with_init(ROW, {(fn.Layer, "head/*"): Ones(), "**": Zeros()})
    for wrong, text in (
        ("Dence", r"the class 'Dence' is not registered \(did you mean 'Dense'"),
        ("initializers.Ones", "a config takes a class of layers as type, got 'initializers.Ones'"),
    ):
        config["net"]["rules"][0][0][0]["kind"]["type"] = wrong
        with pytest.raises((ValueError, TypeError), match=text):
            fn.files.from_config(config)
    with pytest.raises(TypeError, match=r"OfClass takes a class of layers, got .*Ones.*: OfClass\(Dense\)"):
        fn.rewrite.initialization.OfClass(Ones)
