"""`agentd bridge`: the agent's socket on stdin and stdout, for links that may not forward it.

Where sshd forbids forwarding, each connection of a client is one `ssh HOST agentd bridge`. So it
is the standard library's quick half alone, and is there in the time of a bare interpreter.
Before the first byte stands one line, the client's mark and who answers: whatever rc files
print comes before it. What else there is to say goes to stderr.
"""

from __future__ import annotations

import os
import select
import stat
import struct
import time

# The C half of `socket`: the Python half takes 3 ms to load.
from _socket import AF_UNIX, SHUT_WR, SO_PEERCRED, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET
from _socket import socket as c_socket

from agentd import __version__
from agentd.core.wire import API_LEVEL
from agentd.errors import AgentError, UnsafeDirectoryError
from agentd.paths import MAX_SOCKET_PATH_BYTES, Paths, default_paths
from agentd.system import plainjson
from agentd.system.files import check_private_directory, write_all
from agentd.system.interpreter import agentd_argv
from agentd.system.locks import is_locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_USAGE = "agentd bridge [--hello] [--no-start] [--mark HEX]"
_REFUSED = 1
_WRONG_USE = 2
_UNREACHABLE = 69
_TRY_AGAIN = 75
_READY_WITHIN_S = 30.0
_POLL_S = 0.01
#: As much as a socket takes at once by default, and what a chunk of log on the wire is.
_BUFFER_BYTES = 256 << 10
_LONGEST_MARK = 128
#: struct ucred (unix(7)): pid, uid, gid.
_UCRED = struct.Struct("iII")


class _RefusalError(Exception):
    """It cannot be done; with the exit status that says so."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class _Wish:
    """What the arguments ask for."""

    __slots__ = ("hello_only", "mark", "may_start")

    def __init__(self, words: Sequence[str]) -> None:
        """Read them. Raises _RefusalError."""
        self.hello_only = False
        self.may_start = True
        self.mark = ""
        rest = iter(words)
        for word in rest:
            if word == "--hello":
                self.hello_only = True
            elif word == "--no-start":
                self.may_start = False
            elif word == "--mark":
                self.mark = _checked_mark(next(rest, ""))
            else:
                raise _wrong_use(f"unknown argument {word!r}")


def _checked_mark(mark: str) -> str:
    if not 0 < len(mark) <= _LONGEST_MARK or set(mark) - set("0123456789abcdefABCDEF"):
        raise _wrong_use("--mark takes hexadecimal digits")
    return mark


def _wrong_use(line: str) -> _RefusalError:
    return _RefusalError(_WRONG_USE, f"{line}; usage: {_USAGE}")


def main(words: Sequence[str]) -> int:
    """Serve one connection; returns the exit status. Errors are one line on stderr."""
    try:
        if words and words[0] in {"-h", "--help"}:
            write_all(1, f"usage: {_USAGE}\n".encode())
            return 0
        return _serve(_Wish(words))
    except _RefusalError as error:
        return _complain(error.status, str(error))
    except AgentError as error:
        return _complain(_REFUSED, str(error))
    except BrokenPipeError:
        # Nobody listens any more: there is nobody to tell either.
        return _REFUSED
    except OSError as error:
        return _complain(_REFUSED, f"{error.strerror or error} (errno {error.errno})")


def _complain(status: int, line: str) -> int:
    try:
        os.write(2, f"agentd: {line}\n".encode(errors="backslashreplace"))
    except OSError:
        # The status says it.
        pass
    return status


def _serve(wish: _Wish) -> int:
    paths = default_paths(os.environ)
    path, connection = _reach(paths, may_start=wish.may_start)
    try:
        write_all(1, _hello(wish.mark, path, paths.state_dir))
        if not wish.hello_only:
            _relay(connection)
    finally:
        connection.close()
    return 0


def _hello(mark: str, path: str, state_dir: str) -> bytes:
    body = plainjson.dumps(
        {
            "version": __version__,
            "api_level": API_LEVEL,
            "socket": path,
            "state_dir": state_dir,
            "hostname": os.uname().nodename,
        }
    )
    return (f"{mark} ".encode() if mark else b"") + body + b"\n"


def _reach(paths: Paths, *, may_start: bool) -> tuple[str, c_socket]:
    """Connect to the agent, started if there is none; return its socket's path too.

    Raises:
        _RefusalError: There is none, or none that answers in time.
        AgentError: Socket or directory are not ours alone.

    """
    deadline_s = time.monotonic() + _READY_WITHIN_S
    while True:
        path = _socket_of(paths)
        connection = _connect(path)
        if connection is not None:
            return path, connection
        if is_locked(paths.pidfile) is False:
            if not may_start:
                raise _RefusalError(_REFUSED, "no agent is running")
            _start()
            # Once: one that ends again at once has a reason that a second start does not mend.
            may_start = False
        if time.monotonic() > deadline_s:
            raise _RefusalError(
                _TRY_AGAIN, f"the agent does not answer yet; see the files in {paths.log_dir}"
            )
        time.sleep(_POLL_S)


def _socket_of(paths: Paths) -> str:
    """Return where the living agent of this state directory answers, or would."""
    try:
        descriptor = os.open(paths.pidfile, os.O_RDONLY | os.O_CLOEXEC)
        try:
            hint = plainjson.loads(os.read(descriptor, 65536)).get("socket")
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return paths.socket
    # What an agent that is gone has left behind is no hint.
    usable = isinstance(hint, str) and hint and is_locked(paths.pidfile) is not False
    return str(hint) if usable else paths.socket


def _connect(path: str) -> c_socket | None:
    """Connect; None: nobody answers there.

    Raises:
        AgentError: The socket, its directory or who answers there is not ours alone.

    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise UnsafeDirectoryError(
            f"the socket path {path} is longer than {MAX_SOCKET_PATH_BYTES} bytes; "
            "set AGENTD_RUNTIME_DIR to a shorter directory"
        )
    directory = os.path.dirname(path)
    if not os.path.lexists(directory):
        return None
    check_private_directory(directory)
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise UnsafeDirectoryError(f"{path} is not a socket of yours; remove it")
    connection = c_socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return None
    _, uid, _ = _UCRED.unpack(connection.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED.size))
    if uid != os.geteuid():
        connection.close()
        raise UnsafeDirectoryError(f"uid {uid} listens at {path}, not you")
    return connection


def _start() -> None:
    """Run `agentd start`. Its output is not ours: only its last complaint is told."""
    import subprocess  # noqa: PLC0415  # rare, and slow to load

    # A file, not a pipe: whoever inherits it cannot keep us waiting for its end.
    complaints = os.memfd_create("agentd-start", os.MFD_CLOEXEC)
    try:
        done = subprocess.run(
            agentd_argv("start"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            start_new_session=True,
            timeout=_READY_WITHIN_S,
            check=False,
        )
        said = os.pread(complaints, 65536, 0).decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise _RefusalError(
            _TRY_AGAIN, f"the agent was not ready within {_READY_WITHIN_S:.0f} s"
        ) from None
    finally:
        os.close(complaints)
    if done.returncode == 0:
        return
    lines = [line for line in said.splitlines() if line.strip()]
    why = lines[-1].removeprefix("agentd: ") if lines else f"exit status {done.returncode}"
    status = _TRY_AGAIN if done.returncode == _TRY_AGAIN else _UNREACHABLE
    raise _RefusalError(status, f"the agent did not start: {why}")


class _Flow:
    """One direction: what was read and is not yet written."""

    __slots__ = ("_buffer", "_pending", "is_over", "sink", "source", "takes_more")

    def __init__(self, source: int, sink: int) -> None:
        """Neither may block."""
        self.source = source
        self.sink = sink
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._pending = self._buffer[:0]
        #: The source is not at its end.
        self.takes_more = True
        #: All is written that will ever be.
        self.is_over = False

    @property
    def is_full(self) -> bool:
        """Whether something waits to be written."""
        return len(self._pending) > 0

    def step(self) -> None:
        """Write what waits; read if nothing does."""
        try:
            if not self.is_full and self.takes_more:
                count = os.readv(self.source, [self._buffer])
                self._pending = self._buffer[:count]
                self.takes_more = count > 0
            while self._pending:
                self._pending = self._pending[os.write(self.sink, self._pending) :]
        except BlockingIOError:
            return
        except OSError:
            # Reset, or nobody takes it any more: this direction is at its end.
            self.takes_more = False
            self._pending = self._buffer[:0]
        self.is_over = not self.takes_more and not self.is_full


def _relay(connection: c_socket) -> None:
    """Copy both ways until both are at their end; an end of one is passed on as one."""
    peer = connection.fileno()
    connection.setblocking(False)
    were_blocking = {number: os.get_blocking(number) for number in (0, 1)}
    try:
        for number in were_blocking:
            os.set_blocking(number, False)
        _copy(_Flow(0, peer), _Flow(peer, 1))
    finally:
        # Shared with whoever started us, a shell for one.
        for number, was_blocking in were_blocking.items():
            try:
                os.set_blocking(number, was_blocking)
            except OSError:
                # Closed by now.
                continue


def _copy(towards: _Flow, back: _Flow) -> None:
    flows = [towards, back]
    while flows:
        events = _wait(flows)
        for flow in list(flows):
            if events.get(flow.sink if flow.is_full else flow.source):
                flow.step()
            # Hung up, not half-closed: nobody will ever read there.
            if flow.is_over or events.get(flow.sink, 0) & (select.POLLHUP | select.POLLERR):
                flows.remove(flow)
                _end(flow.sink)


def _wait(flows: Sequence[_Flow]) -> dict[int, int]:
    wanted: dict[int, int] = {}
    for flow in flows:
        # Asked for nothing, a hang-up is told all the same (poll(2)).
        reading, writing = (0, select.POLLOUT) if flow.is_full else (select.POLLIN, 0)
        wanted[flow.source] = wanted.get(flow.source, 0) | reading
        wanted[flow.sink] = wanted.get(flow.sink, 0) | writing
    poll = select.poll()
    for number, event in wanted.items():
        if event or number in [flow.sink for flow in flows]:
            poll.register(number, event)
    return dict(poll.poll())


def _end(number: int) -> None:
    """Tell whoever reads at the other end that there is no more."""
    if stat.S_ISSOCK(os.fstat(number).st_mode):
        # Under sshd stdin and stdout are one socket: closing one number tells nobody.
        half = c_socket(fileno=os.dup(number))
        try:
            half.shutdown(SHUT_WR)
        except OSError:
            # The other end was faster.
            pass
        finally:
            half.close()
    else:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
