"""Take away what `install` brought."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from typing import Any

from agentctl.hosts.remote.agent import START_WITHIN_S, STOP_WITHIN_S, AgentHere, run
from agentctl.hosts.remote.installing import prune
from agentctl.hosts.remote.peer import Peer, SetupError
from agentctl.hosts.remote.places import Choice, data_root, first_line, locked, node, remove_tree

_POLL_S = 0.05


def remove(wanted: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """Stop the agent and remove what `install` brought. Raises SetupError, OSError."""
    root = data_root()
    launcher = f"{root}/bin/agentd"
    chosen = Choice(root).former
    if chosen is None or not os.path.exists(f"{root}/{chosen}/bin/python"):
        # Half there: nothing of it can tell where its data are.
        return {"removed": _remove_files(root), "purged": []}
    python = f"{root}/{chosen}/bin/python"
    with locked(root, peer):
        try:
            agent = AgentHere(python)
        except SetupError as error:
            if not wanted["force"]:
                raise SetupError("broken", str(error)) from None
            return {"removed": _remove_files(root), "purged": []}
        jobs = agent.jobs()
        if jobs and not wanted["force"]:
            raise SetupError("jobs", "jobs are running", jobs=jobs)
        if jobs:
            peer.tell("say", text=f"killing {len(jobs)} running job(s)")
            run([launcher, "start"], START_WITHIN_S)
            run([python, "-I", "-m", "agentctl", "-H", "local", "kill", *jobs], START_WITHIN_S)
            _wait_for_no_jobs(agent)
        agent.stop()
        purged = [agent.state_dir] if wanted["purge"] else []
        for path in (agent.runtime_dir, *purged):
            if os.path.lexists(path):
                remove_tree(path)
        return {"removed": _remove_files(root), "purged": purged}


def _wait_for_no_jobs(agent: AgentHere) -> None:
    deadline_s = time.monotonic() + STOP_WITHIN_S
    while agent.jobs():
        if time.monotonic() > deadline_s:
            raise SetupError("jobs", "they do not end", jobs=agent.jobs())
        time.sleep(_POLL_S)


def _remove_files(root: str) -> bool:
    """Remove this node's choice, and all of it when no other node has one; say which."""
    if not os.path.isdir(root):
        return True
    with suppress(FileNotFoundError):
        os.unlink(f"{root}/nodes/{node()}")
    others = os.listdir(f"{root}/nodes") if os.path.isdir(f"{root}/nodes") else []
    if others:
        prune(root, {first_line(f"{root}/current")})
        return False
    # The launcher first: what a crash leaves is not taken for an installation.
    for name in ("bin", "current", "nodes"):
        if os.path.lexists(f"{root}/{name}"):
            remove_tree(f"{root}/{name}")
    shutil.rmtree(root)
    return True
