"""The warden killed while its guard acts: no job stays frozen, and the reason is not lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import hogs, jobs
from tests.helpers.agent import Agent
from tests.helpers.hogs import ProgressFile
from tests.helpers.processes import children_of
from tests.helpers.wait import name_of, read_stat, wait_until

MIB = 1 << 20
POINTS = (
    "warden.guard.freeze_noted",
    "warden.guard.frozen",
    "warden.guard.verdict_written",
    "warden.guard.told",
)


@pytest.fixture(name="progress")
def _progress() -> Iterator[ProgressFile]:
    """Yield what a hog writes its progress to; gone afterwards."""
    with hogs.progress_file() as progress:
        yield progress


def _state(pid: int) -> str:
    stat = read_stat(pid)
    return "" if stat is None else stat.state


def _spawner_of(agent: Agent) -> int:
    children = children_of(agent.warden_pid())
    return next(pid for pid in children if name_of(pid) == "agentd-spawner")


def submit(agent: Agent, *words: str) -> int:
    """Submit as a user does, and return the job's id."""
    return int(agent.cli("submit", *words, check=True).stdout)


def ended(agent: Agent, job_id: int) -> dict[str, Any]:
    """Wait for the job's end, which starts an agent if there is none; return what is shown."""
    agent.cli("wait", str(job_id), timeout=60)
    return agent.show(job_id)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("with_shim", [False, True], ids=["warden", "warden and shim"])
def test_a_warden_killed_while_it_acts_is_continued(
    agent: Agent, progress: ProgressFile, point: str, *, with_shim: bool
) -> None:
    """The hog is stopped for the same reason by the next one."""
    argv = hogs.hog("anon", progress, 400 * MIB, rate=100 * MIB)
    job_id = submit(agent, "--mem", "100M", "--", *argv)
    wait_until(lambda: progress.read().taken_bytes > 0, what="it has begun")
    others = (agent.shim_pid(job_id),) if with_shim else ()
    agent.crash_at(point, *others)
    wait_until(lambda: agent.crashed(point), what=f"{point} is reached")

    job = ended(agent, job_id)

    if with_shim and point == "warden.guard.told" and job["state"] == "lost":
        # The shim had begun the stop when it was killed: nobody was left to see the end.
        return
    assert (job["state"], job["cause"]) == ("ended", "guard"), job
    assert "by the guard: " in job["reason"]


def test_a_job_held_by_a_killed_warden_stays_paused_and_is_resumed(
    agent: Agent, progress: ProgressFile
) -> None:
    """Whoever comes next knows that it is paused, by whom and why."""
    argv = hogs.hog("anon", progress, 160 * MIB, rate=400 * MIB)
    job_id = submit(agent, "--mem", "100M", "--mem-action", "pause", "--", *argv)
    wait_until(lambda: agent.show(job_id)["state"] == "paused", what="the pause")
    agent.kill(agent.warden_pid())

    shown = agent.show(job_id)
    assert shown["state"] == "paused"
    assert shown["reason"].startswith("paused by the guard: ")
    stat = read_stat(agent.leader_pid(job_id))
    assert stat is not None
    assert stat.state == "T"
    agent.cli("resume", str(job_id), check=True)

    wait_until(lambda: progress.read().full_ns, what="it goes on")


def test_guarding_goes_on_for_adopted_jobs(agent: Agent, progress: ProgressFile) -> None:
    """A hog that crosses its limit while there is no warden is stopped by the next."""
    argv = hogs.hog("anon", progress, 300 * MIB, rate=100 * MIB)
    job_id = submit(agent, "--mem", "200M", "--", *argv)
    wait_until(lambda: progress.read().taken_bytes > 0, what="it has begun")
    agent.kill(agent.warden_pid())
    wait_until(lambda: progress.read().full_ns, what="it is past its limit, and nobody cares")

    assert ended(agent, job_id)["cause"] == "guard"


def test_a_state_of_another_boot_or_no_state_is_none(agent: Agent) -> None:
    """What makes no sense is not believed: nobody is thawed, held or ended for it."""
    job_id = submit(agent, "--", *jobs.sleeper())
    wait_until(lambda: agent.show(job_id)["state"] == "running", what="it runs")
    agent.kill(agent.warden_pid())
    state = Path(agent.runtime_dir) / "guard.state"
    body = {
        "version": 1,
        "boot_id": "of another boot",
        "jobs": {str(job_id): {"phase": "killing", "since_ns": 1, "verdict": None}},
    }
    for data in (json.dumps(body).encode(), b"noise\n", b""):
        state.write_bytes(data)
        assert agent.show(job_id)["state"] == "running"
        agent.kill(agent.warden_pid())
    assert agent.show(job_id)["state"] == "running"
    assert "Traceback" not in agent.log()


def test_a_shim_killed_while_its_job_is_frozen_costs_neither_verdict_nor_job(
    agent: Agent, progress: ProgressFile
) -> None:
    """A rescue shim finds a stopped leader; that is no pause of the user's."""
    agent.start()
    spawner = _spawner_of(agent)
    argv = hogs.hog("bomb", progress, 900 * MIB, processes=6)
    job_id = submit(agent, "--mem", "400M", "--", *argv)
    wait_until(lambda: agent.leader_pid(job_id), what="its leader")
    # Nobody reads page tables meanwhile: it stays frozen, not judged.
    os.kill(spawner, signal.SIGSTOP)
    leader, shim = agent.leader_pid(job_id), agent.shim_pid(job_id)
    wait_until(lambda: _state(leader) == "T", what="the guard has frozen it")

    agent.kill(shim)
    os.kill(spawner, signal.SIGCONT)

    job = ended(agent, job_id)
    assert (job["state"], job["cause"]) == ("ended", "guard"), job


def test_the_users_pause_of_a_held_job_is_the_users(agent: Agent, progress: ProgressFile) -> None:
    """Memory back, guard switched off: only a resume lets it go on."""
    argv = hogs.hog("anon", progress, 200 * MIB, rate=100 * MIB)
    job_id = submit(agent, "--mem", "100M", "--mem-action", "pause", "--", *argv)
    wait_until(lambda: agent.show(job_id)["state"] == "paused", what="the guard's pause")

    agent.cli("pause", str(job_id), check=True)
    Path(agent.config_file).write_text("[guard]\nenabled = false\n", encoding="utf-8")
    wait_until(lambda: 'guard.enabled":false' in agent.log(), what="the guard is off")
    for _ in range(3):
        # Each is answered only after a look of the guard.
        agent.cli("guard", check=True)

    assert agent.show(job_id)["state"] == "paused"
    assert _state(agent.leader_pid(job_id)) == "T"


def test_a_resume_that_crosses_the_guards_pause_counts(
    agent: Agent, progress: ProgressFile
) -> None:
    """The shim is slow: it hears of both at once. The job is guarded on, and held again."""
    argv = hogs.hog("anon", progress, 800 * MIB, rate=60 * MIB)
    job_id = submit(agent, "--mem", "100M", "--mem-action", "pause", "--", *argv)
    wait_until(lambda: progress.read().taken_bytes > 30 * MIB, what="it has begun")
    shim, leader = agent.shim_pid(job_id), agent.leader_pid(job_id)
    os.kill(shim, signal.SIGSTOP)
    wait_until(lambda: _state(leader) == "T", what="the guard has stopped it")
    before = progress.read().taken_bytes
    # Answered after five seconds without the shim's word: then both orders wait for it.
    agent.cli("resume", str(job_id))
    os.kill(shim, signal.SIGCONT)

    wait_until(lambda: progress.read().taken_bytes > before + 16 * MIB, what="it goes on")
    wait_until(lambda: agent.show(job_id)["state"] == "paused", what="it is held again")
    assert progress.read().taken_bytes < before + 150 * MIB
