"""A point in time as people give it: a while ago, or a time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agentctl.units import MAX_DURATION_S, parse_duration


def read_moment(value: object, now: datetime) -> datetime:
    """Return an aware time: "10m" or 600 (seconds) before `now`, an RFC 3339 time, a datetime.

    Text without a zone is in this machine's.

    Raises:
        ValueError: It is none of these.

    """
    match value:
        case datetime():
            if value.tzinfo is None:
                raise ValueError("the time has no zone; use datetime.now(UTC)")
            return value
        case bool():
            pass
        case int() | float():
            # Not a number fails every comparison.
            if 0 <= value <= MAX_DURATION_S:
                return now - timedelta(seconds=value)
            raise ValueError(f"{value} is out of range; it must be 0 or more seconds")
        case str():
            return _read_text(value, now)
    raise ValueError(f"{value!r} is not a time; give 10m, seconds or a datetime")


def _read_text(text: str, now: datetime) -> datetime:
    try:
        return now - timedelta(seconds=parse_duration(text))
    except ValueError as error:
        first = error
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise ValueError(f"{first}; or a time such as 2025-03-01T12:00:00Z") from None
