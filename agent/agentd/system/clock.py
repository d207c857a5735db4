"""Three clocks, by what they are for."""

from __future__ import annotations

import time

_boot_id: str | None = None


def wall_ns() -> int:
    """Nanoseconds since the epoch: for people, never for durations."""
    return time.time_ns()


def boot_ns() -> int:
    """Nanoseconds since boot, suspend included (CLOCK_BOOTTIME).

    For durations that outlive a process and must not jump when somebody sets the wall clock.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Random name of this boot (/proc/sys/kernel/random/boot_id, random(4))."""
    global _boot_id  # noqa: PLW0603  # constant for the life of the machine
    if _boot_id is None:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            _boot_id = file.read().strip()
    return _boot_id
