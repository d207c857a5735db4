"""Who may be killed: the processes of one agent, by what they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from tests.helpers.agent import Agent
from tests.helpers.processes import children_of, job_of
from tests.helpers.wait import name_of, read_stat


class Kind(Enum):
    """What a process of the agent is."""

    SERVER = "server"
    WARDEN = "warden"
    SPAWNER = "spawner"
    SHIM = "shim"


@dataclass(frozen=True, slots=True)
class Victim:
    """One process to kill."""

    kind: Kind
    pid: int
    #: Of a shim, the job it minds.
    job_id: int = 0
    #: Of a shim, whether the warden that had it forked still lives.
    has_warden: bool = False


def find(agent: Agent, kind: Kind) -> list[Victim]:
    """Return the living processes of this kind."""
    warden = agent.warden_pid()
    if kind is Kind.SHIM:
        return _shims(agent, warden)
    if kind is Kind.SPAWNER:
        below = children_of(warden) if warden else []
        return [Victim(kind, pid) for pid in below if name_of(pid) == "agentd-spawner"]
    pid = warden if kind is Kind.WARDEN else agent.server_pid()
    return [Victim(kind, pid)] if pid else []


def _shims(agent: Agent, warden: int) -> list[Victim]:
    found = []
    for pid in agent.processes():
        stat, job_id = read_stat(pid), job_of(pid, agent.state_dir)
        if stat is None or not job_id or name_of(pid) != "agentd-shim":
            continue
        # A leader that is not executed yet has the name too: a shim's child, or a session leader.
        if name_of(stat.parent) in {"agentd-shim", "agentd-spawner"} or _leads_session(pid):
            continue
        found.append(Victim(Kind.SHIM, pid, job_id, stat.parent == warden))
    return found


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return True
