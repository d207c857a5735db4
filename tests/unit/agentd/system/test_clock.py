"""Three clocks, by what they are for."""

from __future__ import annotations

import re
import time

from agentd.system import clock


def test_the_boot_clock_never_goes_back_and_counts_from_the_boot() -> None:
    """It is the one that uptime is read from, suspend included."""
    with open("/proc/uptime", encoding="ascii") as file:
        uptime_s = float(file.read().split()[0])

    readings = [clock.boot_ns() for _ in range(100)]

    assert readings == sorted(readings)
    assert abs(readings[0] / 1e9 - uptime_s) < 5


def test_the_wall_clock_counts_from_the_epoch() -> None:
    """In nanoseconds."""
    assert abs(clock.wall_ns() - time.time() * 1e9) < 5e9


def test_the_boot_has_a_name_that_stays() -> None:
    """A UUID, without the newline."""
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", clock.boot_id())
    assert clock.boot_id() == clock.boot_id()
