"""What the scripts beside this file write reference vectors with; needs PyTorch (`pip install torch`)."""

import json
import pathlib
from typing import Any

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


class Cases:
    """The cases of a family: `add` each, then `write`.

    Everything is computed in float64 and stored in float32, so that it is right to the last bit that we compare.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self.arrays: dict[str, np.ndarray] = {}
        self.index: dict[str, dict[str, Any]] = {}
        self.rng = np.random.default_rng(0)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)

    def floats(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Normal numbers that float32 holds exactly."""
        return torch.tensor((self.rng.standard_normal(shape) * scale).astype(np.float32).astype(np.float64))

    def add(self, name: str, call: Any, *inputs: torch.Tensor, options: dict[str, Any] | None = None) -> None:
        """Notes outputs and gradients of `call(*inputs)`.

        Args:
          name: The kind first, as "conv_transpose-stride2"; unique.
          call: A module, whose parameters are drawn anew from a normal distribution, or a function.
          inputs: Floating ones get gradients.
          options: What our layer is built with.
        """
        assert name not in self.index, name
        if isinstance(call, torch.nn.Module):
            call.double()
            with torch.no_grad():
                for parameter in call.parameters():
                    parameter.copy_(self.floats(*parameter.shape, scale=0.5))
            self._note(name, "params", dict(call.named_parameters()))
            self._note(name, "buffers", dict(call.named_buffers()))
        given = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
        outputs = _flat(call(*given))
        cotangents = [self.floats(*y.shape) for y in outputs]
        torch.autograd.backward(outputs, cotangents)
        gradients = [x.grad if x.requires_grad else None for x in given]
        gradients = [
            torch.zeros_like(x) if x.requires_grad and g is None else g for x, g in zip(given, gradients, strict=True)
        ]
        lists = {"inputs": given, "outputs": outputs, "cotangents": cotangents, "input_gradients": gradients}
        for what, tensors in lists.items():
            self._note(name, what, {str(i): x for i, x in enumerate(tensors) if x is not None})
        if isinstance(call, torch.nn.Module):
            found = {key: p.grad for key, p in call.named_parameters()}
            self._note(name, "gradients", found)
            self._note(name, "after", dict(call.named_buffers()))
        self.index[name] = {"options": options or {}} | {what: len(tensors) for what, tensors in lists.items()}

    def write(self) -> None:
        path = HERE / f"{self.family}.npz"
        np.savez_compressed(path, index=np.array(json.dumps(self.index)), **self.arrays)
        print(f"{path.name}: {len(self.index)} cases, {path.stat().st_size / 1024:.0f} KiB")

    def _note(self, name: str, what: str, tensors: dict[str, torch.Tensor]) -> None:
        for key, tensor in tensors.items():
            array = tensor.detach().numpy()
            array = array.astype(np.float32) if array.dtype == np.float64 else array
            self.arrays[f"{name}/{what}/{key}"] = array.copy()


def _flat(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    return [y for part in output for y in _flat(part)]
