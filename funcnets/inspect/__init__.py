"""The inside of a net: tables, pictures, activations, and what is wrong."""

from funcnets.inspect.rows import Row as Row
from funcnets.inspect.summary import Summary as Summary
from funcnets.inspect.summary import summary as summary
