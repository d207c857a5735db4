"""Keeping a process in RAM, so that it can still act when there is none left (mlockall(2))."""

from __future__ import annotations

import ctypes
import os
import resource

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
#: capabilities(7)
_CAP_IPC_LOCK = 14


def stay_resident() -> str:
    """Keep every page that this process has touched, or will, in RAM.

    Only where there is no limit on that: with one, an allocation past it would fail.

    Returns:
        One line for people: whether it is so, and if not, why.

    """
    if not _may_lock_all():
        limit_bytes = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        return f"not locked in RAM: the limit (ulimit -l) is {limit_bytes >> 10} KiB"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"not locked in RAM: {os.strerror(ctypes.get_errno())}"
    return "locked in RAM"


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
