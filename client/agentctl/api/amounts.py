"""Sizes and durations given to the SDK, checked against what the agent takes."""

from __future__ import annotations

from agentctl.errors import InvalidSpecError
from agentctl.units import parse_duration, parse_size

#: The agent's own limits, refused here with the option's name.
MAX_DURATION_S = 10 * 365 * 86_400
MIN_SIZE_BYTES = 1 << 20
MAX_SIZE_BYTES = 1 << 60


def to_ns(seconds: float) -> int:
    """Return whole nanoseconds. Pure."""
    return round(seconds * 1e9)


def seconds_of(name: str, value: str | float) -> float:
    """Return seconds, checked. Raises InvalidSpecError that names the option. Pure."""
    if isinstance(value, str):
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise InvalidSpecError(f"{name}: {error}") from None
    elif isinstance(value, bool):
        raise InvalidSpecError(f"{name}: {value} is not a duration; write 90s, 8h or seconds")
    else:
        seconds = float(value)
    # Not a number fails every comparison.
    if not 0 <= seconds < MAX_DURATION_S:
        raise InvalidSpecError(f"{name}: {value} is out of range; from 0 to below 10 years")
    return seconds


def bytes_of(name: str, value: str | int) -> int:
    """Return bytes, checked. Raises InvalidSpecError that names the option. Pure."""
    if isinstance(value, str):
        try:
            size_bytes = parse_size(value)
        except ValueError as error:
            raise InvalidSpecError(f"{name}: {error}") from None
    else:
        size_bytes = value
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int):
        raise InvalidSpecError(f"{name}: {value!r} is not a size; write 16G or whole bytes")
    if not MIN_SIZE_BYTES <= size_bytes <= MAX_SIZE_BYTES:
        raise InvalidSpecError(f"{name}: {value} is out of range; from 1 MiB to 1 EiB")
    return size_bytes
