"""What a job is born with: what a login shell would give it, and nothing of the agent's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until

#: 32 and 33: the C library's own; posix_spawn(3) ignores them in whatever it starts.
_OWN_TO_LIBC = 0b11 << 31
_ENVIRONMENT = ("--", sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))")


#: Becomes the program that its arguments name, with signals ignored and blocked.
_SPOILED = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2, signal.SIGCHLD})
os.execvp(sys.argv[1], sys.argv[1:])
"""


def _run(agent: Agent, *argv: str) -> str:
    done = agent.cli("run", *argv)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def _sleeping(agent: Agent, *options: str) -> int:
    """Submit `sleep`, which changes nothing of what it was given, and return its pid."""
    job_id = int(agent.cli("submit", *options, "--", "sleep", "600", check=True).stdout)
    wait_until(lambda: agent.show(job_id)["state"] == "running", what="it runs")
    return agent.leader_pid(job_id)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _masks(pid: int, *names: str) -> dict[str, int]:
    status = _status(pid)
    return {name: int(status[name], 16) & ~_OWN_TO_LIBC for name in names}


def test_signals_are_as_at_login(agent: Agent) -> None:
    """None ignored, none blocked, none pending (Python itself ignores SIGPIPE and SIGXFSZ)."""
    masks = _masks(_sleeping(agent), "SigIgn", "SigBlk", "SigPnd", "ShdPnd")
    assert masks == dict.fromkeys(masks, 0)


def test_signals_are_as_at_login_under_nohup(agent: Agent) -> None:
    """An agent that was started with signals ignored and blocked does not hand that on."""
    subprocess.run(
        [sys.executable, "-c", _SPOILED, "agentctl", "agent", "start"],
        env=agent.env,
        cwd=agent.home,
        check=True,
        timeout=30,
    )
    assert _masks(_sleeping(agent), "SigIgn", "SigBlk") == {"SigIgn": 0, "SigBlk": 0}
    agent.cli("stop", "1", check=True)
    assert agent.show(1)["signal"] == "SIGTERM"


def test_three_descriptors_and_no_more(agent: Agent) -> None:
    """And stdin is empty."""
    pid = _sleeping(agent)
    assert sorted(os.listdir(f"/proc/{pid}/fd"), key=int) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert _run(agent, "--", "wc", "-c").strip() == "0"


def test_three_descriptors_of_each_kind_of_output(agent: Agent) -> None:
    """Split, in files, and from a file."""
    Path(agent.home, "in").write_text("three words here\n", encoding="ascii")
    for options in (("--split-stderr",), ("--output", "out.log"), ("--stdin", "in"), ("--tty",)):
        pid = _sleeping(agent, *options)
        assert sorted(os.listdir(f"/proc/{pid}/fd"), key=int) == ["0", "1", "2"], options
    assert _run(agent, "--stdin", "in", "--", "wc", "-w").strip() == "3"


def test_it_leads_its_session(agent: Agent) -> None:
    """And its process group; no terminal unless asked for."""
    pid = _sleeping(agent)
    assert (os.getsid(pid), os.getpgid(pid)) == (pid, pid)
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    assert fields[4] == "0", "a controlling terminal"


def test_the_callers_umask(agent: Agent) -> None:
    """Of the submit, not of the agent that another shell has started."""
    agent.start()
    for mask in (0o027, 0o000, 0o077):
        done = subprocess.run(
            ["sh", "-c", f"umask {mask:o}; exec agentctl run -c umask"],
            env=agent.env,
            cwd=agent.home,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert int(done.stdout, 8) == mask


def _shell(agent: Agent, line: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line],
        env=agent.env,
        cwd=agent.home,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize("limit", ["-n 333", "-c 0", "-s 4096", "-Ss 2048", "-f 5", "-v 4000000"])
def test_limits_are_the_callers(agent: Agent, limit: str) -> None:
    """Soft and hard, whoever started the agent."""
    agent.start()
    option = limit.partition(" ")[0][-1]
    show = f"ulimit -S{option}; ulimit -H{option}"
    expected = _shell(agent, f"ulimit {limit}; {show}")
    assert _shell(agent, f"ulimit {limit}; agentctl run -c 'bash -c \"{show}\"'") == expected


def test_a_limit_above_what_the_agent_may_give_is_as_high_as_it_may(agent: Agent) -> None:
    """The agent was started with less: the job runs with that."""
    _shell(agent, "ulimit -n 512; agentctl agent start")
    assert _shell(agent, "agentctl run -c 'ulimit -Sn; ulimit -Hn'").split() == ["512", "512"]


def test_priorities_and_oom_score_are_as_the_callers(agent: Agent) -> None:
    """Nothing of the agent's own is handed on."""
    pid = _sleeping(agent)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    score = Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii")
    assert int(score) >= int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))


def test_the_environment_is_the_callers(agent: Agent) -> None:
    """All of it, and what tells a job who it is; not that of the shell the agent came from."""
    agent.start()
    agent.env["ONLY_THE_CALLER"] = "has this"
    agent.env["MULTI\tNAME"] = "line one\nline two"
    seen = json.loads(_run(agent, "--name", "me", "-e", "ADDED=x=y", *_ENVIRONMENT))
    own = {name: seen.pop(name) for name in list(seen) if name.startswith("AGENTCTL_JOB_")}
    assert own.keys() == {"AGENTCTL_JOB_ID", "AGENTCTL_JOB_NAME", "AGENTCTL_JOB_UID"}
    assert (own["AGENTCTL_JOB_ID"], own["AGENTCTL_JOB_NAME"]) == ("1", "me")
    # LC_CTYPE: Python adds it to its own environment in the C locale (PEP 538).
    seen.pop("LC_CTYPE", None)
    expected = {**agent.env, "ADDED": "x=y", "PYTHONUNBUFFERED": "1"}
    expected.pop("LC_CTYPE", None)
    assert seen == expected


def test_pythonunbuffered_is_left_as_the_caller_set_it(agent: Agent) -> None:
    """Empty is set, too."""
    agent.env["PYTHONUNBUFFERED"] = ""
    assert _run(agent, "-c", 'echo "[$PYTHONUNBUFFERED]"') == "[]\n"


def test_a_job_of_a_job_is_its_own(agent: Agent) -> None:
    """Its marks replace those it inherited; the end of the first does not touch it."""
    line = "agentctl submit -- sh -c 'echo $AGENTCTL_JOB_ID $AGENTCTL_JOB_NAME; exec sleep 600'"
    assert _run(agent, "--name", "outer", "-c", line) == "2\n"
    wait_until(lambda: agent.cli_bytes("logs", "2") == b"2\n", what="it knows who it is")
    assert agent.show(2)["state"] == "running"


def test_an_agent_that_a_job_started_belongs_to_nobody(agent: Agent) -> None:
    """A job that starts one by its own command does not take it along when it ends."""
    line = "kill -9 $(cat ../victims); agentctl ls >/dev/null; exit 4"
    agent.start()
    victims = f"{agent.warden_pid()} {agent.server_pid()}"
    Path(agent.root, "victims").write_text(victims, encoding="ascii")
    agent.cli("submit", "--grace", "0", "-c", line, check=True)
    assert agent.cli("wait", "--timeout", "15s", "1").returncode == 4
    warden = agent.warden_pid()
    assert agent.cli("run", "--", "true").returncode == 0
    assert agent.warden_pid() == warden


def test_bytes_that_are_no_text_survive(agent: Agent) -> None:
    """In arguments, environment, directory and name of the program."""
    raw = b"\xff\xfe-\xe4"
    directory = os.path.join(os.fsencode(agent.root), b"dir-" + raw)
    os.mkdir(directory)
    program = os.path.join(directory, b"prog-" + raw)
    Path(os.fsdecode(program)).write_text(
        '#!/bin/sh\nprintf %s "$1" "|" "$RAW" "|"; pwd\n', encoding="ascii"
    )
    os.chmod(program, 0o700)
    env = {os.fsencode(name): os.fsencode(value) for name, value in agent.env.items()}
    done = subprocess.run(
        [b"agentctl", b"run", b"--", b"./prog-" + raw, b"arg-" + raw],
        env={**env, b"RAW": b"env-" + raw},
        cwd=directory,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stderr == b""
    assert done.stdout == b"arg-" + raw + b"|env-" + raw + b"|" + directory + b"\n"


def test_long_arguments_survive(agent: Agent) -> None:
    """The kernel takes one of up to 128 KiB; a longer one is refused before anything starts."""
    longest = "x" * (128 * 1024 - 1)
    assert _run(agent, "--", "sh", "-c", 'printf %s "$1" | wc -c', "sh", longest).strip() == str(
        len(longest)
    )
    with pytest.raises(OSError, match="Argument list too long"):
        agent.cli("run", "--", "true", longest + "x")


def test_the_working_directory(agent: Agent) -> None:
    """The caller's, or the one asked for, relative to it."""
    os.makedirs(f"{agent.home}/a/b")
    assert agent.cli("run", "--", "pwd", cwd=f"{agent.home}/a").stdout == f"{agent.home}/a\n"
    shown = agent.cli("run", "--cwd", "b", "--", "pwd", cwd=f"{agent.home}/a").stdout
    assert shown == f"{agent.home}/a/b\n"


def test_the_directory_of_the_job_is_its_own_affair(agent: Agent) -> None:
    """Removed under a running job, it costs nothing but itself."""
    os.mkdir(f"{agent.home}/gone")
    line = f"rmdir {agent.home}/gone; echo still here; exit 5"
    assert agent.cli("run", "--cwd", "gone", "-c", line).returncode == 5
    assert agent.cli_bytes("logs", "1") == b"still here\n"
