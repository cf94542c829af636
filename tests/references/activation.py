"""Writes activation.npz: python tests/references/activation.py (needs PyTorch)."""

import torch
from writing import Cases


class SwiGLU(torch.nn.Module):
    def __init__(self, width: int, hidden: int, out: int, bias: bool) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(width, hidden, bias=bias)
        self.up = torch.nn.Linear(width, hidden, bias=bias)
        self.down = torch.nn.Linear(hidden, out, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


class SqueezeExcite(torch.nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(channels, hidden, 1)
        self.up = torch.nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(torch.relu(self.down(s))))


cases = Cases("activation")
with_zeros = cases.floats(2, 3, 4)
with_zeros[0, :, 0] = 0  # where torch takes the slope's side
cases.add("prelu-one", torch.nn.PReLU(), with_zeros)
cases.add("prelu-channels", torch.nn.PReLU(3), cases.floats(2, 3, 4), options={"axis": 1})
cases.add("glu-last", torch.nn.GLU(), cases.floats(2, 6))
cases.add("glu-axis", torch.nn.GLU(1), cases.floats(2, 4, 3), options={"axis": 1})
cases.add("gated-same", SwiGLU(3, 5, 3, False), cases.floats(2, 4, 3), options={"hidden": 5})
cases.add(
    "gated-bias",
    SwiGLU(3, 5, 2, True),
    cases.floats(2, 4, 3),
    options={"hidden": 5, "features": 2, "use_bias": True},
)
cases.add("squeeze_excite", SqueezeExcite(6, 2), cases.floats(2, 6, 3, 4), options={"ratio": 3})
cases.write()
