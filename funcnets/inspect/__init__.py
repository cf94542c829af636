"""The inside of a net: tables, pictures, activations, differences, and what is wrong."""

from funcnets.inspect.capture import capture as capture
from funcnets.inspect.difference import diff as diff
from funcnets.inspect.drawing import draw as draw
from funcnets.inspect.editing import edit as edit
from funcnets.inspect.health import check as check
from funcnets.inspect.rows import Row as Row
from funcnets.inspect.summary import Summary as Summary
from funcnets.inspect.summary import summary as summary

__all__ = [
    "Row",
    "Summary",
    "capture",
    "check",
    "diff",
    "draw",
    "edit",
    "summary",
]
