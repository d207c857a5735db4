"""One `agentctl forward`: which listeners there are to be, until nothing is left to forward."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from agentctl.api.forward import Tunnel, ports_of
from agentctl.commands.base import out, warn
from agentctl.commands.jobs import find
from agentctl.errors import (
    AgentctlError,
    InvalidSpecError,
    JobNotFoundError,
    RefusedError,
    TryAgainError,
    WrongStateError,
)
from agentctl.forward.places import Memory, candidates, listen
from agentctl.forward.relay import Relay
from agentctl.forward.request import Wanted
from agentctl.link import is_local
from agentctl.paths import state_directory
from agentctl.ports import Place, Target, TcpPlace, UnixPlace
from agentctl.words import printable

if TYPE_CHECKING:
    import socket

    from agentctl.api.client import Client
    from agentctl.model import Job

#: Between looks at a job's ports: while it has none somebody waits for the first.
_LOOK_FIRST_S = 0.3
_LOOK_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class _OfJob:
    """A job whose ports are forwarded, all or only those asked for."""

    job: Job
    all_ports: bool


class Session:
    """The listeners of one command. Not for several threads."""

    def __init__(self, client: Client, *, as_json: bool) -> None:
        """Nothing listens before `run`."""
        self._client = client
        self._as_json = as_json
        self._memory = Memory(state_directory(os.environ))
        self._relays: dict[Target, Relay] = {}
        self._told_waiting: set[int] = set()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every listener, and break off what goes through them."""
        for relay in self._relays.values():
            relay.close()

    def run(self, wanted: Sequence[Wanted]) -> None:
        """Forward until the jobs asked for are over; a port of the host has no end.

        Raises:
            AgentctlError: A job is not there or over, or no local port is to be had.

        """
        jobs: list[_OfJob] = []
        has_end = True
        for one in wanted:
            job = find(self._client, one.job) if one.job else None
            if job is None:
                has_end = False
            else:
                if job.is_over:
                    raise WrongStateError(f"job {job.id} is over: nothing of it listens any more")
                jobs.append(_OfJob(job, one.place is None))
            if one.place is not None:
                self._forward(one.place, job, one.local, "")
        self._mind(jobs, has_end=has_end)

    def _mind(self, jobs: list[_OfJob], *, has_end: bool) -> None:
        """Look for new ports and for the ends of jobs, as long as there is anything to do."""
        tick = threading.Event()
        while jobs or not has_end:
            jobs = [one for one in jobs if self._look(one)]
            waits = any(one.all_ports and not self._has_ports(one.job) for one in jobs)
            if jobs or not has_end:
                tick.wait(_LOOK_FIRST_S if waits else _LOOK_AGAIN_S)

    def _look(self, one: _OfJob) -> bool:
        """Forward what is new of a job; say whether it goes on."""
        try:
            found = ports_of(self._client.connection, one.job.id)
        except (WrongStateError, JobNotFoundError):
            warn(f"agentctl: job {one.job.id} is over")
            self._drop(one.job)
            return False
        except TryAgainError:
            # The link is away: the listeners stay, and whoever connects is told.
            return True
        if not one.all_ports:
            return True
        for port in found:
            if Target(port.place, one.job.id) not in self._relays:
                self._forward(port.place, one.job, None, port.process_name)
        if not found and one.job.id not in self._told_waiting:
            self._told_waiting.add(one.job.id)
            warn(f"agentctl: job {one.job.id} listens on no port yet; waiting for one")
        return True

    def _has_ports(self, job: Job) -> bool:
        return any(target.job_id == job.id for target in self._relays)

    def _drop(self, job: Job) -> None:
        for target in [target for target in self._relays if target.job_id == job.id]:
            self._relays.pop(target).close()

    def _forward(self, place: Place, job: Job | None, local: int | None, program: str) -> None:
        target = Target(place, None if job is None else job.id)
        if target in self._relays:
            return
        key = " ".join((self._client.host, _named(job), str(place)))
        number = place.number if isinstance(place, TcpPlace) else None
        ports = candidates(local, self._memory.recall(key), number)
        try:
            listener = listen(ports)
        except OSError as error:
            raise RefusedError(
                f"no local port for {place}: {error.strerror}; name one: agentctl forward LOCAL:…"
            ) from None
        if number is not None and is_local(self._client.host):
            _refuse_itself(listener, number, job)
        relay = Relay(listener, lambda: Tunnel(self._client.connection, target), self._complain)
        self._relays[target] = relay
        if relay.port != ports[0] != 0:
            warn(f"agentctl: port {ports[0]} is taken on this machine; using {relay.port} instead")
        self._keep(key, relay.port)
        self._tell(relay.port, target, job, program)

    def _keep(self, key: str, port: int) -> None:
        try:
            self._memory.keep(key, port)
        except (AgentctlError, OSError) as error:
            warn(f"agentctl: the local port will not be remembered: {error}")

    def _complain(self, line: str) -> None:
        warn(f"agentctl: {self._client.host}: {line}")

    def _tell(self, port: int, target: Target, job: Job | None, program: str) -> None:
        url = f"http://127.0.0.1:{port}"
        if self._as_json:
            out(json.dumps(_to_json(url, port, target, self._client.host, program)))
        else:
            whose = "" if job is None else f" of job {job.id}{f' ({job.name})' if job.name else ''}"
            out(printable(f"{url}  {self._client.host}: {target.place}{whose}"))
        if sys.stdout is not None:
            sys.stdout.flush()


def _refuse_itself(listener: socket.socket, number: int, job: Job | None) -> None:
    """Raise InvalidSpecError for a listener of this machine that would lead to itself.

    Every connection would make the next one, without end; and a job that is to listen there
    could not any more.
    """
    if listener.getsockname()[1] != number:
        return
    listener.close()
    whose = "" if job is None else f"{job.name or job.id}:"
    raise InvalidSpecError(
        f"{number} is a port of this machine already; give another local one: "
        f"agentctl forward LOCAL:{whose}{number}"
    )


def _named(job: Job | None) -> str:
    """Return what stays the same when the job is submitted again. Pure."""
    return "" if job is None else f"job {job.name or job.id}"


def _to_json(url: str, port: int, target: Target, host: str, program: str) -> dict[str, object]:
    place = target.place
    return {
        "url": url,
        "local_port": port,
        "host": host,
        "job_id": target.job_id,
        "port": place.number if isinstance(place, TcpPlace) else None,
        "path": str(place) if isinstance(place, UnixPlace) else None,
        "process_name": program or None,
    }
