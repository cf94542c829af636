"""Parts of the public face that are imported when they are first asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

ROOMS = ("files", "inspect", "params", "rewrite", "train")
VIEWS = ("capture", "check", "diff", "draw", "edit", "summary")  # of `funcnets.inspect`

_ELSEWHERE = {  # what other libraries call it
    "Activation": "the function itself, jax.nn.relu",
    "BatchNorm1d": "fn.BatchNorm",
    "BatchNorm2d": "fn.BatchNorm",
    "Conv1d": "fn.Conv",
    "Conv2D": "fn.Conv",
    "Conv2d": "fn.Conv",
    "Embed": "fn.Embedding",
    "GELU": "the function itself, jax.nn.gelu",
    "Lambda": "the function itself",
    "Linear": "fn.Dense",
    "MaxPool2d": "fn.MaxPool",
    "Module": "fn.Composite, or fn.Layer for one with parameters of its own",
    "MultiHeadAttention": "fn.Attention",
    "MultiheadAttention": "fn.Attention",
    "ReLU": "the function itself, jax.nn.relu",
    "Softmax": "the function itself, jax.nn.softmax",
    "chain": "fn.Sequential",
    "relu": "jax.nn.relu",
    "serial": "fn.Sequential",
    "vmap": "fn.Ensemble, or jax.vmap of net.apply",
}


def asked_for(name: str, face: dict[str, Any]) -> Any:
    """What the face of the package holds under a name that it does not have yet; kept there from now on."""
    if name in ROOMS:
        held = importlib.import_module(f"funcnets.{name}")
    elif name in VIEWS:
        held = getattr(importlib.import_module("funcnets.inspect"), name)
    else:
        close = difflib.get_close_matches(name, [*face, *ROOMS, *VIEWS], 1)
        hint = f": here it is {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        hint = hint or (f" (did you mean {close[0]!r}?)" if close else "")
        raise AttributeError(f"funcnets has no {name!r}{hint}")
    face[name] = held
    return held
