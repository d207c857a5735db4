"""What users touch of the guard, through the whole program."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from agentctl.errors import InvalidSpecError
from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until


def configure(agent: Agent, text: str) -> None:
    """Replace the configuration as an editor does."""
    scratch = Path(f"{agent.config_file}.new")
    scratch.write_text(text, encoding="utf-8")
    scratch.rename(agent.config_file)


def config_error(agent: Agent) -> str:
    """Return why the configuration is not in force; "": it is."""
    status = json.loads(agent.cli("agent", "status", "--json", check=True).stdout)
    return status["config_error"] or ""


def test_what_was_asked_of_the_guard_is_shown(agent: Agent) -> None:
    """By submit, show and ls, for programs and for people."""
    options = ("--mem", "64MB", "--mem-action", "pause", "--preemptible", "--requeue", "3")
    submitted = json.loads(agent.cli("submit", *options, "--json", "--", "true", check=True).stdout)
    assert submitted["mem_limit_bytes"] == 64_000_000
    agent.cli("wait", "1", check=True)

    job = agent.show(1)
    asked = ("mem_action", "preemptible", "requeue_limit", "requeue_of", "requeued_as")
    assert [job[field] for field in asked] == ["pause", True, 3, None, None]
    shown = agent.cli("show", "1", check=True).stdout
    assert "61 MiB, then pause" in shown
    assert "preemptible" in shown
    assert "0 of 3 used" in shown
    assert json.loads(agent.cli("ls", "--json", check=True).stdout) == [job]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--mem", "0"), "--mem: 0 is less than the 4 MiB that an empty process needs"),
        (("--mem", "4095K"), "--mem: 4095K is less than the 4 MiB"),
        (("--mem", "900P"), "--mem 900P: 921600.0 TiB is more than this host has: "),
        (("--mem", "7E"), "--mem 7E: 7340032.0 TiB is more than this host has: "),
        (("--mem", "9999E"), "--mem"),
        (("--mem", "-1G"), "'-1G' is not a size"),
        (("--mem", "nan"), "--mem"),
        (("--mem", "16GBB"), "16GiB or 16GB"),
        (("--mem-action", "kill"), "--mem-action: there is no limit to act on; give"),
        (("--mem", "1G", "--mem-action", "stop"), "--mem-action"),
        (("--requeue", "-1"), "--requeue"),
        (("--requeue", "101"), "--requeue"),
        (("--requeue", "1.5"), "--requeue"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    agent: Agent, options: tuple[str, ...], word: str
) -> None:
    """One line, exit code 2, and no job."""
    refused = agent.cli("submit", *options, "--", "true")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert word in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert agent.cli("ls", "--json").stdout in ("[]\n", "")


def test_the_sdk_takes_the_same_words(agent: Agent) -> None:
    """And refuses the same."""
    with agent.client() as client:
        job = client.submit(["true"], mem="16M", mem_action="warn", preemptible=True, requeue=1)
        assert (job.mem_limit_bytes, job.mem_action, job.requeue_limit) == (16 << 20, "warn", 1)
        assert client.wait(job.id).succeeded
        with pytest.raises(InvalidSpecError, match="mem_action"):
            client.submit(["true"], mem_action="warn")
        guard = client.guard()
        assert guard.enabled
        assert 0 < guard.host.available_bytes < guard.host.total_bytes


def test_the_guard_says_how_it_stands(agent: Agent) -> None:
    """For people and, before or after the verb, for programs."""
    agent.cli("submit", "--name", "quiet", "--mem", "64M", "--", "sleep", "600", check=True)
    wait_until(lambda: agent.show(1)["state"] == "running", what="the job runs")
    wait_until(
        lambda: json.loads(agent.cli("guard", "--json", check=True).stdout)["jobs"],
        what="the guard has seen the job",
    )
    shown = agent.cli("guard", check=True).stdout
    assert shown.startswith("guard    on\nmemory   ")
    assert "quiet" in shown
    body = json.loads(agent.cli("--json", "guard", check=True).stdout)
    assert [job["job_id"] for job in body["jobs"]] == [1]
    assert body["jobs"][0]["limit_bytes"] == 64 << 20
    host = body["host"]
    assert host["kill_bytes"] < host["term_bytes"] < host["pause_bytes"] < host["warn_bytes"]


def test_a_change_of_the_guard_is_in_force_at_once(agent: Agent) -> None:
    """And one with a mistake is said, and the last good one stays."""
    agent.start()
    configure(agent, '[guard]\ndry_run = true\nwarn = { percent = 14, cap = "15GiB" }\n')
    wait_until(
        lambda: json.loads(agent.cli("guard", "--json", check=True).stdout)["dry_run"],
        what="the dry run",
    )
    configure(agent, "[guard]\ndry_run = false\nwarn = { percent = 7 }\n")
    wait_until(lambda: config_error(agent), what="the complaint")
    assert "guard.warn (line 3): 7 percent is not above pause's 8 (the default)" in config_error(
        agent
    )
    assert config_error(agent).endswith("; the last good one is in force")
    assert "config   not in force: " in agent.cli("guard", check=True).stdout
    assert json.loads(agent.cli("guard", "--json", check=True).stdout)["dry_run"] is True
    configure(agent, "[guard]\nenabled = false\n")
    wait_until(
        lambda: not json.loads(agent.cli("guard", "--json", check=True).stdout)["enabled"],
        what="the guard is off",
    )
    assert "guard    off" in agent.cli("guard", check=True).stdout


def test_a_mistake_does_not_bring_the_defaults_back(agent: Agent) -> None:
    """Over a restart of the whole agent the last good policy holds."""
    configure(agent, "[guard]\ndry_run = true\n")
    agent.start()
    assert json.loads(agent.cli("guard", "--json", check=True).stdout)["dry_run"] is True
    configure(agent, "[guard]\ndry_run = perhaps\n")
    agent.cli("agent", "stop", check=True)
    wait_until(lambda: not agent.warden_pid(), what="the agent ended")
    agent.start()
    assert "not TOML" in config_error(agent)
    assert json.loads(agent.cli("guard", "--json", check=True).stdout)["dry_run"] is True


def test_a_hook_runs_at_every_end(agent: Agent) -> None:
    """A program of the user's, told by its environment; one that fails is said in the log."""
    told = Path(agent.home, "told")
    program = Path(agent.home, "tell")
    program.write_text(
        f'#!/bin/sh\necho "$1 $AGENTCTL_EVENT $AGENTCTL_JOB_NAME $AGENTCTL_EXIT_CODE" >> {told}\n'
        "echo loud; exit 9\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    configure(agent, f'[hooks]\non_end = ["{program}", "$HOME"]\n')
    name = "a; rm -rf $HOME `id`"
    agent.cli("run", "--name", name, "--", "sh", "-c", "exit 7")
    wait_until(told.exists, what="the hook ran")
    assert told.read_text(encoding="utf-8") == f"$HOME job.ended {name} 7\n"
    log = Path(agent.state_dir, "log/hooks.log")
    wait_until(log.exists, what="its output is kept")
    assert "job 1: exited 9\nloud\n" in log.read_text(encoding="utf-8")


@pytest.fixture(name="hog")
def _hog(tmp_path: Path) -> Iterator[str]:
    """Yield a program that takes 300 MB at once and then does nothing."""
    path = tmp_path / "hog.py"
    path.write_text("import time\nx = bytearray(300 << 20)\ntime.sleep(600)\n", encoding="utf-8")
    yield str(path)
    os.unlink(path)


def test_a_job_over_its_limit_ends_with_a_reason_and_is_owed_a_requeue(
    agent: Agent, hog: str
) -> None:
    """The user sees who, why and how much; a stop while it waits cancels the requeue."""
    done = agent.cli("run", "--mem", "64M", "--requeue", "1", "--", "python3", hog)

    job = agent.show(1)
    assert job["cause"] == "guard"
    assert (done.returncode, job["signal"]) in {(137, "SIGKILL"), (143, "SIGTERM")}
    assert done.stderr == f"agentctl: job 1: {job['signal']}, {job['reason']}\n"
    assert "of 64 MiB" in job["reason"]
    assert job["reason"] in agent.cli("show", "1", check=True).stdout
    assert "REASON" in agent.cli("ls", check=True).stdout
    events = agent.cli("events", "1", check=True).stdout
    assert "guard.killed" in events or "guard.terminated" in events
    agent.cli("stop", "1", check=True)
    assert "job.requeue_cancelled" in agent.cli("events", "1", check=True).stdout
    assert agent.show(1)["requeued_as"] is None


def test_a_job_that_the_guard_paused_says_so(agent: Agent, hog: str) -> None:
    """In show and in ls, until it ends."""
    agent.cli("submit", "--mem", "64M", "--mem-action", "pause", "--", "python3", hog, check=True)
    wait_until(lambda: agent.show(1)["state"] == "paused", what="the guard paused it")
    wait_until(lambda: agent.show(1)["reason"], what="the reason")
    assert agent.show(1)["reason"].startswith("paused by the guard: ")
    assert "guard: " in agent.cli("ls", check=True).stdout
    agent.cli("kill", "1", check=True)


@pytest.mark.parametrize("how", [["run"], ["logs", "-f"], ["wait"]])
def test_who_follows_a_job_is_told_of_its_pause(agent: Agent, hog: str, how: list[str]) -> None:
    """Once, on stderr, with the way out; the output stays the job's own."""
    job = ("--mem", "64M", "--mem-action", "pause", "--", "python3", hog)
    if how != ["run"]:
        agent.cli("submit", *job, check=True)
    with agent.popen(*how, *(job if how == ["run"] else ("1",)), stdout=PIPE, stderr=PIPE) as busy:
        wait_until(
            lambda: "guard.paused" in agent.cli("events", "1").stdout, what="the guard paused it"
        )
        assert busy.stderr is not None
        line = busy.stderr.readline().decode()
        agent.cli("kill", "1", check=True)
        out, rest = busy.communicate(timeout=30)
    assert line.startswith("agentctl: job 1 is paused by the guard: ")
    assert line.endswith("; agentctl resume 1\n")
    assert out == b""
    assert b"paused by the guard" not in rest


def test_a_job_that_the_guard_is_ending_says_why(agent: Agent, tmp_path: Path) -> None:
    """In show and in ls, for the whole of its grace."""
    stubborn = tmp_path / "stubborn.py"
    stubborn.write_text(
        "import signal, time\nkept, asked = [], []\n"
        "signal.signal(signal.SIGTERM, lambda *_: asked.append(1))\n"
        "while not asked:\n    kept.append(bytearray(b'x') * (1 << 20))\n    time.sleep(0.05)\n"
        "while True:\n    signal.pause()\n",
        encoding="utf-8",
    )
    options = ("--mem", "64M", "--grace", "60s")
    agent.cli("submit", *options, "--", "python3", str(stubborn), check=True)
    wait_until(lambda: agent.show(1)["state"] == "stopping", what="the guard is ending it")
    wait_until(lambda: agent.show(1)["reason"], what="the reason")
    assert "by the guard: " in agent.show(1)["reason"]
    assert "guard: " in agent.cli("ls", check=True).stdout
    agent.cli("kill", "1", check=True)


def test_a_report_says_more_to_programs(agent: Agent) -> None:
    """What a job is, what the marks come from, and whether the kernel stands behind it all."""
    options = ("--mem", "64M", "--mem-action", "warn", "--preemptible")
    agent.cli("submit", *options, "--", "sleep", "600", check=True)
    wait_until(lambda: agent.show(1)["state"] == "running", what="the job runs")
    with agent.client() as client:
        wait_until(lambda: client.guard().jobs, what="the guard has seen the job")
    body = json.loads(agent.cli("guard", "--json", check=True).stdout)
    (job,) = body["jobs"]
    facts = (job["state"], job["preemptible"], job["mem_action"])
    assert facts == ("running", True, "warn")
    assert body["host"]["marks"]["warn"] == {"percent": 15.0, "cap_bytes": 16 << 30}
    assert (body["pause_limit_s"], body["config_error"]) == (600.0, None)
    assert "kernel backstop" in body["layers"][-1]
