"""Publishes the gRPC server at ``agent.sock`` and keeps it there.

A second gRPC server silently takes over a path it is told to listen on, and on its end gRPC
unlinks the path whosever socket is there by then. So a server binds a name of its own,
``grpc-<pid>-<n>.sock``, which is then renamed: a rename is atomic, and what gRPC later unlinks is
only the name that no longer exists.

A cleaner of /tmp may take the socket or its directory away while the agent lives. Both are
made anew, with a new server object behind the same services; the calls open on the old one
go on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Coroutine, Sequence

import grpc
import structlog

from agentd.errors import AgentError, UnsafeDirectoryError
from agentd.paths import MAX_SOCKET_PATH_BYTES, Paths
from agentd.server.runtime.filewatch import FileWatches, Interest
from agentd.system.files import ensure_private_directory, system_error

#: A message: a page of jobs, a submit with a large environment, a chunk of log.
_MAX_MESSAGE_BYTES = 16 << 20
#: How long calls on a server that lost its socket may go on.
_OLD_CALLS_S = 3600.0

_OPTIONS: tuple[tuple[str, int], ...] = (
    # A second server must fail to bind, not share.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A client behind ssh pings to notice a frozen link soon; without these two the server
    # answers pings more frequent than every five minutes with GOAWAY "too_many_pings".
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
)

_log = structlog.get_logger()


class Listener:
    """The agent's socket and the gRPC server behind it."""

    def __init__(
        self,
        paths: Paths,
        interceptor: grpc.aio.ServerInterceptor,
        register: Callable[[grpc.aio.Server], None],
    ) -> None:
        """`register` adds the services to a new server object."""
        self._paths = paths
        self._interceptors: Sequence[grpc.aio.ServerInterceptor] = (interceptor,)
        self._register = register
        self._server: grpc.aio.Server | None = None
        self._inode: tuple[int, int] | None = None
        self._count = 0
        self._stopping = False
        self._publishing = asyncio.Lock()
        # The loop itself holds tasks only weakly.
        self._tasks: set[asyncio.Task[None]] = set()
        self._complaint = ""
        self._watches: FileWatches | None = None
        # One object: a watch knows its callbacks by identity.
        self._wake = self._on_change

    async def publish(self) -> None:
        """Answer at the agent's socket from now on.

        Raises:
            UnsafeDirectoryError: The runtime directory is not ours alone, or its path too long.
            SystemCallError: The socket cannot be made.

        """
        private = f"{self._paths.runtime_dir}/grpc-{os.getpid()}-{self._count}.sock"
        self._count += 1
        if len(os.fsencode(private)) > MAX_SOCKET_PATH_BYTES:
            raise UnsafeDirectoryError(
                f"the socket path {private} is longer than {MAX_SOCKET_PATH_BYTES} bytes; "
                "set AGENTD_RUNTIME_DIR to a shorter directory"
            )
        ensure_private_directory(self._paths.runtime_dir)
        _remove_leftovers(self._paths.runtime_dir)
        server = grpc.aio.server(interceptors=self._interceptors, options=_OPTIONS)
        self._register(server)
        try:
            server.add_insecure_port(f"unix:{private}")
            await server.start()
            os.chmod(private, 0o600)
            status = os.lstat(private)
            os.rename(private, self._paths.socket)
        except RuntimeError as error:
            # grpc hides the errno: the directory is checked, so it is the path or the disk.
            raise UnsafeDirectoryError(f"cannot listen at {private}: {error}") from error
        except OSError as error:
            raise system_error(f"publish the socket {self._paths.socket}", error) from error
        old, self._server = self._server, server
        self._inode = (status.st_dev, status.st_ino)
        if old is not None:
            self._start(_stop_old(old))

    def watch(self, watches: FileWatches) -> None:
        """Look whenever a name in the runtime directory changes. Asked again: only if needed.

        Without a watch `look` is still called now and then by whoever owns the listener.
        """
        self._watches = watches
        try:
            watches.add(self._paths.runtime_dir, Interest.NAMES, self._wake)
        except OSError as error:
            _log.debug("socket.unwatched", error=str(error))

    def _on_change(self) -> None:
        if not self._is_published():
            self._start(self.look())

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def look(self) -> None:
        """Publish again if the socket is gone or no longer ours. Never raises for that."""
        async with self._publishing:
            if self._stopping or self._is_published():
                return
            if _answers(self._paths.socket):
                self._complain("another agent listens at the socket", error="")
                return
            try:
                await self.publish()
            except AgentError as error:
                self._complain("cannot publish again", error=str(error))
                return
            self._complaint = ""
            _log.warning("socket.published_again", socket=self._paths.socket)
            if self._watches is not None:
                # The directory may be another one now.
                self.watch(self._watches)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, let those under way end within `grace_s`, remove the socket."""
        self._stopping = True
        async with self._publishing:
            if self._is_published():
                os.unlink(self._paths.socket)
            if self._server is not None:
                await self._server.stop(grace_s)
        for task in tuple(self._tasks):
            task.cancel()

    def _is_published(self) -> bool:
        try:
            status = os.lstat(self._paths.socket)
        except OSError:
            return False
        return self._inode == (status.st_dev, status.st_ino) and stat.S_ISSOCK(status.st_mode)

    def _complain(self, what: str, *, error: str) -> None:
        if (what + error) != self._complaint:
            self._complaint = what + error
            _log.error("socket.lost", socket=self._paths.socket, what=what, error=error)


async def _stop_old(server: grpc.aio.Server) -> None:
    await server.stop(_OLD_CALLS_S)


def _answers(path: str) -> bool:
    """Say whether somebody listens there: a socket that is in use is not taken away from them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            # Its queue is full: somebody listens.
            return True
        except OSError:
            return False
        return True


def _remove_leftovers(runtime_dir: str) -> None:
    """Remove sockets of servers that died between bind and rename."""
    for name in os.listdir(runtime_dir):
        if not (name.startswith("grpc-") and name.endswith(".sock")):
            continue
        path = f"{runtime_dir}/{name}"
        if not _answers(path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
