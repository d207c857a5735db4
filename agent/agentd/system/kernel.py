"""Kernel calls that Python does not offer: prctl(2), waitid(2) with usage, pidfd exit status.

For shims and leaders, so without dataclasses and enums; everybody else uses `prctl`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from agentd.core.value import Value
from agentd.system import signals

_PR_SET_NAME = 15
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SYS_WAITID = {"x86_64": 247, "aarch64": 95, "riscv64": 95, "ppc64le": 272, "s390x": 281}
# struct rusage: two timevals, then fourteen longs of which the first is ru_maxrss in KiB.
_RUSAGE = struct.Struct("=qq qq q 13q")
_CORE_FLAG = 0x80
# include/uapi/linux/pidfd.h, Linux 6.15: _IOWR(0xFF, 11, struct pidfd_info) of 64 bytes.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ 11I i")

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_syscall = _libc.syscall
_waitid_number = _SYS_WAITID.get(os.uname().machine)


def become_subreaper() -> None:
    """Make orphans below this process its children (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent() -> None:
    """Have this process killed when its parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, signals.SIGKILL, 0, 0, 0)


def set_name(name: str) -> None:
    """Set what ps shows as the command name, 15 bytes at most (proc(5), /proc/self/comm)."""
    _prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


class Ended(Value):
    """A child that ended: its raw wait status, what it and its reaped children used."""

    __slots__ = ("wait_status", "cpu_user_s", "cpu_system_s", "peak_memory_bytes")  # noqa: RUF023  # as in __init__

    def __init__(
        self,
        wait_status: int,
        cpu_user_s: float = 0.0,
        cpu_system_s: float = 0.0,
        peak_memory_bytes: int = 0,
    ) -> None:
        """`wait_status` as of wait(2)."""
        self.wait_status = wait_status
        self.cpu_user_s = cpu_user_s
        self.cpu_system_s = cpu_system_s
        self.peak_memory_bytes = peak_memory_bytes


def look_at_exit(pid: int) -> Ended | None:
    """Return how the child `pid` ended without reaping it; None while it runs.

    Raw waitid(2): its fifth argument, which glibc hides, fills a struct rusage even with
    WNOWAIT. So the exit record can be durable before the zombie, the last other witness, goes.

    Raises:
        ChildProcessError: It is not a child of this process.

    """
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    # Nearly always it runs, and a look through ctypes would cost a shim ten pages for life.
    seen = os.waitid(os.P_PID, pid, options)
    if seen is None:
        return None
    wait_status = _wait_status(seen.si_code, seen.si_status)
    if _waitid_number is None:
        return Ended(wait_status)
    rusage = ctypes.create_string_buffer(_RUSAGE.size)
    while _syscall(_waitid_number, os.P_PID, pid, None, options, rusage) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    user_s, user_us, system_s, system_us, peak_kib, *_ = _RUSAGE.unpack_from(rusage)
    return Ended(
        wait_status,
        user_s + user_us / 1e6,
        system_s + system_us / 1e6,
        peak_kib * 1024,
    )


def _wait_status(code: int, status: int) -> int:
    if code == os.CLD_EXITED:
        return status << 8
    return status | (_CORE_FLAG if code == os.CLD_DUMPED else 0)


def exit_status_of(pidfd: int) -> int | None:
    """Return the raw wait status of a process that is not our child, once it was reaped.

    Linux 6.15 and later keep it for whoever holds a pidfd (PIDFD_GET_INFO with
    PIDFD_INFO_EXIT). None: the kernel cannot tell, or nobody reaped it yet.
    """
    request = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request)
    except OSError:
        return None
    mask, *_, status = _PIDFD_INFO.unpack(request)
    return status if mask & _PIDFD_INFO_EXIT else None


def reset_signals() -> None:
    """Give every signal its default action and unblock all: what a login shell hands on.

    Python itself ignores SIGPIPE and SIGXFSZ; an ignored signal would stay ignored in the job.
    """
    for number in range(1, signals.NSIG):
        try:
            signals.signal(number, signals.SIG_DFL)
        except (OSError, ValueError):
            # SIGKILL, SIGSTOP, and a few that the C library keeps for itself.
            continue
    signals.pthread_sigmask(signals.SIG_SETMASK, ())
