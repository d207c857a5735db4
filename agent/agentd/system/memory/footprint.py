"""One process's memory: its resident set at every look, what it really holds on demand."""

from __future__ import annotations

import os
from dataclasses import dataclass

from agentd.system.memory.fields import kib_field
from agentd.system.memory.kept import Descriptors, KeptFile

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: The most that the counters of all CPUs may be off (mm/percpu_counter, PERCPU_COUNTER batch).
_CPUS = os.cpu_count() or 1
_COUNTER_ERROR_BYTES = _CPUS * max(32, 2 * _CPUS) * _PAGE_BYTES
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one process holds, its share of what it holds together with others."""

    anonymous_bytes: int = 0
    #: Shared anonymous memory, memfd, System V, /dev/shm and every other tmpfs, as far as mapped.
    shared_bytes: int = 0
    swap_bytes: int = 0
    #: The kernel did not tell shares, so shared pages count in full.
    is_guess: bool = False

    @property
    def held_bytes(self) -> int:
        """All of it."""
        return self.anonymous_bytes + self.shared_bytes + self.swap_bytes


class ProcessMemory:
    """A process of a job, with its files of /proc kept open."""

    __slots__ = (
        "_anonymous_bytes",
        "_directory",
        "_files",
        "_home",
        "_statm",
        "_status",
        "is_guess",
        "is_read",
        "is_zombie",
        "pid",
        "resident_bytes",
        "swap_bytes",
    )

    def __init__(self, pid: int, files: Descriptors, proc: str = "/proc") -> None:
        """Nothing is read yet."""
        self.pid = pid
        self._files = files
        self._home = f"{proc}/{pid}"
        #: Where its memory is to be seen: at home, or with a thread that outlives the first one.
        self._directory = self._home
        self._statm = KeptFile(f"{self._home}/statm", files)
        self._status = KeptFile(f"{self._home}/status", files)
        #: As last read; what a process that cannot be read any more is counted with.
        self.resident_bytes = 0
        self._anonymous_bytes = 0
        self.swap_bytes = 0
        #: The last look failed.
        self.is_guess = False
        #: It was there at one look at least.
        self.is_read = False
        #: No thread of it has memory any more: it waits to be reaped.
        self.is_zombie = False

    @property
    def is_pinned(self) -> bool:
        """Whether its descriptor tells it from a later process of the same number."""
        return self._statm.is_open

    def is_still_there(self) -> bool:
        """Say whether its descriptor proves that it was not reaped since it was opened."""
        try:
            return self.is_pinned and bool(self._statm.read())
        except OSError:
            return False

    def look(self, *, has_swap: bool = False) -> int:
        """Return its resident set, and its swap if the host has any in use. Bytes.

        Raises ProcessLookupError: it is gone. Cannot it be read, it is its last value again.
        """
        self.is_guess = False
        try:
            self._look_at_resident()
            # Swap is looked at second: a page that goes out in between counts twice, never not.
            if has_swap:
                self._look_at_swap()
        except _GONE as error:
            raise ProcessLookupError(*error.args) from None
        except (OSError, ValueError, IndexError):
            self.is_guess = True
        else:
            self.is_read = True
        return self.resident_bytes + (self.swap_bytes if has_swap else 0)

    @property
    def certain_bytes(self) -> int:
        """Return what it held for certain at the last look: its anonymous memory, and its swap.

        Whoever shares these pages by fork is of the same job. The kernel keeps the counters for
        each CPU and adds up what is below a batch only now and then.
        """
        return max(0, self._anonymous_bytes - _COUNTER_ERROR_BYTES) + self.swap_bytes

    @property
    def rollup_path(self) -> str:
        """Where what it really holds is to be read; to be opened anew each time.

        An open one belongs to the memory before an exec.
        """
        return f"{self._directory}/smaps_rollup"

    def footprint(self, answer: bytes | OSError) -> Footprint:
        """Return what it holds by what smaps_rollup says; a page of n processes counts a n-th."""
        if isinstance(answer, ProcessLookupError):
            # It has no memory any more, or is gone.
            return Footprint()
        if isinstance(answer, OSError):
            # Another user's, not dumpable (ptrace(2)), or a kernel before 4.14.
            return self._by_status()
        data = answer
        pss_bytes = kib_field(data, b"Pss:")
        if pss_bytes is None:
            return self._by_status()
        swap_bytes = kib_field(data, b"SwapPss:") or 0
        anonymous_bytes = kib_field(data, b"Pss_Anon:")
        if anonymous_bytes is None:
            # Before Linux 5.9 the share has no parts; files are kept out as far as can be.
            own_bytes = min(pss_bytes, self._by_status().held_bytes)
            return Footprint(own_bytes, 0, swap_bytes)
        shared_bytes = kib_field(data, b"Pss_Shmem:") or 0
        return Footprint(anonymous_bytes, shared_bytes, swap_bytes)

    def close(self) -> None:
        """Close what is kept open."""
        self._statm.close()
        self._status.close()

    def _look_at_resident(self) -> None:
        if self.is_zombie:
            # Asked only whether it is still there: memory never comes back to it.
            self._statm.read()
            return
        pages = self._pages()
        if pages is None:
            pages = self._pages_by_thread()
        self.resident_bytes = pages * _PAGE_BYTES

    def _look_at_swap(self) -> None:
        self.swap_bytes = 0 if self.is_zombie else kib_field(self._status.read(), b"VmSwap:") or 0

    def _pages(self) -> int | None:
        """Return the resident set in pages; None: this thread has no memory."""
        try:
            size, resident, shared = self._statm.read().split(None, 3)[:3]
        except _GONE:
            if self._directory == self._home:
                raise
            return None
        if not resident.isdigit():
            raise ValueError(resident)
        self._anonymous_bytes = (int(resident) - int(shared)) * _PAGE_BYTES
        return None if size == b"0" else int(resident)

    def _pages_by_thread(self) -> int:
        """Find a thread that has memory: the first one may have ended (pthread_exit(3)).

        Raises FileNotFoundError or ProcessLookupError if there is no process.
        """
        threads = os.listdir(f"{self._home}/task")
        for thread in threads:
            self._turn_to(f"{self._home}/task/{thread}")
            pages = self._pages()
            if pages is not None:
                return pages
        self._turn_to(self._home)
        self._statm.read()
        # With more than one a thread may have been made and missed.
        self.is_zombie = threads == [str(self.pid)]
        return 0

    def _turn_to(self, directory: str) -> None:
        self.close()
        self._directory = directory
        self._statm = KeptFile(f"{directory}/statm", self._files)
        self._status = KeptFile(f"{directory}/status", self._files)

    def guess(self) -> Footprint:
        """Return what it holds with all that it shares counted in full."""
        return self._by_status()

    def _by_status(self) -> Footprint:
        try:
            data = self._files.read(f"{self._directory}/status")
        except _GONE:
            return Footprint()
        except OSError:
            return Footprint(self.resident_bytes, 0, self.swap_bytes, is_guess=True)
        # Since Linux 4.5; they count what is shared in full.
        anonymous_bytes = kib_field(data, b"RssAnon:")
        return Footprint(
            self.resident_bytes if anonymous_bytes is None else anonymous_bytes,
            kib_field(data, b"RssShmem:") or 0,
            kib_field(data, b"VmSwap:") or 0,
            is_guess=True,
        )
