"""Colours, only where a person looks: on a terminal, unless NO_COLOR says otherwise."""

from __future__ import annotations

import os
from typing import TextIO

_CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


class Palette:
    """Paints text, or leaves it as it is."""

    def __init__(self, *, enabled: bool) -> None:
        """Paint only if `enabled`."""
        self.enabled = enabled

    def paint(self, text: str, style: str) -> str:
        """Return `text` in a style named in this module; "" leaves it plain. Pure."""
        if not self.enabled or not style or not text:
            return text
        return f"\033[{_CODES[style]}m{text}\033[0m"


def is_terminal(stream: TextIO | None) -> bool:
    """Say whether a person reads `stream`."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def palette_for(stream: TextIO | None) -> Palette:
    """Return a palette that paints only if `stream` is a terminal that wants it."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Palette(enabled=wanted and is_terminal(stream))
