"""Page tables read by a process that the spawner forks: the guard goes on looking meanwhile."""

from __future__ import annotations

import os

from agentd.system.memory.readings import Reading
from agentd.warden.shims import Shims


class SpawnedReader:
    """A system.memory.readings.Reader; each reading has a process of its own.

    If there can be none the reading is lost, and whoever wanted it asks again: here nobody waits
    for page tables.
    """

    def __init__(self, shims: Shims) -> None:
        """Order from the spawner of the day."""
        self._shims = shims

    def order(self, reading: Reading) -> None:
        """Have it read."""
        try:
            answers, pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            reading.is_lost = True
            return
        # The reader waits when the pipe is full; we do not when it is empty.
        os.set_blocking(pipe, True)
        try:
            is_taken = self._shims.spawner.read(reading.paths, pipe)
        except OSError:
            is_taken = False
        os.close(pipe)
        if is_taken:
            reading.listen(answers)
        else:
            os.close(answers)
            reading.is_lost = True
