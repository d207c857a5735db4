"""A program that cannot be executed, and a SIGKILL at the same time: never an exit status."""

from __future__ import annotations

import pytest

from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.unstartable import submit_unstartable

#: After the submit was answered: a client that asks again would start another agent, which
#: might still find the program.
_POINTS = (
    "spawner.forked",
    "shim.plan_heard",
    "shim.gate_opened",
    "shim.leader_exited",
    "shim.drained",
    "shim.record_written",
    "shim.recorded",
    "warden.recorded",
    "server.end.received",
    "server.end.indexed",
)


@pytest.mark.parametrize("point", _POINTS)
def test_its_reason_survives(agent: Agent, point: str) -> None:
    """What failed, why and on which path: from the leader through whoever is left to tell."""
    agent.start()
    agent.crash_at(point)
    job_id, program = submit_unstartable(agent)

    done = agent.cli("wait", "--timeout", "15s", str(job_id))

    assert done.returncode not in {0, 75, 125, 127}
    job = agent.show(job_id)
    assert (job["state"], job["exit_code"], job["signal"]) == ("start_failed", None, None)
    assert program in job["reason"]
    assert "No such file or directory" in job["reason"]
    assert agent.crashed(point)
    books.check_all_over(agent)
    assert "Traceback" not in agent.log()
