"""A word on stderr, which is a file on a disk that may be full: never a reason to fail."""

from __future__ import annotations

import os


def complain(text: str) -> None:
    """Write a line to stderr, if that can be done."""
    try:
        os.write(2, text.encode(errors="replace") + b"\n")
    except OSError:
        return
