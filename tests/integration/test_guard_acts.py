"""The guard at work on real hogs: the right job, in the way that was asked for, and why."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import hogs, jobs
from tests.helpers.agent import Agent
from tests.helpers.hogs import ProgressFile
from tests.helpers.processes import children_of
from tests.helpers.wait import read_stat, wait_until

MIB = 1 << 20
#: What a hog may go past its limit: 64 MiB, or what it takes in 60 ms.
OVERSHOOT_BYTES = 64 * MIB
OVERSHOOT_S = 0.06


@pytest.fixture(name="progress")
def _progress() -> Iterator[ProgressFile]:
    """Yield what a hog writes its progress to; gone afterwards."""
    with hogs.progress_file() as progress:
        yield progress


def submit(agent: Agent, *words: str) -> int:
    """Submit as a user does, and return the job's id."""
    return int(agent.cli("submit", *words, check=True).stdout)


def ended(agent: Agent, job_id: int) -> dict[str, Any]:
    """Wait for the job's end and return what is shown of it."""
    agent.cli("wait", str(job_id), timeout=60)
    return agent.show(job_id)


def state_of(agent: Agent, job_id: int) -> str:
    """Return the job's state as it is shown."""
    return str(agent.show(job_id)["state"])


def kinds_of(agent: Agent, job_id: int) -> list[str]:
    """Return the kinds of the job's events, oldest first."""
    lines = agent.cli("events", "--json", check=True).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    return [event["kind"] for event in events if event["job"]["id"] == job_id]


def assert_ended_by_guard(agent: Agent, job: dict[str, Any], progress: ProgressFile) -> None:
    """Demand the whole story of a job that went past its own limit."""
    assert (job["state"], job["cause"]) == ("ended", "guard"), job
    assert "by the guard: " in job["reason"], job["reason"]
    verdict = json.loads(Path(f"{agent.state_dir}/jobs/{job['id']}/verdict.json").read_bytes())
    assert verdict["held_bytes"] > verdict["limit_bytes"] == job["mem_limit_bytes"]
    seen = progress.read()
    allowed = max(OVERSHOOT_BYTES, seen.rate_bytes_per_s * OVERSHOOT_S)
    assert seen.taken_bytes <= job["mem_limit_bytes"] + allowed


@pytest.mark.parametrize(
    ("mode", "rate"),
    [("anon", 400 * MIB), ("memfd", 400 * MIB), ("zombie", 400 * MIB), ("bomb", 20 * MIB)],
)
def test_a_job_past_its_limit_is_stopped_and_says_why(
    agent: Agent, progress: ProgressFile, mode: str, rate: int
) -> None:
    """However it takes its memory; who is below its limit does not notice."""
    innocent = submit(agent, "--mem", "100M", "--", *jobs.sleeper())
    argv = hogs.hog(mode, progress, 1024 * MIB, rate=rate)

    job = ended(agent, submit(agent, "--mem", "200M", "--", *argv))

    assert_ended_by_guard(agent, job, progress)
    assert state_of(agent, innocent) == "running"
    wait_until(lambda: "guard.came_back" in kinds_of(agent, job["id"]), what="what came back")
    kinds = kinds_of(agent, job["id"])
    assert kinds.count("guard.terminated") + kinds.count("guard.killed") >= 1


def test_a_job_may_write_its_checkpoint_before_it_goes(agent: Agent, tmp_path: Path) -> None:
    """SIGTERM reaches a program that was just frozen, and its exit code is its own."""
    script = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    open({str(tmp_path / 'checkpoint')!r}, 'w').write('done')\n"
        "    sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "kept = []\n"
        "while True:\n"
        "    kept.append(bytearray(b'x') * (1 << 20))\n"
        "    time.sleep(0.005)\n"
    )

    job = ended(agent, submit(agent, "--mem", "100M", "--", "python3", "-c", script))

    assert (job["exit_code"], job["cause"]) == (3, "guard")
    assert (tmp_path / "checkpoint").read_text(encoding="ascii") == "done"


def test_a_job_that_ignores_sigterm_and_grows_on_is_killed(
    agent: Agent, progress: ProgressFile
) -> None:
    """Not when its grace is over: by then there would be no memory left."""
    argv = hogs.hog("anon", progress, 2048 * MIB, rate=400 * MIB, ignore_term=1)

    job = ended(agent, submit(agent, "--grace", "1h", "--mem", "200M", "--", *argv))

    assert job["signal"] == "SIGKILL"
    assert_ended_by_guard(agent, job, progress)
    assert "guard.killed" in kinds_of(agent, job["id"])


def test_a_job_may_be_paused_instead_and_resumed(agent: Agent, progress: ProgressFile) -> None:
    """It keeps what it has; resumed, it is left alone until it grows on."""
    argv = hogs.hog("anon", progress, 230 * MIB, rate=400 * MIB)
    job_id = submit(agent, "--mem", "200M", "--mem-action", "pause", "--", *argv)
    wait_until(lambda: state_of(agent, job_id) == "paused", what="the pause")
    shown = agent.show(job_id)
    assert shown["reason"].startswith("paused by the guard: ")
    stat = read_stat(agent.leader_pid(job_id))
    assert stat is not None
    assert stat.state == "T"

    agent.cli("resume", str(job_id), check=True)

    wait_until(lambda: progress.read().full_ns, what="it goes on to its end")
    assert state_of(agent, job_id) == "running"
    agent.cli("kill", str(job_id), check=True)
    assert ended(agent, job_id)["cause"] == "user"


def test_a_warning_is_only_a_warning(agent: Agent, progress: ProgressFile) -> None:
    """The job goes on, and its owner may read of it."""
    argv = hogs.hog("anon", progress, 300 * MIB)
    job_id = submit(agent, "--mem", "200M", "--mem-action", "warn", "--", *argv)

    wait_until(lambda: "guard.warned" in kinds_of(agent, job_id), what="the warning")

    wait_until(lambda: progress.read().full_ns, what="it goes on to its end")
    assert state_of(agent, job_id) == "running"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_guard_needs_no_server(agent: Agent, progress: ProgressFile, number: int) -> None:
    """Killed or frozen: a hog past its limit is stopped all the same."""
    argv = hogs.hog("anon", progress, 1024 * MIB, rate=50 * MIB)
    job_id = submit(agent, "--mem", "100M", "--", *argv)
    wait_until(lambda: progress.read().taken_bytes > 10 * MIB, what="it has begun")
    server = agent.server_pid()
    os.kill(server, number)
    leader = agent.leader_pid(job_id)

    wait_until(lambda: read_stat(leader) is None, what="the end of the hog")
    if number == signal.SIGSTOP:
        os.kill(server, signal.SIGCONT)
    assert_ended_by_guard(agent, ended(agent, job_id), progress)


def test_workers_that_share_memory_are_innocent(agent: Agent, progress: ProgressFile) -> None:
    """Eight of them see 100 MiB each, and hold 100 MiB together."""
    argv = hogs.hog("share", progress, 100 * MIB, processes=8)
    job_id = submit(agent, "--mem", "200M", "--", *argv)

    wait_until(lambda: progress.read().rounds > 40, deadline_s=60, what="they have read it often")

    assert state_of(agent, job_id) == "running"
    assert not [kind for kind in kinds_of(agent, job_id) if kind.startswith("guard.")]


def test_a_dry_run_changes_nothing_and_says_it_once_a_second(
    agent: Agent, progress: ProgressFile
) -> None:
    """It tells what would have been done."""
    Path(agent.config_file).write_text("[guard]\ndry_run = true\n", encoding="utf-8")
    argv = hogs.hog("anon", progress, 300 * MIB)
    job_id = submit(agent, "--mem", "100M", "--", *argv)

    wait_until(lambda: len(would_lines(agent)) >= 3, what="three words")

    lines = would_lines(agent)
    first, last = (datetime.fromisoformat(line["timestamp"]) for line in (lines[0], lines[-1]))
    assert len(lines) <= 2 + (last - first).total_seconds()
    assert all(line["text"].startswith("would have been stopped") for line in lines)
    assert kinds_of(agent, job_id).count("guard.would_act") == 1
    assert state_of(agent, job_id) == "running"
    assert progress.read().full_ns


def would_lines(agent: Agent) -> list[dict[str, Any]]:
    """Return what the agent's log says of a dry run."""
    lines = (json.loads(line) for line in agent.log().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == "guard.would_act"]


def test_a_job_raises_its_own_chance_with_the_kernel(agent: Agent) -> None:
    """Should the guard come too late, the kernel's choice is a job and not the agent."""
    job_id = submit(agent, "--", *jobs.sleeper())
    wait_until(lambda: state_of(agent, job_id) == "running", what="it runs")

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))

    assert score(agent.leader_pid(job_id)) == min(1000, score(agent.warden_pid()) + 500)
    assert all(score(pid) == score(agent.warden_pid()) for pid in children_of(agent.warden_pid()))


def test_what_a_job_leaves_in_memory_is_told_with_the_way_to_be_rid_of_it(
    agent: Agent, tmp_path: Path
) -> None:
    """Files in /dev/shm belong to no process once it is gone; somebody's own stay unnamed."""
    left = Path(f"/dev/shm/left-{os.getpid()} here")
    go = tmp_path / "go"
    script = (
        "import mmap, os, time\n"
        f"file = open({str(left)!r}, 'w+b'); file.truncate(32 << 20)\n"
        "memory = mmap.mmap(file.fileno(), 32 << 20)\n"
        "for at in range(0, 32 << 20, 4096): memory[at] = 1\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
    )
    try:
        job_id = submit(agent, "--", "python3", "-c", script)
        wait_until(lambda: left.exists() and left.stat().st_blocks > 60_000, what="it is full")
        # Whose it is, is looked up every other second, and for a report.
        agent.cli("guard", check=True)
        go.touch()
        ended(agent, job_id)
        wait_until(lambda: "guard.warned" in kinds_of(agent, job_id), what="the word about it")
        (text,) = [
            event["detail"]
            for event in map(json.loads, agent.cli("events", "--json").stdout.splitlines())
            if event["kind"] == "guard.warned"
        ]
    finally:
        left.unlink(missing_ok=True)
    assert text == f"left 32.0 MiB of memory behind in files that nobody uses: rm '{left}'"
