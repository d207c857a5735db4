"""Bytes that are not text, as they stand in messages."""

from __future__ import annotations

import re

# How Python keeps such a byte in text (PEP 383), and how repr() and backslashreplace write it.
_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")


def told(text: str) -> str:
    r"""Return `text` with every byte that is not UTF-8 written as `\xff`. Pure."""
    if text.isascii() and "\\udc" not in text:
        return text
    escaped = "".join(
        f"\\udc{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in text
    )
    return _BYTE.sub(r"\\x\1", escaped)


def is_text(text: str) -> bool:
    """Say whether it can be written as UTF-8. Pure."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
