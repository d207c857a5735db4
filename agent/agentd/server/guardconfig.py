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
_UNITS = (
    (1 << 40, "TiB"),
    (10**12, "TB"),
    (1 << 30, "GiB"),
    (10**9, "GB"),
    (1 << 20, "MiB"),
    (10**6, "MB"),
    (1, "bytes"),
)
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


def out_of_order(marks: Marks, given: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the first mark of those `given` that is out of order, and why. Pure.

    Both numbers have to fall, so that the marks are in order on a host of any size.
    """
    for before, name in pairwise(MARKS):
        higher, lower = getattr(marks, before), getattr(marks, name)
        if lower.percent >= higher.percent:
            part, lead = "percent", "{} percent"
            above, below = f"{higher.percent:g}", f"{lower.percent:g}"
        elif lower.cap_bytes >= higher.cap_bytes:
            part, lead = "cap", "a cap of {}"
            above, below = _cap_text(higher.cap_bytes), _cap_text(lower.cap_bytes)
        else:
            continue
        # What was left at its default is nobody's mistake.
        if not _is_given(given, name, part):
            return before, f"{lead.format(above)} is not above {name}'s {below} (the default)"
        default = "" if _is_given(given, before, part) else " (the default)"
        return name, f"{lead.format(below)} is not below {before}'s {above}{default}"
    return None


def _is_given(given: Mapping[str, object], name: str, part: str) -> bool:
    values = given.get(name)
    return isinstance(values, Mapping) and part in values


def _cap_text(size_bytes: int) -> str:
    """Return it exactly, in the largest unit that has no remainder."""
    fitting = (f"{size_bytes // unit} {name}" for unit, name in _UNITS if not size_bytes % unit)
    return next(fitting)


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
