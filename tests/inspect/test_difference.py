"""What has changed from one net to another."""

import catalogue
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funcnets as fn
from funcnets.inspect import diff
from funcnets.inspect.difference import Change
from funcnets.shapes import ABSENT

S, D = fn.Sequential, fn.Dense


def forward(m, x):
    return m.out(jnp.tanh(m.hidden(x)))


def other_forward(m, x):
    return m.out(m.hidden(x))


def block(function=forward, **parts):
    return fn.compose(**{"hidden": D(3), "out": D(2), **parts})(function)


@pytest.mark.parametrize(
    ("old", "new", "rows"),
    [
        (S(D(8), D(2)), S(D(9), D(2)), [Change("field", "dense_0", 8, 9, "features")]),
        (S(D(8)), S(D(8), jnp.tanh), [Change("added", "tanh_0", None, S(jnp.tanh)[0])]),
        (S(D(8), fn.Remat(D(3))), S(D(8)), [Change("removed", "dense_1", fn.Remat(D(3)), None)]),
        (
            S(D(8), D(2)),
            S(D(8), D(4), D(2)),
            [Change("added", "dense_1", None, D(4)), Change("moved", "dense_2", "dense_1", "dense_2")],
        ),
        (S(D(8), ("head", D(2))), S(D(8), ("out", D(2))), [Change("moved", "out", "head", "out")]),
        (S(("a", D(2))), S(("a", fn.Conv(2, 1))), [Change("class", "a", D(2), fn.Conv(2, 1))]),
        (S(D(2)), S(("dense_0", D(2))), [Change("named", "dense_0", "automatic", "given")]),
        (S(("a", D(2)), ("b", D(2))), S(("b", D(2)), ("a", D(2))), [Change("reordered", "", ("a", "b"), ("b", "a"))]),
        (S(D(2)), S(fn.Freeze(D(2))), [Change("wrapped", "dense_0", None, fn.Freeze(D(2)))]),
        (fn.Remat(fn.Freeze(D(2))), fn.Remat(D(2)), [Change("unwrapped", "", fn.Freeze(D(2)), None)]),
        (S(fn.Repeat(D(2), 2)), S(fn.Remat(fn.Repeat(D(2), 3))),
         [Change("wrapped", "dense_0", None, fn.Remat(fn.Repeat(D(2), 3))), Change("field", "dense_0", 2, 3, "n")]),
        (block(), block(out=D(4)), [Change("field", "out", 2, 4, "features")]),
        (block(), block(width=3), [Change("field", "", ABSENT, 3, "width")]),
        (block(), block(other_forward), [Change("class", "", block(), block(other_forward))]),
        (fn.MLP(4, 2), fn.MLP(4, 3), [Change("field", "", (4, 2), (4, 3), "features")]),
        (S(S(D(2)), S(D(3))), S(S(D(2)), S(D(4))), [Change("field", "sequential_1/dense_0", 3, 4, "features")]),
    ],
)  # fmt: skip
def test_each_kind_of_change(old, new, rows):
    found = diff(old, new)
    assert list(found.rows) == rows
    assert found


def test_it_prints_a_line_for_each_change():
    old = S(D(8), jax.nn.relu, ("head", D(2)), ("a", jnp.tanh), ("b", jnp.sin))
    new = S(fn.LayerNorm(), D(9), ("head", fn.Freeze(fn.Conv(2, 1), but="bias")), ("b", jnp.sin), ("a", jnp.cos))
    assert str(diff(old, new)).splitlines() == [
        "reordered  (the net)  dense_0, head, a, b -> dense_0, head, b, a",
        "added      layer_norm_0  LayerNorm()",
        "field      dense_0.features  8 -> 9",
        "removed    relu_0  jax.nn.relu",
        "wrapped    head  Freeze(..., but=('bias',))",
        "class      head  Dense(2) -> Conv(2, 1)",
        "class      a  jax.nn.tanh -> jax.numpy.cos",
    ]
    assert str(diff(S(D(2)), S(D(3), D(2)))).splitlines()[1] == "moved      dense_0 -> dense_1"
    assert str(diff(D(8), D(8, use_bias=False))) == "field      use_bias  True -> False"
    assert str(diff(S(D(2)), S(("dense_0", D(2))))) == "named      dense_0  automatic -> given"
    assert str(diff(D(8), D(8))) == ""


class Scaled(fn.Wrapper):
    by: float
    inner: fn.Layer

    def forward(self, m, x):
        return self.by * m.inner(x)


def test_a_wrapper_prints_as_its_own_code_without_what_is_in_it():
    for net, line in (
        (fn.Remat(D(2)), "Remat(...)"),
        (fn.Repeat(D(2), 3), "Repeat(..., 3)"),
        (fn.Parametrized(D(2), kernel=fn.LoRA(4)), "Parametrized(..., kernel=LoRA(4))"),
        (fn.tie(D(2), "bias", to="kernel"), "tie(..., 'bias', to='kernel')"),
        (Scaled(2.0, D(2)), "Scaled(2.0, ...)"),
    ):
        assert str(diff(D(2), net)) == f"wrapped    (the net)  {line}"
        assert str(diff(net, D(2))) == f"unwrapped  (the net)  {line}"
    frozen = fn.Freeze(jnp.tanh, but="bias")
    assert str(diff(jnp.tanh, frozen)) == "wrapped    (the net)  Freeze(..., but=('bias',))"


def test_functions_are_nets_and_parameters_are_none():
    assert not diff(jnp.tanh, jnp.tanh)
    assert str(diff(jnp.tanh, D(2))) == "class      (the net)  jax.nn.tanh -> Dense(2)"
    params = D(2).init(jax.random.key(0), jnp.ones((1, 3)))
    for a, b in ((D(2), params), (params, D(2)), (params, params)):
        with pytest.raises(TypeError, match=r"diff takes two nets, layers or functions, got .*fn\.params\.difference"):
            diff(a, b)


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_nets_are_equal_just_when_there_is_no_change(row):
    assert not diff(row.layer, row.layer)
    for other in catalogue.ROWS:
        assert bool(diff(row.layer, other.layer)) == (row.layer != other.layer), other
        inside, there = S(D(2), row.layer, D(2)), S(D(2), other.layer, D(2))
        assert bool(diff(inside, there)) == (inside != there), other


LAYERS = [
    jnp.tanh,
    jnp.sin,
    D(2),
    D(3),
    fn.Freeze(D(2)),
    fn.Remat(D(3)),
    S(D(2), jnp.tanh),
    S(D(3)),
    fn.Repeat(D(2), 2),
]


def nets():
    layer = st.sampled_from(LAYERS)
    layer = st.one_of(layer, st.lists(layer, max_size=2).map(lambda layers: S(layers=layers)))
    items = st.one_of(layer, st.tuples(st.sampled_from("abc"), layer))
    return st.lists(items, max_size=5).map(lambda items: S(layers=items))


@settings(max_examples=100, deadline=None, database=None)
@given(nets(), nets())
def test_any_two_nets_differ_just_when_there_is_a_change(old, new):
    assert bool(diff(old, new)) == (old != new)
    assert not diff(old, S(layers=old.layers))
    top = [row.what for row in diff(old, new).rows if "/" not in row.path]
    assert len(old.layers) - top.count("removed") == len(new.layers) - top.count("added")
