"""Printing: code as text, what unfolds in a notebook, and tables that a notebook shows.

Code is written on one line where it fits. Where it does not, each argument has a line of its own, and a part of them
that repeats is written once: `*[Dense(8), jax.nn.relu] * 12` is code for these 24 arguments. A text that is long all
the same is cut down to its outline when it is shown: what is left out is a `...`, which is no layer, so that a part is
never pasted for the whole.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

WIDTH = 96  # columns of code before it is broken over lines
MOST = 60  # lines of code that are shown whole
_STEP = "    "
_OFTEN, _PERIOD = 3, 16  # repeats from which on arguments are written once, and how many may repeat together


def bracketed(opening: str, arguments: Sequence[str], closing: str) -> str:
    """Arguments between an opening and a closing, as `Dense(` and `)`: on one line where it fits."""
    line = _line(opening, arguments, closing)
    if _fits(line):
        return line
    arguments = _runs(arguments)
    line = _line(opening, arguments, closing)
    if _fits(line):
        return line
    return f"{opening}\n" + "".join(f"{_STEP}{a}".replace("\n", f"\n{_STEP}") + ",\n" for a in arguments) + closing


def call_code(name: str, arguments: Sequence[str]) -> str:
    """`name(arguments)`."""
    return bracketed(f"{name}(", arguments, ")")


def _line(opening: str, arguments: Sequence[str], closing: str) -> str:
    comma = "," if opening == "(" and len(arguments) == 1 else ""  # a tuple of one
    return f"{opening}{', '.join(arguments)}{comma}{closing}"


def _fits(line: str) -> bool:
    return len(line) <= WIDTH and "\n" not in line


def _runs(arguments: Sequence[str]) -> list[str]:
    """Arguments, of which those that repeat are one: `*[a, b] * 3`."""
    shown: list[str] = []
    at = 0
    while at < len(arguments):
        most = min(_PERIOD, (len(arguments) - at) // _OFTEN)
        repeats = [(_count(arguments, at, period), period) for period in range(1, most + 1)]
        runs = [(count * period, -period) for count, period in repeats if count >= _OFTEN]
        if not runs:
            shown.append(arguments[at])
            at += 1
            continue
        length, period = max(runs)
        shown.append(bracketed("*[", arguments[at : at - period], f"] * {length // -period}"))
        at += length
    return shown


def _count(arguments: Sequence[str], at: int, period: int) -> int:
    """How often the arguments from a place on are repeated at once."""
    first, count = arguments[at : at + period], 1
    while arguments[at + count * period : at + (count + 1) * period] == first:
        count += 1
    return count


# What is long


def elided(text: str, remedy: str) -> str:
    """Code of at most 60 lines, whole; the outline of longer code, as deep as it fits, and how much is left out.

    Args:
      text: The code.
      remedy: How to see all of it.
    """
    lines = text.split("\n")
    if len(lines) <= MOST:
        return text
    outline = lines
    for depth in range(max(map(_depth, lines)), 0, -1):
        if len(outline) < MOST:
            break
        outline = _collapsed(lines, depth)
    if len(outline) >= MOST:
        outline = _middle_left_out(outline, lines)
    return "\n".join([*outline, f"# {len(lines)} lines in all: {remedy}"])


def _depth(line: str) -> int:
    return (len(line) - len(line.lstrip(" "))) // len(_STEP)


def _counted(text: str, lines: int) -> str:
    return f"{text}  # {lines} {'line' if lines == 1 else 'lines'}"


def _collapsed(lines: Sequence[str], depth: int) -> list[str]:
    """The lines down to a depth; a bracket around deeper ones is one line, which counts them."""
    shown: list[str] = []
    deeper = 0
    for line in lines:
        if _depth(line) > depth:
            deeper += 1
        elif deeper:
            shown[-1] = _counted(f"{shown[-1]}...{line.strip()}", deeper)
            deeper = 0
        else:
            shown.append(line)
    return shown


def _middle_left_out(outline: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The first and last arguments of an outline, with a count of the lines between them."""
    starts = [i for i, line in enumerate(outline) if _depth(line) == 1 and line.strip()[:1] not in ")]}"]
    whole = [i for i, line in enumerate(lines) if _depth(line) == 1 and line.strip()[:1] not in ")]}"]
    last = next((i for i, start in enumerate(starts) if start >= len(outline) - MOST // 4), len(starts) - 1)
    first = max(i for i, start in enumerate(starts) if start <= MOST - MOST // 4 - 2)
    between = _counted(f"{_STEP}...,", whole[last] - whole[first])
    return [*outline[: starts[first]], between, *outline[starts[last] :]]


# What unfolds


def unfolding(opening: str, parts: Sequence[Any], closing: str, path: str | None) -> Any:
    """Parts between an opening and a closing, for treescope to fold and unfold.

    Args:
      opening: Text before the parts.
      parts: Treescope's renderings.
      closing: Text after them.
      path: The code that reaches it, which treescope offers to copy.
    """
    from treescope import rendering_parts

    alone = opening == "(" and len(parts) == 1
    return rendering_parts.build_foldable_tree_node_from_children(
        opening, parts, closing, comma_separated=True, force_trailing_comma=alone, path=path
    )


def beside(*parts: Any) -> Any:
    """Texts and parts side by side: `name=` and what stands there."""
    from treescope import rendering_parts

    return rendering_parts.siblings_with_annotations(*parts)


def plain(text: str) -> Any:
    """A text that does not unfold, on one line."""
    from treescope import rendering_parts

    return rendering_parts.text(" ".join(map(str.strip, text.split("\n"))))


# Tables of HTML

# A notebook's own style centres tables, aligns their cells to the right and puts code on grey: it is overruled.
_STYLE = """
.funcnets-table { overflow-x: auto }
.funcnets-table table { border-collapse: collapse; color: inherit; font-size: 85%; margin: 0 !important }
.funcnets-table th, .funcnets-table td { padding: 0.2em 0.5em; white-space: nowrap; border: 0 }
.funcnets-table th, .funcnets-table td { text-align: left !important }
.funcnets-table .number { text-align: right !important; font-variant-numeric: tabular-nums }
.funcnets-table code { background: none !important; color: inherit; padding: 0 !important; font-size: inherit }
.funcnets-table tbody { border-top: 1px solid; border-bottom: 1px solid }
.funcnets-table thead tr, .funcnets-table tfoot td { font-weight: bold }
"""


def page(head: str, rows: Sequence[str], total: str, *notes: str) -> str:
    """A table of HTML, in the colours of the page that it is on; each line of it is given as its cells."""
    parts = [
        f'<div class="funcnets-table"><style>{_STYLE}</style>',
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>",
        *(f"<tr>{row}</tr>" for row in rows),
        f"</tbody>\n<tfoot><tr>{total}</tr></tfoot>\n</table>",
        *(f"<p>{note}</p>" for note in notes),
        "</div>",
    ]
    return "\n".join(parts)


def ruled_page(cells: Sequence[Sequence[str]], right: int) -> str:
    """What `ruled` writes as text, in HTML."""

    def line(row: Sequence[str], opening: str, closing: str) -> str:
        texts = [html.escape(cell) for cell in row]
        words = [f"{opening}{text}{closing}" for text in texts[:-right]]
        return "".join(words + [f'<td class="number">{text}</td>' for text in texts[-right:]])

    head, *rows, total = cells
    body = [line(row, "<td><code>", "</code></td>") for row in rows]
    return page(line(head, "<th>", "</th>"), body, line(total, "<td>", "</td>"))
