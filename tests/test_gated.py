"""Gradients of all steps at once against those of the plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn
from funcnets.gated import FEW_ROWS, GatedCell

XS = jnp.asarray(floats(3, 5, 2))
MANY = jnp.asarray(floats(FEW_ROWS + 1, 5, 2))
MASKS = {"lengths": np.array([3, 5, 0]), "reset": np.arange(15).reshape(3, 5) % 4 == 1}


class Plain(fn.Layer):
    """The same cell, of which a Scan does not know that it is gated."""

    cell: fn.Layer

    def params(self, carry, x):
        return self.cell.params(carry, x)

    def initial_carry(self, x):
        return self.cell.initial_carry(x)

    def forward(self, p, carry, x):
        return self.cell.forward(p, carry, x)


class Counting(GatedCell):
    """A carry with a whole number in it, and a tree for an input."""

    def params(self, carry, x):
        return {"kernel": fn.Param((2, 2), fn.initializers.LecunNormal())}

    def initial_carry(self, x):
        return jnp.zeros(x["a"].shape), jnp.zeros(x["a"].shape[:-1], jnp.int32)

    def gates(self, p, carry, x):
        return {"sum": x["a"] @ p["kernel"] + carry[0] * carry[1][..., None].astype(jnp.float32)}

    def step(self, carry, gates):
        h = jnp.tanh(gates["sum"])
        return (h, carry[1] + 1), h


def products(f, *args):
    """The numbers of matrix products outside and inside of loops, in f's jaxpr."""

    def count(jaxpr):
        outside = inside = 0
        for eqn in jaxpr.eqns:
            outside += eqn.primitive.name == "dot_general"
            for held in jax.tree.leaves(eqn.params, is_leaf=lambda a: hasattr(a, "eqns") or hasattr(a, "jaxpr")):
                inner = getattr(held, "jaxpr", held)
                if hasattr(inner, "eqns"):
                    o, i = count(inner)
                    outside, inside = (
                        (outside, inside + o + i) if eqn.primitive.name == "scan" else (outside + o, inside + i)
                    )
        return outside, inside

    return count(jax.make_jaxpr(f)(*args).jaxpr)


def gradients(net, params, xs):
    return products(jax.grad(lambda p: jnp.square(net.apply(p, xs)).sum()), params)


def answers(net, params, xs, masks):
    def loss(params, xs):
        return sum(jnp.square(a).sum() for a in jax.tree.leaves(net.apply(params, xs, **masks)) if a.dtype == xs.dtype)

    @jax.jit
    def all_of(params, xs):
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(params, xs)
        return value, gradients, jax.jvp(loss, (params, xs), (params, xs))

    return all_of(params, xs)


def same(a, b, tolerance=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=10 * tolerance, atol=tolerance), a, b)


@pytest.mark.parametrize(
    ("cell", "xs"),
    [
        (fn.LSTMCell(4), XS),
        (fn.GRUCell(4), XS),
        (fn.RNNCell(3, use_bias=False), XS),
        (fn.ConvLSTMCell(2, 3), jnp.asarray(floats(3, 5, 2, 2))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_same_as_the_plain_loop(cell, xs):
    cases = [({}, {}), ({"reverse": True, "unroll": 2}, MASKS)]
    for settings, masks in cases:
        net, plain = (fn.Scan(one, return_carry=True, **settings) for one in (cell, Plain(cell)))
        params = net.init(jax.random.key(0), xs)
        same(answers(net, params, xs, masks), answers(plain, params, xs, masks))


def test_second_derivatives_are_those_of_the_plain_loop():
    cell = fn.GRUCell(2)
    params = fn.Scan(cell).init(jax.random.key(0), XS)

    def curvature(net):
        def slope(xs):
            return jnp.square(jax.grad(lambda p: jnp.square(net.apply(p, xs)).sum())(params)["kernel"]).sum()

        return jax.jit(jax.grad(slope))(XS)

    same(curvature(fn.Scan(cell)), curvature(fn.Scan(Plain(cell))), 1e-5)


def test_only_few_rows_take_the_gradients_of_kernels_out_of_the_loop():
    net = fn.Scan(fn.LSTMCell(4))
    params = net.init(jax.random.key(0), XS)
    # Forward: two products a step; backward: the one that the carry needs.
    few, many = gradients(net, params, XS), gradients(net, params, MANY)
    assert few[1] == 3
    assert many == (0, 5)
    assert products(net.apply, params, XS) == products(net.apply, params, MANY) == (0, 2)
    assert gradients(fn.Scan(fn.LSTMCell(4), remat=2), params, XS)[0] == 0


def test_a_forward_of_its_own_is_kept():
    class Clipped(fn.LSTMCell):
        def forward(self, p, carry, x):
            (c, h), y = super().forward(p, carry, x)
            return (jnp.clip(c, -0.1, 0.1), h), y

    net = fn.Scan(Clipped(4), return_carry=True)
    params = net.init(jax.random.key(0), XS)
    (c, _), _ = net.apply(params, XS)
    assert (abs(c) <= 0.1).all()
    assert gradients(fn.Scan(Clipped(4)), params, XS) == (0, 5)


def test_a_function_that_may_hold_what_is_differentiated_keeps_the_plain_loop():
    def slope(cell_of):
        def value(a):
            net = fn.Scan(cell_of(fn.RNNCell(2, activation=lambda h: jnp.tanh(a * h))))
            return jnp.square(net.apply(params, XS)).sum()

        return jax.grad(value)(0.5)

    params = fn.Scan(fn.RNNCell(2)).init(jax.random.key(0), XS)
    same(slope(lambda cell: cell), slope(Plain))


def test_cells_of_ones_own_may_be_gated():
    cell, xs = Counting(), {"a": XS}
    params = fn.Scan(cell).init(jax.random.key(0), xs)

    def of(net):
        return jax.jit(jax.grad(lambda p, xs: jnp.square(net.apply(p, xs)).sum(), argnums=(0, 1)))(params, xs)

    same(of(fn.Scan(cell)), of(fn.Scan(Plain(cell))))
    assert jax.grad(lambda p: fn.Scan(cell).apply(p, {"a": XS[:, :0]}).sum())(params)["kernel"].shape == (2, 2)


def test_vmap_over_rows_and_members():
    cell = fn.LSTMCell(3)
    net, plain = (fn.Ensemble(fn.Scan(one, axis=0), 2) for one in (cell, Plain(cell)))
    params = net.init(jax.random.key(0), XS[0])

    def of(net):
        def loss(params, xs):
            return jnp.square(net.apply(params, xs)).sum()

        return jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(params, XS)

    same(of(net), of(plain))


def test_wrong_parameters_and_unwritten_halves_are_named():
    net = fn.Sequential(("rnn", fn.Scan(fn.LSTMCell(4))))
    params = net.init(jax.random.key(0), XS)
    wrong = {"rnn": params["rnn"] | {"kernel": jnp.zeros((3, 16))}}
    with pytest.raises(ValueError, match=r"(?s)reshaped  rnn/kernel .*in layer rnn: LSTMCell\(4\)"):
        jax.grad(lambda p: net.apply(p, XS).sum())(wrong)
    with pytest.raises(NotImplementedError, match="has no gates: write def gates"):
        fn.Scan(GatedCell()).plan(jnp.zeros((3, 4)), XS)

    class Half(GatedCell):
        def gates(self, p, carry, x):
            return x

    with pytest.raises(NotImplementedError, match="has no step: write def step"):
        fn.Scan(Half()).plan(jnp.zeros((3, 4)), XS)
