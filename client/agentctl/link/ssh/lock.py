"""One at a time, over all processes of this user: flock(2) with a patience."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agentctl.errors import TryAgainError, UnsafeDirectoryError
from agentctl.link.ssh.process import Process, look, seen

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.05


@contextmanager
def held(path: str, patience_s: float, busy: str) -> Iterator[None]:
    """Hold the lock on the file `path`, which stays behind: to remove it would split the lock.

    Threads of one process exclude each other too: each opens the file anew.

    Raises:
        TryAgainError: Somebody else held it for all of `patience_s`; `busy` says what they do.
            Somebody who is stopped (Ctrl-Z) is named: no patience is enough for them.
        UnsafeDirectoryError: The file cannot be opened.

    """
    deadline_s = time.monotonic() + patience_s
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise UnsafeDirectoryError(f"cannot open {path}: {error.strerror}; remove it") from None
    try:
        pause_s = _FIRST_PAUSE_S
        while not _take(descriptor):
            if time.monotonic() >= deadline_s:
                raise TryAgainError(f"{busy}{_why_so_long(descriptor)}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    """Write down who holds it."""
    me = look(os.getpid())
    if me is None:
        return
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d %d\n" % me.process, 0)
    except OSError:
        # No room: others then learn less, and that is all.
        pass


def _why_so_long(descriptor: int) -> str:
    """Return what to say of a holder that will not let go by itself; empty if there is none."""
    try:
        pid, ticks = map(int, os.pread(descriptor, 64, 0).split())
    except (OSError, ValueError):
        return ""
    holder = seen(Process(pid, ticks))
    if holder is None or not holder.is_stopped:
        return ""
    return f" (pid {pid} is stopped: resume or kill it)"
