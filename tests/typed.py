"""A program as users type it, for the type checker alone: what is right passes, and each mistake is an error, since an
ignore that ignores nothing is one too.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedExpression=false, reportUnknownMemberType=false

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

import funcnets as fn

key, x = jax.random.key(0), jnp.ones((2, 3))

net = fn.Sequential(fn.Dense(3), jax.nn.relu, ("head", fn.Dense(2)))
rows = fn.Each(fn.Dense(3), jnp.tanh), fn.Parallel(fn.Dense(3), fn.Dense(2), merge="sum"), fn.Sequential(layers=[net])
made = fn.MLP(3, 4, activation=jax.nn.gelu), fn.Einsum("...d,dhk->...hk", h=3, k=4), fn.Reshape(2, -1)
cells = fn.Scan(fn.LSTMCell(3, use_bias=False), remat="sqrt"), fn.Bidirectional(fn.GRUCell(3))
around = fn.Repeat(fn.Remat(net), 3), fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm()), fn.Constant([1.0])
block = fn.TransformerBlock(fn.Attention(4, causal=True, cache=8), mlp=fn.GatedMLP(8), dropout=0.1)

params: dict[str, Any] = net.init(key, x)
y = net.apply(params, x)
y, state = net.apply(params, x, state={}, key=key, train=True)
wider = fn.rewrite.replace(net, {"head": {"features": 5}, jax.nn.relu: lambda _: jax.nn.gelu})
both = fn.rewrite.replace(net, {("head", fn.Dense): {"features": 5}}), fn.rewrite.find(net, ("head", jax.nn.relu))
rolled, stacked = fn.rewrite.roll(net, params, x)
rolled, stacked, carried = fn.rewrite.roll(rolled, stacked, x, state=state)
flat, apart = fn.rewrite.unroll(rolled, stacked)
flat, apart, carried = fn.rewrite.unroll(flat, apart, state=carried)
ids = fn.generate(net, params, x, 5, temperature=1.0, key=key)

kernels, rest = fn.params.split(params, ("**/kernel", fn.LayerNorm, fn.params.frozen(net)), net=net)
decayed = fn.params.labels(params, {("**/bias", fn.Dense): False, "**": True}, net=net)
changed = fn.params.update(fn.params.merge(kernels, rest), {"head/kernel": lambda w: w.at[0, 0].set(42.0), "**": 0.0})
size: int = fn.params.count(changed) + fn.params.nbytes(changed) + len(fn.params.difference(params, changed).missing)
fn.files.save_tree("model.npz", {"net": fn.files.to_config(net), "params": params})
read: dict[str, jax.Array] = fn.files.load_tree(pathlib.Path("model.npz"), like={"a": x})
whole: fn.Layer = fn.files.from_config(fn.files.load_tree("model.npz")["net"])
optimizer = optax.adam(1e-3)
step = fn.train.make_step(net, lambda model, batch: model(batch).mean(), optimizer)
run = fn.train.fit(step, fn.train.create(net, optimizer, key, x), [x], epochs=2, best=("loss", "min"))
trained: fn.train.TrainState = run.state
counted: dict[str, int] = fn.train.fit(lambda state, _: (state, {"loss": 0.5}), {"step": 0}, [x], steps=3).state

plain, params = fn.bake(net, params, x)
plain, params, state = fn.bake(net, params, x, state={})


def loss(model: Any, batch: jax.Array) -> jax.Array:
    return jnp.square(model(batch)).mean()


data = fn.train.batches({"x": x}, 1, key, partial="keep")
step = fn.train.make_step(net, loss, optimizer, accumulate=2)
begun: fn.train.TrainState = fn.train.create(net, optimizer, key, x)
with fn.Checkpoints("runs/typed", keep=2, best=("accuracy", "max")) as checkpoints:
    begun = checkpoints.resume(begun)
    begun, metrics = step(begun, data[0])
    saved: bool = checkpoints.save(1, begun, metrics={"accuracy": 0.5})


class Encoder(fn.Composite):
    hidden: fn.Layer
    width: int = 3

    def forward(self, m: Any, x: jax.Array) -> jax.Array:
        return m.hidden(x)


class Gain(fn.Layer):
    first: float = 1.0

    def params(self, x: Any) -> dict[str, fn.Param]:
        return {"gain": fn.Param(x.shape[-1:], fn.initializers.Constant(self.first))}

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return x * p["gain"]


mine = Encoder(Gain(2.0), width=5), Gain(first=1.0)

plain, params = fn.bake(net, params, x, state={})  # pyright: ignore[reportAssignmentType]
fn.Dense(3, kernel_initt=None)  # pyright: ignore[reportCallIssue]
fn.Dense("wide")  # pyright: ignore[reportArgumentType]
fn.Dense()  # pyright: ignore[reportCallIssue]
fn.Attention(4, 8)  # pyright: ignore[reportCallIssue]
fn.Conv(3)  # pyright: ignore[reportCallIssue]
Encoder()  # pyright: ignore[reportCallIssue]
Encoder(Gain(), widht=5)  # pyright: ignore[reportCallIssue]
net.apply(params, x, train="yes")  # pyright: ignore[reportArgumentType]
fn.rewrite.roll(3, params, x)  # pyright: ignore[reportArgumentType]
fn.rewrite.find(net, 3)  # pyright: ignore[reportArgumentType]
fn.rewrite.replace(net)  # pyright: ignore[reportCallIssue]
fn.params.split(params, 3)  # pyright: ignore[reportArgumentType]
fn.params.labels(params, "**")  # pyright: ignore[reportArgumentType]
fn.params.update(params, {"**": 0.0}, cast=True)  # pyright: ignore[reportCallIssue]
fn.params.rename(params, {"head": 3})  # pyright: ignore[reportArgumentType]
fn.params.average(params, weights=0.5)  # pyright: ignore[reportArgumentType]
fn.train.fit(step, run.state, [x], epochs=2, best=("loss", "least"))  # pyright: ignore[reportArgumentType]
fn.train.fit(step, run.state, [x], epoch=2)  # pyright: ignore[reportCallIssue]

# Of each sort of call: a misspelt keyword, a wrong type, a missing argument.
fn.Sequential(layer=[net])  # pyright: ignore[reportCallIssue]
fn.Sequential(3)  # pyright: ignore[reportArgumentType]
fn.Repeat(net, 3, shraed=True)  # pyright: ignore[reportCallIssue]
fn.Repeat(net, "three")  # pyright: ignore[reportArgumentType]
fn.Repeat(net)  # pyright: ignore[reportCallIssue]
fn.Ensemble(net, m=3)  # pyright: ignore[reportCallIssue]
fn.train.make_step(net, loss, optimizer, acumulate=2)  # pyright: ignore[reportCallIssue]
fn.train.make_step(net, loss, optimizer, accumulate="two")  # pyright: ignore[reportArgumentType]
fn.train.make_step(net, optimizer, loss)  # pyright: ignore[reportArgumentType]
fn.train.make_step(net, loss)  # pyright: ignore[reportCallIssue]
fn.train.create(optimizer, net, key, x)  # pyright: ignore[reportArgumentType]
fn.train.batches(x, 8, key, partail="keep")  # pyright: ignore[reportCallIssue]
fn.train.batches(x, "8")  # pyright: ignore[reportArgumentType]
fn.train.batches(x, 8, key, partial="kept")  # pyright: ignore[reportArgumentType]
fn.train.batches(x)  # pyright: ignore[reportCallIssue]
fn.Checkpoints("runs/typed", keeps=2)  # pyright: ignore[reportCallIssue]
fn.Checkpoints(3)  # pyright: ignore[reportArgumentType]
fn.Checkpoints("runs/typed", best=("accuracy", "most"))  # pyright: ignore[reportArgumentType]
fn.Checkpoints()  # pyright: ignore[reportCallIssue]
checkpoints.save(begun)  # pyright: ignore[reportCallIssue]
