"""How a client reaches an agent: one `Link` a host.

A link finds or makes a unix socket on this machine behind which the agent of its host
answers. `local` is the agent of this machine, `ssh` that of a host in the host book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agentctl.errors import HostUnreachableError

if TYPE_CHECKING:
    from agentctl.link.book import Host

LOCAL = "local"


class Link(Protocol):
    """The way to one agent. Safe to use from several threads."""

    @property
    def host(self) -> str:
        """The name people gave the host."""

    @property
    def is_remote(self) -> bool:
        """Whether a network lies between: the link may break while the agent lives."""

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

    def broken(self, path: str) -> None:
        """Note that what was reached through `path` failed: the next `connect` looks deeper.

        Returns at once: it neither asks nor repairs anything.
        """

    def close(self) -> None:
        """Let go of what this process alone holds; others may go on. May be called twice.

        Waits for nobody: a `connect` in another thread ends with an error.
        """


def is_local(host: str | None) -> bool:
    """Say whether this names the agent of this machine. Pure."""
    return host in (None, "", LOCAL)


def on_host(host: str, command: str) -> str:
    """Return the line that runs `command`, without its first word, on this host. Pure."""
    if is_local(host):
        return f"agentctl {command}"
    import shlex

    return f"agentctl -H {shlex.quote(host)} {command}"


def check_host(host: str | None) -> None:
    """Raise HostUnreachableError unless there is a link to this host."""
    if host is not None and not is_local(host):
        _find(host)


def open_link(host: str | None, *, start_agent: bool = True) -> Link:
    """Return the link to `host`; None and "local" are this machine. Connects to nothing yet.

    Args:
        host: Name of the host, as in the host book.
        start_agent: Start the agent there when none runs.

    Raises:
        HostUnreachableError: The host is not in the host book.
        InvalidSpecError: The configured ssh command cannot be understood.

    """
    if host is None or is_local(host):
        from agentctl.link.local import LocalLink

        return LocalLink.of_environment(start_agent=start_agent)
    import os

    from agentctl.config import ssh_command
    from agentctl.link.ssh.link import SshLink

    return SshLink(_find(host), ssh_command(os.environ), start_agent=start_agent)


def _find(host: str) -> Host:
    from agentctl.link.book import HostBook

    found = HostBook.of_environment().find(host)
    if found is None:
        raise HostUnreachableError(
            f"the host {host!r} is not set up; run: agentctl host add {_for_shell(host)}"
        )
    return found


def _for_shell(host: str) -> str:
    import shlex

    return shlex.quote(host)
