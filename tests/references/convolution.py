"""Writes convolution.npz: python tests/references/convolution.py (needs PyTorch)."""

import itertools

import torch
from writing import Cases

cases = Cases("convolution")
CONV = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
TRANSPOSE = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}
SPATIAL = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
SMALL = {1: (4,), 2: (3, 2), 3: (2, 2, 3)}
KERNEL = {1: (3,), 2: (3, 2), 3: (2, 1, 3)}


def named(kind, *options):
    return "-".join((kind, *map(str, options))).replace(" ", "")


def even(*choices):
    """Whether of the options, numbered 0 and 1, an even number is chosen: half of all cases, with every pair."""
    return sum(choices) % 2 == 0


for axes, stride, padding, dilation, groups in itertools.product((1, 2, 3), (1, 2), (0, 2), (1, 2), (1, 2)):
    if axes > 1 and not even(stride, padding // 2, dilation, groups):
        continue
    if axes == 3 and (stride == 1) != (padding == 0):
        continue
    cases.add(
        named("conv", f"{axes}d", stride, padding, dilation, groups),
        CONV[axes](4, 2, KERNEL[axes], stride, padding, dilation, groups),
        cases.floats(2, 4, *SPATIAL[axes]),
        options={
            "features": 2,
            "kernel_size": KERNEL[axes],
            "strides": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        },
    )

for axes, mode, stride, dilation in itertools.product((1, 2), ("circular", "reflect"), (1, 2), (1, 2)):
    if axes == 2 and not even(stride, dilation):
        continue
    cases.add(
        named("filled", f"{axes}d", mode, stride, dilation),
        CONV[axes](2, 3, 3, stride, dilation, dilation, padding_mode=mode),
        cases.floats(2, 2, *SPATIAL[axes]),
        options={
            "features": 3,
            "kernel_size": 3,
            "strides": stride,
            "padding": mode.upper(),
            "dilation": dilation,
        },
    )

for axes, stride, padding, more, dilation, groups in itertools.product(
    (1, 2, 3), (1, 2, 3), (0, 1), (0, 1), (1, 2), (1, 2)
):
    if more >= max(stride, dilation):
        continue
    if (axes > 1 and stride == 3) or ((axes, groups) != (1, 1) and not even(stride, padding, more, dilation, groups)):
        continue
    kernel = {1: 3, 2: (3, 2), 3: (2, 3, 2)}[axes]
    module = TRANSPOSE[axes](4, 2, kernel, stride, padding, more, groups, dilation=dilation)
    cases.add(
        named("transpose", f"{axes}d", stride, padding, more, dilation, groups),
        module,
        cases.floats(2, 4, *SMALL[axes]),
        options={
            "features": 2,
            "kernel_size": kernel,
            "strides": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "output_padding": more,
        },
    )

for multiplier, stride in itertools.product((1, 3), (1, 2)):
    cases.add(
        named("depthwise", multiplier, stride),
        torch.nn.Conv2d(2, 2 * multiplier, (3, 2), stride, 1, 1, groups=2),
        cases.floats(2, 2, 4, 5),
        options={"kernel_size": (3, 2), "multiplier": multiplier, "strides": stride, "padding": 1},
    )


class Separable(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = torch.nn.Conv2d(2, 4, 3, 2, 1, groups=2, bias=False)
        self.pointwise = torch.nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


cases.add(
    "separable",
    Separable(),
    cases.floats(2, 2, 5, 4),
    options={"features": 3, "kernel_size": 3, "multiplier": 2, "strides": 2, "padding": 1},
)
cases.write()
