"""A real network in the small: a process between a client and an agent that can fail.

It is frozen, killed and started again by signals, as an ssh master and its network are. The
link to it knows only that a network lies between: what is proved with it holds for any.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.helpers.agent import Agent
from tests.helpers.wait import dawdle, wait_until

if TYPE_CHECKING:
    from agentctl import Client
    from agentctl.api.trouble import OnNotice

#: Copies bytes both ways between its listener and the agent, at most RATE bytes a second down.
_RELAY = """
import os, socket, sys, threading, time

listen, target, rate = sys.argv[1], sys.argv[2], float(sys.argv[3])

def copy(source, sink, rate):
    try:
        while data := source.recv(65536 if rate == 0 else max(1, int(rate / 50))):
            sink.sendall(data)
            if rate:
                time.sleep(len(data) / rate)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

listener = socket.socket(socket.AF_UNIX)
scratch = listen + ".new"
listener.bind(scratch)
listener.listen(64)
os.rename(scratch, listen)
while True:
    near, _ = listener.accept()
    far = socket.socket(socket.AF_UNIX)
    try:
        far.connect(target)
    except OSError:
        near.close()
        continue
    threading.Thread(target=copy, args=(near, far, 0), daemon=True).start()
    threading.Thread(target=copy, args=(far, near, rate), daemon=True).start()
"""


class Relay:
    """The process in between; `start` it, then make it fail."""

    def __init__(self, path: str, target: str, rate_bytes_s: float = 0) -> None:
        """Listen at `path` for what answers at `target`; a rate of 0 is as fast as it goes."""
        self.path = path
        self._target = target
        self._rate_bytes_s = rate_bytes_s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin, or begin again: no connection of before is known any more."""
        assert self._process is None, "it runs already"
        arguments = [self.path, self._target, str(self._rate_bytes_s)]
        self._process = subprocess.Popen([sys.executable, "-S", "-c", _RELAY, *arguments])
        wait_until(lambda: can_connect(self.path), what="a relay that accepts")

    def kill(self) -> None:
        """Cut every connection at once, leaving a socket at which nobody listens."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let everything stand: connections, and connects, which the kernel still accepts."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it stood."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def can_connect(path: str) -> bool:
    """Say whether somebody accepts at the unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


class RelayLink:
    """The link through a relay. It never looks deeper than a connect(2)."""

    host = "far"
    is_remote = True

    def __init__(self, path: str) -> None:
        """Lead to the relay at `path`."""
        self._path = path
        #: How often a path of it was said to be broken.
        self.breaks = 0

    def connect(self, patience_s: float) -> str:
        """Return the path once it accepts. Raises TryAgainError."""
        from agentctl.errors import TryAgainError  # noqa: PLC0415  # most tests need no SDK

        deadline_s = time.monotonic() + min(patience_s, 0.2)
        while not can_connect(self._path):
            if time.monotonic() > deadline_s:
                raise TryAgainError("nobody is there")
            dawdle(0.01)
        return self._path

    def doubt(self, path: str) -> str | None:
        """Know the agent."""
        assert path == self._path
        return None

    def broken(self, path: str) -> None:
        """Count it."""
        assert path == self._path
        self.breaks += 1

    def close(self) -> None:
        """Hold nothing."""


@contextmanager
def relayed(agent: Agent, rate_bytes_s: float = 0) -> Iterator[Relay]:
    """Yield a running relay to a started agent; it is gone afterwards, its socket too."""
    path = f"{agent.root}/relay"
    relay = Relay(path, f"{agent.runtime_dir}/agent.sock", rate_bytes_s)
    relay.start()
    try:
        yield relay
    finally:
        relay.kill()
        os.unlink(path)
        assert not can_connect(path)


@contextmanager
def client_through(
    agent: Agent, relay: Relay, *, patience_s: float = 15.0, on_notice: OnNotice | None = None
) -> Iterator[tuple[Client, RelayLink]]:
    """Yield an SDK client that reaches the agent through the relay, and its link."""
    from agentctl.api.channel import Connection  # noqa: PLC0415  # most tests need no SDK

    link = RelayLink(relay.path)
    with agent.client() as client:
        client._connection = Connection(link, patience_s, on_notice)
        yield client, link
