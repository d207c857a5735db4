"""A job that was killed: by the guard, by the kernel, by its user, by somebody else."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from agentd.system.clock import boot_id
from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.cgroupfs import limited
from tests.helpers.processes import children_of
from tests.helpers.wait import wait_until

#: No quote of either kind: it stands in a shell's line. Writing is what makes memory its own.
_HOG = "x = bytes([1]) * (512 << 20)"
REASON = "stopped by the guard: 33.1 of 32 GiB, growing 2.1 GB/s, host had 1.9 GiB left"


def _submit(agent: Agent, *argv: str) -> int:
    job_id = int(agent.cli("submit", "--", *argv, check=True).stdout)
    wait_until(lambda: agent.show(job_id)["state"] == "running", what=f"job {job_id} runs")
    return job_id


def _ended(agent: Agent, job_id: int) -> tuple[str | None, str, str]:
    """Wait for the job's end; return its signal, its cause and the reason."""
    agent.cli("wait", str(job_id))
    books.check_all_over(agent)
    job = agent.show(job_id)
    return job["signal"], job["cause"], job["reason"] or ""


def _give_verdict(agent: Agent, job_id: int, action: str, boot: str) -> None:
    body = {"action": action, "reason": REASON, "boot_id": boot}
    path = Path(agent.state_dir, "jobs", str(job_id), "verdict.json")
    path.write_text(json.dumps(body), encoding="utf-8")


def _score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


def test_the_kernel_takes_a_job_before_the_agent(agent: Agent) -> None:
    """The leader and what it starts; warden, server, spawner and shim are as they were."""
    job_id = _submit(agent, "sh", "-c", "sleep 600; true")
    leader, shim, warden = agent.leader_pid(job_id), agent.shim_pid(job_id), agent.warden_pid()
    (child,) = wait_until(lambda: children_of(leader), what="its child")
    ours = {_score(pid) for pid in (os.getpid(), warden, shim, *children_of(warden))}
    assert len(ours) == 1
    assert _score(leader) == _score(child) == min(1000, ours.pop() + 500)


@pytest.mark.parametrize(
    ("action", "number"),
    [("kill", signal.SIGKILL), ("terminate", signal.SIGTERM), ("terminate", signal.SIGKILL)],
    ids=str,
)
def test_a_kill_after_a_verdict_is_the_guards(agent: Agent, action: str, number: int) -> None:
    """With the reason that the guard gave, though no stop came with it."""
    job_id = _submit(agent, "sleep", "600")
    _give_verdict(agent, job_id, action, boot_id())
    os.kill(agent.leader_pid(job_id), number)
    assert _ended(agent, job_id) == (signal.Signals(number).name, "guard", REASON)


def test_a_verdict_that_ends_nobody_explains_no_end(agent: Agent) -> None:
    """A pause, and one of another boot: the kill was somebody else's."""
    paused, old = _submit(agent, "sleep", "600"), _submit(agent, "sleep", "600")
    _give_verdict(agent, paused, "pause", boot_id())
    _give_verdict(agent, old, "kill", "of another boot")
    for job_id in (paused, old):
        os.kill(agent.leader_pid(job_id), signal.SIGTERM)
        agent.cli("wait", str(job_id))
        job = agent.show(job_id)
        assert (job["signal"], job["cause"]) == ("SIGTERM", "self")


def test_a_stop_by_the_user_stays_the_users(agent: Agent) -> None:
    """The guard came while it was under way."""
    script = "trap '' TERM; while :; do sleep 0.05; done"
    job_id = _submit(agent, "sh", "-c", script)
    agent.cli("stop", "--grace", "60s", "--no-wait", str(job_id))
    wait_until(lambda: agent.show(job_id)["state"] == "stopping", what="the stop is under way")
    _give_verdict(agent, job_id, "kill", boot_id())
    os.kill(agent.leader_pid(job_id), signal.SIGKILL)
    signal_name, cause, reason = _ended(agent, job_id)
    assert (signal_name, cause) == ("SIGKILL", "user")
    assert REASON not in reason


def test_an_orderly_end_is_the_jobs_own(agent: Agent) -> None:
    """It exited before any signal of the guard's reached it."""
    job_id = _submit(agent, "sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; exit 5")
    _give_verdict(agent, job_id, "kill", boot_id())
    Path(agent.home, "go").touch()
    assert _ended(agent, job_id) == (None, "self", "")
    assert agent.show(job_id)["exit_code"] == 5


@pytest.mark.root
def test_a_kill_by_the_kernel_is_recognised(agent: Agent) -> None:
    """A real one, without a cgroup of our own: probable, and said to be no more than that."""
    with limited(64 << 20) as cgroup:
        enter = f"echo $$ > {cgroup}/cgroup.procs; exec {sys.executable} -S -c '{_HOG}'"
        job_id = int(agent.cli("submit", "-c", enter, check=True).stdout)
        signal_name, cause, reason = _ended(agent, job_id)
    assert (signal_name, cause) == ("SIGKILL", "unknown")
    assert reason.startswith("killed by SIGKILL, probably by the kernel's out-of-memory killer")


@pytest.mark.root
def test_a_rescue_shim_recognises_it_too(agent: Agent) -> None:
    """What the kernel had counted at the start stands in the pidfile."""
    with limited(64 << 20) as cgroup:
        wait_and_grow = (
            f"echo $$ > {cgroup}/cgroup.procs; while [ ! -e go ]; do sleep 0.02; done; "
            f"exec {sys.executable} -S -c '{_HOG}'"
        )
        job_id = _submit(agent, "sh", "-c", wait_and_grow)
        shim = agent.shim_pid(job_id)
        agent.kill(shim)
        wait_until(lambda: agent.show(job_id)["shim_pid"] not in {shim, None}, what="a rescue shim")
        Path(agent.home, "go").touch()
        signal_name, cause, reason = _ended(agent, job_id)
    assert (signal_name, cause) == ("SIGKILL", "unknown")
    assert "out-of-memory killer" in reason
