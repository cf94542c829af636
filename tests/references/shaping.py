"""Writes shaping.npz: python tests/references/shaping.py (needs PyTorch)."""

import functools

import torch
from torch.nn import functional as F
from writing import Cases

cases = Cases("shaping")

NAMES = {
    "nearest": ("nearest", "nearest", "nearest"),
    "linear": ("linear", "bilinear", "trilinear"),
    "cubic": (None, "bicubic", None),
}
SCALES = {1: [2, 3, 1.5, 0.5, 1.3], 2: [2, 1.7, [2, 3], [2.5, 0.6]], 3: [2, [1, 2, 1.5]]}
SIZES = {1: [1, 7], 2: [5, [3, 8], [1, 1]], 3: [[2, 3, 5]]}
SHAPES = {1: (2, 2, 5), 2: (2, 2, 4, 3), 3: (1, 2, 2, 3, 2)}
for method, names in NAMES.items():
    for axes, mode in enumerate(names, 1):
        for corners in (False,) if method == "nearest" else (False, True):
            for how, given in [("scale", one) for one in SCALES[axes]] + [("size", one) for one in SIZES[axes]]:
                if mode is None:
                    continue
                theirs = {
                    "scale_factor" if how == "scale" else "size": tuple(given) if isinstance(given, list) else given
                }
                if method != "nearest":
                    theirs["align_corners"] = corners
                cases.add(
                    f"upsample-{method}-{axes}-{how}-{given}{'-corners' if corners else ''}".replace(" ", ""),
                    functools.partial(F.interpolate, mode=mode, **theirs),
                    cases.floats(*SHAPES[axes]),
                    options={how: given, "method": method} | ({"align_corners": True} if corners else {}),
                )

# PyTorch takes the widths of the last axis first.
for mode, ours in (("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "circular")):
    value = {"value": 0.5} if mode == "constant" else {}
    for shape, width in [
        ((2, 2, 4), [[1, 2]]),
        ((2, 2, 3, 4), [[2, 0], [1, 3]]),
        ((1, 2, 3, 2, 3), [[1, 2], [1, 1], [0, 2]]),
    ]:
        flat = [end for pair in reversed(width) for end in pair]
        cases.add(
            f"pad-{mode}-{len(width)}",
            functools.partial(F.pad, pad=flat, mode=mode, **value),
            cases.floats(*shape),
            options={"width": width, "mode": ours} | value,
        )

for factor, channels in ((2, 8), (3, 9)):
    cases.add(
        f"pixel_shuffle-{factor}",
        torch.nn.PixelShuffle(factor),
        cases.floats(2, channels, 2, 3),
        options={"factor": factor},
    )
    x = cases.floats(2, 2, 2 * factor, 3 * factor)
    cases.add(f"pixel_unshuffle-{factor}", torch.nn.PixelUnshuffle(factor), x, options={"factor": factor})
cases.write()
