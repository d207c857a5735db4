"""Sizes, durations and times for people."""

from __future__ import annotations

from datetime import UTC, datetime

_SIZE_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_UNIT_STEP = 1024
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400
_SHORT_S = 10


def format_size(size_bytes: int) -> str:
    """Return "512 bytes", "16 GiB", "1.5 MiB". Pure."""
    value = float(size_bytes)
    unit = 0
    while value >= _UNIT_STEP and unit < len(_SIZE_UNITS) - 1:
        value /= _UNIT_STEP
        unit += 1
    if unit == 0:
        return "1 byte" if size_bytes == 1 else f"{size_bytes} bytes"
    text = f"{value:.1f}".removesuffix(".0")
    return f"{text} {_SIZE_UNITS[unit]}"


def format_duration(seconds: float) -> str:
    """Return "0.4s", "42s", "3m07s", "2h05m", "4d03h". Pure."""
    if seconds < _SHORT_S:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S:02}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S:02}m"
    return f"{whole // _DAY_S}d{whole % _DAY_S // _HOUR_S:02}h"


def format_age(moment: datetime, now: datetime) -> str:
    """Return how long ago `moment` was, never negative. Pure."""
    return format_duration(max(0.0, (now - moment).total_seconds()))


def format_rfc3339(moment: datetime, timespec: str = "microseconds") -> str:
    """Return "2025-03-01T12:00:00.000000Z". Pure."""
    utc = moment.astimezone(UTC)
    return utc.replace(tzinfo=None).isoformat(timespec=timespec) + "Z"


def format_local(moment: datetime) -> str:
    """Return "2025-03-01 13:00:00 +0100", in the zone of this machine."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
