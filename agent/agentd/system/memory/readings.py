"""Page tables read through, by somebody else where they take long.

smaps_rollup visits each page of a process: 10 to 200 ns a page, so that a job of many workers
takes seconds. The guard has one thread and others to look at meanwhile: whoever makes the gauges
says who does the reading.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from agentd.system.rollups import parse, read_one

_READ_BYTES = 1 << 16


class Reader(Protocol):
    """Reads where that takes long."""

    def order(self, reading: Reading) -> None:
        """Have it done, here or elsewhere; look at `Reading.is_done`."""


class Here:
    """Does them at once, however long they take: for who has nobody else."""

    def order(self, reading: Reading) -> None:
        """Do it."""
        reading.go()


class Reading:
    """The answers to come: one for each path, or what the kernel said instead."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Nothing is read yet."""
        self.paths = paths
        self.answers: list[bytes | OSError] = []
        #: Whoever did it was killed: there will be no answers.
        self.is_lost = False
        self._is_done = False
        self._pipe = -1
        self._heard = b""

    def go(self) -> None:
        """Read them all, here and now."""
        self.answers = [read_one(path) for path in self.paths]
        self._is_done = True

    def listen(self, pipe: int) -> None:
        """Expect the answers, as `system.rollups` writes them, on a non-blocking pipe; takes it."""
        self._pipe = pipe

    @property
    def is_done(self) -> bool:
        """Whether all answers are there; takes in those that have come."""
        while self._pipe >= 0:
            try:
                data = os.read(self._pipe, _READ_BYTES)
            except BlockingIOError:
                return False
            self._heard += data
            if not data:
                self._conclude()
        return self._is_done

    def _conclude(self) -> None:
        self.close()
        self.answers = parse(self._heard)
        self._is_done = len(self.answers) == len(self.paths)
        self.is_lost = not self._is_done

    def close(self) -> None:
        """Expect nothing any more: who writes to nobody ends."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
