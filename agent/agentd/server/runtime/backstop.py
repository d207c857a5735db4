"""Has the user's systemd delegate a cgroup to the jobs, so that the kernel backs the guard.

One transient unit a spawner, with the memory and pids controllers delegated. The spawner is
attached to it, and every shim and job that it forks from then on is in it; below it all is
done with plain file writes (`system.cgroups`).

A service, and no scope: systemd ends a scope as a whole when the kernel killed any process in
it for want of memory, and lets nobody choose otherwise before version 253 (systemd issue 25376,
OOMPolicy= in systemd.scope(5)). One job over its limit would take all others along. A service
has had OOMPolicy=continue since 243 (systemd.service(5)). It is of Type=forking without a main
process, so it is active for as long as any process is in its cgroup, and is unloaded with the
last one. Its own command only lives until the spawner is in.

Nothing here is needed for a job to run. Source: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from agentd.core import contract
from agentd.errors import WardenGoneError
from agentd.system import cgroups

if TYPE_CHECKING:
    from jeepney.io.asyncio import DBusRouter

#: A start of the server waits so long at most; on a host that has just booted it goes on beside.
PATIENCE_S = 2.0
DEADLINE_S = 10.0
#: The controllers to be delegated; without the first there is no backstop.
WANTED: tuple[str, ...] = ("memory", "pids")
_LINGER_DIR = "/var/lib/systemd/linger"
#: How long the unit holds itself open for the spawner, and how often that is tried.
_OPEN_FOR_S = "3"
_BETWEEN_TRIES_S = 0.005
#: Programs that a user runs (systemd.special(7)); background.slice has less of the CPU.
_SLICE = "app.slice"
_LINE_BYTES = 1024
_NO_LIMIT = (1 << 64) - 1
#: What the manager answers until it has begun to start the unit.
_NOT_YET = ("org.freedesktop.DBus.Error.InvalidArgs", "org.freedesktop.systemd1.NoSuchUnit")

_log = structlog.get_logger("agentd.backstop")


@dataclass(frozen=True, slots=True)
class Delegated:
    """The cgroup is ours and the spawner is in it."""

    path: str


@dataclass(frozen=True, slots=True)
class Absent:
    """There is none on this host, or not now: one line for people says why."""

    why: str


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel and systemd keep what is looked at; other places for tests."""

    cgroup_root: str = cgroups.ROOT
    linger_dir: str = _LINGER_DIR
    #: None: as the environment says.
    bus: str | None = None


class _RefusedError(Exception):
    """A call was answered with an error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text} ({name})")
        self.name = name


class Backstop:
    """The kernel's layer of the guard, as far as the server has a part in it."""

    def __init__(self, send: Callable[[contract.Message], None]) -> None:
        """`send` passes a message to the warden and may raise WardenGoneError."""
        self._send = send
        #: What is in force, or what is not and why; None before the first `install`.
        self.found: Delegated | Absent | None = None
        self._installing: asyncio.Task[None] | None = None

    @property
    def layer(self) -> str:
        """One line for people: whether the kernel backs the guard, or why not."""
        match self.found:
            case Delegated(path):
                return f"kernel backstop: each job in a cgroup of its own below {path}"
            case Absent(why):
                return f"no kernel backstop: {why}"
            case None:
                return "no kernel backstop yet: the user's systemd has not answered"

    async def install(self, spawner_pid: int, cgroup: str = "") -> None:
        """Have a cgroup delegated for this spawner; waits 2 s at most, though it may take longer.

        Args:
            spawner_pid: 0: nobody is to be moved now.
            cgroup: The one it is in already; empty: none.

        """
        if cgroup:
            self._note(Delegated(cgroup))
        elif spawner_pid:
            await asyncio.wait({self.install_later(spawner_pid)}, timeout=PATIENCE_S)

    def install_later(self, spawner_pid: int) -> asyncio.Task[None]:
        """Do the same for a spawner that took over, while the server goes on."""
        self.close()
        self._installing = asyncio.create_task(self._install(spawner_pid))
        return self._installing

    async def _install(self, spawner_pid: int) -> None:
        found = await delegate(spawner_pid)
        if isinstance(found, Delegated):
            try:
                self._send(contract.UseCgroup(found.path, spawner_pid))
            except WardenGoneError:
                # The next one has another spawner, and a server of its own.
                return
        self._note(found)

    def close(self) -> None:
        """Give up what is under way."""
        if self._installing is not None:
            self._installing.cancel()

    def _note(self, found: Delegated | Absent) -> None:
        """Say once what is in force; another cgroup of the same kind is no news."""
        if type(found) is type(self.found):
            self.found = found
            return
        self.found = found
        if isinstance(found, Delegated):
            _log.info("backstop.in_force", cgroup=found.path)
        else:
            _log.info("backstop.absent", why=found.why)


async def delegate(spawner_pid: int, places: Places | None = None) -> Delegated | Absent:
    """Have a cgroup delegated and the spawner moved into it, within 10 s. Never raises."""
    places = places or Places()
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await _delegate(spawner_pid, places)
    except TimeoutError:
        return Absent(f"the user's systemd did not answer within {DEADLINE_S:g} s")
    except Exception as error:  # noqa: BLE001  # a library's too: no reason not to serve
        return Absent(f"the user's systemd refused: {str(error) or type(error).__name__}")


async def _delegate(spawner_pid: int, places: Places) -> Delegated | Absent:
    if not cgroups.is_unified(places.cgroup_root):
        return Absent("this host has no unified cgroup v2")
    bus = places.bus or _bus_address()
    if bus is None:
        return Absent("no systemd of the user runs here (no user bus)")
    async with _connected(bus) as router:
        own = await _control_group(router)
        if not _has_memory(places.cgroup_root + own):
            return Absent("the memory controller is not delegated to the user's systemd")
        why = _why_not_there(spawner_pid, own, places)
        if why:
            return Absent(why)
        unit = f"agentd-jobs-{spawner_pid}-{secrets.token_hex(4)}.service"
        await _start_unit(router, unit)
        await _attach(router, unit, spawner_pid)
    return _prepared(spawner_pid, unit, places)


def _why_not_there(spawner_pid: int, own: str, places: Places) -> str:
    """Say why the jobs must not be moved below the user's systemd; empty: they may.

    Without lingering it is stopped at the last logout, and all below it is killed (loginctl(1),
    enable-linger). Jobs that are there already lose nothing.
    """
    path = cgroups.of_process(spawner_pid)
    if path is None:
        return "the spawner ended meanwhile"
    if path.startswith(f"{own}/") or os.path.exists(f"{places.linger_dir}/{_user_name()}"):
        return ""
    return (
        "without lingering the user's systemd would end the jobs at the logout; "
        "run: loginctl enable-linger"
    )


def _user_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _bus_address() -> str | None:
    """Return where the user's systemd listens; None: nowhere."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    path = f"{runtime_dir}/bus"
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            return f"unix:path={path}"
    except OSError:
        # Perhaps at another place.
        pass
    return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or None


@asynccontextmanager
async def _connected(bus: str) -> AsyncIterator[DBusRouter]:
    """Yield a connection to a bus, closed whenever this is cancelled: jeepney's own is not."""
    # Tens of milliseconds of a start, and only where there is something to talk to.
    from jeepney.auth import BEGIN, Authenticator  # noqa: PLC0415
    from jeepney.bus import get_bus  # noqa: PLC0415
    from jeepney.bus_messages import message_bus  # noqa: PLC0415
    from jeepney.io.asyncio import DBusConnection, DBusRouter, Proxy  # noqa: PLC0415

    reader, writer = await asyncio.open_unix_connection(get_bus(bus))
    try:
        authenticator = Authenticator()
        for request in authenticator:
            writer.write(request)
            answer = await reader.read(_LINE_BYTES)
            if not answer:
                raise ConnectionResetError("the bus hung up")
            authenticator.feed(answer)
        writer.write(BEGIN)
        async with DBusRouter(DBusConnection(reader, writer)) as router:
            await Proxy(message_bus, router).Hello()
            yield router
    finally:
        writer.close()


def _prepared(spawner_pid: int, unit: str, places: Places) -> Delegated | Absent:
    path = cgroups.of_process(spawner_pid)
    if path is None or os.path.basename(path) != unit:
        return Absent("the spawner was not moved into its unit")
    full = places.cgroup_root + path
    if not _has_memory(full):
        return Absent("the user's systemd did not hand the memory controller on")
    cgroups.prepare(full, WANTED)
    return Delegated(full)


def _has_memory(path: str) -> bool:
    return set(WANTED[:1]) <= set(cgroups.controllers(path))


async def _control_group(router: DBusRouter) -> str:
    """Return the cgroup of the manager itself: user@1000.service."""
    interface, name = "org.freedesktop.systemd1.Manager", "ControlGroup"
    body = await _call(
        router, "Get", "ss", (interface, name), interface="org.freedesktop.DBus.Properties"
    )
    path: str = body[0][1]
    return path


async def _start_unit(router: DBusRouter, unit: str) -> None:
    sleep = shutil.which("sleep") or "/bin/sleep"
    properties: list[tuple[str, tuple[str, Any]]] = [
        ("Description", ("s", "Jobs of agentd")),
        ("Slice", ("s", _SLICE)),
        ("Type", ("s", "forking")),
        ("GuessMainPID", ("b", False)),
        ("ExecStart", ("a(sasb)", [(sleep, [sleep, _OPEN_FOR_S], False)])),
        ("DelegateControllers", ("as", [*WANTED])),
        ("OOMPolicy", ("s", "continue")),
        # The default would be a limit that no job has without us.
        ("TasksMax", ("t", _NO_LIMIT)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    await _call(router, "StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", properties, []))


async def _attach(router: DBusRouter, unit: str, pid: int) -> None:
    """Move a process into the unit, as soon as that is being started."""
    while True:
        try:
            await _call(router, "AttachProcessesToUnit", "ssau", (unit, "", [pid]))
        except _RefusedError as error:
            if error.name not in _NOT_YET:
                raise
            await asyncio.sleep(_BETWEEN_TRIES_S)
            continue
        return


async def _call(
    router: DBusRouter,
    method: str,
    signature: str,
    body: tuple[Any, ...],
    *,
    interface: str = "org.freedesktop.systemd1.Manager",
) -> tuple[Any, ...]:
    from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call  # noqa: PLC0415

    manager = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", interface)
    call = new_method_call(manager, method, signature, body)
    reply = await router.send_and_get_reply(call)
    answer: tuple[Any, ...] = reply.body
    if reply.header.message_type is MessageType.error:
        name = reply.header.fields.get(HeaderFields.error_name, "")
        raise _RefusedError(name, str(answer[0]) if answer else method)
    return answer
