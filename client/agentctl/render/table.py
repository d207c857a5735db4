"""Aligned columns of plain text, safe for a terminal."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_GAP = "  "
_ELLIPSIS = "…"
#: A column that yields takes a third of a terminal, but never less than this.
_SHARE = 3
_NARROWEST = 8
#: Longer cells of such a column run over, rather than pad all the others.
_PADDED = 40


class Cell(NamedTuple):
    """One field of a row: its text, and the style it is painted in."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """One column: the last one may be cut to the width of the terminal."""

    title: str
    right: bool = False
    #: Whether its cells may be cut on a terminal, and run over off one, rather than widen it.
    yields: bool = False
    #: On a terminal it then takes one part in so many of the width.
    share: int = _SHARE


def width_of(text: str) -> int:
    """Return how many columns of a terminal `text` takes. Pure."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return `text`, ended by an ellipsis if it is wider than `width`. Pure."""
    if width_of(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _character_width(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + _ELLIPSIS


def layout(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> list[list[Cell]]:
    """Return padded rows, titles first, the last column cut to `width` columns in all. Pure."""
    grid = [[Cell(column.title, "bold") for column in columns], *(list(row) for row in rows)]
    if width is not None:
        grid = [
            [
                Cell(cut(cell.text, max(_NARROWEST, width // column.share)), cell.style)
                if column.yields
                else cell
                for cell, column in zip(row, columns, strict=True)
            ]
            for row in grid
        ]
    widths = [
        min(max(width_of(row[i].text) for row in grid), _PADDED if column.yields else sys.maxsize)
        for i, column in enumerate(columns)
    ]
    return [_padded(row, columns, widths, width) for row in grid]


def _padded(
    row: list[Cell], columns: Sequence[Column], widths: list[int], width: int | None
) -> list[Cell]:
    cells = []
    for cell, column, wide in zip(row[:-1], columns, widths, strict=False):
        space = " " * (wide - width_of(cell.text))
        text = space + cell.text if column.right else cell.text + space
        cells.append(Cell(text, cell.style))
    last = row[-1]
    if width is not None:
        left = (
            width
            - sum(map(width_of, (cell.text for cell in cells)))
            - len(_GAP) * (len(columns) - 1)
        )
        last = Cell(cut(last.text, max(left, len("COMMAND"))), last.style)
    return [*cells, last]


def join(cells: Sequence[str]) -> str:
    """Return one line of a table. Pure."""
    return _GAP.join(cells).rstrip()
