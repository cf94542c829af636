"""What is in a net, and what has changed in it."""

from funcnets.inspect.difference import diff as diff
