"""Waiting with a deadline: the only place in the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


def wait_until(probe: Callable[[], T], *, deadline_s: float = 10.0, what: str = "") -> T:
    """Call `probe` until it returns something true, and return that.

    Args:
        probe: Called at growing intervals, 2 to 50 ms; what it raises passes through.
        deadline_s: Seconds from now.
        what: The fact waited for, in words; it opens the message of a failure.

    Raises:
        AssertionError: The deadline passed; the message holds the last value.

    """
    end_s = time.monotonic() + deadline_s
    pause_s = _FIRST_PAUSE_S
    while not (value := probe()):
        if time.monotonic() >= end_s:
            raise AssertionError(
                f"{what or 'the condition'}: not within {deadline_s:g} s; last value {value!r}"
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return value


def dawdle(pause_s: float) -> None:
    """Let time pass between two random faults. Never to wait for something: see `wait_until`."""
    time.sleep(pause_s)


def wait_gone(pids: set[int], *, deadline_s: float = 10.0, what: str = "processes gone") -> None:
    """Wait until none of `pids` exists, zombies aside. Raises AssertionError."""
    wait_until(lambda: not {pid for pid in pids if is_alive(pid)}, deadline_s=deadline_s, what=what)


def is_alive(pid: int) -> bool:
    """Say whether the process exists and is no zombie."""
    stat = read_stat(pid)
    return stat is not None and not stat.is_dead


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says (proc(5))."""

    state: str
    parent: int

    @property
    def is_dead(self) -> bool:
        """Whether it is a zombie: nothing runs, only its status waits."""
        return self.state in {"Z", "X"}


def read_stat(pid: int) -> Stat | None:
    """Return the process's state and parent, or None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Stat(fields[0], int(fields[1])) if fields else None


def name_of(pid: int) -> str:
    """Return what ps shows as the process's name, empty if there is no such process."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def holds_for(probe: Callable[[], object], *, seconds: float, what: str = "") -> None:
    """Demand that `probe` stays true for `seconds`, for facts about what must not happen."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        value = probe()
        assert value, f"{what or 'the condition'}: no longer holds; last value {value!r}"
        time.sleep(_LONGEST_PAUSE_S)
