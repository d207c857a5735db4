"""The double fork that makes a shim, and the sweep of a lost job."""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from agentd.core.job import JobSpec, ProcessId
from agentd.shim.daemonize import double_fork
from agentd.shim.sweep import sweep
from agentd.system import jobdir, process
from agentd.system.clock import boot_id
from agentd.system.records import PidRecord
from tests.helpers.wait import holds_for, wait_gone, wait_until
from tests.unit.agentd.system.sandbox import fork, hang, isolated

#: Nobody else's, whoever runs the same tests at the same time.
UID, OTHER = secrets.token_hex(16), secrets.token_hex(16)


@isolated
def test_a_shim_belongs_to_nobodys_session_and_to_us() -> None:
    """It leads no session, so it can get no terminal; the warden, a subreaper, is its parent."""
    read_end, write_end = os.pipe()
    warden = os.getpid()

    def be_the_shim() -> NoReturn:
        wait_until(lambda: os.getppid() == warden, what="the warden our parent")
        os.write(write_end, f"{os.getpid()} {os.getppid()} {os.getsid(0)} {os.getpgrp()}".encode())
        hang()

    between = double_fork(be_the_shim)
    assert os.waitpid(between, 0)[0] == between

    pid, parent, session, group = map(int, os.read(read_end, 100).split())
    assert parent == os.getpid()
    assert session == group == between
    assert pid not in (between, os.getpid())
    assert session != os.getsid(0)


@isolated
def test_what_is_forked_never_returns_into_the_caller(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever it raises: an exit status says so."""

    def fail() -> NoReturn:
        raise RuntimeError("a defect")

    between = double_fork(fail)

    ended = {os.waitpid(between, 0)[1], os.waitpid(-1, 0)[1]}
    assert ended == {70 << 8}


def run(uid: str, *, ignores_term: bool = False) -> int:
    """Return a program that carries this mark."""

    def execute() -> None:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if ignores_term else signal.SIG_DFL)
        os.execve("/bin/sleep", ["sleep", "600"], {"AGENTCTL_JOB_UID": uid})

    pid = fork(execute)
    wait_until(lambda: pid in process.find_members(uid, None), what="the exec")
    return pid


def lost_job(directory: str, leader: int, boot: str) -> None:
    """Make the directory of a job with this leader."""
    jobdir.create(directory, JobSpec(7, UID, "key", 5, ("true",), "/", {}))
    known = process.identify(leader)
    assert known is not None
    descriptor = os.open(f"{directory}/pid", os.O_WRONLY)
    jobdir.write_pid(descriptor, PidRecord(boot, ProcessId(1, 1), known, 5, 6))


@isolated
def test_a_sweep_ends_what_a_lost_job_left_and_nothing_else(tmp_path: Path) -> None:
    """Its leader without the mark too; what ignores SIGTERM is killed when the grace is over."""
    leader, marked, stubborn = run(secrets.token_hex(16)), run(UID), run(UID, ignores_term=True)
    stranger = run(OTHER)
    lost_job(f"{tmp_path}/7", leader, boot_id())

    sweeper = fork(lambda: sweep(f"{tmp_path}/7", 0.1))

    ended = {pid: os.waitpid(pid, 0)[1] for pid in (leader, marked, stubborn)}
    assert ended == {leader: signal.SIGTERM, marked: signal.SIGTERM, stubborn: signal.SIGKILL}
    assert os.waitpid(sweeper, 0)[1] == 0
    assert process.is_running(stranger)


@isolated
def test_a_sweep_spares_the_pid_of_another_boot(tmp_path: Path) -> None:
    """The same pid with the same start is somebody else by now."""
    stranger, marked = run(OTHER), run(UID)
    lost_job(f"{tmp_path}/7", stranger, "another boot")

    sweeper = fork(lambda: sweep(f"{tmp_path}/7", 0.0))

    wait_gone({marked})
    os.waitpid(sweeper, 0)
    holds_for(lambda: process.is_running(stranger), seconds=0.05)


@isolated
def test_a_sweep_without_a_spec_does_nothing(tmp_path: Path) -> None:
    """The directory is corrupt or gone: nobody knows whom to end."""
    marked = run(UID)

    assert os.waitpid(fork(lambda: sweep(f"{tmp_path}/7", 0.0)), 0)[1] == 0

    assert process.is_running(marked)
