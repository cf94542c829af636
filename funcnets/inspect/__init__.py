"""The inside of a net: tables, pictures, activations, and what is wrong."""

from funcnets.inspect.drawing import draw as draw
