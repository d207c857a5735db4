"""A process of a test's own: what happens there to signals, children and mounts stays there.

`isolated` runs the body of a test in a forked child, so that it may fork, freeze and kill
everything below itself, change its directory and mount. The child is a subreaper; afterwards
all that is left below it is killed and reaped until wait(2) says that there are no children.
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn, ParamSpec

from agentd.system.prctl import become_subreaper

P = ParamSpec("P")

_DEADLINE_S = 30
#: exit(2), which ends a thread where exit_group(2) ends a process.
_SYS_EXIT = {"x86_64": 60, "aarch64": 93, "riscv64": 93, "ppc64le": 1, "s390x": 1}
#: What a pipe holds without a reader (pipe(7)); a report is cut to that.
_REPORT_BYTES = 60_000
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_REMOUNT, _MS_REC, _MS_PRIVATE = 0x20, 0x4000, 0x40000


def isolated(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test in a process of its own; what it raises there fails it here."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        pid = _fork()
        if pid == 0:
            _be_isolated(lambda: test(*args, **kwargs), write_end)
        os.close(write_end)
        status = _wait(pid)
        os.set_blocking(read_end, False)
        with os.fdopen(read_end, "rb") as reports:
            report = (reports.read() or b"").decode(errors="replace")
        if status != 0:
            raise AssertionError(f"in its own process, wait status {status}:\n{report}")

    return run


def fork(*acts: Callable[[], object]) -> int:
    """Call each of `acts` in a child process, which then exits with 0, or with 1 if one raised."""
    pid = _fork()
    if pid:
        return pid
    status = 1
    try:
        for act in acts:
            act()
        status = 0
    except BaseException:  # noqa: BLE001  # must not return into the test's stack
        traceback.print_exc()
    finally:
        os._exit(status)


def hang() -> NoReturn:
    """Do nothing until killed."""
    while True:
        # Not pause(): a signal just before it would be heeded only after it, that is, never.
        signal.sigtimedwait((), 0.1)


def sleeper() -> int:
    """Return the pid of a child that does nothing."""
    return fork(hang)


def headless() -> int:
    """Return a child of which the first thread has ended and another does nothing.

    As after pthread_exit(3) in main: /proc shows a zombie, and it lives.
    """

    def behead() -> None:
        threading.Thread(target=hang_on).start()
        os.write(write_end, b"!")
        ctypes.CDLL(None).syscall(_SYS_EXIT[os.uname().machine], 0)

    def hang_on() -> None:
        threading.Event().wait()

    read_end, write_end = os.pipe()
    pid = fork(behead)
    os.read(read_end, 1)
    return pid


def mount_tmpfs(path: str, options: str) -> None:
    """Mount a tmpfs at `path`, seen by this process and its children alone.

    As root or, without, in a user namespace of our own (user_namespaces(7)): only in a
    process of a test's own. Raises OSError.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS if user == 0 else _CLONE_NEWNS | _CLONE_NEWUSER))
    if user != 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {user} 1"),
            ("gid_map", f"0 {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check(libc.mount(b"none", os.fsencode(path), b"tmpfs", 0, options.encode()))


def remount_tmpfs(path: str, options: str) -> None:
    """Change the options of a tmpfs that we have mounted. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.mount(b"none", os.fsencode(path), b"tmpfs", _MS_REMOUNT, options.encode()))


def fill(path: str) -> None:
    """Write to the file until the disk is full."""
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _fork() -> int:
    with warnings.catch_warnings():
        # The only other thread waits for the test's time to be over, and holds nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _wait(pid: int) -> int:
    """Reap the child; one that is past its own deadline is killed. Returns the wait status."""
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], 2 * _DEADLINE_S)[0]:
            os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)


def _be_isolated(test: Callable[[], None], write_end: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        become_subreaper()
        signal.signal(signal.SIGALRM, _too_late)
        signal.alarm(_DEADLINE_S)
        test()
        status = 0
    except BaseException:  # noqa: BLE001  # reported, and fails the test in the parent
        _report(write_end, traceback.format_exc().encode()[-_REPORT_BYTES:])
    finally:
        try:
            _end_all_below()
        finally:
            os._exit(status)


def _report(write_end: int, report: bytes) -> None:
    try:
        os.write(write_end, report)
    except OSError:
        # A test may have closed what it did not open.
        os.write(2, report)


def _too_late(_number: int, _frame: object) -> None:
    raise AssertionError(f"not over within {_DEADLINE_S} s")


def _end_all_below() -> None:
    """Kill and reap until there is no child: orphans become ours, so then nothing is left."""
    signal.alarm(0)
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
