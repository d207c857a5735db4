"""Becomes the warden: one per state directory, one per runtime directory."""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import Callable

from agentd.errors import AlreadyRunningError, UnsafeDirectoryError
from agentd.paths import Paths
from agentd.shim.leader import Origin
from agentd.system import locks
from agentd.system.prctl import become_subreaper, set_name
from agentd.system.residency import stay_resident
from agentd.warden.warden import Warden, write_pidfile

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def take_locks(paths: Paths) -> int:
    """Lock the pidfile and the runtime directory. Returns the pidfile's descriptor.

    Raises:
        AlreadyRunningError: Another agent has this state directory.
        UnsafeDirectoryError: An agent with another state directory has this runtime directory.

    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(paths.pidfile, flags, 0o600)
    if not locks.try_lock(lock):
        raise AlreadyRunningError(f"an agent is running already (it holds {paths.pidfile})")
    runtime = os.open(f"{paths.runtime_dir}/agent.lock", flags, 0o600)
    if not locks.try_lock(runtime):
        raise UnsafeDirectoryError(
            f"an agent with another state directory uses {paths.runtime_dir}; "
            "set AGENTD_RUNTIME_DIR to another directory"
        )
    # Kept for life: the runtime lock needs no further name.
    return lock


def run(paths: Paths, lock: int, on_ready: Callable[[], None]) -> None:
    """Be the warden until told to end."""
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    origin = Origin(umask=os.umask(0o077), open_files=open_files)
    # Three descriptors a job: the soft limit of a login shell is often 1024.
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files[1], open_files[1]))
    os.chdir("/")
    set_name("agentd-warden")
    become_subreaper()
    write_pidfile(lock, "")
    wakeup = _take_signals()
    warden = Warden(paths, origin, lock, on_ready, stay_resident())
    # Objects that exist now are shared by every shim: the collector must not touch them.
    gc.collect()
    gc.freeze()
    warden.run(wakeup)


def _take_signals() -> int:
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in _SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # Whoever started us may have blocked some, and a blocked SIGCHLD tells of nobody's end.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end
