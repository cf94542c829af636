"""The flow of data through a net, read off a traced forward."""

import catalogue
import jax
import jax.numpy as jnp
import pytest

import funcnets as fn
from funcnets.inspect.flow import traced


def boxes_in(flow, jaxpr):
    """The calls in a jaxpr, at any depth of loops, but not in other calls."""
    for equation in jaxpr.eqns:
        box = flow.box_of(equation)
        if box is not None:
            yield box, equation
        else:
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda held: hasattr(held, "eqns")):
                if hasattr(inner, "eqns"):
                    yield from boxes_in(flow, getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_the_net_is_one_box_with_its_outputs(row):
    flow = traced(row.layer, row.sample, {})
    assert jax.tree.leaves(flow.boxes[0].output) == jax.tree.leaves(row.layer.plan(*row.sample).output)
    assert {box.path for box in flow.boxes} == {
        call.path for call in row.layer.plan(*row.sample).calls if not call.train_only
    }


def test_a_box_feeds_another_where_an_array_goes_from_one_to_the_other():
    net = fn.Sequential(fn.Dense(4), fn.Residual(fn.Dense(4)), jnp.tanh)
    flow = traced(net, (jnp.ones((2, 3)),), {})
    ((root, equation),) = boxes_in(flow, flow.jaxpr.jaxpr)
    assert (root.path, root.layer, root.parent) == ("", net, None)
    inner = equation.params["jaxpr"].jaxpr
    children = {box.path: equation for box, equation in boxes_in(flow, inner)}
    assert list(children) == ["dense_0", "dense_1", "tanh_0"]
    assert children["dense_1"].invars == children["dense_0"].outvars
    assert children["tanh_0"].invars == children["dense_1"].outvars
    assert isinstance(flow.boxes[2].layer, fn.Residual)
    held = {flow.held_by(e) for e in children["dense_0"].params["jaxpr"].jaxpr.eqns} - {None}
    assert held == {("params", "dense_0", "dense_0/bias"), ("params", "dense_0", "dense_0/kernel")}


def test_copies_and_loops():
    net = fn.Sequential(fn.Repeat(fn.Dense(3), 5), fn.Scan(fn.GRUCell(3)))
    flow = traced(net, (jnp.ones((2, 7, 3)),), {})
    by_class = {type(box.layer): box for box in flow.boxes}
    assert by_class[fn.Repeat].copies == 5
    assert by_class[fn.GRUCell].parent == by_class[fn.Scan].number
    assert "length=7" in str(flow.jaxpr)


def test_inputs_that_are_no_arrays_pass_through():
    @fn.compose(dense=fn.Dense(3))
    def deep(m, x, depth, *, names):
        for _ in range(depth):
            x = m.dense(x)
        return dict.fromkeys(names, x)

    flow = traced(deep, (jnp.ones((2, 3)), 2), {"names": ("a", "b")})
    assert [box.path for box in flow.boxes] == ["", "dense", "dense"]
    assert set(flow.boxes[0].output) == {"a", "b"}
    assert flow.boxes[0].inputs[1] == {"names": ("a", "b")}


def test_parameters_that_a_caller_gives_are_those_of_where_they_come_from():
    @fn.compose(embed=fn.Embedding(5, 3), unembed=fn.Unembed())
    def net(m, ids):
        return m.unembed(m.embed(ids), params=m.embed.params)

    flow = traced(net, (jnp.zeros((2, 4), jnp.int32),), {})
    (_, root), *_ = boxes_in(flow, flow.jaxpr.jaxpr)
    inner = root.params["jaxpr"].jaxpr
    (read,) = [equation for equation in inner.eqns if flow.held_by(equation) == ("params", "embed", "embed/table")]
    unembed = {box.path: equation for box, equation in boxes_in(flow, inner)}["unembed"]
    assert read.outvars[0] in unembed.invars
