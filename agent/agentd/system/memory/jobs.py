"""One job's memory, by its processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentd.core.guard.model import Charge, JobSample
from agentd.system.memory.footprint import Footprint, ProcessMemory
from agentd.system.memory.leftovers import linked_bytes
from agentd.system.memory.readings import Reading
from agentd.system.memory.sharing import by_memory
from agentd.system.memory.tree import Census, Tree

#: Less shared memory than this is not worth reading the maps of all processes.
_SHARED_WORTH_A_LOOK_BYTES = 16 << 20
#: With less than this part of the resident sets in doubt nobody's page tables are read.
_CERTAIN = 16
#: A reading that takes longer, or is lost so often, is given up.
_READING_NS = 30_000_000_000
_LOST_AT_MOST = 3
#: Attributing files in memory reads all maps of all processes: not of more than so many.
_ATTRIBUTED_PROCESSES = 32
#: Read in some ten milliseconds even on slow machines: nobody is asked to do that.
_READ_AT_ONCE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Pending:
    """What is being measured beside."""

    reading: Reading
    processes: list[ProcessMemory]
    groups: list[list[int]]
    began_ns: int


class JobGauge:
    """Measures a job by its processes: `resident` at every look, `charge` to convict.

    `resident` sums up resident sets, and swap if there is any in use: never less than what the
    processes hold, and too much wherever they share. The kernel counts resident pages in batches
    for each CPU: a few MiB for each process may be missing on a host of many cores. `charge`
    counts shared pages once:

    - held: anonymous and shared memory by PSS, and swap by its share. Files mapped from disk do
      not count, for the kernel can drop them.
    - freeable: what is held, less the files in /dev/shm that are still there by name and would
      outlive the job. Anonymous pages are only shared by fork, so inside the job.

    Each look needs a time of its own (CLOCK_MONOTONIC): who was born is asked once for each time.

    Neither sees files in a tmpfs that no process maps, page tables, or what the kernel holds for
    the job (pipes, sockets): the host's sample does.
    """

    def __init__(
        self, job_id: int, members: Callable[[], Sequence[int]], census: Census | None = None
    ) -> None:
        """Make a gauge; nothing is read yet.

        Args:
            job_id: Goes into the samples.
            members: Finds all processes of the job; dear, so called as seldom as possible.
            census: What is shared with other gauges; none: one of its own.

        """
        self._job_id = job_id
        self._census = census or Census()
        self._is_own_census = census is None
        self._tree = Tree(members, self._census)
        self._pending: _Pending | None = None
        #: Readings in a row that came to nothing.
        self._lost = 0

    @property
    def root(self) -> int | None:
        """The shim, whose child whoever loses its parent becomes; spares walks. Not measured."""
        return self._tree.root

    @root.setter
    def root(self, pid: int | None) -> None:
        self._tree.root = pid

    @property
    def pids(self) -> list[int]:
        """The processes known at the last look, zombies included."""
        return [process.pid for process in self._tree]

    def resident(self, at_ns: int, *, has_swap: bool = False, eager: bool = False) -> JobSample:
        """Return an upper bound. `eager`: near a mark, where no new process may be missed."""
        began_ns = time.monotonic_ns()
        self._tree.refresh(at_ns, eager=eager)
        upper_bytes, alive = self._look(has_swap=has_swap)
        return self._sample(at_ns, began_ns, upper_bytes, alive, None)

    def charge(self, at_ns: int, *, has_swap: bool = False) -> JobSample:
        """Return what it really holds as well, of those that a walk finds at this very time.

        Where page tables take long to be read, that goes on beside, and the charge comes
        with a later call: until then the sample says that it is being measured.
        """
        began_ns = time.monotonic_ns()
        if self._pending is None:
            self._tree.settle(at_ns)
        upper_bytes, alive = self._look(has_swap=has_swap)
        charge = self._certain(upper_bytes, alive)
        pending = self._pending
        if charge is None:
            charge = self._read(upper_bytes, alive)
            if charge is not None and pending is not None:
                # What others spent on it counts as well: it is asked for as seldom as that demands.
                began_ns = pending.began_ns
        else:
            self.start_anew()
        if charge is not None:
            upper_bytes = max(upper_bytes, charge.held_bytes)
        is_measuring = charge is None
        return self._sample(at_ns, began_ns, upper_bytes, alive, charge, is_measuring=is_measuring)

    def start_anew(self) -> None:
        """Forget what is being measured: the job has changed since that began."""
        if self._pending is not None:
            self._pending.reading.close()
            self._pending = None

    def close(self) -> None:
        """Close what is kept open."""
        self.start_anew()
        self._tree.close()
        if self._is_own_census:
            self._census.close()

    def _look(self, *, has_swap: bool) -> tuple[int, list[ProcessMemory]]:
        upper_bytes = 0
        alive: list[ProcessMemory] = []
        for process in self._tree:
            try:
                upper_bytes += process.look(has_swap=has_swap)
            except ProcessLookupError:
                self._tree.forget(process)
                continue
            if not process.is_zombie:
                alive.append(process)
        return upper_bytes, alive

    @staticmethod
    def _certain(upper_bytes: int, alive: list[ProcessMemory]) -> Charge | None:
        """Return the charge of a job that is hardly more than its largest process.

        Between what that one has for itself and what all have together there is little room.
        """
        certain_bytes = max((process.certain_bytes for process in alive), default=0)
        if upper_bytes - certain_bytes > upper_bytes // _CERTAIN:
            return None
        return Charge(certain_bytes, certain_bytes)

    def _read(self, upper_bytes: int, alive: list[ProcessMemory]) -> Charge | None:
        if self._pending is None:
            reading = Reading([process.rollup_path for process in alive])
            groups = by_memory([process.pid for process in alive])
            self._pending = _Pending(reading, alive, groups, time.monotonic_ns())
            if upper_bytes <= _READ_AT_ONCE_BYTES:
                reading.go()
            else:
                self._census.reader.order(reading)
        pending = self._pending
        if pending.reading.is_done:
            self._pending = None
            self._lost = 0
            return self._charge(pending)
        is_late = time.monotonic_ns() - pending.began_ns > _READING_NS
        if not (pending.reading.is_lost or is_late):
            return None
        self.start_anew()
        self._lost += 1
        # Nobody reads them, or for ever: better a guess than a limit that nobody watches.
        return self._guess(alive) if self._lost >= _LOST_AT_MOST else None

    def _guess(self, alive: list[ProcessMemory]) -> Charge:
        footprints = [process.guess() for process in alive]
        for process in alive:
            process.is_guess = True
        held_bytes = sum(footprint.held_bytes for footprint in footprints)
        return Charge(held_bytes, held_bytes)

    def _charge(self, pending: _Pending) -> Charge:
        # In the order in which they were found, parents before their children: one that leaves
        # its parent's pages (exec) meanwhile is rather counted too low than twice.
        footprints = {
            process.pid: _measured(process, answer)
            for process, answer in zip(pending.processes, pending.reading.answers, strict=True)
        }
        counted = [
            max((footprints[pid] for pid in group), key=lambda footprint: footprint.held_bytes)
            for group in pending.groups
        ]
        held_bytes = sum(footprint.held_bytes for footprint in counted)
        shared_bytes = sum(footprint.shared_bytes for footprint in counted)
        staying_bytes = 0
        is_few = len(footprints) <= _ATTRIBUTED_PROCESSES
        if shared_bytes >= _SHARED_WORTH_A_LOOK_BYTES and is_few:
            staying_bytes = min(shared_bytes, linked_bytes(footprints, proc=self._census.proc))
        return Charge(held_bytes, held_bytes - staying_bytes)

    def _sample(
        self,
        at_ns: int,
        began_ns: int,
        upper_bytes: int,
        alive: list[ProcessMemory],
        charge: Charge | None,
        *,
        is_measuring: bool = False,
    ) -> JobSample:
        is_partial = self._tree.is_partial or any(process.is_guess for process in alive)
        return JobSample(
            self._job_id,
            at_ns,
            upper_bytes,
            charge,
            len(alive),
            cost_ns=time.monotonic_ns() - began_ns,
            is_partial=is_partial,
            is_measuring=is_measuring,
        )


def _measured(process: ProcessMemory, answer: bytes | OSError) -> Footprint:
    footprint = process.footprint(answer)
    process.is_guess = process.is_guess or footprint.is_guess
    return footprint
