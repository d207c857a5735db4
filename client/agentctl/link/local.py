"""The agent of this machine: found by its socket, started when there is none.

A connect(2) is the only proof that an agent answers; its pidfile is a hint where. Whether a
warden lives is told by the lock on that pidfile, looked at without being taken (F_OFD_GETLK,
fcntl(2)), so that a look never makes an agent fail to start.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time

from agentctl.errors import (
    EXIT_TRY_AGAIN,
    AgentNotRunningError,
    HostUnreachableError,
    InvalidSpecError,
    TryAgainError,
    UnsafeDirectoryError,
)
from agentctl.link import LOCAL
from agentctl.link.private import is_private
from agentctl.paths import MAX_SOCKET_PATH_BYTES, Paths, default_paths

_FLOCK = struct.Struct("hhqqi4x")
_WRITE_LOCK = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_LOOK_EVERY_S = 0.01
_START_WITHIN_S = 60.0
_STARTING = threading.Lock()


class LocalLink:
    """The way to the agent of this machine and user."""

    host = LOCAL
    is_remote = False

    def __init__(self, paths: Paths, *, start_agent: bool) -> None:
        """Use the agent of `paths`; with `start_agent` one is started where none runs."""
        self.paths = paths
        self._start_agent = start_agent

    @classmethod
    def of_environment(cls, *, start_agent: bool) -> LocalLink:
        """Return the link to the agent this process' environment names.

        Raises:
            InvalidSpecError: A directory is relative: it would be another one elsewhere.

        """
        for name in ("AGENTD_STATE_DIR", "AGENTD_RUNTIME_DIR"):
            value = os.environ.get(name)
            if value and not os.path.isabs(value):
                raise InvalidSpecError(f"{name}: {value!r} is not an absolute path")
        return cls(default_paths(os.environ), start_agent=start_agent)

    def doubt(self, path: str) -> str | None:
        """Say which state directory the agent there must have, if that is not known."""
        if self._pidfile_entry("socket") == path and self.warden_lives():
            return None
        return self.paths.state_dir

    def connect(self, patience_s: float) -> str:
        """Return the socket of the agent, started if need be. See `Link.connect`."""
        path = self.answering_socket()
        if path is not None:
            return path
        # One start at a time, and none for those who waited for it.
        with _STARTING:
            return self._wait_or_start(time.monotonic() + patience_s)

    def broken(self, path: str) -> None:
        """Note nothing: every `connect` looks as deep as it can."""

    def close(self) -> None:
        """Let go of nothing: none is held."""

    def _wait_or_start(self, deadline_s: float) -> str:
        failure = TryAgainError(
            "the agent does not answer yet; try again, or see: agentctl agent logs"
        )
        tried = False
        while True:
            path = self.answering_socket()
            if path is not None:
                return path
            if (tried or self.warden_lives()) and time.monotonic() > deadline_s:
                raise failure
            if not self.warden_lives():
                if not self._start_agent:
                    raise AgentNotRunningError(
                        "no agent is running; start it with: agentctl agent start"
                    )
                # One that is killed while it starts is no reason to give up before the time.
                failure = self._start() or failure
                tried = True
            time.sleep(_LOOK_EVERY_S)

    def warden_lives(self) -> bool:
        """Say whether some process holds the agent's lock."""
        try:
            descriptor = os.open(self.paths.pidfile, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _WRITE_LOCK)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK

    def answering_socket(self) -> str | None:
        """Return the first socket somebody listens on, or None.

        Raises:
            UnsafeDirectoryError: The socket's directory is not ours alone.

        """
        default = os.path.abspath(self.paths.socket)
        hint = self._pidfile_entry("socket")
        if isinstance(hint, str) and hint != default and self._hint_answers(hint):
            return hint
        return default if _answers(default) else None

    def _hint_answers(self, hint: str) -> bool:
        try:
            return _answers(hint)
        except UnsafeDirectoryError:
            # Left behind by an agent that is gone, it is nobody's trouble any more.
            if self.warden_lives():
                raise
            return False

    def warden_pid(self) -> int | None:
        """Return the pid the pidfile names while its lock is held; else None."""
        pid = self._pidfile_entry("pid")
        return pid if isinstance(pid, int) and self.warden_lives() else None

    def _pidfile_entry(self, key: str) -> object:
        try:
            with open(self.paths.pidfile, "rb") as file:
                content = json.loads(file.read(65536))
        except (OSError, ValueError):
            return None
        return content.get(key) if isinstance(content, dict) else None

    def _start(self) -> TryAgainError | None:
        """Start the agent; return why another try may do better. Raises HostUnreachableError."""
        code, complaint = _run_agent_start()
        if code == 0 or self.answering_socket() is not None:
            return None
        why = complaint or f"it ended with exit code {code}"
        message = f"the agent did not start: {why}"
        if code == EXIT_TRY_AGAIN:
            return TryAgainError(message)
        raise HostUnreachableError(message)


def _answers(path: str) -> bool:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise UnsafeDirectoryError(
            f"the socket path {path} is longer than {MAX_SOCKET_PATH_BYTES} bytes; "
            "set AGENTD_RUNTIME_DIR to a shorter directory"
        )
    if not is_private(os.path.dirname(path)):
        return False
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _run_agent_start() -> tuple[int, str]:
    """Run `agentd start`; return its exit code and the last line it complained with."""
    import subprocess

    # A file, not a pipe: whoever inherits it cannot keep us waiting for its end.
    complaints = os.memfd_create("agentd-start", os.MFD_CLOEXEC)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "agentd", "start"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env=agent_environment(),
            start_new_session=True,
            timeout=_START_WITHIN_S,
            check=False,
        )
        said = os.pread(complaints, 65536, 0).decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        return EXIT_TRY_AGAIN, f"it was not ready within {_START_WITHIN_S:.0f} s"
    finally:
        os.close(complaints)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return done.returncode, lines[-1].removeprefix("agentd: ") if lines else ""


def agent_environment() -> dict[str, str]:
    """Return this process' environment without the marks of a job it may be part of.

    An agent that carried them would be taken for a process of that job and stopped with it.
    """
    return {k: v for k, v in os.environ.items() if not k.startswith("AGENTCTL_JOB_")}
