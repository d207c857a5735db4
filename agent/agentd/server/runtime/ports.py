"""Ports of jobs and of the host: which there are, and a connection to one of them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from agentd.core.job import Ended, Paused, ProcessId, Running, StartFailed, Stopping
from agentd.errors import InvalidSpecError, PortRefusedError, WrongStateError
from agentd.paths import Paths
from agentd.server.runtime.model import JobInfo
from agentd.system import jobdir, process
from agentd.system.files import system_error
from agentd.system.ports import Listening, Place, TcpPort, UnixPort, listening

#: Loopback and unix sockets answer at once, or their queue is full.
_CONNECT_WITHIN_S = 10.0
#: Places of jobs that were found once: a look at all of /proc for each connection would be felt.
_MOST_KNOWN = 1000
_LOOPBACKS = ("127.0.0.1", "::1")
#: struct ucred: pid, uid, gid.
_UCRED = struct.Struct("3i")
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection is to lead. No job: any TCP port of the host's loopback."""

    job_id: int | None
    place: int | bytes


class Ports:
    """Looks for ports and connects to them. Belongs to one event loop."""

    def __init__(self, paths: Paths, job_of: Callable[[int], JobInfo]) -> None:
        """`job_of` raises JobNotFoundError."""
        self._paths = paths
        self._job_of = job_of
        self._known: dict[Target, tuple[ProcessId, Place]] = {}

    async def of_job(self, job_id: int) -> list[Listening]:
        """Return where the job's own processes listen.

        Raises:
            JobNotFoundError: There is no such job.
            WrongStateError: It is over.
            AgentError: The kernel or the job's records do not tell.

        """
        info = self._job_of(job_id)
        if isinstance(info.state, Ended | StartFailed):
            raise WrongStateError(f"job {job_id} is over: nothing of it listens any more")
        return await asyncio.to_thread(_listening_of, self._paths.job(job_id), info)

    async def connect(self, target: Target) -> socket.socket:
        """Return a connected socket that does not block; the caller closes it.

        Raises:
            JobNotFoundError: There is no such job.
            WrongStateError: It is over.
            InvalidSpecError: There can be no such place.
            PortRefusedError: Nobody listens there, or it does not take the connection.

        """
        if target.job_id is None:
            if isinstance(target.place, bytes):
                raise InvalidSpecError("target: a unix socket is reached through its job")
            if not 0 < target.place <= _LARGEST_PORT:
                raise InvalidSpecError(f"target: there is no port {target.place}")
            return await _connect_any(target.place)
        return await _connect(await self._place_in_job(target, target.job_id))

    async def _place_in_job(self, target: Target, job_id: int) -> Place:
        self._job_of(job_id)
        known = self._known.get(target)
        if known is not None and _is_still_there(*known):
            return known[1]
        self._known.pop(target, None)
        for one in await self.of_job(job_id):
            if _key(one.place) == target.place:
                who = process.identify(one.pid)
                if who is not None and len(self._known) < _MOST_KNOWN:
                    self._known[target] = (who, one.place)
                return one.place
        raise PortRefusedError(
            f"job {job_id} does not listen on {_text(target.place)}; its log may say where it does"
        )


def _key(place: Place) -> int | bytes:
    return place.number if isinstance(place, TcpPort) else place.path


def _text(place: int | bytes) -> str:
    return f"port {place}" if isinstance(place, int) else place.decode(errors="backslashreplace")


def _is_still_there(who: ProcessId, place: Place) -> bool:
    try:
        return process.is_alive(who) and any(one.place == place for one in listening((who.pid,)))
    except OSError:
        return False


def _listening_of(directory: str, info: JobInfo) -> list[Listening]:
    try:
        return listening(_members(directory, info))
    except OSError as error:
        raise system_error(f"look for the ports of job {info.spec.id}", error) from error


def _members(directory: str, info: JobInfo) -> list[int]:
    """Return the job's processes: those below its shim, and those that carry its mark."""
    found: set[int] = set()
    leader = None
    match info.state:
        case Running(handle) | Paused(handle):
            leader, shim_pid = handle.leader, handle.shim_pid
        case Stopping(handle=handle) if handle is not None:
            leader, shim_pid = handle.leader, handle.shim_pid
        case _:
            shim_pid = None
    if shim_pid is not None:
        found.update(process.descendants(shim_pid))
    spec = jobdir.read_spec(directory)
    if spec is not None:
        found.update(process.find_members(spec.uid, leader))
    return sorted(found - {shim_pid})


async def _connect_any(number: int) -> socket.socket:
    for address in _LOOPBACKS:
        try:
            return await _connect(TcpPort(number, address))
        except PortRefusedError:
            continue
    raise PortRefusedError(f"nothing listens on port {number}; start it, or name another port")


async def _connect(place: Place) -> socket.socket:
    made = None
    try:
        made, where = _socket_for(place)
        async with asyncio.timeout(_CONNECT_WITHIN_S):
            await asyncio.get_running_loop().sock_connect(made, where)
        _refuse_strangers(made)
    except OSError as error:
        # TimeoutError is one too.
        why = error.strerror or "it does not answer"
        _close(made)
        raise PortRefusedError(f"{_text(_key(place))} takes no connection: {why}") from error
    except BaseException:
        _close(made)
        raise
    return made


def _refuse_strangers(made: socket.socket) -> None:
    """Raise PermissionError if another user listens at a unix socket: anybody may make a path.

    The kernel notes who called listen(2) (SO_PEERCRED, unix(7)).
    """
    if made.family != socket.AF_UNIX:
        return
    credentials = made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    if uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"uid {uid} listens there, not you")


def _socket_for(place: Place) -> tuple[socket.socket, tuple[str, int] | bytes]:
    """Return a socket that does not block, and where to connect it to. Raises OSError."""
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    if isinstance(place, UnixPort):
        return socket.socket(socket.AF_UNIX, kind), place.path
    made = socket.socket(socket.AF_INET6 if ":" in place.address else socket.AF_INET, kind)
    # What is forwarded comes in pieces of the sender's choice.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made, (place.address, place.number)


def _close(made: socket.socket | None) -> None:
    if made is not None:
        made.close()
