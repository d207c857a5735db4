"""requeue.json in the directory of a job that was owed a requeue: what became of it.

While there is none, a job that the guard has ended and that may be requeued is owed it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from agentd.system import jobfiles
from agentd.system.files import system_error, write_durable

_NAME = "requeue.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Settlement:
    """The job it was submitted again as; None: it never will be, for this reason."""

    requeued_as: int | None
    reason: str = ""


def write(directory: str, settlement: Settlement) -> None:
    """Make it durable.

    Raises:
        DiskFullError: There is no room; the requeue is still owed.
        SystemCallError: The kernel refuses; the same.

    """
    body = {
        "version": _VERSION,
        "requeued_as": settlement.requeued_as,
        "reason": settlement.reason,
    }
    path = f"{directory}/{_NAME}"
    try:
        write_durable(path, json.dumps(body).encode() + b"\n")
    except OSError as error:
        raise system_error(f"write {path}", error) from error


def read(directory: str) -> Settlement | None:
    """Return what became of the requeue; None: it is still owed, or the file makes no sense."""
    try:
        data = jobfiles.read(f"{directory}/{_NAME}")
        if data is None:
            return None
        body = json.loads(data)
        return Settlement(body["requeued_as"], body["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        # A torn file cannot double a job: the successor is found by its idempotency key.
        return None
