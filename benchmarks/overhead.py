"""What funcnets costs over JAX written by hand, on 50 Dense layers with relu: calls, tracing, an Adam step.

python benchmarks/overhead.py
"""

import jax
import jax.numpy as jnp
import optax
from measure import HEADER, interleaved, row

import funcnets as fn

LAYERS, WIDTH, BATCH = 50, 64, 8


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


def training(step, start):
    held = [jax.tree.map(jnp.copy, start)]

    def once():
        held[0] = step(held[0])
        return held[0]

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

    state = fn.train.create(net, optimizer, jax.random.key(0), x)
    library_step = fn.train.make_step(net, lambda model, x: jnp.square(model(x)).mean(), optimizer)
    held = [state]

    def library():
        held[0], _ = library_step(held[0], x)
        return held[0]

    times = interleaved({"ours": library, "hand": training(adam_step(by_hand, optimizer, x), start)}, 1000, warm=20)
    print(row("train.make_step, Adam", times["ours"], times["hand"], "hand-written JAX", 1.05))


if __name__ == "__main__":
    main()
