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
cases.write()
