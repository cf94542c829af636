"""Laws of trees, over random ones: names, depths, shapes and dtypes as they come, bare arrays and {} among them."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import funcnets as fn
from funcnets.params import (
    average,
    count,
    difference,
    drop,
    get,
    insert,
    labels,
    merge,
    nbytes,
    paths,
    rename,
    split,
    update,
)  # fmt: skip

LAW = settings(max_examples=50, deadline=None, database=None, derandomize=True)
PATTERNS = ("**", "a/**", "**/b", "*", "*/*", "a*", "**/[a-c]", "k?rnel", "**/kernel", "")

names = st.sampled_from(["a", "b", "c", "ab", "kernel", "bias", "dense_0", "ünder", "x y"])
dtypes = st.sampled_from([jnp.float32, jnp.bfloat16, jnp.int32])
shapes = st.sampled_from([(), (0,), (1,), (3,), (2, 3), (1, 0, 2)])


def _array(shape, dtype, value, numpy):
    array = np.full(shape, value, np.dtype(dtype))
    return array if numpy else jnp.asarray(array)


arrays = st.builds(_array, shapes, dtypes, st.integers(-9, 99), st.booleans())
dicts = st.recursive(arrays, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=4), max_leaves=12)
trees = st.one_of(dicts, st.just({}))
selections = st.frozensets(st.sampled_from(PATTERNS)).map(
    lambda some: lambda path: any(fn.params.matches(one, path) for one in some)
)


def frozen_copy(tree):
    """What a tree is: its dicts by identity and order, its arrays by identity and bytes."""
    if isinstance(tree, dict):
        return id(tree), [(name, frozen_copy(inner)) for name, inner in tree.items()]
    return id(tree), np.asarray(tree).tobytes()


def same(a, b):
    """Whether two trees hold the very same arrays at the same paths."""
    a, b = dict(paths(a)), dict(paths(b))
    return a.keys() == b.keys() and all(a[path] is b[path] for path in a)


def prefixed(tree):
    """A tree that is a dict, whatever it was."""
    return {"root": tree} if paths(tree) else {}


@LAW
@given(trees, selections)
def test_merge_is_the_inverse_of_split(tree, select):
    before = frozen_copy(tree)
    matching, rest = split(tree, select)
    assert frozen_copy(tree) == before
    assert all(select(path) for path, _ in paths(matching))
    assert not any(select(path) for path, _ in paths(rest))
    parts = frozen_copy(matching), frozen_copy(rest)
    for merged in (merge(matching, rest), merge(rest, matching)):
        assert same(merged, tree)
        assert jax.tree.structure(merged) == jax.tree.structure(tree)
    assert (frozen_copy(matching), frozen_copy(rest)) == parts
    assert same(drop(tree, select), rest)


@LAW
@given(trees, selections)
def test_update_changes_what_it_is_told_and_nothing_else(tree, select):
    before = frozen_copy(tree)
    assert same(update(tree, {select: lambda w: w}), tree)
    assert same(update(tree, {select: lambda path, w: w}), tree)
    new = update(tree, {select: 5})
    assert frozen_copy(tree) == before
    assert jax.tree.structure(new) == jax.tree.structure(tree)
    assert not difference(tree, new)
    old, held = dict(paths(tree)), dict(paths(new))
    for path, array in held.items():
        assert (array is not old[path] and (np.asarray(array) == 5).all()) if select(path) else array is old[path]
        assert isinstance(array, jax.Array) == isinstance(old[path], jax.Array)
    if isinstance(tree, dict):
        assert new is not tree
    fresh = [id(array) for path, array in held.items() if select(path)]
    assert len(set(fresh)) == len(fresh)


@LAW
@given(trees, selections)
def test_one_array_for_many_paths_is_copied(tree, select):
    specs = {(array.shape, array.dtype): array for _, array in paths(tree)}
    for (shape, dtype), array in specs.items():
        fits = lambda path, s=shape, d=dtype: (dict(paths(tree))[path].shape, dict(paths(tree))[path].dtype) == (s, d)  # noqa: E731
        new = update(tree, {fits: array})
        ids = [id(one) for _, one in paths(new)]
        assert len(set(ids)) == len(ids)


@LAW
@given(trees.map(prefixed), st.data())
def test_there_and_back_again(tree, data):
    before = frozen_copy(tree)
    there = {"/".join(path.split("/")[:i]) for path, _ in paths(tree) for i in range(1, path.count("/") + 2)}
    if there:
        path = data.draw(st.sampled_from(sorted(there)))
        moved = rename(tree, {path: "new/place"})
        assert same(get(moved, "new/place"), get(tree, path))
        assert same(rename(moved, {"new/place": path}), tree)
        assert frozen_copy(tree) == before
    assert same(rename(tree, {}), tree)
    array = jnp.ones(3)
    more = insert(tree, {"new/place": array})
    assert get(more, "new/place") is array
    assert same(drop(more, "new/place"), tree)
    assert frozen_copy(tree) == before


@LAW
@given(trees, trees)
def test_difference_is_mirrored_and_empty_for_the_same(a, b):
    assert not difference(a, a)
    ab, ba = difference(a, b), difference(b, a)
    first, second = dict(paths(a)), dict(paths(b))
    assert ab.missing.keys() == ba.extra.keys() == first.keys() - second.keys()
    assert ab.extra.keys() == ba.missing.keys() == second.keys() - first.keys()
    both = first.keys() & second.keys()
    assert ab.reshaped.keys() == {path for path in both if first[path].shape != second[path].shape}
    assert ab.retyped.keys() == {path for path in both - ab.reshaped.keys() if first[path].dtype != second[path].dtype}
    for one, other in ((ab.reshaped, ba.reshaped), (ab.retyped, ba.retyped)):
        assert one == {path: (x, y) for path, (y, x) in other.items()}
    assert bool(ab) == bool(ba) == (jax.tree.map(_spec, a) != jax.tree.map(_spec, b))
    rows = sum(map(len, (ab.missing, ab.extra, ab.reshaped, ab.retyped)))
    assert len(str(ab).splitlines()) == max(rows, 1)


def _spec(array):
    return array.shape, str(array.dtype)


@LAW
@given(trees, selections)
def test_labels_have_the_structure_of_the_tree(tree, select):
    before = frozen_copy(tree)
    everything = lambda path: True  # noqa: E731
    found = labels(tree, {select: "yes", everything: "no"})
    assert frozen_copy(tree) == before
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    assert dict(paths(found)) == {path: "yes" if select(path) else "no" for path, _ in paths(tree)}


@LAW
@given(trees)
def test_reading(tree):
    for path, array in paths(tree):
        assert get(tree, path) is array
    flat = [np.asarray(one) for one in jax.tree.leaves(tree)]
    assert count(tree) == sum(one.size for one in flat)
    assert nbytes(tree) == sum(one.nbytes for one in flat)
    assert len(str(fn.params.table(tree)).splitlines()) == len(flat) + 4
    floating, _ = split(tree, lambda path: bool(jnp.issubdtype(dict(paths(tree))[path].dtype, jnp.floating)))
    mean = average([floating, floating, floating])
    assert not difference(floating, mean)
    assert all(np.allclose(x, y, rtol=1e-6) for x, y in zip(*map(jax.tree.leaves, (mean, floating)), strict=True))


def test_the_same_under_jit():
    tree = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "b": jnp.ones((), jnp.bfloat16)}

    def f(tree):
        kernels, rest = split(tree, "**/kernel")
        tree = merge(rest, update(kernels, {"**": lambda w: 2 * w}))
        tree = rename(insert(tree, {"c/d": jnp.zeros(2)}), {"a": "c/a"})
        tree = update(tree, {"c/a/bias": 7, "b": jnp.zeros((), jnp.bfloat16)})
        assert not difference(tree, average([tree, tree]))
        assert labels(tree, {"**": 1})["c"]["d"] == 1
        assert (count(tree), nbytes(tree)) == (12, 46)
        return average((tree, tree), (jnp.float32(0.25), 0.5)), drop(tree, "c/**")

    eager, compiled, planned = f(tree), jax.jit(f)(tree), jax.eval_shape(f, tree)
    assert jax.tree.all(jax.tree.map(np.array_equal, eager, compiled))
    assert jax.tree.all(jax.tree.map(np.array_equal, eager[0]["c"]["a"]["kernel"], np.full((2, 3), 1.5)))
    assert not any(map(difference, planned, eager))


def bits(tree):
    """What a tree holds, path by path, to the bit."""
    return {path: (str(a.dtype), a.shape, np.asarray(a).tobytes()) for path, a in paths(tree)}


@LAW
@given(trees.filter(lambda tree: bool(paths(tree))), st.integers(1, 4))
def test_unstack_is_the_inverse_of_stack(tree, n):
    copies = [fn.params.update(tree, {"**": lambda a, i=i: a + np.asarray(i, a.dtype)}) for i in range(n)]
    before = [frozen_copy(copy) for copy in copies]
    stacked = fn.rewrite.stack(copies)
    assert [frozen_copy(copy) for copy in copies] == before
    assert all(array.shape[0] == n for _, array in paths(stacked))
    again = fn.rewrite.unstack(stacked)
    assert [bits(copy) for copy in again] == [bits(copy) for copy in copies]
    assert bits(fn.rewrite.stack(again)) == bits(stacked)


@LAW
@given(trees, selections)
def test_no_array_of_a_new_tree_stands_in_two_places(tree, select):
    one = dict(paths(tree))
    tied = {"first": tree, "second": tree} if one else {}
    for made in (merge({"x": tree}, {"y": tree}) if one else {}, insert({"x": tree}, {"y": tree}) if one else {}):
        held = [array for _, array in paths(made)]
        assert len({id(array) for array in held}) == len(held)
    changed = update(tied, {lambda path: select(path): lambda a: a}) if one else {}
    assert bits(changed) == bits(tied)
