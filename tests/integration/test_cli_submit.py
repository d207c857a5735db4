"""`submit`, `ls`, `show`: what is asked for is what runs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers import jobs
from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until


def test_submit_starts_the_agent_and_prints_the_id_alone(agent: Agent) -> None:
    """Nobody has to start anything first."""
    first = agent.cli("submit", "--", "true")
    assert (first.returncode, first.stdout, first.stderr) == (0, "1\n", "")
    assert agent.cli("submit", "--", "true").stdout == "2\n"
    assert agent.warden_pid()


def test_a_job_has_the_environment_directory_and_umask_of_its_caller(agent: Agent) -> None:
    """As under nohup, with --env on top and stdin empty."""
    os.mkdir(f"{agent.home}/here")
    agent.env["MARK"] = "from the caller"
    line = 'pwd; umask; echo "$MARK/$EXTRA/$PYTHONUNBUFFERED/$AGENTCTL_JOB_ID"; cat'
    done = subprocess.run(
        ["/bin/sh", "-c", f"umask 027; exec agentctl run --env EXTRA=a=b -c '{line}'"],
        env=agent.env,
        cwd=f"{agent.home}/here",
        input="not for the job",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.splitlines() == [
        f"{agent.home}/here",
        "0027",
        "from the caller/a=b/1/1",
    ]


def test_arguments_that_are_not_text_arrive_as_they_are(agent: Agent) -> None:
    """Bytes in, bytes out, and a listing that does not choke on them."""
    done = agent.cli("run", "--", "printf", "%s|", "a b", "", "\udcff")
    assert done.stdout == "a b||\udcff|"
    assert json.loads(agent.cli("show", "1", "--json").stdout)["argv"][-1] == "\udcff"
    assert agent.cli("ls").returncode == 0


def test_options_after_the_command_are_the_commands(agent: Agent) -> None:
    """With or without the two dashes."""
    assert agent.cli("run", "echo", "--json", "-H").stdout == "--json -H\n"
    assert agent.cli("run", "--", "printf", "%s", "--version").stdout == "--version"


def test_show_json_is_the_contract(agent: Agent) -> None:
    """Every field, in order, with the values of a job that is over."""
    agent.cli(
        *("submit", "--name", "n", "--label", "k=v", "--mem", "64M", "--cwd", "/tmp"),
        *("--", "sh", "-c", "exit 7"),
        check=True,
    )
    agent.cli("wait", "1")
    text = agent.cli("show", "n", "--json", check=True).stdout
    job = json.loads(text)
    fields = [
        *("id", "name", "state", "argv", "cwd", "labels", "submitted_at", "started_at"),
        *("ended_at", "exit_code", "signal", "cause", "reason", "pid", "shim_pid"),
        *("mem_limit_bytes", "peak_memory_bytes", "memory_bytes", "cpu_s", "log_bytes", "host"),
        *("mem_action", "preemptible", "requeue_limit", "requeue_of", "requeued_as"),
        "requeue_at",
    ]
    assert list(job) == fields
    assert (job["name"], job["labels"], job["cwd"]) == ("n", {"k": "v"}, "/tmp")
    assert (job["state"], job["exit_code"], job["signal"]) == ("ended", 7, None)
    assert (job["cause"], job["mem_limit_bytes"], job["host"]) == ("self", 64 << 20, "local")
    assert agent.cli("--json", "show", "1").stdout == text


def test_submit_json_is_the_job(agent: Agent) -> None:
    """The same object as show's."""
    job = json.loads(agent.cli("submit", "--json", "--name", "x", "--", "true").stdout)
    assert (job["id"], job["name"]) == (1, "x")


def test_ls_lists_and_filters(agent: Agent) -> None:
    """Newest first, an aligned table off a terminal, JSON for programs."""
    agent.cli("submit", "--name", "long", "--label", "a=1", "--", "sleep", "600", check=True)
    agent.cli("submit", "--name", "bad", "--label", "a=2", "--", "sh", "-c", "exit 3", check=True)
    agent.cli("wait", "bad")
    wait_until(lambda: agent.show(1)["state"] == "running", what="the job runs")
    table = agent.cli("ls", check=True).stdout.splitlines()
    assert table[0].split() == ["ID", "NAME", "STATE", "TIME", "COMMAND"]
    assert [line.split()[:3] for line in table[1:]] == [
        ["2", "bad", "exited"],
        ["1", "long", "running"],
    ]

    def ids(*options: str) -> list[int]:
        return [job["id"] for job in json.loads(agent.cli("ls", "--json", *options).stdout)]

    assert ids() == [2, 1]
    assert ids("--state", "running") == [1]
    assert ids("--state", "running", "--state", "ended") == [2, 1]
    assert ids("--name", "bad") == [2]
    assert ids("--label", "a=1") == [1]
    assert ids("--label", "a=2") == [2]
    assert ids("--name", "none") == []


def test_ls_shows_the_last_twenty_that_are_over_unless_asked_for_all(agent: Agent) -> None:
    """A history may be long."""
    with agent.client() as client:
        ids = [client.submit(["true"]).id for _ in range(25)]
        for job_id in ids:
            client.wait(job_id)
    assert len(json.loads(agent.cli("ls", "--json").stdout)) == 20
    assert len(json.loads(agent.cli("ls", "--json", "--all").stdout)) == 25


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("submit", "--", "no-such-program"), 2),
        (("submit", "--", "./missing"), 2),
        (("submit", "--cwd", "/nowhere", "--", "true"), 2),
        (("submit", "--stdin", "/nowhere/x", "--", "true"), 2),
        (("submit", "--output", "/nowhere/x", "--", "true"), 2),
        (("show", "99"), 1),
        (("show", "0"), 1),
        (("show", "99999999999999999999999"), 1),
        (("show", "nobody"), 1),
        (("logs", "99"), 1),
        (("wait", "99"), 1),
        (("stop", "99"), 1),
        (("rm", "99"), 1),
    ],
)
def test_what_cannot_be_is_one_line_and_starts_nothing(
    agent: Agent, arguments: tuple[str, ...], code: int
) -> None:
    """And the exit code says which kind."""
    done = agent.cli(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("agentctl: ")
    assert done.stderr.count("\n") == 1
    assert json.loads(agent.cli("ls", "--all", "--json").stdout) == []


def test_an_ambiguous_name_lists_its_candidates(agent: Agent) -> None:
    """Unless exactly one of them is active."""
    for _ in range(2):
        agent.cli("submit", "--name", "twin", "--", "true", check=True)
    agent.cli("wait", "1", "2")
    refused = agent.cli("show", "twin")
    assert refused.returncode == 1
    assert "2 (exited 0, " in refused.stderr
    assert "1 (exited 0, " in refused.stderr
    agent.cli("submit", "--name", "twin", "--", "sleep", "600", check=True)
    assert agent.show("twin")["id"] == 3
    agent.cli("submit", "--name", "twin", "--", "sleep", "600", check=True)
    assert agent.cli("stop", "twin").returncode == 1


def test_output_files_are_written_as_a_shell_would(agent: Agent) -> None:
    """Relative to the caller, truncated or appended to, and read by `logs`."""
    home = Path(agent.home)
    (home / "out").write_text("old\n", encoding="ascii")
    agent.cli("submit", "-o", "out", "--error", "err", "-c", "echo 1; echo 2 >&2", check=True)
    agent.cli("wait", "1", check=True)
    assert ((home / "out").read_text(), (home / "err").read_text()) == ("1\n", "2\n")
    agent.cli("submit", "-o", "out", "--append", "-c", "echo 3; echo 4 >&2", check=True)
    agent.cli("wait", "2", check=True)
    assert (home / "out").read_text() == "1\n3\n4\n"
    assert agent.cli("logs", "2").stdout == "3\n4\n"


def test_stdin_comes_from_a_file(agent: Agent) -> None:
    """As with <."""
    Path(agent.home, "in").write_text("text\n", encoding="ascii")
    assert agent.cli("run", "--stdin", "in", "--", "cat").stdout == "text\n"


def test_a_terminal_is_given_on_request(agent: Agent) -> None:
    """And only then."""
    assert agent.cli_bytes("run", "--tty", "-c", "test -t 1 && echo yes") == b"yes\r\n"
    assert agent.cli("run", "-c", "test -t 1 || echo no").stdout == "no\n"


def test_two_first_commands_at_once_start_one_agent(agent: Agent) -> None:
    """Both get their job."""
    running = [
        agent.popen("submit", "--", *jobs.exits(0), stdout=subprocess.PIPE) for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert sorted(int(output) for output in outputs) == [1, 2, 3, 4]
    assert [process.returncode for process in running] == [0] * 4


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_an_id_that_cannot_be_printed_is_said(agent: Agent, option: tuple[str, ...]) -> None:
    """The job runs; whoever started it must be able to find it."""
    with open("/dev/full", "w", encoding="ascii") as full:
        process = agent.popen("submit", *option, "--", "true", stdout=full, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said == (
        b"agentctl: job 1 was started, but its id could not be printed: No space left on device\n"
    )
    assert agent.cli("wait", "1").returncode == 0
