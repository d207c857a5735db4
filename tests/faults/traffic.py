"""What goes over a link while it is cut, and the books about it afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.jobs import Printer, counter
from tests.helpers.sshrig import SshRig
from tests.helpers.wait import dawdle, wait_until

#: What the client says when it gave up; anything else is an error of its own.
_TRY_AGAIN = 75


@dataclass(slots=True)
class Follower:
    """`agentctl logs -f` of one job into a file; it can be killed and begun again."""

    rig: SshRig
    job_id: int
    path: str
    #: Of the whole log.
    total_bytes: int
    process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Follow from where the file ends."""
        command = ["-H", "gpu1", "logs", "-f", "--offset", str(self.size_bytes()), str(self.job_id)]
        with open(self.path, "ab") as out, open(f"{self.path}.err", "ab") as complaints:
            self.process = self.rig.client.popen(*command, stdout=out, stderr=complaints)

    def size_bytes(self) -> int:
        """Return how much of the log has come so far."""
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0

    def kill(self) -> None:
        """Kill the client as the end of a terminal would not: at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait_for_more(self, deadline_s: float, what: str) -> None:
        """Wait until what the job writes from now on arrives."""
        # What was under way when the link was cut is less than this.
        wanted = min(self._written() + 100_000, self.total_bytes)
        wait_until(lambda: self.size_bytes() >= wanted, deadline_s=deadline_s, what=what)

    def _written(self) -> int:
        paths = Path(f"{self.rig.server.state_dir}/jobs/{self.job_id}").glob("out-*.log")
        newest = max(paths, key=lambda path: path.name, default=None)
        if newest is None:
            return 0
        return int(newest.stem.removeprefix("out-")) + newest.stat().st_size

    def end(self, deadline_s: float) -> int:
        """Return its status at the end of the job."""
        assert self.process is not None
        return self.process.wait(deadline_s)

    def sha256(self) -> str:
        """Return the digest of all that has come."""
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    def complaints(self) -> str:
        """Return what it wrote to stderr."""
        return Path(f"{self.path}.err").read_text("utf-8", errors="replace")


@dataclass(slots=True)
class Submitter:
    """Submits one job after the other, each of which leaves one line in a file of its own."""

    rig: SshRig
    directory: str
    #: Number of each submit that was answered, and the job's id.
    taken: dict[int, int] = field(default_factory=dict)
    #: Those that the client gave up, saying so.
    unknown: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def submit_all(self) -> None:
        """Submit until it is over."""
        number = 0
        while not self._is_over.is_set():
            number += 1
            self._submit(number)
            dawdle(0.1)

    def _submit(self, number: int) -> None:
        words = ["-H", "gpu1", "submit", "--", *counter(f"{self.directory}/{number}")]
        done = self.rig.client.cli(*words, timeout=90)
        if done.returncode == 0:
            self.taken[number] = int(done.stdout)
        elif done.returncode == _TRY_AGAIN and "Traceback" not in done.stderr:
            self.unknown.add(number)
        else:
            self.failures.append(f"submit {number}: {done.returncode} {done.stderr}")

    def runs(self, number: int) -> int:
        """Return how often the job of this number ran."""
        path = Path(f"{self.directory}/{number}")
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def check(self) -> None:
        """Demand that no job is lost, none ran twice, and no two ids are one."""
        assert not self.failures
        assert self.taken, "no submit was ever answered"
        wait_until(
            lambda: all(self.runs(number) for number in self.taken), what="every job taken has run"
        )
        assert {number: self.runs(number) for number in self.taken} == dict.fromkeys(self.taken, 1)
        assert all(self.runs(number) <= 1 for number in self.unknown)
        assert len(set(self.taken.values())) == len(self.taken)


@contextmanager
def submits(rig: SshRig) -> Iterator[Submitter]:
    """Submit in the background while the block lasts; then the books."""
    directory = f"{rig.server.root}/runs"
    os.mkdir(directory)
    submitter = Submitter(rig, directory)
    thread = threading.Thread(target=submitter.submit_all)
    thread.start()
    try:
        yield submitter
    finally:
        submitter._is_over.set()
        thread.join()


@dataclass(slots=True)
class Traffic:
    """A job that prints, whoever follows it and waits for it, and the job's events."""

    rig: SshRig
    printer: Printer
    exit_code: int
    job_id: int
    follower: Follower
    waiter: subprocess.Popen[bytes]
    watcher: subprocess.Popen[bytes]
    events_path: str

    def check(self, deadline_s: float) -> None:
        """Demand that every byte and every event arrived once, and the true end was told."""
        told = (self.follower.end(deadline_s), self.waiter.wait(30))
        assert told == (0, self.exit_code), self.follower.complaints()
        assert self.follower.size_bytes() == self.printer.size_bytes
        assert self.follower.sha256() == self.printer.sha256
        assert "Traceback" not in self.follower.complaints()
        self._check_events()

    def _check_events(self) -> None:
        wait_until(self._saw_end, deadline_s=30, what="the end of the job among the events")
        seen = [event["seq"] for event in self._events_seen()]
        known = self.rig.server.cli("events", "--json", check=True).stdout
        happened = [json.loads(line)["seq"] for line in known.splitlines()]
        assert seen == [seq for seq in happened if seen[0] <= seq <= seen[-1]]

    def _saw_end(self) -> bool:
        ends = {event["job_id"] for event in self._events_seen() if event["kind"] == "job.ended"}
        return self.job_id in ends

    def _events_seen(self) -> list[dict[str, Any]]:
        lines = Path(self.events_path).read_bytes().splitlines(keepends=True)
        # Its last line may be under way.
        return [json.loads(line) for line in lines if line.endswith(b"\n")]


@contextmanager
def traffic(rig: SshRig, printer: Printer, exit_code: int) -> Iterator[Traffic]:
    """Follow, wait and watch over the link while the block lasts; nothing runs on after it."""
    client = rig.client
    done = client.cli("-H", "gpu1", "submit", "--", *printer.argv, timeout=60)
    assert done.returncode == 0, done.stderr
    job_id = int(done.stdout)
    follower = Follower(rig, job_id, f"{client.root}/followed", printer.size_bytes)
    follower.begin()
    events_path = f"{client.root}/events"
    with open(events_path, "wb") as events:
        watcher = client.popen("-H", "gpu1", "events", "-f", "--json", stdout=events)
    waiter = client.popen("-H", "gpu1", "wait", str(job_id), stderr=subprocess.DEVNULL)
    assert follower.process is not None
    try:
        yield Traffic(rig, printer, exit_code, job_id, follower, waiter, watcher, events_path)
    finally:
        for process in (watcher, waiter, follower.process):
            process.kill()
            process.wait()
