"""The host's marks in bytes, which of them are crossed, and whether they make sense. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from agentd.core.guard.model import HostSample, Level, Mark, Marks
from agentd.errors import InvalidSpecError

#: A level is left only when this much more than its mark is available: no flapping.
HYSTERESIS = 1.25


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The marks in bytes on one host."""

    warn_bytes: int
    pause_bytes: int
    term_bytes: int
    kill_bytes: int

    def of(self, level: Level) -> int:
        """Return the mark of a level; 0 for FINE."""
        return self._all()[level]

    def crossed(self, host: HostSample) -> Level:
        """Return the lowest mark that available memory is below, at this look alone.

        Stalls that the kernel reports (PSI) count as the pause mark, but only below the warn
        mark: alone they mean that somebody waits, not that memory runs out.
        """
        crossed = max(level for level in Level if self._is_below(host.available_bytes, level, 1.0))
        if host.under_pressure and crossed == Level.WARN:
            return Level.PAUSE
        return crossed

    def level(self, before: Level, host: HostSample) -> Level:
        """Return the level: entered at its mark, left well above it."""
        kept = max(
            level
            for level in Level
            if level <= before and self._is_below(host.available_bytes, level, HYSTERESIS)
        )
        return max(kept, self.crossed(host))

    def _is_below(self, available_bytes: int, level: Level, factor: float) -> bool:
        return level == Level.FINE or available_bytes < self.of(level) * factor

    def _all(self) -> tuple[int, int, int, int, int]:
        return (0, self.warn_bytes, self.pause_bytes, self.term_bytes, self.kill_bytes)


def watermarks(marks: Marks, total_bytes: int) -> Watermarks:
    """Return the marks of a host of that size."""
    return Watermarks(
        marks.warn.of(total_bytes),
        marks.pause.of(total_bytes),
        marks.term.of(total_bytes),
        marks.kill.of(total_bytes),
    )


def check_marks(marks: Marks, total_bytes: int | None = None) -> None:
    """Refuse marks that make no sense, on a host of that size if it is known.

    Raises:
        InvalidSpecError: The first field that is wrong, and what it may hold.

    """
    named = (
        ("warn", marks.warn),
        ("pause", marks.pause),
        ("term", marks.term),
        ("kill", marks.kill),
    )
    for name, mark in named:
        _check_mark(name, mark)
    for (above, higher), (below, lower) in pairwise(named):
        if _is_out_of_order(higher, lower, total_bytes):
            raise InvalidSpecError(
                f"guard.{below}: {_text(lower)} is not below guard.{above}, {_text(higher)}"
            )


def _check_mark(name: str, mark: Mark) -> None:
    if not math.isfinite(mark.percent) or not 0 < mark.percent <= 100:  # noqa: PLR2004  # percent
        raise InvalidSpecError(
            f"guard.{name}.percent: {mark.percent} is no share of memory; "
            "write a number above 0 and up to 100"
        )
    if mark.cap_bytes <= 0:
        raise InvalidSpecError(
            f"guard.{name}.cap: {mark.cap_bytes} bytes; write a size above 0, like 16GiB"
        )


def _is_out_of_order(higher: Mark, lower: Mark, total_bytes: int | None) -> bool:
    if total_bytes is not None:
        return lower.of(total_bytes) >= higher.of(total_bytes)
    # Without a host both have to be in order, whichever will count.
    return lower.percent >= higher.percent or lower.cap_bytes >= higher.cap_bytes


def _text(mark: Mark) -> str:
    return f"{mark.percent:g} % or {mark.cap_bytes} bytes"
