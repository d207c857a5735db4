"""Ends what a lost job left behind: no shim minds it, no record is left to write."""

from __future__ import annotations

import os
import time
from typing import NoReturn

from agentd.core.job import ProcessId
from agentd.errors import AgentError, RecordCorruptError
from agentd.shim.ladder import Ladder
from agentd.shim.tree import FoundTree
from agentd.system import jobdir
from agentd.system.clock import boot_id, boot_ns
from agentd.system.prctl import set_name

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
    spec = jobdir.read_spec(directory)
    if spec is None:
        return
    tree = FoundTree(spec.uid, _leader(directory))
    ladder = Ladder(tree, boot_ns() + int(grace_s * _S))
    while tree.members():
        ladder.tick()
        time.sleep(_LOOK_S)


def _leader(directory: str) -> ProcessId | None:
    try:
        record = jobdir.read_pid(directory)
    except RecordCorruptError:
        # Perhaps the very reason why the job is lost; the mark in the environment is enough.
        return None
    return record.leader if record is not None and record.boot_id == boot_id() else None
