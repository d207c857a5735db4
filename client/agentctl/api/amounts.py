"""Sizes and durations given to the SDK, checked against what the agent takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from agentctl.errors import InvalidSpecError
from agentctl.units import parse_duration, parse_size

Value = TypeVar("Value")

#: The agent's own limits, refused here with the option's name.
MAX_DURATION_S = 10 * 365 * 86_400
MIN_SIZE_BYTES = 1 << 20
MAX_SIZE_BYTES = 1 << 60
#: An empty process needs this much.
MIN_MEM_BYTES = 4 << 20
MAX_REQUEUES = 100


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
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidSpecError(f"{name}: {value!r} is not a duration; write 90s, 8h or seconds")
    else:
        seconds = float(value)
    # Not a number fails every comparison.
    if not 0 <= seconds < MAX_DURATION_S:
        raise InvalidSpecError(f"{name}: {value} is out of range; from 0 to below 10 years")
    return seconds


def whole_of(name: str, value: int, top: int) -> int:
    """Return a whole number from 0 to `top`. Raises InvalidSpecError. Pure."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpecError(f"{name}: {value!r} is not a whole number")
    if not 0 <= value <= top:
        raise InvalidSpecError(f"{name}: {value} is out of range; it must be from 0 to {top}")
    return value


def text_pairs(name: str, pairs: Mapping[str, str] | None) -> dict[str, str]:
    """Return pairs of printable text. Raises InvalidSpecError. Pure."""
    if pairs is None:
        return {}
    if not isinstance(pairs, Mapping):
        raise InvalidSpecError(f"{name}: {pairs!r} is not a mapping such as {{'key': 'value'}}")
    for key, value in pairs.items():
        if not all(isinstance(text, str) for text in (key, value)):
            raise InvalidSpecError(f"{name}: {key!r}: {value!r} is not a pair of text")
        if not key or not (key + value).isprintable() or "=" in key:
            raise InvalidSpecError(
                f"{name}: {f'{key}={value}'!r} is not KEY=VALUE in printable text"
            )
    return dict(pairs)


def several(name: str, values: Iterable[Value]) -> list[Value]:
    """Return a list of them; one alone is a mistake. Raises InvalidSpecError. Pure."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidSpecError(f"{name}: {values!r} is not a list; write [{values!r}]")
    return list(values)


def memory_of(name: str, value: str | int) -> int:
    """Return a limit of memory, checked. Raises InvalidSpecError that names the option. Pure.

    What is too much the agent says, which knows its host's memory.
    """
    size_bytes = _whole_bytes(name, value)
    if size_bytes < MIN_MEM_BYTES:
        raise InvalidSpecError(
            f"{name}: {value} is less than the {MIN_MEM_BYTES >> 20} MiB that an empty process "
            "needs; leave it out for no limit"
        )
    return size_bytes


def bytes_of(name: str, value: str | int) -> int:
    """Return bytes, checked. Raises InvalidSpecError that names the option. Pure."""
    size_bytes = _whole_bytes(name, value)
    if not MIN_SIZE_BYTES <= size_bytes <= MAX_SIZE_BYTES:
        raise InvalidSpecError(
            f"{name}: {value} is out of range; from {MIN_SIZE_BYTES >> 20} MiB to 1 EiB"
        )
    return size_bytes


def _whole_bytes(name: str, value: str | int) -> int:
    if isinstance(value, str):
        try:
            size_bytes = parse_size(value)
        except ValueError as error:
            raise InvalidSpecError(f"{name}: {error}") from None
    else:
        size_bytes = value
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int):
        raise InvalidSpecError(f"{name}: {value!r} is not a size; write 16G or whole bytes")
    return size_bytes
