"""Install, choose, start; all of it undone when any of it fails."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any

from agentctl.hosts.remote.agent import AgentHere, hello, start
from agentctl.hosts.remote.building import build, is_complete
from agentctl.hosts.remote.peer import Peer, SetupError, ignore_signals
from agentctl.hosts.remote.places import (
    Choice,
    check_ours,
    data_root,
    first_line,
    installations,
    locked,
    make_directories,
    remove_empty,
    remove_tree,
    sweep,
    write,
)

_LAUNCHER = """\
#!/bin/sh
# The agent of agentctl: written by `agentctl host add`, removed by `agentctl host rm`.
root=${0%/bin/agentd}
read -r node </proc/sys/kernel/hostname
{ read -r chosen <"$root/nodes/$node" || read -r chosen <"$root/current"; } 2>/dev/null || {
    echo "agentd: nothing is installed in $root; run: agentctl host add" >&2
    exit 69
}
exec "$root/$chosen/bin/python" -I -m agentd "$@"
"""
_TRIES = 3
_VERSION = re.compile(r"(?P<release>[0-9]{1,9}(?:\.[0-9]{1,9}){1,3})(?P<more>[a-z0-9.]*)")


def install(wanted: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """Install, choose, start; undone when any of it fails. Raises SetupError, OSError."""
    root = data_root()
    made = make_directories(root)
    check_ours(root)
    with locked(root, peer) as may_sweep:
        try:
            if may_sweep:
                sweep(root)
            done = _install(root, wanted, peer)
            if may_sweep:
                sweep(root)
            return done
        except BaseException:
            remove_empty(root, made)
            raise


def _install(root: str, wanted: dict[str, Any], peer: Peer) -> dict[str, Any]:
    name = f"{wanted['version']}-{wanted['tag']}-{wanted['digest'][:8]}"
    place, launcher = f"{root}/{name}", f"{root}/bin/agentd"
    choice = Choice(root)
    _refuse_to_go_back(choice, wanted)
    built = not is_complete(place)
    if built:
        build(root, place, wanted, peer)
    had_launcher = os.path.exists(launcher)
    agent = AgentHere(f"{place}/bin/python")
    before = agent.python()
    jobs = agent.jobs()
    is_other = before is not None and before != f"{place}/bin/python"
    try:
        make_directories(f"{root}/bin")
        write(launcher, _LAUNCHER, 0o700)
        # First the choice, then the end of the old agent: whoever starts one meanwhile, starts
        # the new one.
        choice.set(name)
        if is_other:
            peer.tell("say", text="restarting the agent; jobs go on")
            agent.stop()
        peer.tell("say", text="starting the agent")
        greeting = hello(launcher, wanted, peer.users_umask)
        if agent.python() != f"{place}/bin/python":
            raise SetupError("command", "an agent of another installation answers instead")
        # It is done: what is left to do is to clear away, and to say so.
        ignore_signals()
    except BaseException as error:
        try:
            # A second Ctrl-C must not leave the host without its agent.
            ignore_signals()
        except SetupError:
            # It came just now, and by that all others are ignored.
            pass
        choice.restore()
        if before is None:
            with suppress(SetupError):
                agent.stop()
        elif is_other:
            _bring_back(agent, before, peer.users_umask)
        _remove_new(root, place, choice, built=built, had_launcher=had_launcher)
        if isinstance(error, SetupError) and error.told["kind"] == "command":
            error.told |= {"kind": "start", "back": choice.former}
        raise
    prune(root, {name, choice.former})
    return {"agentd": launcher, "hello": greeting, "built": built, "jobs": jobs, "before": before}


def _refuse_to_go_back(choice: Choice, wanted: dict[str, Any]) -> None:
    """Raise SetupError if a newer version is chosen, and it was not said that this is meant."""
    present = choice.former.partition("-")[0] if choice.former else ""
    if not wanted["force"] and is_older(wanted["version"], present):
        raise SetupError("newer", present, version=wanted["version"])


def is_older(version: str, other: str) -> bool:
    """Say whether a version comes before another one; of what is none, nothing is known. Pure."""
    mine, others = map(_VERSION.fullmatch, (version, other))
    return mine is not None and others is not None and _order(mine) < _order(others)


def _order(version: re.Match[str]) -> tuple[tuple[int, ...], bool, str]:
    release = tuple(map(int, version["release"].split(".")))
    # What follows makes it an earlier one: 0.2.0rc1, 0.2.0.dev3 (PEP 440).
    return release, not version["more"], version["more"]


def _bring_back(agent: AgentHere, before: str, users_umask: int) -> None:
    """Have the agent run that ran before, however far it and the new one have come."""
    for _ in range(_TRIES):
        with suppress(SetupError):
            # It may be the old one, which was told to end and has not yet.
            agent.stop()
            start([before, "-I", "-m", "agentd"], users_umask)
        # A new one that was just coming up may have been quicker.
        if agent.python() == before:
            return


def _remove_new(root: str, place: str, choice: Choice, *, built: bool, had_launcher: bool) -> None:
    """Leave nothing where nothing was."""
    if built and choice.former != os.path.basename(place):
        remove_tree(place)
    if not had_launcher:
        with suppress(OSError):
            os.unlink(f"{root}/bin/agentd")
        for name in ("bin", "nodes"):
            with suppress(OSError):
                os.rmdir(f"{root}/{name}")


def prune(root: str, kept: set[str | None]) -> None:
    """Remove installations that no node has chosen and nobody here runs from."""
    nodes = f"{root}/nodes"
    kept |= {first_line(f"{nodes}/{node}") for node in os.listdir(nodes)}
    for name in installations(root):
        if name not in kept and not _is_used(f"{root}/{name}/"):
            remove_tree(f"{root}/{name}")


def _is_used(prefix: str) -> bool:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if os.fsencode(prefix) in file.read():
                return True
    return False
