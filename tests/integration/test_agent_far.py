"""`agentctl -H HOST agent`: the daemon of a host behind ssh."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers.sshrig import SshRig, Variant
from tests.helpers.wait import is_alive, wait_until


@pytest.fixture(name="far")
def _far(rig: SshRig) -> SshRig:
    """Return a rig whose client knows gpu1, where no agent runs yet."""
    rig.know("gpu1")
    return rig


@pytest.mark.parametrize("rig", [Variant(), Variant(is_noisy=True)], indirect=True)
def test_it_is_started_looked_at_and_stopped(far: SshRig) -> None:
    """Twice is as good as once; to ask is not to start, and nothing happens on this machine."""

    def agent(*words: str) -> subprocess.CompletedProcess[str]:
        return far.client.cli("-H", "gpu1", "agent", *words)

    asked = agent("status")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "agentctl -H gpu1 agent start" in asked.stderr
    assert json.loads(agent("stop", "--json").stdout) == {"stopped": False}
    assert not far.server.warden_pid()
    for _ in range(2):
        done = agent("start")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    warden = far.server.warden_pid()
    assert json.loads(agent("status", "--json").stdout)["warden_pid"] == warden
    far.client.cli("-H", "gpu1", "submit", "--", "sleep", "600", check=True)
    leader = wait_until(lambda: far.server.leader_pid(1), what="the job runs")
    assert json.loads(agent("stop", "--json").stdout) == {"stopped": True}
    assert not is_alive(warden)
    assert is_alive(leader)
    assert agent("status").returncode == 1
    assert agent("start").returncode == 0
    assert json.loads(agent("status", "--json").stdout)["jobs"] == 1
    assert not far.client.warden_pid()


@pytest.mark.parametrize("rig", [Variant(), Variant(is_noisy=True)], indirect=True)
def test_the_log_of_a_far_agent_is_printed(far: SshRig) -> None:
    """Its end, without the noise of start-up files, and also of an agent that is gone."""
    refused = far.client.cli("-H", "gpu1", "agent", "logs")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("agentctl: gpu1: there is no log in ")
    far.server.start()
    far.server.kill(far.server.warden_pid(), far.server.server_pid())
    done = far.client.cli("-H", "gpu1", "agent", "logs", "-n", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("==> agentd.log <==\n{")
    assert not far.server.warden_pid()


def test_the_log_is_followed_until_the_link_goes(far: SshRig) -> None:
    """A lost link is no end: one line, and the code of what may be tried again."""
    far.server.start()
    log = Path(f"{far.server.state_dir}/log/agentd.log")
    process = far.client.popen(
        *("-H", "gpu1", "agent", "logs", "-f", "-n", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"==> agentd.log <==\n"
        with log.open("ab") as file:
            file.write(b"now\n")
        while process.stdout.readline() != b"now\n":
            pass
        far.signal_ssh(signal.SIGKILL)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 75
        assert b"the link to gpu1 was lost" in said
        assert b"agentctl -H gpu1 agent logs" in said
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_stops_to_follow_leaves_nothing_there(far: SshRig, number: signal.Signals) -> None:
    """No session stays open for a reader who is gone."""
    far.server.start()
    process = far.client.popen("-H", "gpu1", "agent", "logs", "-f", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"==> agentd.log <==\n"
    assert any("agentd log" in line for line in far.server.processes().values())
    process.send_signal(number)
    process.communicate(timeout=20)
    wait_until(
        lambda: not any("agentd log" in line for line in far.server.processes().values()),
        what="the follower there has ended",
    )
    assert far.ssh_pids() == far.master_pids()


def test_a_link_that_died_is_made_anew_for_the_log(far: SshRig) -> None:
    """Nobody has to say it twice."""
    far.server.start()
    assert far.client.cli("-H", "gpu1", "agent", "logs").returncode == 0
    far.signal_ssh(signal.SIGSTOP)
    assert far.client.cli("-H", "gpu1", "agent", "logs", timeout=60).returncode == 0


def test_a_far_log_cannot_act_on_a_terminal(far: SshRig) -> None:
    """Escape sequences are written out there; off a terminal the bytes are as they are."""
    far.server.start()
    log = Path(f"{far.server.state_dir}/log/stderr.log")
    log.write_bytes(b"\x1b]0;owned\x07\tx\xff\n")
    command = ("-H", "gpu1", "agent", "logs")
    assert b"\x1b]0;owned\x07\tx\xff\n" in far.client.cli_bytes(*command)
    ours, theirs = pty.openpty()
    process = far.client.popen(*command, stdout=theirs)
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 65536):
            shown += block
    except OSError:
        # How a terminal ends (pty(7)).
        pass
    finally:
        os.close(ours)
        assert process.wait(20) == 0
    assert b"\x1b" not in shown
    assert rb"\x1b]0;owned\x07" + b"\tx" + rb"\xff" in shown
