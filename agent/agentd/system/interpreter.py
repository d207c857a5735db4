"""How another process of the agent is started: by this interpreter, as isolated as this one."""

from __future__ import annotations

import sys


def agentd_argv(*words: str) -> list[str]:
    """Return the argument vector that runs `agentd WORDS`.

    An installed agent is started with -I: what the user's PYTHONPATH or site directory holds is
    the jobs' business. One from a source tree may be found by PYTHONPATH alone; -P keeps the
    current directory off its path.
    """
    isolation = "-I" if sys.flags.isolated else "-P"
    return [sys.executable, isolation, "-m", "agentd", *words]
