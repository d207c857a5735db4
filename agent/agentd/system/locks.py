"""Locks that die with their holder.

Open file description locks (fcntl(2), F_OFD_SETLK): like flock(2) they belong to the open
description and vanish with its last descriptor, and unlike flock(2) they can be looked at
without being taken (F_OFD_GETLK), so that a look never makes a shim fail to lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# struct flock: l_type, l_whence, l_start, l_len, l_pid; l_pid must be 0 for OFD locks.
_FLOCK = struct.Struct("hhqqi4x")
_WRITE_LOCK = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def try_lock(descriptor: int) -> bool:
    """Take the write lock of the whole file; False if another description holds it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WRITE_LOCK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def is_locked(path: str) -> bool | None:
    """Say whether somebody holds the lock, without taking it. None: cannot tell."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _WRITE_LOCK)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def wait_for_lock(descriptor: int) -> None:
    """Take the write lock of the whole file, however long that takes."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _WRITE_LOCK)
