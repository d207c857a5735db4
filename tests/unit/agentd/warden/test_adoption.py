"""What a new warden finds, in state directories made up for it."""

from __future__ import annotations

import os
import signal
from _socket import socket as c_socket
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.core.contract import Adopt, JobView
from agentd.core.job import JobSpec, OutputKind, ProcessId, SplitOutput
from agentd.paths import Paths
from agentd.system import clock, jobdir, locks, packets, process
from agentd.system.records import PidRecord
from agentd.warden import adoption
from agentd.warden.adoption import Finding
from tests.unit.agentd.server.places import ENDED, make_directory, make_paths, make_spec
from tests.unit.agentd.system.sandbox import fork, hang, isolated, sleeper

#: A process that is no more: its pid is past what the kernel gives out.
DEAD = ProcessId(1 << 22, 1)


def known(pid: int) -> ProcessId:
    """Return the identity of a process that exists."""
    found = process.identify(pid)
    assert found is not None
    return found


class State:
    """A state directory."""

    def __init__(self, home: Path) -> None:
        """Make an empty one."""
        self.paths: Paths = make_paths(home)

    def job(self, job_id: int = 7, spec: JobSpec | None = None) -> str:
        """Make a job's directory and its marker; return the directory."""
        return make_directory(self.paths, spec or make_spec(job_id))

    def begin(self, directory: str, leader: ProcessId, shim: ProcessId, boot: str = "") -> None:
        """Write the pidfile."""
        record = PidRecord(boot or clock.boot_id(), shim, leader, 5, 6)
        descriptor = os.open(f"{directory}/pid", os.O_WRONLY)
        jobdir.write_pid(descriptor, record)
        os.close(descriptor)

    def found(self) -> list[Finding]:
        """Look."""
        return sorted(adoption.look(self.paths), key=lambda finding: finding.job_id)


def hold(directory: str) -> ProcessId:
    """Return a shim of a kind: a child that holds the pidfile's lock."""

    def take() -> None:
        assert locks.try_lock(os.open(f"{directory}/pid", os.O_RDWR))
        os.write(write_end, b"!")
        hang()

    read_end, write_end = os.pipe()
    pid = fork(take)
    os.close(write_end)
    assert os.read(read_end, 1) == b"!"
    return known(pid)


@isolated
def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    """Nor are names that are no jobs."""
    state = State(tmp_path)
    for name in ("x", ".7.tmp", "7x", "-1", "²"):
        Path(state.paths.live, name).touch()

    assert state.found() == []


@isolated
def test_a_job_that_has_not_begun_needs_no_warden(tmp_path: Path) -> None:
    """The server decides that it is launched."""
    state = State(tmp_path)
    state.job()
    Path(state.paths.live, "8").touch()

    assert state.found() == []


@isolated
def test_a_shim_that_has_no_leader_yet_is_found(tmp_path: Path) -> None:
    """By the lock it holds; what its job's output goes to is known should it die now."""
    state = State(tmp_path)
    hold(state.job(7))
    hold(state.job(8, replace(make_spec(8), output=SplitOutput())))

    assert state.found() == [
        Finding(7, JobView(7, "starting"), OutputKind.MERGED),
        Finding(8, JobView(8, "starting"), OutputKind.SPLIT),
    ]


@isolated
def test_a_shim_with_its_leader_is_found(tmp_path: Path) -> None:
    """Who they are stands in the pidfile."""
    state = State(tmp_path)
    directory = state.job()
    shim, leader = hold(directory), known(sleeper())
    state.begin(directory, leader, shim)

    (finding,) = state.found()

    assert finding.view == JobView(7, "running", 5, leader.pid, leader.start_ticks, shim.pid)


@isolated
def test_a_shim_is_found_although_its_leader_is_dead(tmp_path: Path) -> None:
    """It is about to write the record, or has written it a moment ago."""
    state = State(tmp_path)
    directory = state.job()
    shim = hold(directory)
    state.begin(directory, DEAD, shim)
    assert [finding.job_id for finding in state.found()] == [7]

    jobdir.write_exit(directory, ENDED)

    assert [finding.job_id for finding in state.found()] == [7]


@isolated
def test_an_orphaned_leader_is_found(tmp_path: Path) -> None:
    """Its shim was killed; no shim is named, not even one whose pid is somebody else's now."""
    state = State(tmp_path)
    directory = state.job()
    leader, stranger = known(sleeper()), known(sleeper())
    killed = replace(stranger, start_ticks=stranger.start_ticks - 1)
    state.begin(directory, leader, killed)

    (finding,) = state.found()

    assert finding.view == JobView(7, "running", 5, leader.pid, leader.start_ticks, 0)


@isolated
@pytest.mark.parametrize("end", ["dead", "zombie", "recycled"])
def test_a_leader_that_is_gone_without_a_shim_is_lost_and_not_found(
    tmp_path: Path, end: str
) -> None:
    """The server decides what became of it."""
    state = State(tmp_path)
    pid = sleeper()
    leader = known(pid)
    if end == "dead":
        leader = DEAD
    elif end == "zombie":
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    else:
        leader = replace(leader, start_ticks=leader.start_ticks - 1)
    state.begin(state.job(), leader, DEAD)

    assert state.found() == []


@isolated
def test_a_leader_of_another_boot_is_not_found(tmp_path: Path) -> None:
    """Although there is a process with its pid and its start."""
    state = State(tmp_path)
    state.begin(state.job(), known(sleeper()), DEAD, "another boot")

    assert state.found() == []


@isolated
def test_a_job_that_is_over_needs_no_warden(tmp_path: Path) -> None:
    """Its leader may be a zombie that nobody has reaped yet, or its pid somebody's."""
    state = State(tmp_path)
    directory = state.job()
    state.begin(directory, known(sleeper()), DEAD)
    jobdir.write_exit(directory, ENDED)

    assert state.found() == []


@isolated
def test_only_jobs_whose_end_is_not_in_the_index_are_looked_at(tmp_path: Path) -> None:
    """History may hold a hundred thousand."""
    state = State(tmp_path)
    hold(state.job())
    os.unlink(f"{state.paths.live}/7")

    assert state.found() == []


@isolated
@pytest.mark.parametrize("name", ["pid", "spec.json"])
def test_a_corrupt_record_hides_no_shim(tmp_path: Path, name: str) -> None:
    """The lock tells that it lives; what was in the record, it will tell itself."""
    state = State(tmp_path)
    directory = state.job()
    hold(directory)
    Path(directory, name).write_bytes(b"{torn")

    assert state.found() == [Finding(7, JobView(7, "starting"), OutputKind.MERGED)]


@isolated
def test_a_corrupt_pidfile_without_a_shim_is_nothing_to_adopt(tmp_path: Path) -> None:
    """The server sets it aside."""
    state = State(tmp_path)
    Path(state.job(), "pid").write_bytes(b"{torn")

    assert state.found() == []


@isolated
@pytest.mark.parametrize("name", ["pid", "spec.json"])
def test_a_lock_that_cannot_be_looked_at_counts_as_held(tmp_path: Path, name: str) -> None:
    """A shim that may live is never replaced; and one bad file hides no other job."""
    state = State(tmp_path)
    directory = state.job()
    os.unlink(f"{directory}/{name}")
    os.symlink(name, f"{directory}/{name}")
    hold(state.job(8))

    found = [finding.job_id for finding in state.found()]

    assert found == [7, 8] if name == "pid" else [8]


def accepted(listener: c_socket) -> c_socket:
    """Return who has connected."""
    peer = packets.accept(listener)
    assert peer is not None
    return peer


@isolated
def test_a_shim_is_asked_for_what_it_holds(tmp_path: Path) -> None:
    """At once, with the connection."""
    listener = packets.listen("ctl", str(tmp_path))

    control = adoption.connect(str(tmp_path))

    assert control is not None
    assert packets.receive(accepted(listener)) == (Adopt(), [])


@isolated
def test_a_shim_that_cannot_be_reached_is_tried_later(tmp_path: Path) -> None:
    """No socket yet, a dead one, or one whose queue is full."""
    assert adoption.connect(str(tmp_path)) is None
    packets.listen("ctl", str(tmp_path)).close()
    assert adoption.connect(str(tmp_path)) is None
    assert adoption.connect(f"{tmp_path}/none") is None

    listener = packets.listen("ctl", str(tmp_path))
    waiting = [packets.connect(str(tmp_path), "ctl") for _ in range(17)]

    assert adoption.connect(str(tmp_path)) is None
    assert len(waiting) == 17
    listener.close()
