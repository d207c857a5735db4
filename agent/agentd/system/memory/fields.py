"""Numbers out of the kernel's texts: bytes are searched, never matched."""

from __future__ import annotations

_KIB = 1024


def kib_field(data: bytes, name: bytes) -> int | None:
    """Return a field `NAME:   123 kB` in bytes; None if it is not there or no number.

    The name starts a line: give it as it stands there, with its colon. As in /proc/meminfo,
    /proc/PID/status and /proc/PID/smaps_rollup (proc(5)).
    """
    if data.startswith(name):
        start = len(name)
    else:
        start = data.find(b"\n" + name)
        if start < 0:
            return None
        start += len(name) + 1
    end = data.find(b"kB", start)
    return None if end < 0 else _scaled(data[start:end])


def number_field(data: bytes, name: bytes) -> int | None:
    """Return a field `NAME 123` that starts a line; None if it is not there or no number.

    As in a cgroup's memory.stat and memory.events, in /proc/vmstat and /proc/PID/status: the name
    is given with the blank, or colon and tab, that ends it.
    """
    start = 0 if data.startswith(name) else data.find(b"\n" + name) + 1
    if start == 0 and not data.startswith(name):
        return None
    end = data.find(b"\n", start)
    # Without its end of line the number may be cut in the middle.
    return None if end < 0 else number(data[start + len(name) : end])


def number(text: bytes) -> int | None:
    """Return a whole number that is not negative, or None."""
    text = text.strip()
    return int(text) if text.isdigit() else None


def _scaled(text: bytes) -> int | None:
    value = number(text)
    return None if value is None else value * _KIB
