"""Words of others as they may stand in messages and tables."""

from __future__ import annotations

import re

# How Python keeps such a byte in text (PEP 383), and how repr() and backslashreplace write it.
_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")


def printable(text: str) -> str:
    """Return `text` with everything a terminal would act on written out. Pure."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004  # surrogateescape (PEP 383): a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def told(text: str) -> str:
    r"""Return a message as it may stand on a terminal, whoever's words are in it. Pure.

    Its lines stay lines; a byte that is not UTF-8 is written as `\xff`.
    """
    shown = "\n".join(map(printable, text.split("\n")))
    return _BYTE.sub(r"\\x\1", shown) if "\\udc" in shown else shown


def is_text(text: str) -> bool:
    """Say whether it can be written as UTF-8. Pure."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
