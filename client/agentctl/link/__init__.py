"""How a client reaches an agent: one `Link` a host.

A link finds or makes a unix socket on this machine behind which the agent of its host
answers. `local` is the agent of this machine; hosts over SSH get a module of their own here.
"""

from __future__ import annotations

from typing import Protocol

from agentctl.errors import HostUnreachableError

LOCAL = "local"


class Link(Protocol):
    """The way to one agent. Safe to use from several threads."""

    @property
    def host(self) -> str:
        """The name people gave the host."""

    def connect(self, patience_s: float) -> str:
        """Return the path of a unix socket behind which the agent answers.

        Waits up to `patience_s` seconds for an agent that is coming up.

        Raises:
            HostUnreachableError: There is no way to it.
            AgentNotRunningError: None runs and this link must not start one.
            TryAgainError: It was not there in time.

        """

    def doubt(self, path: str) -> str | None:
        """Return the state directory that the agent behind `path` must name when asked.

        None: it is known to be the right one. Costs two system calls and no question.
        """


def check_host(host: str | None) -> None:
    """Raise HostUnreachableError unless there is a link to this host."""
    if host not in (None, "", LOCAL):
        raise HostUnreachableError(
            f"cannot reach the host {host!r}: hosts over SSH come in a later version; "
            f"{LOCAL!r} is this machine"
        )


def open_link(host: str | None, *, start_agent: bool = True) -> Link:
    """Return the link to `host`; None and "local" are this machine. Connects to nothing yet.

    Raises:
        HostUnreachableError: The host is not this machine.

    """
    check_host(host)
    from agentctl.link.local import LocalLink

    return LocalLink.of_environment(start_agent=start_agent)
