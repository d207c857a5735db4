"""The link to a host over SSH: which socket on this machine leads to the agent there.

Theory of operation. Warm, `connect` reads two small files and one of /proc: a master lives,
and this is where it leads. No process is started and nothing is sent. Only what a caller found
broken is looked at again, and only under the master's lock, by one process for all:

- the forwarded socket greets: nothing was broken but the caller's connection;
- it hangs up: the link lives, so the agent is asked for, started if need be, and the route
  is chosen anew;
- silence, or a master that is stopped: that master is killed and another one logs in.

The forward is made even where sshd forbids it: that it hangs up there says that the link lives.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agentctl.errors import AgentctlError, HostUnreachableError, TryAgainError
from agentctl.link.ssh import probe, remote, state
from agentctl.link.ssh.master import CONNECT_WITHIN_S, FORWARD, ROUTE, Master
from agentctl.link.ssh.process import Process

if TYPE_CHECKING:
    from agentctl.link.book import Host
    from agentctl.link.ssh.bridge import Bridge

#: A link that says nothing for so long, after a call on it has failed, is taken for dead.
_SILENCE_S = 2.0
#: The same for a link that has just been made, on which nothing has failed yet.
_FIRST_ANSWER_S = 10.0
#: The agent may have to be started there, whatever patience is left.
_LEAST_START_S = 5.0
#: While a network comes back, many short attempts find it sooner than few long ones; but each
#: one that fails lets the next one wait twice as long, for the host that is slow itself.
_FIRST_CONNECT_S = 4
_LONGEST_CONNECT_S = 16
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
#: What `ssh -O forward` takes as it stands: no colon, no %, no ${...}.
_PLAIN_PATH = re.compile(r"/[\w./+,=@-]+", re.ASCII)
_FORWARD = "forward"
_BRIDGE = "bridge"


class _Route(NamedTuple):
    """How the agent is reached through one master."""

    master: Process
    #: Where the master listens, whatever the server makes of it.
    local: str
    #: The agent's own socket there.
    far: str
    is_bridge: bool


class SshLink:
    """The way to the agent of one host in the host book. Safe to use from several threads."""

    is_remote = True

    def __init__(
        self,
        host: Host,
        ssh_command: Sequence[str],
        *,
        start_agent: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Name the way; nothing is started or touched.

        Args:
            host: As the host book has it.
            ssh_command: The ssh to use and the options the user always wants.
            start_agent: Start the agent there when none runs.
            environ: Names the runtime directory; without it this process' environment.

        Raises:
            InvalidSpecError: The host's destination or path would mean something else to ssh
                or to a shell.

        """
        remote.bridge_line(host.agentd, "0", hello_only=True, may_start=False)
        self._host = host
        self._start_agent = start_agent
        self.master = Master(host.destination, ssh_command, name=host.name, environ=environ)
        agent_key = state.key(host.agentd)[:6]
        self._prefix = f"{self.master.directory}/{self.master.key}-{agent_key}"
        self._route_file = f"{self._prefix}{ROUTE}"
        # One thread looks, the others wait for what it finds.
        self._connecting = threading.Lock()
        self._suspect: _Route | None = None
        self._issued: _Route | None = None
        self._bridge: Bridge | None = None
        self._connect_within_s = _FIRST_CONNECT_S

    @property
    def host(self) -> str:
        """The name people gave the host."""
        return self._host.name

    @property
    def route(self) -> str:
        """How the agent is reached: "forward", "bridge", or empty before the first `connect`."""
        route = self._remembered()
        return "" if route is None else _BRIDGE if route.is_bridge else _FORWARD

    def doubt(self, path: str) -> str | None:  # noqa: ARG002  # the protocol's signature
        """Say None: the far end has said itself which agent it is."""
        return None

    def broken(self, path: str) -> None:
        """Note that what was reached through `path` failed. See `Link.broken`."""
        issued = self._issued
        if issued is not None and path in (issued.local, self._bridge_path()):
            self._suspect = issued

    def close(self) -> None:
        """Let go of this process' own listener; the master stays for others."""
        with self._connecting:
            bridge, self._bridge = self._bridge, None
        if bridge is not None:
            bridge.close()

    def connect(self, patience_s: float) -> str:
        """Return a socket behind which the agent answers. See `Link.connect`.

        Raises:
            HostUnreachableError: A person has to mend something first.
            TryAgainError: It did not work in time, and may later.
            AgentNotRunningError: None runs and this link must not start one.
            UnsafeDirectoryError: The runtime directory is not ours alone.

        """
        with self._connecting:
            return self._issue(self._warm() or self._repaired(time.monotonic() + patience_s))

    def _issue(self, route: _Route) -> str:
        self._issued = route
        self.master.was_there = True
        if not route.is_bridge:
            return route.local
        return self._bridge_path() or self._listen()

    def _listen(self) -> str:
        from agentctl.link.ssh.bridge import Bridge

        if self._bridge is not None:
            self._bridge.close()
        try:
            self._bridge = Bridge(self.master.directory, self.master.key, self._bridge_command)
        except OSError as error:
            raise HostUnreachableError(
                f"cannot listen in {self.master.directory}: {error.strerror}"
            ) from None
        return self._bridge.path

    def _bridge_path(self) -> str | None:
        bridge = self._bridge
        # Whoever cleans the directory may have taken the socket too.
        return bridge.path if bridge is not None and os.path.lexists(bridge.path) else None

    def _bridge_command(self, mark: str) -> list[str]:
        line = remote.bridge_line(
            self._host.agentd, mark, hello_only=False, may_start=self._start_agent
        )
        return self.master.command(line)

    def _warm(self) -> _Route | None:
        """Return the route that is remembered, unless it was found broken since."""
        route = self._remembered()
        if route is None or route == self._suspect or not os.path.lexists(route.local):
            return None
        return route if self.master.present() == route.master else None

    def _remembered(self) -> _Route | None:
        content = state.load(self._route_file)
        match content:
            case {
                "pid": int(pid),
                "started_ticks": int(ticks),
                "local": str(local),
                "far": str(far),
                "route": "forward" | "bridge" as way,
            }:
                return _Route(Process(pid, ticks), local, far, way == _BRIDGE)
        return None

    def _repaired(self, deadline_s: float) -> _Route:
        """Try until it works or the time is over. One that never worked is tried once."""
        pause_s = _FIRST_PAUSE_S
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            try:
                return self._attempt(left_s)
            except TryAgainError:
                if not self.master.was_there or time.monotonic() + pause_s >= deadline_s:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _attempt(self, left_s: float) -> _Route:
        with self.master.locked(left_s):
            # Whoever held the lock before may have done it all.
            route = self._warm()
            if route is not None:
                return route
            was_suspect, self._suspect = self._suspect, None
            present = self.master.present()
            suspect = None
            if was_suspect is not None and was_suspect.master == present:
                answer = probe.ask(was_suspect.local, _SILENCE_S)
                if answer is probe.Answer.READY and not was_suspect.is_bridge:
                    return was_suspect
                suspect = None if answer is probe.Answer.CLOSED else present
            try:
                return self._established(left_s, suspect)
            except AgentctlError:
                # Not known to work, whatever was looked at.
                self._suspect = was_suspect
                raise

    def _established(self, left_s: float, suspect: Process | None) -> _Route:
        """Have a master, an agent behind it and a route between them. The lock is held."""
        is_first = not self.master.was_there
        within_s = CONNECT_WITHIN_S if is_first else self._connect_within_s
        self._connect_within_s = min(2 * self._connect_within_s, _LONGEST_CONNECT_S)
        process = self.master.ensure_locked(
            interactive=is_first and _is_attended(),
            patience_s=left_s,
            suspect=suspect,
            connect_within_s=within_s,
        )
        self._connect_within_s = _FIRST_CONNECT_S
        try:
            hello = self._hello(left_s)
        except TryAgainError:
            if self.master.present() == process:
                raise
            # It died under the question, as one does whose network has just come back.
            process = self.master.ensure_locked(interactive=False, patience_s=left_s)
            hello = self._hello(left_s)
        route = self._choose(process, hello.socket)
        state.store(
            self._route_file,
            {
                "pid": process.pid,
                "started_ticks": process.started_ticks,
                "local": route.local,
                "far": route.far,
                "route": _BRIDGE if route.is_bridge else _FORWARD,
            },
        )
        return route

    def _hello(self, left_s: float) -> remote.Hello:
        mark = secrets.token_hex(16)
        line = remote.bridge_line(
            self._host.agentd, mark, hello_only=True, may_start=self._start_agent
        )
        done = self.master.run(line, timeout_s=max(left_s, _LEAST_START_S))
        hello = remote.hello_in(done.stdout, mark)
        if hello is None:
            raise remote.why_no_hello(
                self.host, self._host.agentd, done.returncode, done.stdout, done.stderr
            )
        return hello

    def _choose(self, process: Process, far: str) -> _Route:
        """Make a forward and see whether it leads to the agent; else take the bridge."""
        old = self._remembered()
        if old is not None and old.master == process:
            self.master.cancel(old.local, old.far)
        # A name is never used twice: it says which forward of which master is meant.
        local = f"{self._prefix}-{secrets.token_hex(3)}{FORWARD}"
        is_plain = _PLAIN_PATH.fullmatch(far) is not None
        # Nobody listens below /dev: any path will do to see whether the link lives.
        target = far if is_plain else "/dev/null/agent"
        self.master.forward(local, target)
        answer = probe.ask(local, _FIRST_ANSWER_S)
        if answer is probe.Answer.CLOSED:
            return _Route(process, local, target, is_bridge=True)
        if answer is not probe.Answer.READY or not is_plain:
            raise TryAgainError(f"the agent on {self.host} does not answer; try again")
        return _Route(process, local, target, is_bridge=False)


def _is_attended() -> bool:
    """Say whether a person is at the terminal, to be asked what ssh may need."""
    # Of several hosts asked at once none may ask: a person could not tell who does.
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        return sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):
        # Closed, or not there at all.
        return False
