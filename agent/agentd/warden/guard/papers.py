"""The guard's policy on disk: a warden guards before there is a server, and without one."""

from __future__ import annotations

import json
from dataclasses import asdict

from agentd.core.contract import SetGuard
from agentd.core.guard.model import GuardPolicy, Mark, Marks
from agentd.core.guard.watermarks import check_marks
from agentd.errors import InvalidSpecError
from agentd.system.files import replace_file


def policy_of(order: SetGuard) -> GuardPolicy:
    """Return the policy that the server has read from the configuration. Pure."""
    return GuardPolicy(
        enabled=order.enabled,
        dry_run=order.dry_run,
        marks=Marks(
            warn=Mark(*order.warn),
            pause=Mark(*order.pause),
            term=Mark(*order.term),
            kill=Mark(*order.kill),
        ),
        pause_limit_s=order.pause_limit_s,
    )


def read_policy(path: str) -> GuardPolicy:
    """Return the policy last in force; the default one if there is none that makes sense."""
    try:
        with open(path, "rb") as file:
            body = json.loads(file.read())
        policy = policy_of(SetGuard(**body))
        check_marks(policy.marks)
        # Half a file that is JSON all the same must not become a guard that does nothing.
        if not (policy.enabled in (True, False) and policy.pause_limit_s >= 0):
            return GuardPolicy()
    except (OSError, TypeError, ValueError, InvalidSpecError):
        return GuardPolicy()
    return policy


def write_policy(path: str, order: SetGuard) -> None:
    """Keep the policy for the next warden. Raises OSError; the old one is then still there."""
    replace_file(path, json.dumps(asdict(order)).encode() + b"\n")
