"""Writes normalization.npz: python tests/references/normalization.py (needs PyTorch)."""

from torch import nn
from writing import Cases

cases = Cases("normalization")

# Three batches in training, one in evaluation, with one module, whose buffers go on.
for name, kind, shape, options in [
    ("features", nn.BatchNorm1d, (5, 3), {}),
    ("time", nn.BatchNorm1d, (3, 3, 4), {"momentum": 0.3}),
    ("images", nn.BatchNorm2d, (2, 3, 4, 3), {"eps": 1e-2}),
    ("plain", nn.BatchNorm2d, (2, 2, 3, 2), {"affine": False}),
]:
    module = kind(shape[1], **options)
    ours = {
        "momentum": 1 - options.get("momentum", 0.1),
        "epsilon": options.get("eps", 1e-5),
        "use_scale": options.get("affine", True),
        "use_bias": options.get("affine", True),
    }
    for step in range(4):
        module.zero_grad()
        module.train(step < 3)
        mode = "eval" if step == 3 else f"train{step}"
        cases.add(f"batch_norm-{name}-{mode}", module, 2 * cases.floats(*shape) + 1, options=ours)

for name, sizes, options in [
    ("last", (4,), {}),
    ("two", (3, 4), {"eps": 1e-3}),
    ("three", (2, 3, 4), {"bias": False}),
    ("plain", (3, 4), {"elementwise_affine": False}),
]:
    ours = {
        "axis": -1 if len(sizes) == 1 else list(range(-len(sizes), 0)),
        "epsilon": options.get("eps", 1e-5),
        "use_scale": options.get("elementwise_affine", True),
        "use_bias": options.get("elementwise_affine", True) and options.get("bias", True),
    }
    cases.add(f"layer_norm-{name}", nn.LayerNorm(sizes, **options), cases.floats(2, 2, 3, 4) + 1, options=ours)

for name, sizes, affine in [("last", (4,), True), ("two", (3, 4), True), ("plain", (3, 4), False)]:
    ours = {"axis": -1 if len(sizes) == 1 else list(range(-len(sizes), 0)), "epsilon": 1e-4, "use_scale": affine}
    module = nn.RMSNorm(sizes, eps=1e-4, elementwise_affine=affine)
    cases.add(f"rms_norm-{name}", module, cases.floats(2, 2, 3, 4), options=ours)

for groups, shape in [(1, (2, 4)), (2, (2, 4, 3)), (3, (2, 6, 2, 3)), (2, (1, 4, 2, 2, 3))]:
    module = nn.GroupNorm(groups, shape[1])
    name = f"group_norm-{groups}-of-{shape[1]}-{len(shape)}"
    cases.add(name, module, cases.floats(*shape) + 1, options={"groups": groups})
cases.add(
    "group_norm-plain",
    nn.GroupNorm(2, 4, eps=1e-3, affine=False),
    cases.floats(2, 4, 3),
    options={"groups": 2, "epsilon": 1e-3, "use_scale": False, "use_bias": False},
)

for affine in (True, False):
    for axes, kind in ((1, nn.InstanceNorm1d), (2, nn.InstanceNorm2d), (3, nn.InstanceNorm3d)):
        cases.add(
            f"instance_norm-{axes}-{'affine' if affine else 'plain'}",
            kind(3, affine=affine),
            cases.floats(2, 3, *(4, 3, 2)[:axes]) + 1,
            options={"use_scale": affine, "use_bias": affine},
        )

for size, alpha, beta, k in [
    (5, 1e-4, 0.75, 1.0),
    (2, 0.5, 0.75, 2.0),
    (3, 1.0, 1.0, 0.5),
    (4, 0.1, 0.5, 1.0),
    (9, 2.0, 0.75, 1.0),
]:
    cases.add(
        f"local_response_norm-{size}",
        nn.LocalResponseNorm(size, alpha, beta, k),
        cases.floats(2, 6, 3, 2),
        options={"size": size, "alpha": alpha, "beta": beta, "k": k},
    )


class AdaptiveNorm(nn.Module):
    """x normalised, then scaled and shifted as a condition says; channels last."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.projection = norm, nn.Linear(2, 8)

    def forward(self, x, condition):
        gamma, beta = self.projection(condition).chunk(2, -1)
        if condition.ndim < x.ndim:
            gamma, beta = (a.unflatten(0, (-1, *[1] * (x.ndim - 2))) for a in (gamma, beta))
        return self.norm(x) * (1 + gamma) + beta


plain = nn.LayerNorm(4, elementwise_affine=False)
cases.add("film-vectors", AdaptiveNorm(nn.Identity()), cases.floats(3, 4), cases.floats(3, 2), options={"norm": False})
cases.add("film-batch", AdaptiveNorm(plain), cases.floats(2, 3, 3, 4), cases.floats(2, 2), options={"norm": True})
cases.add("film-places", AdaptiveNorm(plain), cases.floats(2, 3, 4), cases.floats(2, 3, 2), options={"norm": True})
cases.write()
