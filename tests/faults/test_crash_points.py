"""SIGKILL at every named point, alone and two at once; then the books."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import agentd
from tests.faults.court import Court
from tests.faults.test_guard_killed import POINTS as GUARD
from tests.helpers import books
from tests.helpers.wait import wait_until
from tests.helpers.witness import Way

SERVER = (
    "server.submit.begin",
    "server.submit.before_spec",
    "server.submit.dir_made",
    "server.submit.indexed",
    "server.submit.launched",
    "server.started.received",
    "server.end.received",
    "server.end.indexed",
    "server.end.live_removed",
)
WARDEN = (
    "warden.launch_received",
    "warden.before_spawn",
    "warden.spawned",
    "warden.recorded",
)
SPAWNER = ("spawner.ordered", "spawner.forked")
#: Before the gate is opened, and after: the program may run.
SHIM_EARLY = (
    "shim.forked",
    "shim.locked",
    "shim.leader_forked",
    "leader.introduced",
    "shim.plan_heard",
)
SHIM_LATE = (
    "shim.gate_opened",
    "shim.executed",
    "shim.rotate",
    "shim.leader_exited",
    "shim.drained",
    "shim.record_written",
    "shim.recorded",
)
#: Only in a stop.
SHIM_STOP = ("shim.stop_noted", "shim.terminated")
#: Only once a shim was killed.
_RESCUE = ("warden.shim_gone", "rescue.locked")
#: Only in a removal.
_REMOVE = ("server.remove.id_kept", "server.remove.renamed", "server.remove.dropped")
#: Name and why no test kills there.
_EXCLUDED = {
    "leader.pid_written": "has a test of its own: what is killed there is the job",
    "server.requeue.noted": "tests/unit/agentd/server/test_crash_points.py kills there",
    "server.requeue.submitted": "the same",
}

_LIFE = (*SERVER, *WARDEN, *SPAWNER, *SHIM_EARLY, *SHIM_LATE)


def test_every_point_is_tried() -> None:
    """A new crash point in the source needs a test here, or a reason why not."""
    (root,) = agentd.__path__
    sources = Path(root).rglob("*.py")
    named = {
        name for path in sources for name in re.findall(r'\breach\("([^"]+)"\)', path.read_text())
    }
    assert named == {*_LIFE, *SHIM_STOP, *_RESCUE, *_REMOVE, *GUARD, *_EXCLUDED}


@pytest.mark.parametrize("point", _LIFE)
def test_killed_at_a_point_of_its_life(court: Court, point: str) -> None:
    """However a job ends, its end, its output and its one run are told as they were."""
    for way in Way:
        court.agent.crash_at(point)
        court.run(way)
        assert court.agent.crashed(point)
    court.judge()


def test_a_leader_killed_before_its_program(court: Court) -> None:
    """From the moment its pidfile names it, a leader that is killed is a job that is killed."""
    court.agent.crash_at("leader.pid_written")
    job_id = court.submit(Way.EXITS)

    assert court.agent.cli("wait", "--timeout", "15s", str(job_id)).returncode == 128 + 9

    assert court.agent.crashed("leader.pid_written")
    job = court.agent.show(job_id)
    assert (job["signal"], job["cause"]) == ("SIGKILL", "self")
    assert court.witness(job_id).runs() == 0
    books.check_all_over(court.agent)


@pytest.mark.parametrize("point", SHIM_STOP)
def test_killed_while_it_stops_a_job(court: Court, point: str) -> None:
    """The rescue shim goes on with the stop, and the end still has the user as its cause."""
    court.agent.crash_at(point)
    court.run(Way.STOPPED)
    assert court.agent.crashed(point)
    court.judge()


@pytest.mark.parametrize("point", _RESCUE)
def test_killed_while_a_shim_is_replaced(court: Court, point: str) -> None:
    """The shim of a running job was killed already: a second death changes nothing."""
    for way in Way:
        job_id = court.submit(way)
        court.wait_runs(job_id)
        court.agent.crash_at(point)
        killed = court.agent.shim_pid(job_id)
        court.agent.kill(killed)
        wait_until(lambda: court.agent.crashed(point), what="the second was killed")
        # Somebody looks, and somebody minds the job again before the leader ends.
        wait_until(
            lambda: court.agent.show(job_id)["shim_pid"] not in {None, killed},  # noqa: B023  # called at once
            what="a rescue shim",
        )
        court.bring_to_end(job_id)
    court.judge()


@pytest.mark.parametrize("point", _REMOVE)
def test_killed_while_a_job_is_removed(court: Court, point: str) -> None:
    """The removal is finished by the next server, and the id is not given again."""
    kept = court.run(Way.EXITS)
    gone = int(court.agent.cli("submit", "--", "true", check=True).stdout)
    court.agent.cli("wait", str(gone), check=True)
    court.agent.crash_at(point)

    court.agent.cli("rm", str(gone), check=True)

    assert court.agent.crashed(point)
    assert court.agent.cli("show", str(gone)).returncode == 1
    names = sorted(path.name for path in Path(court.agent.state_dir, "jobs").iterdir())
    assert names == [str(kept)]
    assert court.run(Way.EXITS) == gone + 1
    court.judge()
