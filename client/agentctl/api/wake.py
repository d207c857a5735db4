"""Notices that this machine, or this process, has slept.

After a sleep the links stand as they stood, and nobody is left at their other end. Timers of
gRPC and ssh count a clock that stands still meanwhile (CLOCK_MONOTONIC, clock_gettime(2)), so
that a dead link would be found out only some seconds after the wake.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Protocol

#: How often it is looked: a wake is noticed that much later at most.
_LOOK_EVERY_S = 1.0
#: A machine that is merely busy lets a thread wait less than this.
_SLEPT_S = 5.0
#: Small differences between the clocks come from reading them one after the other.
_SUSPENDED_S = 0.5


class Sleeper(Protocol):
    """Whoever must know."""

    def woke(self) -> None:
        """Hear of it. Called in a thread of its own, and must return soon."""


def has_slept(
    before: tuple[float, float], after: tuple[float, float], asked_s: float = _LOOK_EVERY_S
) -> bool:
    """Say whether two readings, `asked_s` apart by intent, have a sleep between them. Pure.

    A reading is monotonic and boot time, in seconds: the difference of the two grows while the
    machine is suspended; a process that was stopped finds far more of either than it asked for.
    """
    monotonic_s, boot_s = after[0] - before[0], after[1] - before[1]
    return boot_s - monotonic_s > _SUSPENDED_S or monotonic_s - asked_s > _SLEPT_S


class WakeWatch:
    """One thread that tells everybody who asked; it runs while there is somebody."""

    def __init__(self) -> None:
        """Watch for nobody yet."""
        self._lock = threading.Lock()
        self._sleepers: weakref.WeakSet[Sleeper] = weakref.WeakSet()
        self._watching = False

    def add(self, sleeper: Sleeper) -> None:
        """Tell `sleeper`, which is not kept alive for it."""
        with self._lock:
            self._sleepers.add(sleeper)
            if self._watching:
                return
            self._watching = True
        threading.Thread(target=self._watch, name="wake-watch", daemon=True).start()

    def _watch(self) -> None:
        before = _read_clocks()
        while True:
            time.sleep(_LOOK_EVERY_S)
            after = _read_clocks()
            slept, before = has_slept(before, after), after
            if not self._look(slept=slept):
                return

    def _look(self, *, slept: bool) -> bool:
        """Tell everybody if need be; return False once there is nobody. Keeps nobody alive."""
        with self._lock:
            sleepers = list(self._sleepers)
            if not sleepers:
                self._watching = False
                return False
        if slept:
            for sleeper in sleepers:
                sleeper.woke()
        return True


def _read_clocks() -> tuple[float, float]:
    return time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)


WAKE_WATCH = WakeWatch()
