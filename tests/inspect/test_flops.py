"""FLOPs against counts by hand, against the products in what `jax.grad` makes, and against XLA's own count."""

import jax
import jax.numpy as jnp
import models
import pytest

import funcnets as fn
from funcnets.inspect.flops import Flops, flops_of, net_flops
from funcnets.inspect.flow import Flow, traced

X = jnp.ones((4, 3))


def flops(net, *sample):
    return net_flops(net, sample, {})


def products(function, *args):
    """The operations of all products in a function's jaxpr."""
    return sum(one.forward for one in flops_of(Flow(jax.make_jaxpr(function)(*args), (), ()), {}).values())


def by_jax(net, *sample):
    """What JAX multiplies in the forward pass, and in that of the gradients of parameters beyond it."""
    params = jax.eval_shape(net.init, jax.random.key(0), *sample)
    state = jax.eval_shape(lambda: net.init_state(*sample))

    def loss(params, state):
        y, _ = net.apply(params, *sample, state=state)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.inexact))

    forward = products(loss, params, state)
    return Flops(forward, products(jax.grad(loss), params, state) - forward)


def composed(forward, **parts):
    return fn.compose(**parts)(forward)


# By hand


def test_a_perceptron_by_hand():
    net, sample = models.mlp()
    first, second = 2 * 2 * 20 * 256, 2 * 2 * 256 * 10
    assert flops(net, *sample) == (first + second, first + 2 * second)  # the first layer's input takes no gradient


def test_a_convolutional_net_by_hand():
    net = fn.Sequential(fn.Conv(8, 3), jax.nn.relu, fn.Conv(16, 3, strides=2), fn.GlobalAvgPool(), fn.Dense(10))
    first, second, last = 2 * (2 * 16 * 16 * 8) * 9 * 3, 2 * (2 * 8 * 8 * 16) * 9 * 8, 2 * 2 * 16 * 10
    assert flops(net, jnp.ones((2, 16, 16, 3))) == (first + second + last, first + 2 * (second + last))


@pytest.mark.parametrize(
    ("net", "shape", "count"),
    [
        (fn.Conv(8, 3, groups=4), (2, 10, 12), 2 * (2 * 10 * 8) * 3 * 3),
        (fn.DepthwiseConv(3), (2, 10, 10, 12), 2 * (2 * 10 * 10 * 12) * 9),
        (fn.Conv(5, 3, dilation=2, padding="VALID"), (2, 10, 4), 2 * (2 * 6 * 5) * 3 * 4),
        (fn.ConvTranspose(5, 4, strides=2), (2, 10, 3), 2 * (2 * 10 * 3) * 4 * 5),  # each value meets the whole kernel
        (fn.ConvTranspose(5, 4, strides=(2, 1)), (2, 6, 7, 3), 2 * (2 * 6 * 7 * 3) * 16 * 5),
        (fn.Dense((2, 3), axis=(-1, 1)), (2, 3, 7, 4), 2 * (2 * 7) * (3 * 4) * (2 * 3)),
    ],
)
def test_layers_by_hand(net, shape, count):
    assert flops(net, jnp.ones(shape)).forward == count


def test_a_scan_counts_each_step():
    net = fn.Scan(fn.LSTMCell(8))
    step = 2 * 2 * 4 * 8 * (5 + 8)  # four gates of input and state
    assert flops(net, jnp.ones((2, 7, 5))).forward == 7 * step


def test_copies_count_as_often_as_there_are():
    dense = 2 * 4 * 3 * 3
    for scan in (True, False):
        assert flops(fn.Repeat(fn.Dense(3), 5, scan=scan), X) == (5 * dense, 10 * dense)
    assert flops(fn.Repeat(fn.Dense(3), 5, shared=True), X).forward == 5 * dense
    assert flops(fn.Ensemble(fn.Dense(3), 5), X) == (5 * dense, 5 * dense)
    assert flops(fn.Ensemble(fn.Repeat(fn.Dense(3), 5), 4), X).forward == 20 * dense
    assert flops(fn.Repeat(fn.Dense(3), 0), X) == (0, 0)


def test_what_is_no_product_counts_nothing():
    net = fn.Sequential(fn.Embedding(7, 3), fn.LayerNorm(), fn.MaxPool(2), jnp.tanh)
    assert flops(net, jnp.zeros((2, 4), jnp.int32)) == (0, 0)


# Against jax.grad


def lstm():
    return models.lstm(rows=10)  # with fewer rows the gates are computed again for the gradients of all steps at once


@pytest.mark.parametrize("model", [models.mlp, models.unet, models.gpt, lstm], ids=lambda model: model.__name__)
def test_models_multiply_what_jax_multiplies(model):
    net, sample = model()
    assert flops(net, *sample) == by_jax(net, *sample)


def test_a_residual_net_multiplies_what_jax_multiplies():
    net, sample = models.resnet18(width=4, size=64)  # at 32 the last maps are smaller than a kernel: mostly padding
    assert flops(net, *sample) == by_jax(net, *sample)


def test_an_attention_block_multiplies_what_jax_multiplies():
    net, x = fn.TransformerBlock(fn.Attention(2, causal=True)), jnp.ones((2, 5, 4))
    assert flops(net, x) == by_jax(net, x)
    own = 2 * 2 * (2 * 5 * 5 * 4)  # queries by keys, and weights by values
    tally = flops_of(traced(net, (x,), {}), net.plan(x).declared["params"])
    attention = next(box for box in traced(net, (x,), {}).boxes if isinstance(box.layer, fn.Attention))
    assert tally[attention.number] == (own, 2 * own)


ADAPTER, LOW = fn.Parametrized(fn.Dense(3), kernel=fn.LoRA(2)), fn.Parametrized(fn.Dense(3), kernel=fn.LowRank(2))
NETS = {
    "groups": fn.Sequential(fn.Conv(4, 1), fn.Conv(8, 3, groups=2), fn.ConvTranspose(6, 4, strides=2)),
    "vmap": composed(lambda m, x: jax.vmap(lambda x: m.b(m.a(x)))(x), a=fn.Dense(5), b=fn.Dense(2)),
    "fori_loop": composed(lambda m, x: jax.lax.fori_loop(0, 4, lambda i, x: m.a(x), x), a=fn.Dense(3)),
    "bounded_while": composed(
        lambda m, x: fn.bounded_while(lambda x: x.sum() > 0, lambda x: m.a(x), x, 7), a=fn.Dense(3)
    ),
    "stop_gradient": composed(lambda m, x: m.b(jax.lax.stop_gradient(m.a(x))), a=fn.Dense(5), b=fn.Dense(2)),
    "whole numbers": composed(lambda m, x: m.b(x) * jnp.argmax(m.a(x)).astype("float32"), a=fn.Dense(5), b=fn.Dense(2)),
    "hypernetwork": composed(
        lambda m, x: m.t(x, params={"kernel": m.h(x[0]).reshape(3, 3)}), h=fn.Dense(9), t=fn.Dense(3, use_bias=False)
    ),
    "frozen": fn.Sequential(fn.Freeze(fn.Dense(4)), fn.Dense(4), fn.Freeze(fn.Dense(4), but="kernel"), fn.Dense(3)),
    "frozen, but for the bias": fn.Freeze(fn.Sequential(fn.Dense(3), fn.Dense(4)), but="*/bias"),
    "frozen and tied": fn.tie(
        fn.Sequential(fn.Freeze(fn.Dense(3)), fn.Dense(3)), "dense_1/kernel", to="dense_0/kernel"
    ),
    "frozen copies": fn.Sequential(fn.Dense(3), fn.Repeat(fn.Freeze(fn.Dense(3)), 4)),
    "parametrised": fn.Sequential(fn.Dense(4), fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm())),
    "parametrised and frozen": fn.Freeze(fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm())),
    "masked": fn.Sequential(fn.Dense(4), fn.Parametrized(fn.Dense(3), kernel=fn.Masked(0.5))),
    "orthogonal and frozen": fn.Sequential(
        fn.Dense(3), fn.Freeze(fn.Parametrized(fn.Dense(3), kernel=fn.Orthogonal()), but=("bias", "kernel/base"))
    ),
    "parametrised and frozen but for a scale": fn.Sequential(
        fn.Dense(4), fn.Freeze(fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm()), but="kernel/scale")
    ),
    "parametrised and frozen but for the bias": fn.Sequential(
        fn.Dense(4), fn.Freeze(fn.Parametrized(fn.Dense(3), kernel=fn.LowRank(2)), but="bias")
    ),
    "parametrised and frozen but for a factor": fn.Freeze(fn.Sequential(fn.Dense(4), LOW), but="*/kernel/up"),
    "adapted": fn.rewrite.Adapted(fn.Sequential(fn.Dense(4), jnp.tanh, ADAPTER, fn.Dense(5))),
    "adapted in a frozen part": fn.Sequential(fn.Dense(4), fn.rewrite.Adapted(ADAPTER), fn.Dense(5)),
    "adapted, and a head": fn.rewrite.Adapted(fn.Sequential(ADAPTER, ("head", fn.Dense(5))), but="head/**"),
    "adapted copies": fn.rewrite.Adapted(fn.Sequential(fn.Dense(3), fn.Repeat(fn.Residual(ADAPTER), 3))),
    "adapted and frozen": fn.Sequential(fn.Dense(3), fn.Freeze(fn.rewrite.Adapted(ADAPTER))),
    "tied to what is frozen": fn.Freeze(
        fn.tie(fn.Sequential(fn.Dense(3), fn.Dense(3)), "dense_1/kernel", to="dense_0/kernel"), but="dense_1/bias"
    ),
    "tied to what is not frozen": fn.Freeze(
        fn.tie(fn.Sequential(fn.Dense(3), fn.Dense(3)), "dense_1/kernel", to="dense_0/kernel"), but="dense_0/kernel"
    ),
    "cast": fn.Cast(fn.Sequential(fn.Dense(4), fn.Dense(3)), "bfloat16"),
    "a bare array": composed(lambda m, x: x @ m.w(), w=fn.Param((3, 2), fn.initializers.Zeros())),
    "ensemble": fn.Sequential(fn.Dense(3), fn.Ensemble(fn.Sequential(fn.Dense(4), fn.Dense(3)), 3)),
    "experts": composed(lambda m, x: m.moe(m.a(x))[0], a=fn.Dense(4), moe=fn.MixtureOfExperts(3, 4)),
}


def test_an_adapted_transformer_multiplies_what_jax_multiplies():
    net, x = fn.TransformerBlock(fn.Attention(2, causal=True)), jnp.ones((2, 5, 4))
    key = jax.random.key(0)
    adapted, _ = fn.rewrite.lora(net, {"**/kernel": 2}, net.init(key, x), key, x)
    assert flops(adapted, x) == by_jax(adapted, x)


@pytest.mark.parametrize("name", NETS)
def test_nets_multiply_what_jax_multiplies(name):
    x = jnp.ones((2, 5, 4)) if name == "groups" else X
    got = flops(NETS[name], x)
    assert got == by_jax(NETS[name], x)
    assert got.forward > 0


def test_arrays_that_are_fixed_take_no_gradient():
    net = fn.Parametrized(fn.Dense(3), kernel=fn.Orthogonal())
    got, theirs = flops(net, X), by_jax(net, X)
    assert got.forward == theirs.forward
    assert got.gradient == theirs.gradient - 2 * 3**3  # the rule of the solve, which is no product and counts nothing


def test_what_is_computed_again_counts_its_forward_again():
    body = fn.Sequential(fn.Dense(5), jnp.tanh, fn.Dense(3))
    once = flops(body, X)
    assert flops(fn.Remat(body), X) == (once.forward, once.gradient + once.forward)
    raw = composed(lambda m, x: jax.checkpoint(m.body)(x), body=body)
    assert flops(raw, X) == flops(fn.Remat(body), X)
    chunks = fn.Scan(fn.LSTMCell(3), remat=2)
    plain = flops(fn.Scan(fn.LSTMCell(3)), jnp.ones((2, 4, 3)))
    assert flops(chunks, jnp.ones((2, 4, 3))) == (plain.forward, plain.gradient + plain.forward)


def test_a_while_loop_counts_one_turn_with_its_condition():
    @fn.compose(score=fn.Dense(1), step=fn.Dense(3))
    def loop(m, x):
        return jax.lax.while_loop(lambda x: m.score(x).sum() > 0, lambda x: m.step(x), x)

    assert flops(loop, X).forward == 2 * 4 * 3 * 1 + 2 * 4 * 3 * 3


def test_of_a_cond_the_branch_counts_that_multiplies_most():
    @fn.compose(small=fn.Dense(2), large=fn.Sequential(fn.Dense(9), fn.Dense(2)))
    def choice(m, x):
        return jax.lax.cond(x.sum() > 0, m.small, m.large, x)

    large = flops(fn.Sequential(fn.Dense(9), fn.Dense(2)), X)
    assert flops(choice, X) == large
    flow = traced(choice, (X,), {})
    tally = flops_of(flow, choice.plan(X).declared["params"])
    assert {flow.boxes[number].path for number in tally} == {"", "large", "large/dense_0", "large/dense_1"}


def test_a_gradient_in_the_forward_counts_in_it():
    @fn.compose(energy=fn.Dense(1))
    def force(m, x):
        return jax.grad(lambda x: m.energy(x).sum())(x)

    assert flops(force, X).forward == 2 * (2 * 4 * 3 * 1)


# Against XLA


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (fn.Sequential(fn.Dense(300), jax.nn.relu, fn.Dense(200)), (16, 400)),
        (fn.Sequential(fn.Conv(32, 3, padding="VALID"), fn.Conv(48, 3, padding="VALID")), (2, 16, 16, 16)),
        (fn.TransformerBlock(fn.Attention(2)), (1, 64, 256)),
    ],
)
def test_xla_counts_about_as_much(net, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    theirs = jax.jit(net.apply).lower(params, x).cost_analysis()["flops"]
    assert flops(net, x).forward == pytest.approx(theirs, rel=0.02)
