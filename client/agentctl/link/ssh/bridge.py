"""The route where sshd forbids forwarding: one `agentd bridge` for each connection.

gRPC connects to sockets, so this process listens at one of its own in the runtime directory.
Each connection becomes a session of the master, which itself reads and writes the pipes.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from agentctl.link.local import agent_environment
from agentctl.link.private import forget_file
from agentctl.link.ssh import remote
from agentctl.link.ssh.process import look

if TYPE_CHECKING:
    from subprocess import Popen

#: The end of the name of such a socket: KEY-PID-TICKS.bridge
_SUFFIX = ".bridge"
_PIPE_BYTES = 1 << 20
#: The most that start-up files may print before the mark.
_LONGEST_NOISE_BYTES = 4 << 20
#: How long the way to the agent may take; it may have to be started there.
_MARK_WITHIN_S = 30.0
#: How long the far end has to follow when the near end is gone.
_LINGER_S = 2.0
#: struct ucred (unix(7)): pid, uid, gid.
_UCRED = struct.Struct("iII")


class Bridge:
    """A listening socket of this process behind which the far agent answers. Thread-safe."""

    def __init__(
        self,
        directory: str,
        key: str,
        command: Callable[[str], list[str]],
        meant: remote.FarAgent,
    ) -> None:
        """Listen, with `command(mark)` as what leads to the agent once `mark` was printed.

        A connection that would lead to another one than `meant` is closed. Raises OSError.
        """
        sweep(directory, key)
        self._command = command
        self.meant = meant
        self._lock = threading.Lock()
        self._children: set[Popen[bytes]] = set()
        self._is_closed = False
        me = look(os.getpid())
        ticks = 0 if me is None else me.process.started_ticks
        unique = os.urandom(2).hex()
        self.path = f"{directory}/{key[:8]}-{os.getpid()}-{ticks}-{unique}{_SUFFIX}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(self.path)
        self._listener.listen(16)
        atexit.register(self.close)
        threading.Thread(target=self._accept, name="agentctl-bridge", daemon=True).start()

    def close(self) -> None:
        """End every connection and remove the socket. May be called twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            children = list(self._children)
        atexit.unregister(self.close)
        forget_file(self.path)
        # A close alone would not wake the thread that accepts.
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        for child in children:
            child.kill()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if _uid_of(connection) != os.geteuid():
                connection.close()
                continue
            serve = threading.Thread(
                target=self._serve, args=(connection,), name="agentctl-relay", daemon=True
            )
            serve.start()

    def _serve(self, connection: socket.socket) -> None:
        mark = os.urandom(16).hex()
        with connection:
            child = self._launch(self._command(mark))
            if child is None:
                return
            try:
                _relay(connection, child, mark, self.meant)
            finally:
                with self._lock:
                    self._children.discard(child)
                child.kill()
                if child.stdout is not None:
                    child.stdout.close()
                child.wait()

    def _launch(self, command: list[str]) -> Popen[bytes] | None:
        import subprocess

        with self._lock:
            if self._is_closed:
                return None
            try:
                child = subprocess.Popen(
                    command,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    # Why it failed is asked anew, by whoever finds that it did.
                    stderr=subprocess.DEVNULL,
                    env=agent_environment(),
                    cwd="/",
                    # Ctrl-C is for whoever follows a log, who may want to say good-bye first.
                    start_new_session=True,
                    pipesize=_PIPE_BYTES,
                )
            except OSError:
                return None
            self._children.add(child)
            return child


def sweep(directory: str, key: str) -> None:
    """Remove the sockets of processes that were killed before they could."""
    for name in os.listdir(directory):
        if not name.startswith(key[:8]) or not name.endswith(_SUFFIX):
            continue
        _, pid, ticks, _ = name.split("-")
        stat = look(int(pid))
        if stat is None or stat.process.started_ticks != int(ticks):
            forget_file(f"{directory}/{name}")


def _uid_of(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid: int = _UCRED.unpack(credentials)[1]
    return uid


def _relay(
    connection: socket.socket, child: Popen[bytes], mark: str, meant: remote.FarAgent
) -> None:
    """Copy both ways until the far end is at its own."""
    assert child.stdin is not None  # noqa: S101  # both were asked for above
    assert child.stdout is not None  # noqa: S101  # same
    # What is written before the mark could be read by a start-up file.
    if not _is_greeted(connection, child.stdout.fileno(), mark, meant):
        child.stdin.close()
        return
    # Its own number for the socket: this thread may still write when the other one is done.
    upward = (connection.dup(), child.stdin, child)
    up = threading.Thread(target=_move_up, args=upward, name="agentctl-relay-up", daemon=True)
    up.start()
    _move(child.stdout.fileno(), connection.fileno())
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _move_up(source: socket.socket, sink: IO[bytes], child: Popen[bytes]) -> None:
    import subprocess

    with source, sink:
        _move(source.fileno(), sink.fileno())
    try:
        # HTTP/2 never closes one half alone: an end here is the end of all.
        child.wait(_LINGER_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _move(source: int, sink: int) -> None:
    """Copy bytes until the source is at its end or the sink takes no more."""
    buffer = memoryview(bytearray(_PIPE_BYTES))
    try:
        while count := os.readv(source, [buffer]):
            left = buffer[:count]
            while left:
                left = left[os.write(sink, left) :]
    except OSError:
        pass


def _is_greeted(connection: socket.socket, source: int, mark: str, meant: remote.FarAgent) -> bool:
    """Read to the end of the line with the mark; hand on what was read behind it."""
    line, behind = _marked_line(connection, source, f"{mark} ".encode())
    hello = remote.hello_in(line, mark)
    if hello is None or hello.agent != meant:
        return False
    try:
        connection.sendall(behind)
    except OSError:
        return False
    return True


def _marked_line(connection: socket.socket, source: int, sought: bytes) -> tuple[bytes, bytes]:
    """Return the line from `sought` to its end, and what was read behind it.

    Both are empty if it does not come in time, or if nobody waits for it any more.
    """
    deadline_s = time.monotonic() + _MARK_WITHIN_S
    kept = bytearray()
    got_bytes, seen_bytes, is_found = 0, 0, False
    while got_bytes < _LONGEST_NOISE_BYTES and _can_read(connection, source, deadline_s):
        chunk = os.read(source, 65536)
        if not chunk:
            break
        got_bytes += len(chunk)
        kept += chunk
        if not is_found:
            at = kept.find(sought)
            is_found = at >= 0
            # Of noise only what could be the beginning of the mark.
            del kept[: at if is_found else max(0, len(kept) - len(sought) + 1)]
        end = kept.find(b"\n", seen_bytes) if is_found else -1
        if end >= 0:
            return bytes(kept[: end + 1]), bytes(kept[end + 1 :])
        seen_bytes = len(kept) if is_found else 0
    return b"", b""


def _can_read(connection: socket.socket, source: int, deadline_s: float) -> bool:
    """Wait until the source has something; False: the connection or the time is at its end."""
    poller = select.poll()
    poller.register(source, select.POLLIN)
    # Not what it sends, which may wait: only that it is gone.
    poller.register(connection, select.POLLRDHUP)
    left_ms = max(0.0, deadline_s - time.monotonic()) * 1000
    ready = {descriptor for descriptor, _ in poller.poll(left_ms)}
    return source in ready and connection.fileno() not in ready
