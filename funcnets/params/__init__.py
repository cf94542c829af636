"""Parameters as data: nested plain dicts of arrays, read, changed, taken apart and put together by path."""

from funcnets.params.averaging import average as average
from funcnets.params.comparison import Difference as Difference
from funcnets.params.comparison import difference as difference
from funcnets.params.editing import drop as drop
from funcnets.params.editing import insert as insert
from funcnets.params.editing import rename as rename
from funcnets.params.editing import update as update
from funcnets.params.freezing import Frozen as Frozen
from funcnets.params.freezing import frozen as frozen
from funcnets.params.partition import labels as labels
from funcnets.params.partition import merge as merge
from funcnets.params.partition import split as split
from funcnets.params.patterns import Owned as Owned
from funcnets.params.patterns import of as of
from funcnets.params.reading import Table as Table
from funcnets.params.reading import count as count
from funcnets.params.reading import get as get
from funcnets.params.reading import nbytes as nbytes
from funcnets.params.reading import paths as paths
from funcnets.params.reading import table as table
from funcnets.rules import matches as matches

__all__ = [
    "Difference",
    "Frozen",
    "Owned",
    "Table",
    "average",
    "count",
    "difference",
    "drop",
    "frozen",
    "get",
    "insert",
    "labels",
    "matches",
    "merge",
    "nbytes",
    "of",
    "paths",
    "rename",
    "split",
    "table",
    "update",
]
