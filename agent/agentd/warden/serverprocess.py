"""Starts the server and starts it again whenever it ends."""

from __future__ import annotations

import os
import signal
import socket
import time

from agentd.core.contract import Message
from agentd.system.interpreter import agentd_argv
from agentd.warden.lines import LineChannel

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 30.0
#: A server that lived so long starts again at once.
_GOOD_LIFE_S = 10.0
_CHANNEL_FD = 3


class ServerProcess:
    """One server at a time, with a line to it."""

    def __init__(self, log_path: str) -> None:
        """Start nothing yet. `log_path` takes what the server writes to stderr."""
        self._log_path = log_path
        self._delay_s = 0.0
        self._started_s = 0.0
        self._start_at_s: float | None = 0.0
        self.pid: int | None = None
        self.channel: LineChannel | None = None

    def due_s(self) -> float | None:
        """Return when to start the next one."""
        return self._start_at_s if self.pid is None else None

    def spawn(self) -> LineChannel:
        """Start a server; the caller says Hello and watches the channel.

        posix_spawn(3), not fork: nothing of the warden's memory is copied.
        """
        ours, theirs = socket.socketpair()
        argv = agentd_argv("server", "--warden-fd", str(_CHANNEL_FD))
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            self.pid = os.posix_spawn(
                argv[0],
                argv,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, self._log_path, append, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _CHANNEL_FD),
                ],
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
            )
        finally:
            theirs.close()
        self._started_s = time.monotonic()
        self.channel = LineChannel(ours)
        return self.channel

    def ended(self) -> None:
        """Take note that it is gone and when the next one is due."""
        self.pid = None
        now_s = time.monotonic()
        if now_s - self._started_s >= _GOOD_LIFE_S:
            self._delay_s = 0.0
        if self._start_at_s is not None:
            self._start_at_s = now_s + self._delay_s
        self._delay_s = min(max(self._delay_s * 2, _FIRST_DELAY_S), _LONGEST_DELAY_S)

    def send(self, message: Message) -> None:
        """Send a message, if there is a server; a new one learns it from the files."""
        if self.channel is not None:
            self.channel.send(message)

    def give_up(self) -> None:
        """Start no more."""
        self._start_at_s = None

    def kill(self) -> None:
        """End a server that is stuck or does not drain."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
