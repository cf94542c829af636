from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.layers.state_space import LRU, RGLRU, GatedDecay, LogUniform, RingDecay

KEY = jax.random.key(0)


def made(layer, *shape):
    """Parameters, all but those of the decay drawn anew, and an input."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    shapes = layer.plan(x).params
    params = {name: (rng.standard_normal(a.shape) * 0.7).astype(np.float32) for name, a in shapes.items()}
    return params | {"decay": params["decay"] - 1}, x


def lru_terms(p, x):
    decay = np.exp(-np.exp(p["decay"]) + 1j * np.exp(p["phase"]))
    b_matrix = p["input_kernel"][0] + 1j * p["input_kernel"][1]
    return decay, np.sqrt(1 - abs(decay) ** 2) * (x @ b_matrix)


def rglru_terms(p, x):
    def gate(name):
        kernel = p[f"{name}_kernel"]
        parts = np.split(x, len(kernel))
        return 1 / (
            1 + np.exp(-np.concatenate([v @ k for v, k in zip(parts, kernel, strict=True)]) - p[f"{name}_bias"])
        )

    a = np.exp(-8 * np.log1p(np.exp(p["decay"])) * gate("recurrence"))
    return a, np.sqrt(1 - a**2) * gate("input") * x


def lru_read(p, h, x):
    return (h @ (p["output_kernel"][0] + 1j * p["output_kernel"][1])).real + p["skip"] * x


def loop(layer, params, x, reset=None, start=None):
    """Step by step in double precision: outputs and the last h."""
    p = {name: np.asarray(a, np.float64) for name, a in params.items()}
    terms, read = (lru_terms, lru_read) if isinstance(layer, LRU) else (rglru_terms, lambda p, h, x: h)
    y, ends = np.zeros(x.shape), []
    for row in np.ndindex(x.shape[:-2]):
        h = 0 if start is None else start[row]
        for t, step in enumerate(np.asarray(x[row], np.float64)):
            a, b = terms(p, step)
            h = (0 if reset is not None and reset[row][t] else a) * h + b
            y[row][t] = read(p, h, step)
        ends.append(h)
    return y, np.reshape(ends, (*x.shape[:-2], -1))


def step_by_step(layer, p, x):
    """The same in JAX, with a `lax.scan`."""
    if isinstance(layer, LRU):
        radius = jnp.exp(-jnp.exp(p["decay"]))
        a = jax.lax.complex(radius * jnp.cos(jnp.exp(p["phase"])), radius * jnp.sin(jnp.exp(p["phase"])))
        b = jax.lax.complex(*((x @ kernel) * jnp.sqrt(1 - radius**2) for kernel in p["input_kernel"]))
        a = jnp.broadcast_to(a, b.shape)
    else:
        gates = []
        for name in ("recurrence", "input"):
            parts = jnp.split(x, len(p[f"{name}_kernel"]), axis=-1)
            mixed = [v @ kernel for v, kernel in zip(parts, p[f"{name}_kernel"], strict=True)]
            gates.append(jax.nn.sigmoid(jnp.concatenate(mixed, -1) + p[f"{name}_bias"]))
        a = jnp.exp(-8 * jax.nn.softplus(p["decay"]) * gates[0])
        b = jnp.sqrt(1 - a**2) * gates[1] * x

    def step(h, terms):
        h = terms[0] * h + terms[1]
        return h, h

    h = jnp.moveaxis(
        jax.lax.scan(step, jnp.zeros_like(b[:, 0]), (jnp.moveaxis(a, 1, 0), jnp.moveaxis(b, 1, 0)))[1], 0, 1
    )
    if isinstance(layer, LRU):
        return h.real @ p["output_kernel"][0] - h.imag @ p["output_kernel"][1] + p["skip"] * x
    return h


def close(ours, theirs, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(float(np.abs(b).max()), 1e-30))


each_layer = pytest.mark.parametrize("layer", [LRU(3), RGLRU(), RGLRU(blocks=2)], ids=repr)
each_kind = pytest.mark.parametrize(("kind", "fields"), [(LRU, {"hidden": 3}), (RGLRU, {"blocks": 2})])


@each_layer
def test_output_is_that_of_a_loop_over_time(layer):
    params, x = made(layer, 2, 9, 4)
    reset = np.zeros((2, 9), bool)
    reset[0, [0, 4, 5]] = reset[1, 8] = True
    apply = jax.jit(layer.apply)
    close(apply(params, x), loop(layer, params, x)[0])
    y = apply(params, x, reset)
    close(y, loop(layer, params, x, reset)[0])
    close(y[:1, 5:], apply(params, x[:1, 5:]))  # a sequence after a reset is that sequence alone


@each_layer
def test_gradients_are_those_of_a_scan(layer):
    params, x = made(layer, 2, 7, 4)
    weight = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def gradients(apply):
        with jax.numpy_rank_promotion("allow"):
            return jax.jit(jax.grad(lambda p, x: jnp.vdot(apply(p, x), weight), (0, 1)))(params, x)

    close(gradients(layer.apply), gradients(lambda p, x: step_by_step(layer, p, x)))


@each_kind
def test_a_sequence_in_parts_is_the_sequence_in_one(kind, fields):
    layer = kind(**fields, carry=True)
    params, x = made(layer, 2, 8, 4)
    apply = jax.jit(layer.apply)
    start = jax.tree.map(
        lambda a: jnp.asarray(np.random.default_rng(2).normal(size=a.shape), a.dtype), layer.init_state(x)
    )
    whole, end = loop(layer, params, x, start=np.asarray(start["carry"]))
    parts, state = [], start
    for part in (x[:, :3], x[:, 3:4], x[:, 4:4], x[:, 4:]):
        y, state = apply(params, part, state=state)
        parts.append(y)
    close(np.concatenate(parts, 1), whole)
    close(state["carry"], end)
    assert state["carry"].dtype == ("complex64" if kind is LRU else "float32")
    y, _ = apply(params, x, state=layer.init_state(x))
    close(y, jax.jit(kind(**fields).apply)(params, x))  # at first it is the layer without a carry
    reset = np.ones((2, 8), bool)
    close(apply(params, x, reset, state=start)[0], loop(layer, params, x, reset)[0])


@each_kind
def test_each_copy_of_a_repeat_carries_its_own(kind, fields):
    x = np.random.default_rng(0).standard_normal((1, 6, 4)).astype(np.float32)
    whole, parts = (fn.Repeat(fn.Residual(kind(**fields, carry=carry)), 2) for carry in (False, True))
    params, state = whole.init(KEY, x), parts.init_state(x)
    assert jax.tree.structure(params) == jax.tree.structure(parts.init(KEY, x))
    apply = jax.jit(parts.apply)
    first, state = apply(params, x[:, :3], state=state)
    second, state = apply(params, x[:, 3:], state=state)
    close(np.concatenate([first, second], 1), jax.jit(whole.apply)(params, x))


@each_kind
def test_no_steps_and_one_sequence(kind, fields):
    layer = kind(**fields)
    params, x = made(layer, 3, 4)
    close(jax.jit(layer.apply)(params, x), loop(layer, params, x)[0])
    assert layer.apply(params, x[:0]).shape == (0, 4)


@each_kind
def test_bfloat16_computes_in_float32(kind, fields):
    layer = kind(**fields)
    params, x = made(layer, 2, 6, 4)
    half = jnp.asarray(x, jnp.bfloat16)
    y = jax.jit(layer.apply)(params, half)
    assert y.dtype == jnp.bfloat16
    exact = loop(layer, params, np.asarray(half, np.float32))[0]
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)  # rounded once, at the end


@each_kind
@pytest.mark.parametrize("decay", [-100.0, -20.0, 4.0])
def test_gradients_stay_finite_where_memory_ends_or_never_does(kind, fields, decay):
    layer = kind(**fields)
    params, x = made(layer, 2, 6, 4)
    params["decay"] = np.full_like(params["decay"], decay)
    y, gradients = jax.jit(jax.value_and_grad(lambda p, x: layer.apply(p, x).sum(), (0, 1)))(params, x)
    assert np.isfinite(y) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_decays_start_in_their_ring():
    params = LRU(4000, r_min=0.5, r_max=0.9, max_phase=math.pi / 10).init(KEY, jnp.ones((1, 1, 2)))
    radius, angle = np.exp(-np.exp(params["decay"])), np.exp(params["phase"])
    assert radius.min() > 0.4999 and radius.max() < 0.9001
    assert (radius**2).mean() == pytest.approx((0.5**2 + 0.9**2) / 2, rel=0.02)  # uniform over the area
    assert 0 < angle.min() < 0.01 and 0.31 < angle.max() < math.pi / 10 + 1e-6
    assert angle.mean() == pytest.approx(math.pi / 20, rel=0.05)
    assert params["input_kernel"].var() == pytest.approx(1 / (2 * 2), rel=0.1)
    assert params["output_kernel"].var() == pytest.approx(1 / 4000, rel=0.1)

    decay = RGLRU(a_min=0.8, a_max=0.95).init(KEY, jnp.ones((1, 1, 400)))["decay"]
    a = np.exp(-8 * np.log1p(np.exp(decay)))
    assert a.min() > 0.7999 and a.max() < 0.9501
    assert a.mean() == pytest.approx(0.875, rel=0.02)


@pytest.mark.parametrize("initializer", [RingDecay(0.0, 1.0), LogUniform(1.0), GatedDecay(0.0, 1.0)], ids=repr)
def test_initialisers_are_finite_up_to_the_ends_and_keep_to_dtypes(initializer):
    keys = jax.random.split(jax.random.key(1), 3)
    drawn = initializer(keys[0], (100_000,))
    assert np.isfinite(drawn).all() and drawn.dtype == jnp.float32
    assert initializer(keys[1], (3,), jnp.bfloat16).dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="draws floating numbers"):
        initializer(keys[2], (3,), jnp.int32)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: LRU(0),
            "LRU takes hidden as a whole number, at least 1, got 0. It is the width of h; that of y comes",
        ),
        (lambda: LRU(3, r_max=1.5), "LRU takes r_max as a number above 0, at most 1, got 1.5. A ring near 1 remembers"),
        (lambda: LRU(3, r_min=0.9, r_max=0.9), "LRU takes r_min as a number from 0 up to r_max=0.9, got 0.9. A ring"),
        (lambda: LRU(3, r_min=-0.1), "LRU takes r_min as a number from 0 up to r_max=1.0, got -0.1."),
        (
            lambda: LRU(3, max_phase=0),
            "LRU takes max_phase as an angle above 0, at most 2π, got 0. Write max_phase=math",
        ),
        (
            lambda: LRU(3, carry=2),
            "LRU takes carry as True or False, got 2. Write carry=True to keep the last h in the",
        ),
        (
            lambda: RGLRU(0),
            "RGLRU takes blocks as a whole number, at least 1, got 0. Write blocks=1 for gates that see",
        ),
        (lambda: RGLRU(a_max=True), "RGLRU takes a_max as a number above 0, at most 1, got True. Leave them out for"),
        (lambda: RGLRU(a_min=1), "RGLRU takes a_min as a number from 0 up to a_max=0.999, got 1. Leave them out"),
        (
            lambda: RGLRU(carry=None),
            "RGLRU takes carry as True or False, got None. Write carry=True to keep the last h",
        ),
    ],
)
def test_they_refuse_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize("layer", [LRU(3), RGLRU()], ids=repr)
@pytest.mark.parametrize(
    ("inputs", "kind", "text"),
    [
        ((jnp.ones(4),), ValueError, "takes (..., time, features), got float32[4]. Add the missing axis first"),
        ((jnp.ones((2, 4), jnp.int32),), TypeError, "takes floating numbers (..., time, features), got int32[2,4]."),
        (
            (jnp.ones((2, 4)), jnp.ones(2)),
            TypeError,
            "takes reset as booleans, got float32[2]. Compare first: ids != padding",
        ),
        (
            (jnp.ones((3, 2, 4)), jnp.ones(2, bool)),
            ValueError,
            "takes reset as bool[3,2] beside float32[3,2,4], got bool[2]. Broadcast it first: "
            "jnp.broadcast_to(reset, (3, 2))",
        ),
    ],
)
def test_they_refuse_inputs_before_arithmetic(layer, inputs, kind, text):
    with pytest.raises(kind, match=re.escape(f"{type(layer).__name__} {text}")):
        layer.plan(*inputs)


def test_blocks_divide_the_features():
    with pytest.raises(
        ValueError,
        match=re.escape(
            "RGLRU with blocks=3 takes features that its blocks divide, got 4 features in float32[2,5,4]. Take a "
            "divisor of 4 for blocks"
        ),
    ):
        RGLRU(3).plan(jnp.ones((2, 5, 4)))


def test_a_state_is_taken_only_where_it_is_carried():
    params, x = made(LRU(3), 2, 4)
    state = LRU(3, carry=True).init_state(x)
    with pytest.raises(ValueError, match=r"takes state \{\} for these inputs, but there is"):
        LRU(3).apply(params, x, state=state)
    with pytest.raises(ValueError, match="carries state, and none was given"):
        LRU(3, carry=True).apply(params, x)
    assert LRU(3).apply(params, x, state={})[1] == {}
