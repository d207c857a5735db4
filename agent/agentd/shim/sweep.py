"""Ends what a lost job left behind: no shim minds it, no record is left to write."""

from __future__ import annotations

import os
import time

from agentd.errors import AgentError, RecordCorruptError
from agentd.shim import records
from agentd.shim.ladder import Ladder
from agentd.shim.tree import FoundTree
from agentd.system import cgroups, jobfiles
from agentd.system.clock import boot_id, boot_ns
from agentd.system.kernel import set_name
from agentd.system.proc import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_S = 1_000_000_000
_LOOK_S = 0.05


def sweep(directory: str, grace_s: float) -> NoReturn:
    """Stop every process that carries the job's uid, in a process of our own. Never returns."""
    try:
        set_name("agentd-sweep")
        _sweep(directory, grace_s)
    except (AgentError, OSError):
        pass  # Nothing to report to: what remains stays visible in `show`.
    finally:
        os._exit(0)


def _sweep(directory: str, grace_s: float) -> None:
    spec = records.read(f"{directory}/{jobfiles.SPEC}")
    if spec is None:
        return
    record = _record(directory)
    tree = FoundTree(spec["uid"], None if record is None else Process(**record["leader"]))
    ladder = Ladder(tree, boot_ns() + int(grace_s * _S))
    while tree.members():
        ladder.tick()
        time.sleep(_LOOK_S)
    if record is not None and record.get("cgroup"):
        cgroups.remove(record["cgroup"])


def _record(directory: str) -> dict[str, Any] | None:
    """Return what the pidfile says, if it is of this boot."""
    try:
        record = records.read_pid(directory)
    except RecordCorruptError:
        # Perhaps the very reason why the job is lost; the mark in the environment is enough.
        return None
    return record if record is not None and record["boot_id"] == boot_id() else None
