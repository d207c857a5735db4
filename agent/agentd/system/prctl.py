"""Kernel calls that Python does not offer: prctl(2), waitid(2) with usage, pidfd exit status."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import signal
import struct
from dataclasses import dataclass

from agentd.core.job import ResourceUsage

_PR_SET_CHILD_SUBREAPER = 36
_SYS_WAITID = {"x86_64": 247, "aarch64": 95, "riscv64": 95, "ppc64le": 272, "s390x": 281}
# siginfo_t of SIGCHLD on 64-bit Linux: si_signo, si_errno, si_code, pad, si_pid, si_uid, si_status.
_SIGINFO = struct.Struct("=iiii i I i")
_SIGINFO_BYTES = 128
# struct rusage: two timevals, then fourteen longs of which the first is ru_maxrss in KiB.
_RUSAGE = struct.Struct("=qq qq q 13q")
_CORE_FLAG = 0x80
# include/uapi/linux/pidfd.h, Linux 6.15: _IOWR(0xFF, 11, struct pidfd_info) of 64 bytes.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ 11I i")

_libc = ctypes.CDLL(None, use_errno=True)
_waitid_number = _SYS_WAITID.get(platform.machine())


def become_subreaper() -> None:
    """Make orphans below this process its children (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def set_name(name: str) -> None:
    """Set what ps shows as the command name, 15 bytes at most (proc(5), /proc/self/comm)."""
    descriptor = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, name.encode())
    os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Exit:
    """A child that ended: its status as of wait(2) and what it and its reaped children used."""

    pid: int
    wait_status: int
    usage: ResourceUsage


def look_at_exit(pid: int) -> Exit | None:
    """Return how the child `pid` ended without reaping it; None while it runs.

    Raw waitid(2): its fifth argument, which glibc hides, fills a struct rusage even with
    WNOWAIT. So the exit record can be durable before the zombie, the last other witness, goes.

    Raises:
        ChildProcessError: It is not a child of this process.

    """
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    if _waitid_number is None:
        info = os.waitid(os.P_PID, pid, options)
        if info is None:
            return None
        return Exit(pid, _wait_status(info.si_code, info.si_status), ResourceUsage())
    info_bytes = ctypes.create_string_buffer(_SIGINFO_BYTES)
    rusage = ctypes.create_string_buffer(_RUSAGE.size)
    while _libc.syscall(_waitid_number, int(os.P_PID), pid, info_bytes, options, rusage) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    _, _, code, _, found, _, status = _SIGINFO.unpack_from(info_bytes)
    if found == 0:
        return None
    return Exit(pid, _wait_status(code, status), _usage(rusage.raw))


def _wait_status(code: int, status: int) -> int:
    if code == os.CLD_EXITED:
        return status << 8
    return status | (_CORE_FLAG if code == os.CLD_DUMPED else 0)


def _usage(raw: bytes) -> ResourceUsage:
    user_s, user_us, system_s, system_us, peak_kib, *_ = _RUSAGE.unpack(raw)
    return ResourceUsage(
        cpu_user_s=user_s + user_us / 1e6,
        cpu_system_s=system_s + system_us / 1e6,
        peak_memory_bytes=peak_kib * 1024,
    )


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
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except OSError:
            # The C library keeps a few real-time signals for itself.
            continue
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
