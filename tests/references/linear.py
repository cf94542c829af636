"""Writes linear.npz: python tests/references/linear.py (needs PyTorch)."""

import torch
from writing import Cases

cases = Cases("linear")
for bias in (True, False):
    cases.add(
        f"dense-{'bias' if bias else 'plain'}",
        torch.nn.Linear(4, 3, bias=bias),
        cases.floats(2, 5, 4),
        options={"use_bias": bias},
    )
    cases.add(
        f"bilinear-{'bias' if bias else 'plain'}",
        torch.nn.Bilinear(3, 4, 2, bias=bias),
        cases.floats(2, 5, 3),
        cases.floats(2, 5, 4),
        options={"use_bias": bias},
    )
# Kernels of several axes are PyTorch's matrices, reshaped.
cases.add(
    "axes-last_two",
    torch.nn.Sequential(torch.nn.Flatten(-2), torch.nn.Linear(12, 5)),
    cases.floats(2, 3, 4),
    options={"features": 5, "axis": [-2, -1]},
)
cases.add(
    "axes-to_two",
    torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Unflatten(-1, (2, 3))),
    cases.floats(2, 5, 4),
    options={"features": [2, 3]},
)
cases.add(
    "low_rank",
    torch.nn.Sequential(torch.nn.Linear(4, 2, bias=False), torch.nn.Linear(2, 3)),
    cases.floats(2, 5, 4),
    options={"rank": 2},
)
cases.write()
