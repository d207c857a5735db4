"""Take away what `install` brought."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from agentctl.hosts.remote.agent import (
    START_WITHIN_S,
    STOP_WITHIN_S,
    AgentHere,
    run,
    start,
)
from agentctl.hosts.remote.installing import prune
from agentctl.hosts.remote.peer import Peer, SetupError
from agentctl.hosts.remote.places import (
    Choice,
    data_root,
    first_line,
    locked,
    node,
    ours,
    remove_tree,
    sweep,
)

_POLL_S = 0.05


def remove(wanted: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """Stop the agent and remove what `install` brought. Raises SetupError, OSError."""
    root = data_root()
    if not os.path.isdir(root):
        return {"removed": True, "purged": []}
    with locked(root, peer) as may_sweep:
        if may_sweep:
            # What a crash left among the nodes is none.
            sweep(root)
        chosen = Choice(root).former
        python = f"{root}/{chosen}/bin/python"
        purged: list[str] = []
        # Half there: nothing of it can tell where its data are.
        if chosen is not None and os.path.exists(python):
            try:
                agent = AgentHere(python)
            except SetupError as error:
                if not wanted["force"]:
                    raise SetupError("broken", str(error)) from None
            else:
                _end_agent(agent, [python, "-I", "-m"], wanted, peer)
                purged = [agent.state_dir] if wanted["purge"] else []
                for path in (agent.runtime_dir, *purged):
                    _remove_data(path, root)
        return {"removed": _remove_files(root), "purged": purged}


def _end_agent(agent: AgentHere, modules: list[str], wanted: dict[str, Any], peer: Peer) -> None:
    jobs = agent.jobs()
    if jobs and not wanted["force"]:
        raise SetupError("jobs", "jobs are running", jobs=jobs)
    if jobs:
        peer.tell("say", text=f"killing {len(jobs)} running job(s)")
        start([*modules, "agentd"], peer.users_umask)
        run([*modules, "agentctl", "-H", "local", "kill", *jobs], START_WITHIN_S)
        _wait_for_no_jobs(agent)
    agent.stop()


def _remove_data(path: str, root: str) -> None:
    """Remove a directory of the agent's, but not the installation that may lie in it."""
    if not os.path.lexists(path):
        return
    inside = os.path.realpath(root)
    if os.path.commonpath([inside, os.path.realpath(path)]) != os.path.realpath(path):
        remove_tree(path)
        return
    kept = {*ours(root)}
    for name in os.listdir(path):
        below = os.path.realpath(f"{path}/{name}")
        if os.path.commonpath([inside, below]) == below:
            _remove_data(f"{path}/{name}", root)
        elif os.path.dirname(below) != inside or name not in kept:
            remove_tree(f"{path}/{name}")


def _wait_for_no_jobs(agent: AgentHere) -> None:
    deadline_s = time.monotonic() + STOP_WITHIN_S
    while agent.jobs():
        if time.monotonic() > deadline_s:
            raise SetupError("jobs", "they do not end", jobs=agent.jobs())
        time.sleep(_POLL_S)


def _remove_files(root: str) -> bool:
    """Remove this node's choice, and all of it when no other node has one; say which."""
    with suppress(FileNotFoundError):
        os.unlink(f"{root}/nodes/{node()}")
    others = os.listdir(f"{root}/nodes") if os.path.isdir(f"{root}/nodes") else []
    if others:
        prune(root, {first_line(f"{root}/current")})
        return False
    for name in ours(root):
        remove_tree(f"{root}/{name}")
    with suppress(OSError):
        # The agent's state may be there too.
        os.rmdir(root)
    return True
