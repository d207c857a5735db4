"""Programs that take memory, what they wrote down about it, and how to build them.

`build()` compiles hog.c; `Hog(…).argv(…)` is an argument vector of it. This file itself is the
same program for an interpreter's heap (`python_hog`), run with `python -I -S`.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import secrets
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("hog.c")
_HEADER = struct.Struct("=8q")
_SLOT = struct.Struct("=4q32x")
_SLOTS = 1023
_SIZE = _HEADER.size + _SLOTS * _SLOT.size
#: The caller's own: later the environment may be that of a private agent.
_CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
#: A hog reserves this much of its cap before it touches it.
CHUNK_BYTES = 64 << 10


def cache_directory() -> str:
    """Return where the tests keep what is dear to make, from run to run; it exists."""
    path = f"{_CACHE}/agentctl-tests"
    os.makedirs(path, 0o700, exist_ok=True)
    return path


def build(source: Path = _SOURCE, *flags: str) -> str:
    """Return the path of the compiled hog: built once for each version of its source.

    Raises:
        subprocess.CalledProcessError: There is no C compiler, or it refused.

    """
    flags = flags or ("-O2", "-Wall", "-Werror", "-pthread", "-static")
    key = hashlib.sha256(source.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
    program = f"{cache_directory()}/{source.stem}-{key}"
    if not os.path.exists(program):
        scratch = f"{program}.{os.getpid()}"
        subprocess.run(["cc", *flags, "-o", scratch, str(source)], check=True)
        os.rename(scratch, program)
    return program


@dataclass(frozen=True, slots=True)
class Slot:
    """How far one thread came. Times: CLOCK_MONOTONIC."""

    pid: int
    began_ns: int
    last_ns: int
    size_bytes: int

    @property
    def rate_bytes_per_s(self) -> float:
        """How fast it took memory over its whole life."""
        return self.size_bytes * 1e9 / max(1, self.last_ns - self.began_ns)


@dataclass(frozen=True, slots=True)
class Progress:
    """What all threads and processes of one hog have written down."""

    #: Taken together, a chunk a thread too much at most; never above the cap.
    taken_bytes: int
    #: When it saw MemAvailable below its mark, 0: it did not; and what the one who saw it had.
    crossed_ns: int
    crossed_bytes: int
    #: When the cap was reached, 0: it was not.
    full_ns: int
    #: Rounds of what an innocent one does over and over.
    rounds: int
    threads: tuple[Slot, ...]

    @property
    def last_ns(self) -> int:
        """The last sign of life of any thread."""
        return max((slot.last_ns for slot in self.threads), default=0)

    @property
    def pids(self) -> frozenset[int]:
        """Every process that took memory."""
        return frozenset(slot.pid for slot in self.threads)

    @property
    def rate_bytes_per_s(self) -> float:
        """How fast all together took memory, from the first chunk to the last."""
        began_ns = min((slot.began_ns for slot in self.threads), default=0)
        return self.taken_bytes * 1e9 / max(1, self.last_ns - began_ns)

    @property
    def stopped_after_ns(self) -> int:
        """From the crossing of the mark to the last sign of life.

        Raises:
            AssertionError: It never crossed the mark.

        """
        assert self.crossed_ns, f"the mark was never crossed: {self}"
        return self.last_ns - self.crossed_ns


@dataclass(frozen=True, slots=True)
class ProgressFile:
    """The file a hog writes its progress to, readable whatever becomes of the hog."""

    path: str

    def read(self) -> Progress:
        """Return what it says now; all zero before the hog began."""
        try:
            data = Path(self.path).read_bytes()
        except FileNotFoundError:
            data = b""
        data = data.ljust(_SIZE, b"\0")
        count, taken, crossed_ns, crossed_bytes, full_ns, rounds, _, _ = _HEADER.unpack_from(data)
        slots = (
            _SLOT.unpack_from(data, _HEADER.size + number * _SLOT.size)
            for number in range(min(count, _SLOTS))
        )
        threads = tuple(Slot(*slot) for slot in slots if slot[0])
        return Progress(taken, crossed_ns, crossed_bytes, full_ns, rounds, threads)


@contextmanager
def progress_file() -> Iterator[ProgressFile]:
    """Yield a fresh one. In memory: a page on its way to a disk would stop its writer."""
    path = f"/dev/shm/hog-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield ProgressFile(path)
    finally:
        Path(path).unlink(missing_ok=True)


def hog(mode: str, progress: ProgressFile, cap_bytes: int, **options: int | str) -> tuple[str, ...]:
    """Return the argument vector of a compiled hog; modes and options: see hog.c."""
    words = (f"{name}={value}" for name, value in options.items())
    return (build(), mode, progress.path, str(cap_bytes), *words)


def python_hog(
    progress: ProgressFile, cap_bytes: int, *, rate_bytes_per_s: int = 0
) -> tuple[str, ...]:
    """Return a hog that fills an interpreter's heap: small objects, all of them kept."""
    own = (sys.executable, "-I", "-S", os.path.abspath(__file__))
    return (*own, "heap", progress.path, str(cap_bytes), str(rate_bytes_per_s))


def python_cow(progress: ProgressFile, cap_bytes: int) -> tuple[str, ...]:
    """Return one that forks with half of `cap_bytes` and then only looks at what it inherited.

    Looking counts references: each look writes, so that the copy is made page by page.
    """
    own = (sys.executable, "-I", "-S", os.path.abspath(__file__))
    return (*own, "cow", progress.path, str(cap_bytes), "0")


#: One small object with its list entry, about (sys.getsizeof of 1,000 bytes plus a pointer).
_OBJECT_BYTES = 1041


class _Writer:
    """A hog's side of the map, for one process a slot and no race between them."""

    def __init__(self, path: str, slot: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(descriptor, _SIZE)
        self._map = mmap.mmap(descriptor, _SIZE)
        os.close(descriptor)
        self._slot = ctypes.c_int64 * 4
        self._own = self._slot.from_buffer(self._map, _HEADER.size + slot * _SLOT.size)
        self._head = (ctypes.c_int64 * 8).from_buffer(self._map)
        self._head[0] = slot + 1
        now_ns = time.monotonic_ns()
        self._own[:] = [os.getpid(), now_ns, now_ns, 0]

    def note(self, more_bytes: int) -> None:
        """Say that this much more was taken just now."""
        self._own[3] += more_bytes
        self._own[2] = time.monotonic_ns()
        self._head[1] += more_bytes

    def note_full(self) -> None:
        """Say that the cap is reached."""
        self._head[4] = time.monotonic_ns()


def _take(path: str, cap: int, rate: int) -> list[bytes]:
    writer = _Writer(path, 0)
    kept: list[bytes] = []
    began_s = time.monotonic()
    per_turn = CHUNK_BYTES // _OBJECT_BYTES
    while (len(kept) + per_turn) * _OBJECT_BYTES <= cap:
        kept.extend(b"%01000d" % number for number in range(per_turn))
        writer.note(per_turn * _OBJECT_BYTES)
        if rate:
            ahead_s = len(kept) * _OBJECT_BYTES / rate - (time.monotonic() - began_s)
            time.sleep(max(0.0, ahead_s))
    writer.note_full()
    return kept


def _heap(path: str, cap: str, rate: str) -> None:
    kept = _take(path, int(cap), int(rate))
    while kept:
        time.sleep(60)


def _cow(path: str, cap: str, _rate: str) -> None:
    kept = _take(path, int(cap) // 2, 0)
    if os.fork() == 0:
        writer = _Writer(path, 1)
        held = []
        for start in range(0, len(kept), 63):
            held += kept[start : start + 63]
            writer.note(len(held[start:]) * _OBJECT_BYTES)
        writer.note_full()
    while kept:
        time.sleep(60)


_PROGRAMS: dict[str, Callable[[str, str, str], None]] = {"heap": _heap, "cow": _cow}

if __name__ == "__main__":
    _PROGRAMS[sys.argv[1]](*sys.argv[2:])
