"""What the other tests lean on: a wait that explains itself, a teardown that misses nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.agent import Agent, private_agent
from tests.helpers.jobs import escaper, printer, read_pids
from tests.helpers.wait import is_alive, wait_until


def test_a_wait_that_fails_says_what_it_last_saw() -> None:
    """The message holds the fact waited for and the last value."""
    seen = iter([0, 0, "", ""])

    with pytest.raises(AssertionError, match=r"the number: .* last value ''"):
        wait_until(lambda: next(seen, ""), deadline_s=0.05, what="the number")


def test_a_printer_prints_what_it_says() -> None:
    """Size and digest of the helper are those of the program's output."""
    job = printer(300_000, seed=3, exit_code=4)
    ran = subprocess.run(job.argv, stdout=subprocess.PIPE, check=False)

    assert (len(ran.stdout), ran.returncode) == (job.size_bytes, 4)


def test_the_fixture_ends_what_left_its_parent(agent: Agent) -> None:
    """Children that left by setsid and double fork are found by their environment, and gone."""
    pid_file = f"{agent.root}/pids"
    with subprocess.Popen(escaper(pid_file), env=agent.env) as leader:
        pids = wait_until(lambda: len(p := read_pids(pid_file)) == 3 and p, what="three escapees")
        assert isinstance(pids, list)
        agent.destroy()
        assert leader.wait(5) == -9
    assert not any(map(is_alive, pids))
    # The fixture destroys it once more.
    os.mkdir(agent.root)


def test_nothing_is_left_of_an_agent_that_was_used() -> None:
    """After the context no process, no socket and no directory of it is there."""
    with private_agent() as agent:
        agent.cli("submit", "--", sys.executable, "-c", "import time; time.sleep(600)", check=True)
        pids = set(agent.processes())
        assert agent.warden_pid() in pids
        assert agent.server_pid() in pids

    assert not any(map(is_alive, pids))
    assert not os.path.exists(agent.root)
