"""The net that is stored with each step, as `fn.files` writes it, and what another net differs from it in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from funcnets.layer import Layer


def config_of(net: Layer) -> Any:
    """The net as it comes back from JSON."""
    from funcnets import files

    try:
        return json.loads(json.dumps(files.to_config(net), allow_nan=False))
    except Exception as error:
        error.add_note("Checkpoints(..., net=net) stores the net with each step; without net= only arrays are stored")
        raise


def net_differences(stored: Any, config: Any) -> list[str]:
    """Lines that say what the second net differs from the first in."""
    if json.dumps(stored, sort_keys=True) == json.dumps(config, sort_keys=True):  # 2 is not 2.0
        return []
    from funcnets import files, inspect

    try:
        difference = inspect.diff(files.from_config(stored), files.from_config(config))
    except (ValueError, TypeError) as error:  # a class of the other one is not known here, or is another by now
        return [*_json_differences(stored["net"], config["net"], "net"), f"(the net stored cannot be built: {error})"]
    return str(difference).splitlines() if difference else [*_json_differences(stored, config, "config")]


def _json_differences(one: Any, other: Any, path: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from _json_differences(one.get(name), other.get(name), f"{path}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (inner, its) in enumerate(zip(one, other, strict=True)):
            yield from _json_differences(inner, its, f"{path}[{i}]")
    elif one != other or type(one) is not type(other):
        yield f"{path}: checkpoint {json.dumps(one):.60}, model {json.dumps(other):.60}"


def built(stored: Any, place: str) -> Layer:
    """The net stored with a step at that place."""
    from funcnets import files

    if stored is None:
        raise ValueError(f"{place} was saved without a net: Checkpoints(..., net=net) stores it with each step")
    return files.from_config(stored)
