"""Rows of a net as a table: of text, as wide as a terminal, and of HTML."""

from __future__ import annotations

import html
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from funcnets.inspect.rows import Row
from funcnets.printing import page
from funcnets.shapes import aligned, below, short, show


class Column(NamedTuple):
    """A column of a table.

    Attributes:
      title: Its title.
      cell: What it writes of a row.
      rank: The order in which columns are left out where they do not fit, the largest first.
      words: Whether it is of words, which are cut off where they are long; numbers stand to the right, and are not.
      exact: The number that a cell rounds.
      marks: What ends a cell, and is not cut off.
    """

    title: str
    cell: Callable[[Row], str]
    rank: int
    words: bool = False
    exact: Callable[[Row], int | None] = lambda row: None
    marks: Callable[[Row], str] = lambda row: ""


COLUMNS = (
    Column("layer", lambda row: row.code, 2, words=True, marks=lambda row: row.marks),
    Column("input", lambda row: ", ".join(map(show, row.inputs)), 9, words=True),
    Column("output", lambda row: show(row.output), 3, words=True),
    Column("parameters", lambda row: f"{row.parameters:,}", 0),
    Column("dtype", lambda row: ", ".join(row.dtypes), 7, words=True),
    Column("bytes", lambda row: in_units(row.bytes), 6, exact=lambda row: row.bytes),
    Column("state", lambda row: f"{row.state:,}", 5),
    Column("state bytes", lambda row: in_units(row.state_bytes), 8, exact=lambda row: row.state_bytes),
    Column("FLOPs", lambda row: in_units(row.flops), 1, exact=lambda row: row.flops),
    Column("gradient FLOPs", lambda row: in_units(row.gradient_flops), 4, exact=lambda row: row.gradient_flops),
)
_LONGEST, _COMFORTABLE, _SHORTEST = 44, 28, 12  # words, in characters


def in_units(number: int | None) -> str:
    """A number to three digits, in thousands (k), millions (M), and so on."""
    if number is None or number < 1000:
        return "–" if number is None else str(number)
    value, units = number / 1000, "kMGTPEZY"
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:#.3g}".rstrip(".") + units[0]


def _columns(totals: Row) -> list[Column]:
    """The columns that have something to say."""
    return [column for column in COLUMNS if totals.state or not column.title.startswith("state")]


def _places(rows: Sequence[Row]) -> list[str]:
    """What each row's path adds to that of the row that it is in."""
    around: list[str] = []
    places: list[str] = []
    for row in rows:
        del around[max(row.depth - 1, 0) :]
        places.append(below(row.path, around[-1] if around else "") or "(the net)")
        around.append(row.path)
    return places


# Text


def text_table(rows: Sequence[Row], totals: Row, width: int | None) -> str:
    """A table in which no line is longer than a width; the lines below it tell what is frozen, and what is left out.

    Args:
      rows: The rows.
      totals: The row of the whole net.
      width: In characters; None for the terminal's.
    """
    limit = shutil.get_terminal_size().columns if width is None else width
    indented = ["  " * (row.depth - 1) + place for row, place in zip(rows, _places(rows), strict=True)]
    columns = _columns(totals)
    cells = {"path": [(text, "") for text in ("path", *indented, "total")]}
    for column in columns:
        cells[column.title] = [(column.title, ""), *((column.cell(row), column.marks(row)) for row in (*rows, totals))]
    words = {"path", *(column.title for column in columns if column.words)}

    def cut(longest: int) -> list[list[str]]:
        return [
            [short(text, longest - len(marks)) + marks if title in words else text for text, marks in held]
            for title, held in cells.items()
        ]

    def fits(longest: int) -> bool:
        return sum(max(map(len, held)) for held in cut(longest)) + 2 * (len(cells) - 1) <= limit

    out: list[str] = []
    for column in sorted(columns, key=lambda column: -column.rank):
        if not fits(_COMFORTABLE if column.rank > 3 else _SHORTEST):
            out.append(column.title)
            del cells[column.title]
    longest = next((n for n in range(_LONGEST, _SHORTEST, -1) if fits(n)), _SHORTEST)
    lines = aligned(cut(longest), {i for i, title in enumerate(cells) if title not in words})
    rule, left_out = "-" * len(lines[0]), ", ".join(column.title for column in columns if column.title in out)
    notes = [_of_frozen(totals)] * bool(totals.frozen) + [f"left out at this width: {left_out}"] * bool(out)
    below_it = [line for note in notes for line in textwrap.wrap(note, limit)]
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *below_it])


def _of_frozen(totals: Row) -> str:
    return f"{totals.frozen:,} of {totals.parameters:,} parameters are frozen"


# HTML


def html_table(rows: Sequence[Row], totals: Row) -> str:
    """A table with all columns, in the colours of the page that it is on.

    Args:
      rows: The rows.
      totals: The row of the whole net.
    """
    columns = _columns(totals)
    titles = "".join(_cell("th", column, html.escape(column.title)) for column in columns)
    body: list[str] = []
    for row, place in zip(rows, _places(rows), strict=True):
        path = f'<td style="padding-left: {max(row.depth, 1) * 1.2 - 0.5:.1f}em" title="{html.escape(row.path)}">'
        body.append(f"{path}<code>{html.escape(place)}</code></td>{_cells(columns, row)}")
    notes = [_of_frozen(totals)] * bool(totals.frozen)
    return page(f"<th>path</th>{titles}", body, f"<td>total</td>{_cells(columns, totals)}", *notes)


def _cells(columns: Sequence[Column], row: Row) -> str:
    texts = (html.escape(column.cell(row) + column.marks(row)) for column in columns)
    return "".join(_cell("td", column, text, column.exact(row)) for column, text in zip(columns, texts, strict=True))


def _cell(tag: str, column: Column, text: str, exact: int | None = None) -> str:
    inside = f"<code>{text}</code>" if column.words and tag == "td" else text
    side = "" if column.words else ' class="number"'
    title = "" if exact is None else f' title="{exact:,}"'
    return f"<{tag}{side}{title}>{inside}</{tag}>"
