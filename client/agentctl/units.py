"""Sizes and durations as people write them; the same rule as `agentd.core.units`. Pure.

64MiB  64M  64m   67,108,864 bytes: a bare letter counts in powers of 1024, as ulimit(1)
                  and most tools for memory do
64MB              64,000,000 bytes: with a B and no i it is decimal (SI)
4096              bytes
8h  90s  1d12h  1.5h  500ms      a bare number is seconds

Neither side imports the other; a contract test compares the two.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,9})?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*(ms|[smhdw]?)\s*", re.IGNORECASE | re.ASCII)
_LETTERS = "kmgtpe"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
#: Largest first: 12h1d is a slip of the pen.
_ORDER = ("w", "d", "h", "m", "s", "ms")

#: What fits a signed 64-bit field of a file or of the kernel.
MAX_BYTES = (1 << 63) - 1
#: A hundred years: beyond it a number is a slip of the pen and clocks overflow.
MAX_DURATION_S = 100 * 365 * 86400.0


def _size_factors() -> dict[str, int]:
    factors = {"": 1, "b": 1}
    for power, letter in enumerate(_LETTERS, start=1):
        factors[letter] = factors[f"{letter}ib"] = factors[f"{letter}i"] = 1024**power
        factors[f"{letter}b"] = 1000**power
    return factors


_FACTORS = _size_factors()


def parse_size(text: str) -> int:
    """Return a size in bytes, rounded down. Pure.

    Raises:
        ValueError: `text` is no size; the message says what one looks like.

    """
    match = _SIZE.fullmatch(text.strip())
    factor = None if match is None else _FACTORS.get(match[2].lower())
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; write 16G (GiB), 16GiB or 16GB (decimal)")
    # Whole numbers stay out of floats, which are exact only up to 2**53.
    whole, _, fraction = match[1].partition(".")
    size_bytes = int(whole) * factor
    if fraction:
        size_bytes += int(fraction) * factor // 10 ** len(fraction)
    if size_bytes > MAX_BYTES:
        raise ValueError(f"{text!r} is not below 8 EiB")
    return size_bytes


def parse_duration(text: str) -> float:
    """Return a duration in seconds. Pure.

    Raises:
        ValueError: `text` is no duration; the message says what one looks like.

    """
    parts = _duration_parts(text.strip().lower())
    units = [unit for _, unit in parts]
    if not parts or (units != [""] and units != [u for u in _ORDER if u in units]):
        raise ValueError(f"{text!r} is not a duration; write 90s, 10m, 8h or 1d12h")
    duration_s = sum(number * _SECONDS[unit or "s"] for number, unit in parts)
    if duration_s > MAX_DURATION_S:
        raise ValueError(f"{text!r} is more than a hundred years")
    return duration_s


def _duration_parts(text: str) -> list[tuple[float, str]]:
    parts: list[tuple[float, str]] = []
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            return []
        parts.append((float(match[1]), match[2]))
        position = match.end()
    return parts
