"""Make a server a host, change its version, let it go."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentctl import __version__
from agentctl.errors import AgentctlError, InvalidSpecError, RefusedError
from agentctl.hosts.look import (
    SHELL,
    Findings,
    answer_lines,
    bring_script,
    look_script,
    no_python,
    read_findings,
)
from agentctl.hosts.talk import Say, Talk, not_understood
from agentctl.hosts.target import is_plain_path
from agentctl.link.book import Host, HostBook
from agentctl.link.names import check_destination, check_name

if TYPE_CHECKING:
    from agentctl.hosts.target import Target
    from agentctl.hosts.wheels import Wheel
    from agentctl.link.ssh.master import Master

_LOOK_WITHIN_S = 60.0
_BRING_WITHIN_S = 600.0
_CONNECT_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of an installation."""

    #: Everything goes over the link; the server fetches nothing.
    offline: bool = False
    #: The server's Python to use; None: one is looked for.
    python: str | None = None
    #: A person is at the terminal and may be asked for what ssh needs.
    interactive: bool = False
    #: An older version over a newer one is meant.
    force: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    """How an installation went."""

    host: Host
    #: Whether anything was put there that had not been there already.
    is_new: bool
    #: Ids of the jobs that ran meanwhile, and go on.
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """How a removal went."""

    host: Host
    #: Why the server could not be cleared; empty: it was.
    left_behind: str
    #: Directories of the jobs' data that were deleted.
    purged: tuple[str, ...]
    #: Other machines share the installation, and keep it.
    is_shared: bool


def add(book: HostBook, name: str, destination: str | None, wish: Wish, say: Say) -> Installed:
    """Install the agent on the server behind `destination`, start it, enter it into the book.

    Run again, it repairs: what is there already is looked at and used. Without a destination
    it is the one in the book, else the name.

    Raises:
        AgentctlError: It could not be done; nothing half is left behind.
        OSError: The book cannot be written.

    """
    check_name(name)
    known = book.find(name)
    if destination is None:
        destination = name if known is None else known.destination
    check_destination(destination)
    if known is not None and known.destination != destination:
        raise RefusedError(
            f"{name} is set up already, with the destination {known.destination}; "
            f"take another name, or first: agentctl host rm {name}"
        )
    return _install(book, name, destination, wish, say, known)


def upgrade(book: HostBook, host: Host, wish: Wish, say: Say) -> Installed:
    """Install this client's version beside the present one and change over; jobs go on.

    Raises:
        AgentctlError: The new one does not answer, for one; the old one is back then.
        OSError: The book cannot be written.

    """
    return _install(book, host.name, host.destination, wish, say, host)


def _install(  # of `add` and `upgrade`
    book: HostBook, name: str, destination: str, wish: Wish, say: Say, known: Host | None
) -> Installed:
    from agentctl.hosts.wheels import own_wheel, requirements

    if wish.python is not None and not is_plain_path(wish.python):
        raise InvalidSpecError(f"--python: {wish.python!r} is not an absolute path without blanks")
    master = _master(destination, name)
    say(f"connecting to {name}")
    master.ensure(interactive=wish.interactive, patience_s=_CONNECT_WITHIN_S)
    findings = _look_for_python(master, wish, say)
    target = _target_of(findings)
    own = own_wheel()
    supply = _Supply(name, target, own, say)
    done = Talk(master, target.python, supply.wheels, say).ask(
        {
            "ask": "install",
            "version": __version__,
            "tag": target.tag,
            "digest": own.digest,
            "online": not wish.offline,
            "force": wish.force,
            "uv": findings.uv,
            "requirements": requirements(),
        }
    )
    launcher, is_new, jobs = _read_installed(done, name)
    added_at = datetime.now(UTC) if known is None else known.added_at
    host = Host(name, destination, launcher, __version__, added_at)
    book.put(host)
    return Installed(host, is_new, jobs)


def _read_installed(done: dict[str, Any], name: str) -> tuple[str, bool, tuple[str, ...]]:
    launcher, is_new, jobs = done.get("agentd"), done.get("built"), done.get("jobs")
    if not (isinstance(launcher, str) and isinstance(is_new, bool) and isinstance(jobs, list)):
        raise not_understood(name, "it does not say what was done")
    return _checked_launcher(launcher, name), is_new, tuple(map(str, jobs))


def _checked_launcher(launcher: str, name: str) -> str:
    if not is_plain_path(launcher):
        raise RefusedError(
            f"the agent on {name} lies at {launcher!r}, which not every login shell takes as one "
            "word; set XDG_DATA_HOME there to a path of plain characters"
        )
    return launcher


class _Supply:
    """Brings wheels when the server asks for them."""

    def __init__(self, name: str, target: Target, own: Wheel, say: Say) -> None:
        self._name = name
        self._target = target
        self._own = own
        self._say = say

    def wheels(self, what: str, why: str) -> Sequence[Wheel]:
        """Return our own wheel, or those of the dependencies."""
        if what == "own":
            return (self._own,)
        from agentctl.hosts.wheels import installed_wheels, requirements

        wheels = installed_wheels(self._target)
        if wheels is None:
            from agentctl.hosts.download import downloaded_wheels

            self._say(f"{self._name}: downloading the wheels for it")
            wheels = downloaded_wheels(self._target, requirements(), os.environ)
        size_bytes = sum(len(wheel.content) for wheel in wheels)
        self._say(f"{self._name}: sending the dependencies, {size_bytes / 1e6:.0f} MB ({why})")
        return wheels


def _look_for_python(master: Master, wish: Wish, say: Say) -> Findings:
    findings = _look(master, wish.python)
    if findings.target is None and wish.python is None and findings.uv and not wish.offline:
        say(f"{master.name}: having uv bring a Python")
        mark = secrets.token_hex(16)
        script = bring_script(mark, findings.uv)
        done = master.run(SHELL, script, _BRING_WITHIN_S)
        said = answer_lines(done.stdout, done.stderr, mark, master.name)
        findings = _look(master, None)
        if findings.target is None:
            raise no_python(findings, master.name, None, said[-1].removeprefix("said "))
    if findings.target is None:
        raise no_python(findings, master.name, wish.python)
    return findings


def _target_of(findings: Findings) -> Target:
    if findings.target is None:
        raise AssertionError("looked for above")
    return findings.target


def _look(master: Master, python: str | None) -> Findings:
    mark = secrets.token_hex(16)
    done = master.run(SHELL, look_script(mark, python), _LOOK_WITHIN_S)
    lines = answer_lines(done.stdout, done.stderr, mark, master.name)
    return read_findings(lines, master.name)


def _master(destination: str, name: str) -> Master:
    from agentctl.config import ssh_command
    from agentctl.link.ssh.master import Master

    return Master(destination, ssh_command(os.environ), name=name)


def remove(
    book: HostBook, host: Host, wish: Wish, say: Say, *, purge: bool, force: bool
) -> Removed:
    """Stop the agent, remove what `add` brought, strike the host out of the book.

    Args:
        book: Where it is struck out.
        host: Of the book.
        wish: How to get there.
        say: Told what goes on.
        purge: Delete the jobs' data too.
        force: Kill the jobs that run; be content with the book if the server cannot be reached.

    Raises:
        AgentctlError: It cannot be reached, or jobs run, and `force` is not given.
        OSError: The book cannot be written.

    """
    master = _master(host.destination, host.name)
    done: dict[str, Any] = {}
    left_behind = ""
    try:
        master.ensure(interactive=wish.interactive, patience_s=_CONNECT_WITHIN_S)
        findings = _look_for_python(master, Wish(offline=True), say)
        talk = Talk(master, _target_of(findings).python, lambda _what, _why: (), say)
        done = talk.ask({"ask": "remove", "force": force, "purge": purge})
        if not isinstance(done.get("purged"), list) or not isinstance(done.get("removed"), bool):
            raise not_understood(host.name, "it does not say what was done")
    except AgentctlError as error:
        if not force:
            raise
        left_behind = str(error)
    book.remove(host.name)
    master.end()
    purged = tuple(map(str, done.get("purged", ())))
    is_shared = not left_behind and not done.get("removed")
    return Removed(host, left_behind, purged, is_shared)
