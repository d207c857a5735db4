"""The spawner and the real shims it forks."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
from _socket import socket as c_socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.core.contract import Adopted, JobRecorded, JobStarted, LeaderExited, Message
from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    JobSpec,
    Lost,
    MergedOutput,
    OutputKind,
    SplitOutput,
)
from agentd.shim.leader import Origin
from agentd.shim.main import Rescue
from agentd.system import jobdir, locks, packets, process
from agentd.system.clock import boot_id
from agentd.system.prctl import look_at_exit
from agentd.system.records import PidRecord
from agentd.warden.spawner import Spawner
from tests.helpers.cgroupfs import mount_cgroup2, stand_in
from tests.helpers.wait import wait_gone, wait_until
from tests.unit.agentd.system.sandbox import fork, hang, isolated, sleeper

ORIGIN = Origin(0o027, resource.getrlimit(resource.RLIMIT_NOFILE))
#: Linux 6.15 and later tell the exit status through a pidfd.
KERNEL_TELLS = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 15)


class Job:
    """A job directory, and the warden's end of the line to whoever minds it."""

    def __init__(
        self,
        home: Path,
        script: str,
        name: str = "7",
        *,
        is_split: bool = False,
        mem_limit_bytes: int | None = None,
    ) -> None:
        """Make the directory of a job that runs this shell script below `home`."""
        self.directory = f"{home}/{name}"
        self.home = home
        self.control: c_socket | None = None
        self.heard: list[Message] = []
        self.descriptors: dict[str, int] = {}
        spec = JobSpec(
            id=7,
            uid=os.urandom(16).hex(),
            idempotency_key="key",
            submitted_at_ns=5,
            argv=("/bin/sh", "-c", script),
            cwd=str(home),
            environment={"PATH": os.environ["PATH"]},
            output=SplitOutput() if is_split else MergedOutput(),
            mem_limit_bytes=mem_limit_bytes,
        )
        self.uid = spec.uid
        jobdir.create(self.directory, spec)

    def ordered(self, order: Callable[[int], bool]) -> bool:
        """Give an order with a new control socket; return whether it was taken."""
        self.control, theirs = packets.pair()
        taken = order(theirs.fileno())
        theirs.close()
        return taken

    def start(self, spawner: Spawner, kind: OutputKind = OutputKind.MERGED) -> bool:
        """Have its shim forked."""
        return self.ordered(lambda control: spawner.start(self.directory, control, kind))

    def rescue(self, spawner: Spawner, work: Rescue) -> bool:
        """Have a rescue shim forked."""
        return self.ordered(lambda control: spawner.rescue(self.directory, control, work))

    def hear(self, kind: type[Message] | None) -> Message | None:
        """Take messages until one is of this kind; with None, until the end of file."""
        assert self.control is not None
        while True:
            assert select.select([self.control], [], [], 10)[0], f"no {kind} after {self.heard}"
            received = packets.receive(self.control)
            if received is None:
                assert kind is None, f"no {kind} after {self.heard}"
                return None
            message, descriptors = received
            assert message is not None
            self.heard.append(message)
            if isinstance(message, Adopted):
                self.descriptors = dict(zip(message.descriptors, descriptors, strict=True))
            if kind is not None and isinstance(message, kind):
                return message

    def started(self) -> JobStarted:
        """Wait until its program runs."""
        message = self.hear(JobStarted)
        assert isinstance(message, JobStarted)
        return message

    def exit(self) -> Ended | Lost:
        """Wait for the record and return it; whoever minded it is gone then."""
        self.hear(JobRecorded)
        self.hear(None)
        wait_until(lambda: locks.is_locked(f"{self.directory}/pid") is False, what="the shim gone")
        final = jobdir.read_exit(self.directory)
        assert isinstance(final, Ended | Lost), final
        return final

    def log(self, stream: str = "out") -> bytes:
        """Return its only segment."""
        return Path(self.directory, f"{stream}-00000000000000000000.log").read_bytes()

    def kill_shim(self) -> int:
        """Kill its shim and reap it; return the leader's pid."""
        begun = self.heard[-1]
        assert isinstance(begun, JobStarted)
        os.kill(begun.shim_pid, signal.SIGKILL)
        os.waitpid(begun.shim_pid, 0)
        return begun.leader_pid


@isolated
@pytest.mark.parametrize("name", ["7", "a b", "\udcff\n,- "])
def test_a_job_is_started_and_minded_to_its_end(tmp_path: Path, name: str) -> None:
    """Whatever its directory is called."""
    job = Job(tmp_path, "echo out; umask; exit 3", name)

    assert job.start(Spawner(ORIGIN))

    end = job.exit()
    assert isinstance(end, Ended)
    assert (end.status, end.cause) == (ExitStatus(3 << 8), Cause.SELF)
    assert job.log() == b"out\n0027\n"
    assert [type(message) for message in job.heard] == [Adopted, JobStarted, JobRecorded]


@isolated
def test_a_job_gets_the_channels_that_were_ordered(tmp_path: Path) -> None:
    """Two streams, a log each."""
    job = Job(tmp_path, "echo out; echo error >&2", is_split=True)

    job.start(Spawner(ORIGIN), OutputKind.SPLIT)

    job.exit()
    assert (job.log("out"), job.log("err")) == (b"out\n", b"error\n")
    assert job.descriptors.keys() == {"out", "err", "start"}


@isolated
def test_a_shim_is_a_process_of_its_own(tmp_path: Path) -> None:
    """Ours once the spawner has forked it, in nobody's session, minding the lock."""
    job = Job(tmp_path, "exec sleep 600")
    spawner = Spawner(ORIGIN)
    job.start(spawner)

    shim = job.started().shim_pid

    assert shim in process.children(os.getpid())
    assert os.getsid(shim) not in (shim, os.getsid(0))
    assert locks.is_locked(f"{job.directory}/pid") is True
    assert Path(f"/proc/{shim}/comm").read_text(encoding="ascii") == "agentd-shim\n"


@isolated
def test_a_job_is_started_once(tmp_path: Path) -> None:
    """The second shim finds the lock taken or the job begun, and ends."""
    marks = tmp_path / "marks"
    job = Job(tmp_path, f"echo ran >> {marks}; exec sleep 600")
    spawner = Spawner(ORIGIN)
    job.start(spawner)
    job.started()
    first = job.control

    for _ in range(3):
        job.start(spawner)
        job.hear(None)

    assert marks.read_text(encoding="ascii") == "ran\n"
    assert first is not None


@isolated
def test_a_shim_outlives_the_signals_of_a_logout(tmp_path: Path) -> None:
    """Its job too, as nobody sends it one."""
    job = Job(tmp_path, "while [ ! -e go ]; do read x < /dev/null; done; echo done")
    job.start(Spawner(ORIGIN))
    shim = job.started().shim_pid

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        os.kill(shim, number)
    (tmp_path / "go").touch()

    job.exit()
    assert job.log() == b"done\n"


WAITING = "echo before; while [ ! -e go ]; do read x < /dev/null; done; echo after; exit 5"


@isolated
@pytest.mark.parametrize("phase", ["starting", "running"])
def test_a_job_whose_shim_was_killed_is_minded_on(tmp_path: Path, phase: str) -> None:
    """Through the descriptors that were kept, with the word of its new parent: us.

    With the talk of the start among them, the rescue shim learns anew that the program runs.
    """
    job = Job(tmp_path, WAITING)
    spawner = Spawner(ORIGIN)
    job.start(spawner)
    job.started()
    leader = job.kill_shim()
    if phase == "running":
        os.close(job.descriptors.pop("start"))

    assert job.rescue(spawner, Rescue(job.descriptors, parent_is_warden=True))

    adopted = job.hear(Adopted)
    assert isinstance(adopted, Adopted)
    assert (adopted.view.leader_pid, adopted.view.phase) == (leader, phase)
    assert "out" in adopted.descriptors
    if phase == "starting":
        assert job.started().leader_pid == leader
    (tmp_path / "go").touch()
    seen = wait_until(lambda: look_at_exit(leader), what="the end")
    assert job.control is not None
    assert seen is not None
    word = LeaderExited(7, seen.wait_status, 0.5, 0.25, seen.usage.peak_memory_bytes)
    packets.send(job.control, word)

    end = job.exit()
    assert isinstance(end, Ended)
    assert end.status == ExitStatus(5 << 8)
    assert end.usage.cpu_user_s >= 0.5
    assert job.log() == b"before\nafter\n"


@isolated
def test_a_job_without_anything_kept_is_minded_on(tmp_path: Path) -> None:
    """Shim and warden were killed: the pipe is found in the job's own hands."""
    job = Job(tmp_path, WAITING)
    spawner = Spawner(ORIGIN)
    job.start(spawner)
    job.started()
    leader = job.kill_shim()
    for descriptor in job.descriptors.values():
        os.close(descriptor)
    job.descriptors = {}

    assert job.rescue(spawner, Rescue({}, parent_is_warden=False))

    job.hear(Adopted)
    assert job.descriptors.keys() == {"out"}
    (tmp_path / "go").touch()
    assert os.waitpid(leader, 0)[1] == 5 << 8
    end = job.exit()
    if KERNEL_TELLS:
        assert isinstance(end, Ended)
        assert end.status == ExitStatus(5 << 8)
    else:
        assert isinstance(end, Lost)
    assert job.log() == b"before\nafter\n"


@isolated
def test_what_is_over_is_not_rescued(tmp_path: Path) -> None:
    """The record stands; a shim that comes too late leaves it alone."""
    job = Job(tmp_path, "exit 4")
    spawner = Spawner(ORIGIN)
    job.start(spawner)
    end = job.exit()

    assert job.rescue(spawner, Rescue({}, parent_is_warden=True))

    job.hear(None)
    assert jobdir.read_exit(job.directory) == end


@isolated
def test_an_order_that_dies_with_the_spawner_closes_its_line(tmp_path: Path) -> None:
    """So the warden notices and orders again; nothing was started."""
    job = Job(tmp_path, "exit 4")
    spawner = Spawner(ORIGIN)
    os.kill(spawner.pid, signal.SIGSTOP)
    wait_until(lambda: process.is_stopped(spawner.pid))
    assert job.start(spawner)

    os.kill(spawner.pid, signal.SIGKILL)
    os.waitpid(spawner.pid, 0)

    job.hear(None)
    assert job.heard == []
    assert jobdir.read_pid(job.directory) is None
    spawner.restart()
    assert job.start(spawner)
    assert isinstance(job.exit(), Ended)


@isolated
def test_a_spawner_that_is_gone_takes_no_orders(tmp_path: Path) -> None:
    """It says so; the next one does."""
    job = Job(tmp_path, "exit 4")
    spawner = Spawner(ORIGIN)
    os.kill(spawner.pid, signal.SIGKILL)
    os.waitpid(spawner.pid, 0)

    assert not job.start(spawner)
    job.hear(None)

    spawner.restart()
    assert job.start(spawner)
    assert isinstance(job.exit(), Ended)


@isolated
def test_a_spawner_that_is_stuck_blocks_nobody(tmp_path: Path) -> None:
    """Past what its queue takes, orders are refused; each line is closed."""
    spawner = Spawner(ORIGIN)
    os.kill(spawner.pid, signal.SIGSTOP)
    wait_until(lambda: process.is_stopped(spawner.pid))
    job = Job(tmp_path, "exit 4")

    orders = 0
    while job.start(spawner):
        orders += 1
    job.hear(None)

    assert orders < 10_000


@isolated
def test_the_spawner_goes_with_its_warden() -> None:
    """However the warden ends; shims stay, as another test shows."""

    def be_the_warden() -> None:
        spawner = Spawner(ORIGIN)
        os.write(write_end, str(spawner.pid).encode())
        hang()

    read_end, write_end = os.pipe()
    warden = fork(be_the_warden)
    spawner = int(os.read(read_end, 20))
    assert process.is_running(spawner)

    os.kill(warden, signal.SIGKILL)

    wait_gone({spawner})


@isolated
def test_a_job_goes_on_when_spawner_and_warden_are_killed(tmp_path: Path) -> None:
    """Its shim needs neither."""
    job = Job(tmp_path, WAITING)
    spawner = Spawner(ORIGIN)
    job.start(spawner)
    job.started()
    os.kill(spawner.pid, signal.SIGKILL)
    assert job.control is not None
    job.control.close()

    (tmp_path / "go").touch()

    end = wait_until(lambda: jobdir.read_exit(job.directory), what="the record")
    assert isinstance(end, Ended)
    assert end.status == ExitStatus(5 << 8)


@isolated
def test_a_lost_job_is_swept(tmp_path: Path) -> None:
    """In a process of its own."""
    job = Job(tmp_path, "exit 0")
    marked = fork(lambda: os.execve("/bin/sleep", ["sleep", "600"], {"AGENTCTL_JOB_UID": job.uid}))
    wait_until(lambda: process.find_members(job.uid, None), what="the exec")

    assert Spawner(ORIGIN).sweep(job.directory, 0.0)

    assert os.waitpid(marked, 0)[1] == signal.SIGKILL


class TestCgroup:
    """The delegated cgroup of a spawner; plain files stand for the kernel's."""

    @isolated
    @pytest.mark.parametrize("base", ["cg", "c g", "c\n-,"], ids=repr)
    def test_a_job_enters_its_own(self, tmp_path: Path, base: str) -> None:
        """With its limit, before its program runs; the record takes the peak from there."""
        cgroup = tmp_path / base / "job-7"
        stand_in(cgroup, peak_bytes=77 << 20)
        job = Job(tmp_path, f"cat '{cgroup}/cgroup.procs'; exit 3", "a b", mem_limit_bytes=1 << 30)
        spawner = Spawner(ORIGIN)
        assert spawner.use_cgroup(f"{tmp_path}/{base}", spawner.pid)

        assert job.start(spawner)

        leader_pid = job.started().leader_pid
        end = job.exit()
        assert isinstance(end, Ended)
        assert (end.status, end.usage.peak_memory_bytes) == (ExitStatus(3 << 8), 77 << 20)
        assert job.log() == str(leader_pid).encode()
        assert int((cgroup / "memory.max").read_text(encoding="ascii")) >= (1 << 30) * 1.05

    @isolated
    def test_a_rescue_shim_finds_it_again(self, tmp_path: Path) -> None:
        """And reads in it that the kernel killed the job."""
        events = "max 1\noom 1\noom_kill 1\n"
        stand_in(tmp_path / "cg" / "job-7", peak_bytes=77 << 20, events=events)
        job = Job(tmp_path, "exec sleep 600", mem_limit_bytes=64 << 20)
        spawner = Spawner(ORIGIN)
        spawner.use_cgroup(f"{tmp_path}/cg", spawner.pid)
        job.start(spawner)
        job.started()
        leader_pid = job.kill_shim()

        job.rescue(spawner, Rescue(job.descriptors, parent_is_warden=True))
        job.hear(Adopted)
        os.kill(leader_pid, signal.SIGKILL)
        seen = wait_until(lambda: look_at_exit(leader_pid), what="the leader's end")
        assert job.control is not None
        assert seen is not None
        packets.send(job.control, LeaderExited(7, seen.wait_status, 0.0, 0.0, 0))

        end = job.exit()
        assert isinstance(end, Ended)
        assert (end.cause, end.usage.peak_memory_bytes) == (Cause.GUARD, 77 << 20)
        assert end.reason.startswith("stopped by the kernel: over its limit of 64.0 MiB")

    @isolated
    def test_one_that_is_gone_costs_no_job(self, tmp_path: Path) -> None:
        """It runs without."""
        job = Job(tmp_path, "exit 3", mem_limit_bytes=1 << 30)
        spawner = Spawner(ORIGIN)
        spawner.use_cgroup(f"{tmp_path}/gone", spawner.pid)

        job.start(spawner)

        end = job.exit()
        assert isinstance(end, Ended)
        assert (end.status, end.cause) == (ExitStatus(3 << 8), Cause.SELF)
        assert end.usage.peak_memory_bytes > 0

    @pytest.mark.root
    @isolated
    def test_that_of_a_lost_job_goes_with_what_was_left(self, tmp_path: Path) -> None:
        """Whoever sweeps knows it from the pidfile."""
        own = mount_cgroup2(tmp_path / "cg")
        os.mkdir(f"{own}/job-7")
        job = Job(tmp_path, "exit 0")
        leader = sleeper()
        Path(f"{own}/job-7/cgroup.procs").write_text(str(leader), encoding="ascii")
        identity = process.identify(leader)
        assert identity is not None
        record = PidRecord(boot_id(), identity, identity, 5, 6, cgroup=f"{own}/job-7")
        lock = os.open(f"{job.directory}/pid", os.O_WRONLY)
        jobdir.write_pid(lock, record)

        assert Spawner(ORIGIN).sweep(job.directory, 0.0)

        assert os.waitpid(leader, 0)[1] == signal.SIGKILL
        wait_until(lambda: not os.path.exists(f"{own}/job-7"), what="its cgroup has gone")
        os.rmdir(own)

    @isolated
    def test_it_belongs_to_one_spawner(self) -> None:
        """Another than the present one is not believed, and the next one has none."""
        spawner = Spawner(ORIGIN)
        assert not spawner.use_cgroup("/cg", spawner.pid + 1)
        assert not spawner.use_cgroup("cg", spawner.pid)
        assert not spawner.use_cgroup("/" + "x" * 600, spawner.pid)
        assert spawner.cgroup == ""
        assert spawner.use_cgroup("/cg", spawner.pid)
        assert spawner.cgroup == "/cg"
        os.kill(spawner.pid, signal.SIGKILL)
        os.waitpid(spawner.pid, 0)

        spawner.restart()

        assert spawner.cgroup == ""
        assert not spawner.use_cgroup("/cg", 0)
