"""The inside of a net: tables, pictures, activations, and what is wrong."""

from funcnets.inspect.capture import capture as capture
from funcnets.inspect.editing import edit as edit
from funcnets.inspect.health import check as check
"""What is in a net, and what has changed in it."""

from funcnets.inspect.difference import diff as diff
