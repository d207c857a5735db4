"""A job whose program is gone between its submit and its exec: it is accepted and cannot start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.helpers.agent import Agent
from tests.helpers.processes import children_of
from tests.helpers.wait import name_of


def submit_unstartable(agent: Agent, *options: str) -> tuple[int, str]:
    """Submit one and return its id and the path of the program that is gone.

    The agent must run. A crash point is best asked for before: nothing of the job has
    happened then, and what happens after this returns is not waited for.
    """
    script = Path(agent.root, "unstartable")
    script.write_text("#!/bin/sh\n", encoding="ascii")
    script.chmod(0o700)
    below = children_of(agent.warden_pid())
    (spawner,) = [pid for pid in below if name_of(pid) == "agentd-spawner"]
    os.kill(spawner, signal.SIGSTOP)
    job_id = int(agent.cli("submit", *options, "--", str(script), check=True).stdout)
    script.unlink()
    os.kill(spawner, signal.SIGCONT)
    return job_id, str(script)
