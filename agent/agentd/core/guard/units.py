"""The guard's units, and sizes and rates as people read them. Pure."""

from __future__ import annotations

MS_NS = 1_000_000
S_NS = 1_000_000_000
MIB = 1 << 20
GIB = 1 << 30

_BINARY = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_DECIMAL = ((10**9, "GB/s"), (10**6, "MB/s"), (10**3, "kB/s"), (1, "B/s"))
#: How many digits may be spent to show that two sizes differ.
_MOST_DIGITS = 3


def size_text(size_bytes: int) -> str:
    """Return a size with one digit after the point and its unit: `1.9 GiB`."""
    factor, unit = _unit_of(size_bytes)
    return f"{size_bytes / factor:.1f} {unit}"


def share_text(part_bytes: int, whole_bytes: int) -> str:
    """Return `33.1 of 32 GiB`: both in the whole's unit, and never alike unless they are."""
    factor, unit = _unit_of(whole_bytes)
    whole = _trimmed(whole_bytes / factor, 1)
    part = f"{part_bytes / factor:.1f}"
    for digits in range(2, _MOST_DIGITS + 1):
        if part_bytes == whole_bytes or float(part) != float(whole):
            break
        part = f"{part_bytes / factor:.{digits}f}"
    return f"{part} of {whole} {unit}"


def share_and_mark_texts(part_bytes: int, whole_bytes: int, mark_bytes: int) -> tuple[str, str]:
    """Return `22.38 of 23.5 GiB` and `22.40`: a part and its mark, never alike unless they are."""
    factor, unit = _unit_of(whole_bytes)
    part, mark = (f"{size / factor:.1f}" for size in (part_bytes, mark_bytes))
    for digits in range(2, _MOST_DIGITS + 1):
        if part != mark or part_bytes == mark_bytes:
            break
        part, mark = (f"{size / factor:.{digits}f}" for size in (part_bytes, mark_bytes))
    return f"{part} of {_trimmed(whole_bytes / factor, 1)} {unit}", mark


def rate_text(bytes_per_s: int) -> str:
    """Return a rate in decimal units: `2.1 GB/s`."""
    for factor, unit in _DECIMAL:
        if abs(bytes_per_s) >= factor:
            return f"{bytes_per_s / factor:.1f} {unit}"
    return "0 B/s"


def duration_text(duration_s: float) -> str:
    """Return a duration to the precision that matters: `0.4 s`, `12 s`, `5 min`, `3 h`."""
    if duration_s < 10:  # noqa: PLR2004  # one digit tells something up to here
        return f"{duration_s:.1f} s"
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min")):
        if duration_s < limit_s:
            return f"{duration_s / unit_s:.0f} {unit}"
    return f"{duration_s / 3600:.0f} h"


def _unit_of(size_bytes: int) -> tuple[int, str]:
    for factor, unit in _BINARY:
        if abs(size_bytes) >= factor:
            return factor, unit
    return 1, "B"


def _trimmed(number: float, digits: int) -> str:
    return f"{number:.{digits}f}".rstrip("0").rstrip(".")
