"""Which processes a job has: the tree is walked only when it may hold others than those known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from agentd.system.memory.births import Births
from agentd.system.memory.footprint import ProcessMemory
from agentd.system.memory.kept import Descriptors
from agentd.system.memory.readings import Here, Reader

#: Where births cannot be told new processes are seen after this long, whatever the walks cost.
_LONGEST_PAUSE_NS = 2_000_000_000
#: A walk without any need: an agent that a job has started leaves the tree only then.
_WALK_ANYWAY_NS = 10_000_000_000


class Census:
    """What the gauges of all jobs have together: room for descriptors, births, time for walks.

    One for each process that guards. All walks together take no more than a share of the time,
    unless a look is eager.
    """

    def __init__(
        self,
        proc: str = "/proc",
        descriptors: Descriptors | None = None,
        walk_share: float = 0.01,
        reader: Reader | None = None,
    ) -> None:
        """Begin.

        Args:
            proc: For tests.
            descriptors: How many files may be kept open.
            walk_share: Of one core, for walks that are not eager.
            reader: Reads page tables where that takes long; none: whoever asks waits.

        """
        self.proc = proc
        self.descriptors = descriptors or Descriptors()
        self.births = Births(self.descriptors, proc)
        self.reader = reader or Here()
        self._walk_share = walk_share
        self._round_ns = 0

    def note_cost(self, before_ns: int, now_ns: int) -> None:
        """A tree's walk took so much, and so much the time before."""
        self._round_ns += now_ns - before_ns

    def pause_ns(self) -> int:
        """Return how long one tree rests so that one walk of each keeps to the share."""
        return min(int(self._round_ns / self._walk_share), _LONGEST_PAUSE_NS)

    def close(self) -> None:
        """Close what belongs to no gauge."""
        self.births.close()


class Tree:
    """The processes of one job.

    New ones come by the log of births, if their parent is one of ours or the root. What the log
    cannot tell a walk does: when the log has a gap, when no root is known, and when a process
    ended while the tree was walked, for its children may have been overlooked. Nobody who is
    found once is forgotten before the second walk that misses him.
    """

    def __init__(self, members: Callable[[], Sequence[int]], census: Census) -> None:
        """`members` walks; it may raise OSError, and then those known stay."""
        self.root: int | None = None
        self._members = members
        self._census = census
        self._processes: dict[int, ProcessMemory] = {}
        self._missed: set[int] = set()
        self._cursor = census.births.cursor
        self._is_due = True
        self._walked_ns: int | None = None
        self._cost_ns = 0
        #: The last walk failed: there may be more processes than are known.
        self.is_partial = False

    def __iter__(self) -> Iterator[ProcessMemory]:
        """Iterate over those known; they may be forgotten meanwhile."""
        return iter(list(self._processes.values()))

    def __len__(self) -> int:
        """Return how many are known, zombies included."""
        return len(self._processes)

    def refresh(self, at_ns: int, *, eager: bool) -> None:
        """Bring it up to date. `eager`: walk if there is any need, whatever it costs."""
        births = self._census.births
        births.look(at_ns)
        born = births.since(self._cursor)
        self._cursor = births.cursor
        if born is None:
            self._is_due = True
        elif born:
            self._is_due = self._is_due or self.root is None
            for pid, parent in born:
                self._take_newborn(pid, parent)
        if self._must_walk(at_ns, eager=eager):
            self._walk(at_ns)

    def settle(self, at_ns: int) -> None:
        """Bring it up to date by walks alone: who is not found by two in turn does not belong."""
        self._is_due = True
        self.refresh(at_ns, eager=True)
        if self._missed:
            self._walk(at_ns)

    def _must_walk(self, at_ns: int, *, eager: bool) -> bool:
        if self._walked_ns is None:
            return True
        if self._is_due:
            return eager or at_ns >= self._walked_ns + self._census.pause_ns()
        return at_ns >= self._walked_ns + _WALK_ANYWAY_NS

    def forget(self, process: ProcessMemory) -> None:
        """It is gone."""
        if not process.is_read:
            # It ended while we walked: its children had no parent then, or another one.
            self._is_due = True
        self._drop(process.pid)

    def close(self) -> None:
        """Forget all, and give back what they kept."""
        for pid in list(self._processes):
            self._drop(pid)
        self._census.note_cost(self._cost_ns, 0)
        self._cost_ns = 0

    def _take_newborn(self, pid: int, parent: int) -> None:
        known = self._processes.get(pid)
        if known is not None and known.is_still_there():
            # A walk was faster than the log.
            return
        # One of that number whom we knew has ended, and this is another.
        self._drop(pid)
        if parent == self.root or parent in self._processes:
            self._add(pid)

    def _walk(self, at_ns: int) -> None:
        began_ns = time.monotonic_ns()
        found = self._found()
        self.is_partial = found is None
        self._is_due = found is None
        if found is not None:
            self._adopt(found)
        cost_ns = time.monotonic_ns() - began_ns
        self._census.note_cost(self._cost_ns, cost_ns)
        self._cost_ns = cost_ns
        self._walked_ns = at_ns

    def _found(self) -> Sequence[int] | None:
        try:
            return self._members()
        except OSError:
            if not self._census.descriptors.give_back():
                return None
        try:
            return self._members()
        except OSError:
            return None

    def _adopt(self, found: Sequence[int]) -> None:
        for pid in found:
            if pid not in self._processes:
                self._add(pid)
        missing = self._processes.keys() - set(found)
        again = {pid for pid in missing - self._missed if self._processes[pid].is_pinned}
        for pid in missing - again:
            self._drop(pid)
        self._missed = again
        self._is_due = bool(again)

    def _add(self, pid: int) -> None:
        self._processes[pid] = ProcessMemory(pid, self._census.descriptors, self._census.proc)

    def _drop(self, pid: int) -> None:
        process = self._processes.pop(pid, None)
        if process is not None:
            process.close()
