"""A supervisor with a real socket to the test, which stands where the warden would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from agentd.core import contract
from agentd.core.contract import (
    GuardReport,
    Hello,
    JobRecorded,
    JobStarted,
    JobView,
    Message,
    ReportGuard,
)
from agentd.core.job import FinalState, ProcessId, State
from agentd.paths import Paths
from agentd.server.runtime.hooks import HooksConfig
from agentd.server.runtime.model import Defaults, Event, JobDraft, JobInfo
from agentd.server.runtime.supervisor import LinkEnd, Supervisor
from agentd.system import clock, jobdir
from agentd.system.records import PidRecord
from tests.helpers.wait import wait_until
from tests.unit.agentd.server.places import ENDED

M = TypeVar("M", bound=Message)

#: For everything that ought to happen at once.
DEADLINE_S = 10.0
DRAFT = JobDraft("", ("true",), "/", {"PATH": "/bin:/usr/bin"})


@dataclass(slots=True)
class Bench:
    """A supervisor at work and the warden's end of its link."""

    paths: Paths
    supervisor: Supervisor
    running: asyncio.Task[LinkEnd]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def tell(self, *messages: Message) -> None:
        """Say something as the warden."""
        for message in messages:
            self.writer.write(contract.encode(message) + b"\n")

    async def heard(self, kind: type[M]) -> M:
        """Return the next message to the warden, which has to be of this kind."""
        async with asyncio.timeout(DEADLINE_S):
            message = contract.decode(await self.reader.readuntil(b"\n"))
        assert isinstance(message, kind), message
        return message

    async def heard_nothing(self) -> None:
        """Prove that nothing was said to the warden before what comes now."""
        self.supervisor.announce_ready("silence")
        assert (await self.heard(contract.Ready)).socket == "silence"

    @contextlib.asynccontextmanager
    async def guarding(self, report: GuardReport) -> AsyncIterator[list[Message]]:
        """Within it, the warden answers every question for a report; yields all else it hears."""
        heard: list[Message] = []

        async def answer() -> None:
            while line := await self.reader.readline():
                message = contract.decode(line)
                if isinstance(message, ReportGuard):
                    self.tell(replace(report, number=message.number))
                elif message is not None:
                    heard.append(message)

        answering = asyncio.create_task(answer())
        try:
            yield heard
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def happened(self, job_id: int, kind: str) -> Event:
        """Wait until an event of this kind is noted for the job, and return the newest."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                change = self.supervisor.changed(job_id)
                found = self.supervisor.events_after(0, frozenset({job_id}), 1000)
                events = [event for event in found if event.kind == kind]
                if events:
                    return events[-1]
                await change.wait()

    async def state(self, job_id: int, *kinds: type[State]) -> State:
        """Wait until the job is in a state of one of these kinds, and return it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                change = self.supervisor.changed(job_id)
                state = self.supervisor.get(job_id).state
                if isinstance(state, kinds):
                    return state
                await change.wait()

    async def settled(self, job_id: int) -> None:
        """Wait until the job's marker is gone: nothing is left to do."""
        marker = f"{self.paths.live}/{job_id}"
        await asyncio.to_thread(wait_until, lambda: not os.path.exists(marker))

    async def submit(self, draft: JobDraft = DRAFT) -> JobInfo:
        """Submit a job and take in its launch."""
        info = await self.supervisor.submit(draft)
        assert (await self.heard(contract.Launch)).job_id == info.spec.id
        return info

    async def started(self, draft: JobDraft = DRAFT) -> int:
        """Submit a job and report its start; return its id."""
        job_id = (await self.submit(draft)).spec.id
        begin(self.paths, job_id)
        self.tell(JobStarted(job_id, 5, 42, 1000, 41))
        async with asyncio.timeout(DEADLINE_S):
            while self.events(job_id)[-1] != "job.started":
                await self.supervisor.changed(job_id).wait()
        return job_id

    async def ended(self, draft: JobDraft = DRAFT, final: FinalState = ENDED) -> int:
        """Submit a job and report start and end; return its id."""
        job_id = await self.started(draft)
        self.end(job_id, final)
        await self.state(job_id, type(final))
        await self.settled(job_id)
        return job_id

    def end(self, job_id: int, final: FinalState = ENDED) -> None:
        """Do what a shim does at the end."""
        jobdir.write_exit(self.paths.job(job_id), final)
        self.tell(JobRecorded(job_id))

    def events(self, *job_ids: int) -> list[str]:
        """Return the kinds of the events of these jobs, or of all."""
        found = self.supervisor.events_after(0, frozenset(job_ids), 1000)
        return [event.kind for event in found]


def begin(paths: Paths, job_id: int, boot_id: str = "") -> None:
    """Write the pidfile as a shim does at the start."""
    record = PidRecord(boot_id or clock.boot_id(), ProcessId(41, 900), ProcessId(42, 1000), 5, 6)
    descriptor = os.open(f"{paths.job(job_id)}/{jobdir.PID}", os.O_RDWR)
    try:
        jobdir.write_pid(descriptor, record)
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def bench(
    paths: Paths,
    *views: JobView,
    defaults: Defaults = Defaults(),  # noqa: B008  # frozen
    hooks: HooksConfig = HooksConfig(),  # noqa: B008  # frozen
) -> AsyncIterator[Bench]:
    """Yield a supervisor at work; afterwards it is closed, and both ends of the link with it."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs, limit=1 << 26)
    writer.write(contract.encode(Hello(os.getpid(), 7, views)) + b"\n")
    supervisor = await Supervisor.open(paths, ours.detach(), defaults, hooks)
    running = asyncio.create_task(supervisor.run())
    try:
        yield Bench(paths, supervisor, running, reader, writer)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await supervisor.close()
        async with asyncio.timeout(DEADLINE_S):
            # The end of the stream: the supervisor has let go of the link.
            await reader.read()
        writer.close()
        await writer.wait_closed()


def on_disk(paths: Paths) -> tuple[set[str], set[str]]:
    """Return the names in jobs/ and in live/."""
    return set(os.listdir(paths.jobs)), set(os.listdir(paths.live))


def job_file(paths: Paths, job_id: int, name: str) -> Path:
    """Return the path of a file in a job directory."""
    return Path(paths.job(job_id), name)
