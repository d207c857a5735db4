"""Install, choose, start; all of it undone when any of it fails."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from agentctl.hosts.remote.agent import START_WITHIN_S, AgentHere, hello, run
from agentctl.hosts.remote.building import build, is_complete
from agentctl.hosts.remote.peer import Peer, SetupError
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


def install(wanted: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """Install, choose, start; undone when any of it fails. Raises SetupError, OSError."""
    root = data_root()
    made = make_directories(root)
    check_ours(root)
    try:
        with locked(root, peer) as may_sweep:
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
    built = not is_complete(place)
    if built:
        build(root, place, wanted, peer)
    choice = Choice(root)
    had_launcher = os.path.exists(launcher)
    agent = AgentHere(f"{place}/bin/python")
    before = agent.python()
    jobs = agent.jobs()
    try:
        make_directories(f"{root}/bin")
        write(launcher, _LAUNCHER, 0o700)
        # First the choice, then the end of the old agent: whoever starts one meanwhile, starts
        # the new one.
        choice.set(name)
        if before is not None and before != f"{place}/bin/python":
            peer.tell("say", text="restarting the agent; jobs go on")
            agent.stop()
        peer.tell("say", text="starting the agent")
        greeting = hello(launcher, wanted)
        if agent.python() != f"{place}/bin/python":
            raise SetupError("command", "an agent of another installation answers instead")
    except BaseException as error:
        _roll_back(root, place, choice, agent, before, built=built, had_launcher=had_launcher)
        if isinstance(error, SetupError) and error.told["kind"] == "command":
            error.told |= {"kind": "start", "back": choice.former}
        raise
    prune(root, {name, choice.former})
    return {"agentd": launcher, "hello": greeting, "built": built, "jobs": jobs, "before": before}


def _roll_back(
    root: str,
    place: str,
    choice: Choice,
    agent: AgentHere,
    before: str | None,
    *,
    built: bool,
    had_launcher: bool,
) -> None:
    """Bring back what was: the choice, the agent that ran, nothing where nothing was."""
    choice.restore()
    now = agent.python()
    if now is not None and now != before:
        with suppress(SetupError):
            agent.stop()
    if before is not None and agent.python() is None:
        with suppress(SetupError):
            run([before, "-I", "-m", "agentd", "start"], START_WITHIN_S)
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
