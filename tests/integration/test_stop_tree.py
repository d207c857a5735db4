"""Stop means the whole tree: whatever a job's processes do, none is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.helpers import books, jobs
from tests.helpers.agent import Agent
from tests.helpers.processes import processes_of
from tests.helpers.wait import holds_for, is_alive, wait_until

#: What happens to a running job before it is stopped.
Prepare = Callable[[Agent, int], None]


def _submit(agent: Agent, argv: Sequence[str], *options: str) -> int:
    return int(agent.cli("submit", *options, "--", *argv, check=True).stdout)


def _submit_until(agent: Agent, argv: Sequence[str], ready: str, count: int, *options: str) -> int:
    """Submit, and wait until the job's processes have noted so many pids in `ready`."""
    job_id = _submit(agent, argv, *options)
    wait_until(lambda: len(jobs.read_pids(ready)) >= count, what=f"{count} processes are ready")
    return job_id


def _members(agent: Agent, job_id: int) -> dict[int, str]:
    """Return every living process that carries the job's mark, by a scan of /proc."""
    uid = books.spec_of(agent, job_id).uid
    return processes_of("/nowhere", frozenset({uid}))


def _kill_its_shim(agent: Agent, job_id: int) -> None:
    shim = agent.shim_pid(job_id)
    agent.kill(shim)
    wait_until(lambda: agent.show(job_id)["shim_pid"] not in {shim, None}, what="a rescue shim")


def _check_ended(agent: Agent, job_id: int, signal: str | None, cause: str) -> None:
    job = agent.show(job_id)
    assert (job["state"], job["signal"], job["cause"]) == ("ended", signal, cause), job
    assert _members(agent, job_id) == {}
    books.check_all_over(agent)


def _threads(pid: int) -> int:
    """Return how many threads of a process there are."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return 0


@pytest.fixture(name="ready")
def _ready(agent: Agent) -> str:
    """Yield the path of a file for pids."""
    return f"{agent.root}/ready"


def _leave_its_shim(_agent: Agent, _job_id: int) -> None:
    """Change nothing."""


@pytest.mark.parametrize(
    "prepare", [_leave_its_shim, _kill_its_shim], ids=["by its shim", "by a rescue shim"]
)
class TestAllGone:
    """Under the shim that started the job, and under one that took over."""

    def test_a_job_that_ignores_term(self, agent: Agent, ready: str, prepare: Prepare) -> None:
        """The end of its grace is its end."""
        job_id = _submit_until(agent, jobs.term_ignorer(ready), ready, 1)
        prepare(agent, job_id)
        agent.cli("stop", "--grace", "0.3s", str(job_id), check=True)
        _check_ended(agent, job_id, "SIGKILL", "user")
        assert "grace" in agent.show(job_id)["reason"]

    def test_children_that_leave(self, agent: Agent, ready: str, prepare: Prepare) -> None:
        """By setsid and double fork: they are found all the same."""
        job_id = _submit_until(agent, jobs.escaper(ready), ready, 3)
        prepare(agent, job_id)
        agent.cli("stop", str(job_id), check=True)
        _check_ended(agent, job_id, "SIGTERM", "user")
        assert not any(map(is_alive, jobs.read_pids(ready)))

    def test_forks_while_it_is_stopped(self, agent: Agent, ready: str, prepare: Prepare) -> None:
        """Each SIGTERM makes one more of them."""
        job_id = _submit_until(agent, jobs.fork_while_stopped(ready), ready, 1)
        prepare(agent, job_id)
        agent.cli("stop", "--grace", "0.3s", str(job_id), check=True)
        _check_ended(agent, job_id, "SIGKILL", "user")
        assert len(jobs.read_pids(ready)) > 1
        assert not any(map(is_alive, jobs.read_pids(ready)))

    def test_processes_that_are_never_the_same(
        self, agent: Agent, ready: str, prepare: Prepare
    ) -> None:
        """A look at the process list is old before it is read."""
        job_id = _submit_until(agent, jobs.hopper(ready), ready, 1)
        prepare(agent, job_id)
        agent.cli("stop", "--grace", "0.2s", str(job_id), check=True)
        _check_ended(agent, job_id, "SIGKILL", "user")
        holds_for(lambda: not _members(agent, job_id), seconds=0.2, what="none of them is left")

    def test_a_job_whose_first_thread_has_ended(
        self, agent: Agent, ready: str, prepare: Prepare
    ) -> None:
        """It looks like a zombie, runs, and is stopped like any other."""
        job_id = _submit_until(agent, jobs.headless(ready), ready, 1)
        prepare(agent, job_id)
        assert agent.show(job_id)["state"] == "running"
        agent.cli("stop", "--grace", "1s", str(job_id), check=True, timeout=20)
        assert _threads(jobs.read_pids(ready)[0]) == 0
        _check_ended(agent, job_id, "SIGTERM", "user")

    def test_a_paused_job(self, agent: Agent, ready: str, prepare: Prepare) -> None:
        """It sees its SIGTERM and ends in its own way."""
        terms = f"{agent.root}/terms"
        job_id = _submit_until(agent, jobs.term_counter(terms, ready), ready, 2)
        agent.cli("pause", str(job_id), check=True)
        prepare(agent, job_id)
        agent.cli("stop", str(job_id), check=True)
        _check_ended(agent, job_id, None, "user")
        assert agent.show(job_id)["exit_code"] == 4


def test_each_process_gets_one_term(agent: Agent, ready: str) -> None:
    """Also when stop is asked for again and again while a checkpoint is written."""
    terms = f"{agent.root}/terms"
    job_id = _submit_until(agent, jobs.term_counter(terms, ready), ready, 2)
    for _ in range(3):
        agent.cli("stop", "--no-wait", str(job_id))

    assert agent.cli("wait", str(job_id)).returncode == 4

    assert sorted(jobs.read_pids(terms)) == sorted(jobs.read_pids(ready))
    _check_ended(agent, job_id, None, "user")


def test_no_grace_is_no_term(agent: Agent, ready: str) -> None:
    """`--grace 0` kills at once."""
    terms = f"{agent.root}/terms"
    job_id = _submit_until(agent, jobs.term_counter(terms, ready), ready, 2)
    agent.cli("stop", "--grace", "0", str(job_id), check=True)
    _check_ended(agent, job_id, "SIGKILL", "user")
    assert not os.path.exists(terms)


def test_a_shorter_grace_shortens_a_stop(agent: Agent, ready: str) -> None:
    """A later one never makes it longer."""
    job_id = _submit_until(agent, jobs.term_ignorer(ready), ready, 1)
    agent.cli("stop", "--no-wait", "--grace", "1h", str(job_id), check=True)
    assert agent.show(job_id)["state"] == "stopping"
    agent.cli("stop", "--no-wait", "--grace", "0.2s", str(job_id), check=True)
    agent.cli("stop", "--no-wait", "--grace", "2h", str(job_id))
    assert agent.cli("wait", "--timeout", "10s", str(job_id)).returncode == 128 + 9
    _check_ended(agent, job_id, "SIGKILL", "user")


def test_kill_takes_the_whole_tree(agent: Agent, ready: str) -> None:
    """With what left it."""
    job_id = _submit_until(agent, jobs.escaper(ready), ready, 3)
    agent.cli("kill", str(job_id), check=True)
    _check_ended(agent, job_id, "SIGKILL", "user")


def test_a_timeout_stops_the_tree(agent: Agent, ready: str) -> None:
    """Its cause is the timeout, with the usual grace."""
    options = ("--timeout", "0.5s", "--grace", "0.2s")
    job_id = _submit_until(agent, jobs.term_ignorer(ready), ready, 1, *options)
    assert agent.cli("wait", "--timeout", "10s", str(job_id)).returncode == 128 + 9
    _check_ended(agent, job_id, "SIGKILL", "timeout")
    assert "timeout of 0.5 s" in agent.show(job_id)["reason"]


def test_a_timeout_goes_on_without_its_shim(agent: Agent) -> None:
    """Reckoned from the start of the job, not of the rescue shim."""
    job_id = _submit(agent, ("sleep", "600"), "--timeout", "2s")
    wait_until(lambda: agent.show(job_id)["state"] == "running", what="it runs")
    _kill_its_shim(agent, job_id)
    assert agent.cli("wait", "--timeout", "10s", str(job_id)).returncode == 128 + 15
    _check_ended(agent, job_id, "SIGTERM", "timeout")
    final = books.record_of(agent, job_id)
    assert 1.9e9 < getattr(final, "duration_ns", 0) < 3.5e9


def test_what_a_leader_left_is_ended_after_its_grace(agent: Agent, ready: str) -> None:
    """The leader's own exit code stands, and its output is whole."""
    left = " ".join(jobs.term_ignorer(ready))
    program = f"setsid {left} & until [ -s {ready} ]; do sleep 0.01; done; echo bye; exit 6"
    job_id = _submit(agent, ("/bin/sh", "-c", program), "--grace", "0.3s")
    assert agent.cli("wait", "--timeout", "10s", str(job_id)).returncode == 6
    (pid,) = jobs.read_pids(ready)
    assert not is_alive(pid)
    assert agent.cli_bytes("logs", str(job_id)) == b"bye\n"
    _check_ended(agent, job_id, None, "self")


def test_a_stop_goes_on_when_everybody_who_asked_for_it_is_gone(agent: Agent, ready: str) -> None:
    """Server and warden killed during the grace."""
    job_id = _submit_until(agent, jobs.term_ignorer(ready), ready, 1)
    agent.cli("stop", "--no-wait", "--grace", "1s", str(job_id), check=True)
    leader, shim = agent.leader_pid(job_id), agent.shim_pid(job_id)
    agent.kill(agent.warden_pid(), agent.server_pid())
    wait_until(lambda: not is_alive(leader) and not is_alive(shim), what="the job is over")
    _check_ended(agent, job_id, "SIGKILL", "user")


def test_signals_reach_the_group_and_no_more(agent: Agent) -> None:
    """As a terminal's would: what left the session has asked not to be meant."""
    seen = f"{agent.root}/seen"
    program = (
        f"trap 'echo leader >>{seen}' USR1; "
        f"sh -c \"trap 'echo child >>{seen}; exit' USR1; echo >>{seen}.ready; "
        'while :; do sleep 0.02; done" & '
        f"setsid sh -c \"trap 'echo left >>{seen}' USR1; echo >>{seen}.ready; "
        'while :; do sleep 0.02; done" & '
        "while :; do sleep 0.02; done"
    )
    job_id = _submit(agent, ("/bin/sh", "-c", program))
    ready = Path(f"{seen}.ready")
    wait_until(lambda: ready.exists() and ready.read_text() == "\n\n", what="all three run")

    agent.cli("signal", "USR1", str(job_id), check=True)

    def said() -> set[str]:
        return set(Path(seen).read_text().split()) if os.path.exists(seen) else set()

    wait_until(lambda: said() >= {"leader", "child"}, what="the group got it")
    assert said() == {"leader", "child"}
    agent.cli("kill", str(job_id), check=True)
    books.check_all_over(agent)
