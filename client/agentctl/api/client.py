"""The SDK: one typed, synchronous `Client`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from google.protobuf.duration_pb2 import Duration

from agentapi.v1 import job_service_pb2 as wire
from agentapi.v1.job_pb2 import Job as WireJob
from agentctl.api.amounts import seconds_of, several, text_pairs, to_ns, whole_of
from agentctl.api.channel import Connection
from agentctl.api.convert import job_from_wire, state_to_wire, time_from_wire
from agentctl.errors import (
    AmbiguousNameError,
    InvalidSpecError,
    JobNotFoundError,
)
from agentctl.link import on_host, open_link
from agentctl.model import AgentInfo, Chunk, Event, Job, JobState, LogItem, signal_number
from agentctl.words import is_text, told

if TYPE_CHECKING:
    import signal as signals
    from datetime import datetime

    from agentctl.api.draft import Draft, Text
    from agentctl.api.logs import LogQuery
    from agentctl.api.trouble import OnNotice
    from agentctl.guard import Guard

_MAX_UINT64 = 2**64 - 1
_MAX_UINT32 = 2**32 - 1
_MAX_PAGE = 1000
#: Of jobs of one name that are over, how many are looked at (and named as candidates).
_CANDIDATES = 6


class Client:
    """The agent of one host. Cheap, thread-safe, and heals its own connection.

    A call that is cut because the agent restarts is made again for up to 15 s, under one
    idempotency key, so that nothing is done twice; streams go on where they stood, however
    long a host over SSH is out of reach. Every method raises `AgentctlError` or a subclass,
    and nothing else, for what the agent says.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        start_agent: bool = True,
        on_notice: OnNotice | None = None,
    ) -> None:
        """Use the agent of `host`; None and "local" are this machine. Connects at first use.

        Args:
            host: Name of the host, as `agentctl host add` was given it.
            start_agent: Start the agent there when none runs.
            on_notice: Called in any thread with `LinkLost` once a remote host has been out of
                reach for 2 s, and with `LinkBack` when it answers again.

        Raises:
            HostUnreachableError: No host of this name was added.

        """
        link = open_link(host, start_agent=start_agent)
        self._connection = Connection(link, on_notice=on_notice)

    @property
    def host(self) -> str:
        """The name people gave the host."""
        return self._connection.link.host

    @property
    def is_remote(self) -> bool:
        """Whether a network lies between here and the host."""
        return self._connection.link.is_remote

    @property
    def connection(self) -> Connection:
        """What the calls go through, for the other modules of this package."""
        return self._connection

    def close(self) -> None:
        """End every call and the connection; jobs go on. May be called twice."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def submit(  # noqa: PLR0913  # one keyword for each option of the command line
        self,
        argv: Sequence[Text],
        *,
        name: str | None = None,
        cwd: Text | None = None,
        env: Mapping[str, str] | None = None,
        mem: str | int | None = None,
        mem_action: str | None = None,
        preemptible: bool = False,
        requeue: int = 0,
        timeout: str | float | None = None,
        grace: str | float | None = None,
        labels: Mapping[str, str] | None = None,
        tty: bool = False,
        split_stderr: bool = False,
        output: Text | None = None,
        error: Text | None = None,
        append: bool = False,
        stdin: Text | None = None,
        retain: str | int | None = None,
    ) -> Job:
        """Start a job and return at once.

        It gets this process' environment, directory, umask and limits, as under nohup.

        Args:
            argv: The program and its arguments.
            name: For people; need not be unique.
            cwd: Working directory; relative to this process' own.
            env: Variables added to the environment.
            mem: The job's own memory limit: "16G", or bytes.
            mem_action: With `mem`: "kill" (the default), "pause" or "warn" once it is over.
            preemptible: Let it be the first to go when the host runs out of memory.
            requeue: Submit it again after the guard has ended it, at most so often in all.
            timeout: Wall time after which it is stopped: "8h", or seconds.
            grace: Time between SIGTERM and SIGKILL: "10s", or seconds.
            labels: Free text pairs to find it by.
            tty: Give it a pseudo-terminal.
            split_stderr: Keep stdout and stderr in a log each.
            output: Send stdout (and stderr) straight to this file.
            error: With `output`: send stderr to this file.
            append: With `output`: append instead of truncate.
            stdin: Read stdin from this file; else /dev/null.
            retain: How much of each log is kept: "1G", or bytes.

        Raises:
            InvalidSpecError: The message names what is wrong.

        """
        from agentctl.api.draft import Draft

        return self.submit_draft(
            Draft(
                argv,
                name=name,
                cwd=cwd,
                env=env,
                mem=mem,
                mem_action=mem_action,
                preemptible=preemptible,
                requeue=requeue,
                timeout=timeout,
                grace=grace,
                labels=labels,
                tty=tty,
                split_stderr=split_stderr,
                output=output,
                error=error,
                append=append,
                stdin=stdin,
                retain=retain,
            )
        )

    def submit_draft(self, draft: Draft) -> Job:
        """Do as `submit`, with everything asked for in one value."""
        from agentctl.api.draft import to_wire

        request = wire.SubmitJobRequest(
            idempotency_key=_new_key(), spec=to_wire(draft, is_remote=self.is_remote)
        )
        return self._job(self._connection.call(lambda stub: stub.SubmitJob, request).job)

    def get(self, job_id: int) -> Job:
        """Return the job. Raises JobNotFoundError."""
        request = wire.GetJobRequest(job_id=_checked_id(job_id, self.host))
        return self._job(self._connection.call(lambda stub: stub.GetJob, request).job)

    def find(self, reference: str | int) -> Job:
        """Return the job of this id, or of this name if only one job can be meant.

        Among jobs of one name the only active one is meant; else there must be just one.

        Raises:
            JobNotFoundError: There is none.
            AmbiguousNameError: There are several.

        """
        text = str(reference)
        if text.isascii() and text.isdigit():
            return self.get(int(text))
        found = self.list(name=text, recent=_CANDIDATES) if text else []
        if not found:
            raise _no_such_name(text, self.host)
        active = [job for job in found if not job.is_over]
        meant = active or found
        if len(meant) > 1:
            raise AmbiguousNameError(f"several jobs have the name {text!r}; give an id", found)
        return meant[0]

    def list(
        self,
        *,
        states: Iterable[JobState | str] = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        recent: int | None = None,
    ) -> list[Job]:
        """Return jobs, newest first.

        Args:
            states: Only jobs in one of these.
            name: Only jobs of exactly this name.
            labels: Only jobs that have every one of these.
            recent: Of jobs that are over, only this many of the newest. None: all.

        """
        return list(self.iter_jobs(states=states, name=name, labels=labels, recent=recent))

    def iter_jobs(
        self,
        *,
        states: Iterable[JobState | str] = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        recent: int | None = None,
    ) -> Iterator[Job]:
        """Yield the same as `list`, page by page."""
        request = wire.ListJobsRequest(
            states=[state_to_wire(_checked_state(state)) for state in several("states", states)],
            name=_checked_name(name, self.host),
            labels=text_pairs("label", labels),
            current_only=recent is not None,
            recent_limit=0 if recent is None else whole_of("recent", recent, _MAX_UINT32),
            page_size=_MAX_PAGE,
        )
        while True:
            page = self._connection.call(lambda stub: stub.ListJobs, request)
            for job in page.jobs:
                yield self._job(job)
            if page.next_before_id == 0:
                return
            request.before_id = page.next_before_id

    def wait(
        self,
        job_id: int,
        timeout_s: float | None = None,
        *,
        seen: Callable[[Job | Event], None] | None = None,
    ) -> Job:
        """Return the job once it is over.

        `seen` is called with the job as it is now, and with each event of it meanwhile.

        Raises:
            WaitTimeoutError: It was not over after `timeout_s` seconds.
            JobNotFoundError: There is no such job, or it was removed meanwhile.

        """
        from agentctl.api.watch import wait_for

        if timeout_s is not None:
            timeout_s = seconds_of("timeout_s", timeout_s)
        over = wait_for(self._connection, _checked_id(job_id, self.host), timeout_s, seen)
        return self.get(job_id) if over is None else over

    def logs(
        self,
        job_id: int,
        follow: bool = False,  # noqa: FBT001, FBT002  # DESIGN 10 writes logs(id, follow=False)
        *,
        offset: int | None = None,
        stderr: bool = False,
        tail_lines: int | None = None,
        since: str | float | datetime | None = None,
    ) -> Iterator[bytes]:
        """Yield the output as the job wrote it; what was dropped is left out without a word.

        With `follow` it goes on until the job is over. Begins at byte 0, or at one of `offset`,
        `tail_lines` and `since`: "10m" or seconds ago, or a time. `log_items` tells gaps and
        offsets.

        Raises:
            InvalidSpecError: At once; what the agent says comes with the first item.

        """
        from agentctl.api.logs import LogQuery

        query = LogQuery(
            job_id,
            stderr=stderr,
            follow=follow,
            offset=offset,
            tail_lines=tail_lines,
            since=since,
        )
        items = self.log_items(query)
        return (item.data for item in items if isinstance(item, Chunk))

    def log_items(self, query: LogQuery) -> Iterator[LogItem]:
        """Yield `Chunk` and `Gap` in order of offset, then one `Fin`."""
        from agentctl.api.logs import read_log

        _checked_id(query.job_id, self.host)
        return read_log(self._connection, query.checked())

    def events(
        self,
        *,
        follow: bool = False,
        after_seq: int = 0,
        job_ids: Iterable[int] = (),
    ) -> Iterator[Event]:
        """Yield what happened to all jobs, or to some, oldest first.

        Args:
            follow: Go on with what happens from now on, for ever.
            after_seq: Begin after this event; 0: with the oldest the agent remembers.
            job_ids: Only events of these jobs; with `follow`, end when all are over.

        """
        from agentctl.api.watch import events_of

        cursor = whole_of("after_seq", after_seq, _MAX_UINT64)
        chosen = [_checked_id(job_id, self.host) for job_id in several("job_ids", job_ids)]
        return events_of(self._connection, chosen, cursor, follow=follow)

    def last_event_seq(self) -> int:
        """Return the cursor of the newest event."""
        from agentctl.api.watch import last_event_seq

        return last_event_seq(self._connection)

    def stop(self, job_id: int, grace: str | float | None = None) -> Job:
        """Begin to stop the whole tree: SIGTERM, `grace`, SIGKILL. Returns at once.

        Args:
            job_id: Which job.
            grace: "10s", or seconds. None: the job's own. 0: SIGKILL at once.

        Raises:
            WrongStateError: It is over already.

        """
        wait = None
        if grace is not None:
            wait = Duration()
            wait.FromNanoseconds(to_ns(seconds_of("grace", grace)))
        request = wire.StopJobRequest(
            idempotency_key=_new_key(), job_id=_checked_id(job_id, self.host), grace=wait
        )
        return self._job(self._connection.call(lambda stub: stub.StopJob, request).job)

    def kill(self, job_id: int) -> Job:
        """SIGKILL the whole tree at once. Raises WrongStateError."""
        return self.stop(job_id, grace=0)

    def signal(self, job_id: int, number: int | str | signals.Signals) -> Job:
        """Send one signal, "USR1" or 10, to the job's process group. Raises WrongStateError."""
        try:
            checked = signal_number(str(int(number)) if isinstance(number, int) else str(number))
        except ValueError as error:
            raise InvalidSpecError(f"signal: {error}") from None
        request = wire.SignalJobRequest(
            idempotency_key=_new_key(), job_id=_checked_id(job_id, self.host), signal_number=checked
        )
        return self._job(self._connection.call(lambda stub: stub.SignalJob, request).job)

    def pause(self, job_id: int) -> Job:
        """SIGSTOP the whole tree. Raises WrongStateError."""
        request = wire.PauseJobRequest(
            idempotency_key=_new_key(), job_id=_checked_id(job_id, self.host)
        )
        return self._job(self._connection.call(lambda stub: stub.PauseJob, request).job)

    def resume(self, job_id: int) -> Job:
        """Let a paused job go on. Raises WrongStateError."""
        request = wire.ResumeJobRequest(
            idempotency_key=_new_key(), job_id=_checked_id(job_id, self.host)
        )
        return self._job(self._connection.call(lambda stub: stub.ResumeJob, request).job)

    def remove(self, job_id: int) -> None:
        """Delete a job that is over, its output included. Raises WrongStateError."""
        request = wire.RemoveJobRequest(
            idempotency_key=_new_key(), job_id=_checked_id(job_id, self.host)
        )
        try:
            self._connection.call(lambda stub: stub.RemoveJob, request)
        except JobNotFoundError as error:
            # The agent was killed in the middle, and its successor finished what was begun.
            if not error.asked_before:
                raise

    def guard(self) -> Guard:
        """Return the guard's view of host and jobs. Raises TryAgainError if it is silent."""
        from agentapi.v1.guard_service_pb2 import GetGuardRequest
        from agentapi.v1.guard_service_pb2_grpc import GuardServiceStub
        from agentctl.api.guard import guard_from_wire

        return guard_from_wire(
            self._connection.call_channel(
                lambda channel: GuardServiceStub(channel).GetGuard, GetGuardRequest()
            )
        )

    def agent_info(self) -> AgentInfo:
        """Return who answered."""
        from agentapi.v1 import agent_service_pb2
        from agentapi.v1.agent_service_pb2_grpc import AgentServiceStub

        info = self._connection.call_channel(
            lambda channel: AgentServiceStub(channel).GetAgentInfo,
            agent_service_pb2.GetAgentInfoRequest(),
        )
        return AgentInfo(
            warden_pid=info.warden_pid,
            server_pid=info.server_pid,
            version=info.version,
            api_level=info.api_level,
            socket=info.socket,
            state_dir=info.state_dir,
            started_at=time_from_wire(info.started_at),
            jobs=info.active_jobs,
            total_jobs=info.total_jobs,
            hostname=info.hostname,
            config_error=info.config_error,
        )

    def stop_agent(self) -> None:
        """Ask the agent to end; the jobs go on. It may still be ending on return."""
        from agentapi.v1 import agent_service_pb2
        from agentapi.v1.agent_service_pb2_grpc import AgentServiceStub

        # Once only: made again it would end an agent somebody has just started.
        self._connection.call_once(
            lambda channel: AgentServiceStub(channel).StopAgent,
            agent_service_pb2.StopAgentRequest(),
        )

    def _job(self, job: WireJob) -> Job:
        return job_from_wire(job, self.host)


def _new_key() -> str:
    return os.urandom(16).hex()


def _checked_id(job_id: int, host: str) -> int:
    if isinstance(job_id, bool) or not isinstance(job_id, int):
        raise InvalidSpecError(f"job id: {job_id!r} is not a number; names go through find()")
    if not 0 < job_id <= _MAX_UINT64:
        raise JobNotFoundError(
            f"no job has the id {job_id}; {on_host(host, 'ls --all')} lists them"
        )
    return job_id


def _checked_name(name: str | None, host: str) -> str:
    if name is not None and not isinstance(name, str):
        raise InvalidSpecError(f"name: {name!r} is not text")
    if name and not is_text(name):
        raise _no_such_name(name, host)
    return name or ""


def _no_such_name(name: str, host: str) -> JobNotFoundError:
    lists = f"{on_host(host, 'ls --all')} lists them"
    return JobNotFoundError(told(f"no job has the name {name!r}; {lists}"))


def _checked_state(state: JobState | str) -> JobState:
    try:
        return JobState(state)
    except ValueError:
        raise InvalidSpecError(
            f"state: {state!r} is none of {', '.join(known.value for known in JobState)}"
        ) from None
