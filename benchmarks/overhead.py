"""What funcnets costs over JAX written by hand, on 50 Dense layers with relu: calls, tracing, an Adam step.

python benchmarks/overhead.py
"""

import jax
import jax.numpy as jnp
import optax
from measure import HEADER, interleaved, row

import funcnets as fn

LAYERS, WIDTH, BATCH, RUNS = 50, 64, 8, 5


def by_hand(params, x):
    for i in range(LAYERS):
        layer = params[f"dense_{i}"]
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x


def adam_step(apply, optimizer, x):
    def step(carry):
        params, opt_state = carry
        gradients = jax.grad(lambda p: jnp.square(apply(p, x)).mean())(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(step, donate_argnums=0)


def step_with_loss(apply, optimizer):
    """As `make_step` makes them: a function of a batch that returns the loss beside what it moved."""

    def step(carry, x):
        params, opt_state = carry
        loss, gradients = jax.value_and_grad(lambda p: jnp.square(apply(p, x)).mean())(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return jax.jit(step, donate_argnums=0)


def training(step, start, *batch):
    """Calls that go on from what the one before returned, (what moves, loss) where there is a batch."""
    held = [jax.tree.map(jnp.copy, start)]

    def once():
        moved = step(held[0], *batch)
        held[0] = moved[0] if batch else moved
        return moved

    return once


def main():
    net = fn.Sequential(*[layer for _ in range(LAYERS) for layer in (fn.Dense(WIDTH), jax.nn.relu)])
    x = jnp.ones((BATCH, WIDTH))
    params = net.init(jax.random.key(0), x)
    print(HEADER)

    calls = {name: jax.jit(f) for name, f in (("ours", net.apply), ("hand", by_hand))}
    times = interleaved({name: lambda f=f: f(params, x) for name, f in calls.items()}, 2000, warm=50)
    print(row("jitted apply, 50 Dense", times["ours"], times["hand"], "hand-written JAX", 1.05))

    def lower(apply):
        def once():
            jax.clear_caches()
            jax.jit(apply).lower(params, x)

        return once

    times = interleaved({"ours": lower(net.apply), "hand": lower(by_hand)}, 60)
    print(row("trace and lower, 50 Dense", times["ours"], times["hand"], "hand-written JAX", 1.2))

    optimizer = optax.adam(1e-3)
    start = (params, optimizer.init(params))
    steps = {name: training(adam_step(f, optimizer, x), start) for name, f in (("ours", net.apply), ("hand", by_hand))}
    times = interleaved(steps, 1000, warm=20)
    print(row("Adam step with donation", times["ours"], times["hand"], "hand-written JAX", 1.05))

    # equal programs that were compiled twice differ by 3 %: the middle one of several, each compiled anew
    runs = []
    for _ in range(RUNS):
        state = fn.train.create(net, optimizer, jax.random.key(0), x)
        step = fn.train.make_step(net, lambda model, x: jnp.square(model(x)).mean(), optimizer)
        steps = {"ours": training(step, state, x), "hand": training(step_with_loss(by_hand, optimizer), start, x)}
        runs.append(interleaved(steps, 1000, warm=20))
    times = sorted(runs, key=lambda one: one["ours"] / one["hand"])[RUNS // 2]
    print(row("train.make_step, Adam", times["ours"], times["hand"], "hand-written JAX", 1.05))


if __name__ == "__main__":
    main()
