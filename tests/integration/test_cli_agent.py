"""`agent`: start, stop, status, logs; and what commands do when it is away."""

from __future__ import annotations

import json
import os
import signal
import subprocess

from tests.helpers.agent import Agent
from tests.helpers.wait import is_alive, wait_until


def test_status_and_stop_start_no_agent(agent: Agent) -> None:
    """To ask whether one runs is not to want one."""
    asked = agent.cli("agent", "status")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "agentctl agent start" in asked.stderr
    assert agent.cli("agent", "stop").returncode == 0
    assert not agent.warden_pid()


def test_start_status_stop(agent: Agent) -> None:
    """Twice is as good as once; after stop nothing of it is left, and jobs go on."""
    for _ in range(2):
        assert agent.cli("agent", "start").returncode == 0
    status = json.loads(agent.cli("agent", "status", "--json", check=True).stdout)
    assert list(status) == [
        *("warden_pid", "server_pid", "version", "api_level"),
        *("socket", "state_dir", "started_at", "jobs", "config_error"),
    ]
    assert status["config_error"] is None
    assert (status["warden_pid"], status["server_pid"]) == (agent.warden_pid(), agent.server_pid())
    assert (status["state_dir"], status["jobs"]) == (agent.state_dir, 0)
    agent.cli("submit", "--name", "on", "--", "sleep", "600", check=True)
    wait_until(lambda: agent.show("on")["state"] == "running", what="the job runs")
    pid = agent.show("on")["pid"]
    assert agent.cli("agent", "stop").returncode == 0
    assert not agent.warden_pid()
    assert not os.path.exists(f"{agent.runtime_dir}/agent.sock") or not agent.server_pid()
    again = agent.show("on")
    assert (again["state"], again["pid"]) == ("running", pid)


def test_status_is_told_in_words_too(agent: Agent) -> None:
    """For people."""
    agent.start()
    shown = agent.cli("agent", "status", check=True).stdout
    assert agent.runtime_dir in shown
    assert str(agent.warden_pid()) in shown


def test_the_agents_own_log_is_printed(agent: Agent) -> None:
    """Its end, without asking the agent."""
    agent.start()
    agent.cli("run", "--", "true", check=True)
    shown = agent.cli("agent", "logs", "--tail", "100", check=True).stdout
    assert shown.startswith("==> agentd.log <==\n{")


def test_stop_says_in_json_whether_there_was_an_agent(agent: Agent) -> None:
    """For programs; and status says what is wrong with the configuration."""
    with open(agent.config_file, "w", encoding="ascii") as file:
        file.write("[jobs]\ngrace = 'soon'\n")
    agent.start()
    status = json.loads(agent.cli("agent", "status", "--json", check=True).stdout)
    assert "grace" in status["config_error"]
    for stopped in (True, False):
        said = agent.cli("agent", "stop", "--json", check=True).stdout
        assert json.loads(said) == {"stopped": stopped}


def test_an_agent_that_cannot_start_is_one_line(agent: Agent) -> None:
    """In its own words, and no traceback."""
    os.chmod(agent.state_dir, 0o755)  # noqa: S103  # the fault under test
    done = agent.cli("submit", "--", "true")
    assert done.returncode in {1, 69}
    assert done.stderr.startswith("agentctl: ")
    assert done.stderr.count("\n") == 1
    assert "chmod 700" in done.stderr


def test_a_killed_agent_costs_a_listing_nothing_but_time(agent: Agent) -> None:
    """The next command starts it and shows the jobs as they are."""
    agent.cli("submit", "--name", "on", "--", "sleep", "600", check=True)
    wait_until(lambda: agent.show("on")["state"] == "running", what="the job runs")
    agent.kill(agent.warden_pid(), agent.server_pid())
    jobs = json.loads(agent.cli("ls", "--json", check=True).stdout)
    assert [(job["name"], job["state"]) for job in jobs] == [("on", "running")]


def test_a_command_outlives_the_server_it_talks_to(agent: Agent) -> None:
    """`run` goes on at the next byte and still exits with the job's status."""
    line = "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 9"
    process = agent.popen("run", "-c", line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.readline()
    agent.kill(agent.server_pid())
    rest, said = process.communicate(timeout=60)
    assert said == b""
    assert (first + rest).split() == [str(number).encode() for number in range(60)]
    assert process.returncode == 9


def test_stop_is_not_held_up_by_a_command_that_needs_an_agent(agent: Agent) -> None:
    """`run` starts the next one and goes on; `stop` returns when the old one is gone."""
    line = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.2; done; exit 5"
    process = agent.popen("run", "-c", line, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    warden = agent.warden_pid()
    agent.cli("agent", "stop", check=True)
    assert not is_alive(warden)
    rest, _ = process.communicate(timeout=60)
    assert rest.split() == [b"%d" % number for number in range(2, 10)]
    assert process.returncode == 5


def test_an_agent_whose_server_does_not_answer_is_stopped_all_the_same(agent: Agent) -> None:
    """By a signal to its warden."""
    agent.start()
    os.kill(agent.server_pid(), signal.SIGSTOP)
    agent.cli("agent", "stop", check=True, timeout=60)
    assert not agent.warden_pid()


def test_another_agents_socket_is_never_taken_for_ones_own(agent: Agent) -> None:
    """AGENTD_STATE_DIR alone leads to the same socket: every verb refuses, nothing is done."""
    agent.cli("submit", "--name", "on", "--", "sleep", "600", check=True)
    other = f"{agent.root}/s2"
    os.mkdir(other, 0o700)
    env, agent.env = agent.env, {**agent.env, "AGENTD_STATE_DIR": other}
    verbs = (
        ("ls",),
        ("stop", "on"),
        ("submit", "--", "true"),
        ("agent", "start"),
        ("agent", "stop"),
        ("agent", "status"),
    )
    said = [agent.cli(*verb) for verb in verbs]
    agent.env = env
    assert [done.returncode for done in said] == [1] * len(verbs)
    assert all(agent.state_dir in done.stderr for done in said)
    assert all("set AGENTD_RUNTIME_DIR too" in done.stderr for done in said)
    assert [job["name"] for job in json.loads(agent.cli("ls", "--json").stdout)] == ["on"]
    assert agent.warden_pid()


def test_a_relative_directory_is_refused(agent: Agent) -> None:
    """It would be another one from another place."""
    for name in ("AGENTD_STATE_DIR", "AGENTD_RUNTIME_DIR"):
        env, agent.env = agent.env, {**agent.env, name: "here"}
        done = agent.cli("ls")
        agent.env = env
        assert (done.returncode, done.stderr) == (
            2,
            f"agentctl: {name}: 'here' is not an absolute path\n",
        )
