"""Whom the kernel's out-of-memory killer takes first (proc(5), /proc/PID/oom_score_adj)."""

from __future__ import annotations

import os

#: What a job stands above the agent, of a thousand.
_ABOVE_AGENT = 500
_MOST = 1000
_PATH = "/proc/self/oom_score_adj"


def volunteer() -> None:
    """Let the kernel take this process before those it descends from; anybody may raise his own.

    Never lowered. Raises OSError: /proc is missing or not writable.
    """
    descriptor = os.open(_PATH, os.O_RDWR | os.O_CLOEXEC)
    try:
        score = int(os.read(descriptor, 16))
        if score < _MOST:
            os.write(descriptor, b"%d" % min(_MOST, score + _ABOVE_AGENT))
    finally:
        os.close(descriptor)
