"""The link to a host over SSH: which socket on this machine leads to the agent there.

Theory of operation. Warm, `connect` reads two small files and one of /proc: a master lives,
and this is where it leads. No process is started and nothing is sent. Only what a caller found
broken is looked at again, and only under the master's lock, by one process for all:

- the forwarded socket greets: nothing was broken but the caller's connection;
- it hangs up: the agent is asked for, started if need be, and the route is chosen anew;
- silence: the agent is too slow, or stopped. Others share the master: it stays.

But first the link itself is asked, by a forward to nowhere, which must come back closed. Only
if it does not, or the master is stopped, is that master killed and another one logs in.
The forward is made even where sshd forbids it: what listens there is a mark of the route.

Behind one destination another machine may answer after a new login. Its job 1 is another job:
a process that has talked to one agent refuses the other; only a new process may take it.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agentctl.errors import (
    AgentctlError,
    ClientClosedError,
    HostUnreachableError,
    TryAgainError,
)
from agentctl.link import on_host
from agentctl.link.ssh import probe, remote, state
from agentctl.link.ssh.master import CONNECT_WITHIN_S, FORWARD, ROUTE, Master
from agentctl.link.ssh.process import Process

if TYPE_CHECKING:
    from agentctl.link.book import Host
    from agentctl.link.ssh.bridge import Bridge

#: A link that says nothing for so long, after a call on it has failed, is taken for dead;
#: an agent, for one that will not answer for a while.
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
#: Nobody listens below /dev: what leads there hangs up, if the link lives.
_NOWHERE = "/dev/null/agent"
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
    agent: remote.FarAgent


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
        #: Which agent this object has led to, for good.
        self._agent: remote.FarAgent | None = None
        self._bridge: Bridge | None = None
        self._is_closed = False
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
        """End this process' own sessions and listener; the master stays for others.

        Waits for nobody: a `connect` that is under way fails, and does the rest.
        """
        self._is_closed = True
        self.master.abandon()
        if self._connecting.acquire(blocking=False):
            try:
                bridge, self._bridge = self._bridge, None
            finally:
                self._connecting.release()
            if bridge is not None:
                bridge.close()

    def connect(self, patience_s: float) -> str:
        """Return a socket behind which the agent answers. See `Link.connect`.

        Raises:
            HostUnreachableError: A person has to mend something first, or another agent
                answers there than the one that this object has led to.
            TryAgainError: It did not work in time, and may later.
            AgentNotRunningError: None runs and this link must not start one.
            UnsafeDirectoryError: The runtime directory is not ours alone.
            ClientClosedError: It was closed.

        """
        try:
            with self._connecting:
                return self._issue(self._warm() or self._repaired(time.monotonic() + patience_s))
        finally:
            # Only now it is certain that either this or `close` itself sees it.
            if self._is_closed:
                self.close()
                raise ClientClosedError("this client was closed; make a new one")

    def _issue(self, route: _Route) -> str:
        # Another process may have taken the other machine meanwhile.
        self._refuse_another(route.agent)
        self._agent = route.agent
        self._issued = route
        self.master.was_there = True
        if not route.is_bridge:
            return route.local
        return self._bridge_path() or self._listen(route.agent)

    def _refuse_another(self, agent: remote.FarAgent) -> None:
        if self._agent is not None and self._agent != agent:
            raise remote.another_agent(self.host, agent, self._agent)

    def _listen(self, agent: remote.FarAgent) -> str:
        from agentctl.link.ssh.bridge import Bridge

        if self._bridge is not None:
            self._bridge.close()
        try:
            self._bridge = Bridge(
                self.master.directory, self.master.key, self._bridge_command, agent
            )
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
                "hostname": str(hostname),
                "state_dir": str(state_dir),
            }:
                agent = remote.FarAgent(hostname, state_dir)
                return _Route(Process(pid, ticks), local, far, way == _BRIDGE, agent)
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
            try:
                suspect = None
                if was_suspect is not None and was_suspect.master == self.master.present():
                    if self._is_link_silent():
                        suspect = was_suspect.master
                    elif self._still_leads(was_suspect):
                        return was_suspect
                return self._established(left_s, suspect)
            except AgentctlError:
                # Not known to work, whatever was looked at.
                self._suspect = was_suspect
                raise

    def _is_link_silent(self) -> bool:
        """Ask the link itself, and nobody behind it."""
        local = self._fresh_socket()
        try:
            self.master.forward(local, _NOWHERE, _SILENCE_S)
        except TryAgainError:
            return True
        if probe.ask(local, _SILENCE_S) is not probe.Answer.CLOSED:
            return True
        self.master.cancel(local, _NOWHERE)
        return False

    def _still_leads(self, route: _Route) -> bool:
        """Ask the agent on a link that lives. Raises TryAgainError if it is silent."""
        answer = probe.ask(route.local, _SILENCE_S)
        if answer is probe.Answer.SILENT:
            raise self._silent_agent()
        return answer is probe.Answer.READY and not route.is_bridge

    def _silent_agent(self) -> TryAgainError:
        return TryAgainError(
            f"the agent on {self.host} does not answer, though the link to it lives; try again, "
            f"or see: {on_host(self.host, 'agent logs')}"
        )

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
        route = self._choose(process, hello)
        state.store(
            self._route_file,
            {
                "pid": process.pid,
                "started_ticks": process.started_ticks,
                "local": route.local,
                "far": route.far,
                "route": _BRIDGE if route.is_bridge else _FORWARD,
                "hostname": route.agent.hostname,
                "state_dir": route.agent.state_dir,
            },
        )
        return route

    def _hello(self, left_s: float) -> remote.Hello:
        mark = os.urandom(16).hex()
        line = remote.bridge_line(
            self._host.agentd, mark, hello_only=True, may_start=self._start_agent
        )
        done = self.master.run(line, timeout_s=max(left_s, _LEAST_START_S))
        hello = remote.hello_in(done.stdout, mark)
        if hello is None:
            raise remote.why_no_hello(
                self.host,
                self._host.agentd,
                done.returncode,
                done.stdout,
                done.stderr,
                was_there=self._agent is not None,
            )
        self._refuse_another(hello.agent)
        return hello

    def _choose(self, process: Process, hello: remote.Hello) -> _Route:
        """Make a forward and see whether it leads to the agent; else take the bridge."""
        old = self._remembered()
        if old is not None and old.master == process:
            self.master.cancel(old.local, old.far)
        local = self._fresh_socket()
        is_plain = _PLAIN_PATH.fullmatch(hello.socket) is not None
        target = hello.socket if is_plain else _NOWHERE
        self.master.forward(local, target)
        answer = probe.ask(local, _FIRST_ANSWER_S)
        if answer is probe.Answer.CLOSED:
            return _Route(process, local, target, is_bridge=True, agent=hello.agent)
        if answer is not probe.Answer.READY or not is_plain:
            self.master.cancel(local, target)
            raise self._silent_agent()
        return _Route(process, local, target, is_bridge=False, agent=hello.agent)

    def _fresh_socket(self) -> str:
        # A name is never used twice: it says which forward of which master is meant.
        return f"{self._prefix}-{os.urandom(3).hex()}{FORWARD}"


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
