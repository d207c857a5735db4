"""Processes that came to be since somebody last looked, without walking any tree.

The last field of /proc/loadavg is the newest number handed out in our pid namespace (proc(5)). If
it stands still nobody was born; if it moved a little, the numbers in between are asked one by one.
"""

from __future__ import annotations

import os

from agentd.system.memory.fields import number, number_field
from agentd.system.memory.kept import Descriptors, KeptFile

#: A wider gap is left to a walk: each number costs some 10 microseconds.
_MOST = 100
_LOG_LENGTH = 1000
#: A number is handed out before its process can be seen; one that ended is never seen at all.
_BIRTH_NS = 100_000_000


class Births:
    """A log of (pid, parent's pid), in the order of birth. Threads are not in it."""

    def __init__(self, descriptors: Descriptors, proc: str = "/proc") -> None:
        """`proc`: for tests."""
        self._proc = proc
        self._files = descriptors
        self._loadavg = KeptFile(f"{proc}/loadavg", descriptors)
        self._is_true = _is_the_kernels(proc)
        self._looked_ns: int | None = None
        self._last: int | None = None
        self._log: list[tuple[int, int]] = []
        #: The place of the log's first entry among all there ever were.
        self._base = 0
        #: Numbers handed out and not seen yet, and until when to look for them.
        self._expected: dict[int, int] = {}

    @property
    def cursor(self) -> int:
        """Where the log ends now; give it to `since` later."""
        return self._base + len(self._log)

    def since(self, cursor: int) -> list[tuple[int, int]] | None:
        """Return who was born after the cursor; None: cannot be told, a walk has to find out."""
        return None if cursor < self._base else self._log[cursor - self._base :]

    def look(self, at_ns: int) -> None:
        """Bring the log up to date; once for all who look at the same time."""
        if at_ns == self._looked_ns:
            return
        self._looked_ns = at_ns
        newest = self._newest()
        last, self._last = self._last, newest
        if newest is None or last is None or not 0 <= newest - last <= _MOST:
            self._lose_track()
            return
        if self._expected:
            self._look_for_expected(at_ns)
        for pid in range(last + 1, newest + 1):
            if not self._note(pid):
                self._expected[pid] = at_ns + _BIRTH_NS
        if len(self._log) > _LOG_LENGTH:
            self._lose_track()

    def close(self) -> None:
        """Close what is kept open."""
        self._loadavg.close()

    def _newest(self) -> int | None:
        if not self._is_true:
            return None
        try:
            # A number cut short would be another number: the line ends with its end of line.
            line, end, _ = self._loadavg.read().partition(b"\n")
        except OSError:
            return None
        newest = number(line.rpartition(b" ")[2]) if end else None
        # gVisor says 0 at all times.
        return newest or None

    def _lose_track(self) -> None:
        self._base = self.cursor + 1
        self._log = []
        self._expected = {}

    def _look_for_expected(self, at_ns: int) -> None:
        for pid, until_ns in list(self._expected.items()):
            if self._note(pid):
                # Its children may be in the log before it, where nobody knew them for such.
                self._lose_track()
                return
            if at_ns > until_ns:
                del self._expected[pid]

    def _note(self, pid: int) -> bool:
        """Log it if it is there; False if there is nobody of that number."""
        try:
            data = self._files.read(f"{self._proc}/{pid}/status")
        except OSError:
            return False
        parent = number_field(data, b"PPid:\t")
        if parent is not None and number_field(data, b"Tgid:\t") == pid:
            self._log.append((pid, parent))
        return True


def _is_the_kernels(proc: str) -> bool:
    """Say whether loadavg is the kernel's own and counts as we do.

    LXCFS puts a file of its own there, seconds old. And /proc may be of another pid namespace.
    """
    try:
        return (
            os.stat(f"{proc}/loadavg").st_dev == os.stat(proc).st_dev
            and int(os.readlink(f"{proc}/self")) == os.getpid()
        )
    except (OSError, ValueError):
        return False
