"""Sections [guard] and [hooks] of config.toml: what their values may be.

    [guard]
    enabled = true
    dry_run = false
    pause_limit = "10m"
    warn  = { percent = 15, cap = "16GiB" }
    pause = { percent = 8, cap = "8GiB" }
    term  = { percent = 5, cap = "4GiB" }
    kill  = { percent = 2.5, cap = "2GiB" }
    [hooks]
    on_guard = ["/home/me/bin/tell", "guard"]
    on_end = ["/home/me/bin/tell", "end"]
    timeout = "30s"

A mark is a share of the host's memory and a cap; the smaller of the two counts, of available
memory. One of the two alone leaves the other at its default.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from itertools import pairwise

from agentd.core.guard.model import Mark, Marks
from agentd.core.units import parse_size
from agentd.server.runtime.programs import complaint_about

_WHOLE_PERCENT = 100
_MOST_HOOK_S = 3600.0
MARKS = ("warn", "pause", "term", "kill")


def flag(value: object) -> bool:
    """Return true or false. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def mark(value: object, default: Mark) -> Mark:
    """Return a mark; what it leaves out is the default's. Pure. Raises ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError(f'{value!r} is not a mark; write {{ percent = 15, cap = "16GiB" }}')
    for key in value:
        if key not in {"percent", "cap"}:
            raise ValueError(f"{key!r} is unknown; a mark may hold percent, cap")
    return Mark(
        _percent(value["percent"]) if "percent" in value else default.percent,
        _cap(value["cap"]) if "cap" in value else default.cap_bytes,
    )


def _percent(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"percent {value!r} is not a number")
    # Not a number fails every comparison.
    if not 0 < value <= _WHOLE_PERCENT:
        raise ValueError(f"percent {value!r} is not above 0 and at most {_WHOLE_PERCENT}")
    return float(value)


def _cap(value: object) -> int:
    size_bytes = parse_size(value) if isinstance(value, str) else value
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int):
        raise ValueError(f"cap {value!r} is not a size; write 16G (GiB), 16GiB or 16GB (decimal)")
    if size_bytes <= 0:
        raise ValueError(f"cap {value!r} is not above 0")
    return size_bytes


def out_of_order(marks: Marks) -> tuple[str, str] | None:
    """Return the first mark that is not below the one before it, and why. Pure.

    Both numbers have to fall, so that the marks are in order on a host of any size.
    """
    for before, name in pairwise(MARKS):
        higher, lower = getattr(marks, before), getattr(marks, name)
        if lower.percent >= higher.percent:
            return (
                name,
                f"its {lower.percent:g} percent are not below {before}'s {higher.percent:g}",
            )
        if lower.cap_bytes >= higher.cap_bytes:
            return (
                name,
                f"its cap of {lower.cap_bytes} bytes is not below {before}'s {higher.cap_bytes}",
            )
    return None


def command(value: object) -> tuple[str, ...]:
    """Return a hook: an absolute program that can be executed, and its arguments.

    Raises:
        ValueError: It is none.

    """
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f'{value!r} is not a list such as ["/home/me/bin/tell", "argument"]')
    if not value:
        return ()
    if any("\0" in word for word in value):
        raise ValueError("holds a NUL byte; no program can be given one")
    program = os.path.expanduser(value[0]) if value[0].startswith("~/") else value[0]
    if not os.path.isabs(program):
        raise ValueError(f"{value[0]!r} is not an absolute path (it may begin with ~/)")
    try:
        status = os.stat(program)
    except OSError as error:
        raise ValueError(f"{program!r}: {(error.strerror or str(error)).lower()}") from error
    complaint = complaint_about(program, status, os.path.expanduser("~"))
    if complaint:
        raise ValueError(complaint)
    return (program, *value[1:])


def hook_timeout_s(seconds: float) -> float:
    """Return how long a hook may take. Pure. Raises ValueError."""
    if not (math.isfinite(seconds) and 0 < seconds <= _MOST_HOOK_S):
        raise ValueError(f"{seconds:g} s is not above 0 and at most {_MOST_HOOK_S:g}")
    return seconds
