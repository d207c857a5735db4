"""Files that a power cut or a careless hand has torn: a defined end, and the file is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.court import Court
from tests.helpers import books
from tests.helpers.clients import deaf_client
from tests.helpers.wait import wait_gone, wait_until
from tests.helpers.witness import Way

#: What is left of a file.
_TORN = {"truncated": 40, "empty": 0}


def _tear(court: Court, job_id: int, name: str, kept_bytes: int) -> Path:
    path = Path(f"{court.agent.state_dir}/jobs/{job_id}/{name}")
    os.truncate(path, kept_bytes)
    return path


def _set_aside(path: Path) -> bool:
    return path.with_name(f"{path.name}.corrupt-1").exists()


def _is_kept(path: Path) -> bool:
    # Evidence: in its place where nothing else needs the name, else set aside.
    return path.exists() or _set_aside(path)


def _running(court: Court, way: Way = Way.EXITS) -> int:
    job_id = court.submit(way)
    court.wait_runs(job_id)
    wait_until(court.witness(job_id).runs, what="its program runs")
    return job_id


def _kill_agent(court: Court) -> None:
    court.agent.kill(court.agent.warden_pid(), court.agent.server_pid())


@pytest.mark.parametrize("kept_bytes", _TORN.values(), ids=_TORN)
def test_a_torn_exit_record_is_a_lost_job(court: Court, kept_bytes: int) -> None:
    """Never "ok" and never "killed"; the agent starts, the output is there, other jobs go on."""
    other = _running(court)
    job_id = _running(court)
    shim = court.agent.shim_pid(job_id)
    _kill_agent(court)
    court.witness(job_id).let_go()
    wait_gone({shim}, what="the shim has written the record")
    torn = _tear(court, job_id, "exit.json", kept_bytes)

    job = court.agent.show(job_id)

    assert (job["state"], job["cause"]) == ("lost", "unknown")
    assert "exit record" in job["reason"]
    assert "unreadable" in job["reason"]
    assert _set_aside(torn)
    assert court.agent.cli_bytes("logs", str(job_id)) == court.witness(job_id).output
    assert court.agent.cli("wait", str(job_id)).returncode not in {0, 7}
    assert court.state(other) == "running"
    court.bring_to_end(other)
    court.excused.add(job_id)
    court.judge()


def test_a_torn_exit_record_is_not_read_again(court: Court) -> None:
    """What was decided is written down: the next agent says the same."""
    job_id = _running(court)
    shim = court.agent.shim_pid(job_id)
    _kill_agent(court)
    court.witness(job_id).let_go()
    wait_gone({shim}, what="the shim has written the record")
    _tear(court, job_id, "exit.json", 0)
    before = court.agent.show(job_id)
    _kill_agent(court)
    os.unlink(f"{court.agent.state_dir}/jobs.db")

    assert court.agent.show(job_id) == before


@pytest.mark.parametrize("kept_bytes", _TORN.values(), ids=_TORN)
def test_a_torn_pidfile_under_a_living_shim_changes_nothing(court: Court, kept_bytes: int) -> None:
    """The lock says that the shim lives, and the shim says the rest."""
    job_id = _running(court)
    _kill_agent(court)
    _tear(court, job_id, "pid", kept_bytes)

    assert court.state(job_id) == "running"
    court.bring_to_end(job_id)
    court.judge()


def test_a_torn_pidfile_without_a_shim_is_a_lost_job(court: Court) -> None:
    """Its processes stay visible, and `stop` ends them."""
    job_id = _running(court, Way.STOPPED)
    leader = court.agent.leader_pid(job_id)
    court.agent.kill(
        court.agent.warden_pid(), court.agent.server_pid(), court.agent.shim_pid(job_id)
    )
    torn = _tear(court, job_id, "pid", 40)

    job = court.agent.show(job_id)

    assert (job["state"], job["cause"]) == ("lost", "unknown")
    assert "pidfile" in job["reason"]
    assert "unreadable" in job["reason"]
    assert _is_kept(torn)
    assert leader in books.strays(court.agent)
    court.agent.cli("stop", str(job_id))
    court.excused.add(job_id)
    court.judge()


def test_a_torn_spec_of_a_job_that_never_began_fails_its_start(court: Court) -> None:
    """Nobody knows what to run; the reason says so."""
    court.agent.start()
    with deaf_client(court.agent, "one", ("true",)) as client:
        # The client first: a server does not outlive its warden for long.
        court.agent.crash_at("server.submit.indexed", client.pid, court.agent.warden_pid())
        client.wait(30)
    wait_until(lambda: not court.agent.processes(), what="nothing of the agent is left")
    torn = _tear(court, 1, "spec.json", 40)

    job = court.agent.show(1)

    assert job["state"] == "start_failed"
    assert "spec.json" in job["reason"]
    assert "unreadable" in job["reason"]
    assert _is_kept(torn)
    court.judge()


def test_a_torn_spec_of_a_running_job_costs_nothing(court: Court) -> None:
    """Its shim knows all it needs."""
    job_id = _running(court)
    _kill_agent(court)
    _tear(court, job_id, "spec.json", 40)

    court.bring_to_end(job_id)

    court.judge()


def test_a_torn_spec_of_a_killed_shim_is_no_endless_rescue(court: Court) -> None:
    """Without it nobody can mind the job: it is lost in so many words, and the agent is quiet."""
    job_id = _running(court)
    torn = _tear(court, job_id, "spec.json", 40)
    court.agent.kill(court.agent.shim_pid(job_id))

    wait_until(lambda: court.state(job_id) == "lost", deadline_s=15, what="the job is lost")

    assert "spec.json" in court.agent.show(job_id)["reason"]
    assert _is_kept(torn)
    assert court.agent.log().count("spec.json") < 50


def test_a_torn_stop_record_costs_only_the_cause(court: Court) -> None:
    """A rescue shim goes on without knowing that a stop was under way."""
    job_id = _running(court)
    Path(f"{court.agent.state_dir}/jobs/{job_id}/stop.json").write_text('{"ver', encoding="ascii")
    court.agent.kill(court.agent.shim_pid(job_id))
    court.bring_to_end(job_id)
    court.judge()


def test_a_job_directory_that_was_removed_by_hand(court: Court) -> None:
    """The job is lost, and the agent starts."""
    job_id = _running(court)
    court.witness(job_id).let_go()
    court.agent.cli("wait", str(job_id))
    other = _running(court)
    _kill_agent(court)
    os.rename(f"{court.agent.state_dir}/jobs/{job_id}", f"{court.agent.root}/moved")

    job = court.agent.show(job_id)

    assert (job["state"], job["exit_code"]) == ("ended", 7)
    assert court.state(other) == "running"
    court.bring_to_end(other)
