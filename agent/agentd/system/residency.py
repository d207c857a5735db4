"""Keeping a process in RAM, so that it can still act when there is none left (mlock(2)).

Without swap the kernel takes no heap away, but code it does: pages of the interpreter's file are
cache like any other, and each one has to be read again, from a disk that everybody waits for,
before the next instruction. An ordinary user may lock a few MiB: enough for the code in use.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
#: capabilities(7)
_CAP_IPC_LOCK = 14
#: An entry of /proc/PID/pagemap, and its bit of a page that is there (kernel: pagemap.rst).
_ENTRY_BYTES = 8
_IS_PRESENT = 1 << 63


@dataclass(frozen=True, slots=True)
class _Pages:
    """Neighbouring pages of a file that are mapped, not to be written to."""

    start: int
    size_bytes: int


def stay_resident() -> str:
    """Keep in RAM what may be kept there: every page there is or will be, else the code in use.

    Everything only where there is no limit on that: with one, an allocation past it would fail.

    Returns:
        One line for people: what is, and if not everything, why.

    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not _may_lock_all():
        return _lock_code(libc)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"not locked in RAM: {os.strerror(ctypes.get_errno())}"
    return "locked in RAM"


def _lock_code(libc: ctypes.CDLL) -> str:
    """Lock the pages of code and constants that have been touched, as many as the limit allows."""
    limit_bytes = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    locked_bytes = left_out_bytes = 0
    try:
        code = list(_code_in_use())
    except OSError as error:
        return f"not locked in RAM: cannot see which pages: {error.strerror}"
    for pages in code:
        address, size = ctypes.c_void_p(pages.start), ctypes.c_size_t(pages.size_bytes)
        if locked_bytes + pages.size_bytes <= limit_bytes and libc.mlock(address, size) == 0:
            locked_bytes += pages.size_bytes
        else:
            left_out_bytes += pages.size_bytes
    limit = f"the limit (ulimit -l) is {limit_bytes >> 10} KiB"
    if not locked_bytes:
        return f"not locked in RAM: {limit}"
    if left_out_bytes:
        total_bytes = locked_bytes + left_out_bytes
        return (
            f"locked in RAM with {locked_bytes >> 10} of {total_bytes >> 10} KiB of code: {limit}"
        )
    return f"locked in RAM with its code, {locked_bytes >> 10} KiB: {limit}"


def _code_in_use() -> Iterator[_Pages]:
    """Yield what this process has touched of files mapped read-only, programs' code first."""
    with open("/proc/self/maps", "rb") as file:
        lines = [line.split() for line in file.read().splitlines()]
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for wanted in (b"r-xp", b"r--p"):
            for span, access, _offset, _device, inode, *_path in lines:
                if access == wanted and inode != b"0":
                    start, end = (int(word, 16) for word in span.split(b"-"))
                    yield from _present(pagemap, start, end)
    finally:
        os.close(pagemap)


def _present(pagemap: int, start: int, end: int) -> Iterator[_Pages]:
    first = start // mmap.PAGESIZE
    count = (end - start) // mmap.PAGESIZE
    data = os.pread(pagemap, count * _ENTRY_BYTES, first * _ENTRY_BYTES)
    entries = memoryview(data[: len(data) // _ENTRY_BYTES * _ENTRY_BYTES]).cast("Q")
    begun: int | None = None
    for number, entry in enumerate((*entries, 0)):
        is_present = bool(entry & _IS_PRESENT)
        if is_present and begun is None:
            begun = number
        elif not is_present and begun is not None:
            size_bytes = (number - begun) * mmap.PAGESIZE
            yield _Pages(start + begun * mmap.PAGESIZE, size_bytes)
            begun = None


def _may_lock_all() -> bool:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY:
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return True
    return bool(_effective_capabilities() >> _CAP_IPC_LOCK & 1)


def _effective_capabilities() -> int:
    try:
        with open("/proc/self/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return 0
    words = (line.split() for line in lines)
    return next((int(word[1], 16) for word in words if word[:1] == [b"CapEff:"]), 0)
