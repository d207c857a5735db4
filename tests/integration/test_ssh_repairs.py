"""The link to a host over a real sshd: what a repair must not mistake, kill or leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentctl.errors import HostUnreachableError, TryAgainError
from agentctl.link.ssh import SshLink
from tests.helpers.sshlinks import (
    CLIENT,
    FORBIDDEN,
    link_of,
    logins,
    master_pid,
    names_left,
    state_dir_behind,
    timed_connect,
)
from tests.helpers.sshrig import SshRig, Variant
from tests.helpers.wait import read_stat, wait_gone, wait_until


@pytest.fixture(name="launcher")
def _launcher(rig: SshRig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the agent's launcher on the server, to be replaced at will."""
    path = Path(f"{rig.server.root}/launcher")
    path.symlink_to(rig.agentd)
    monkeypatch.setattr(SshRig, "agentd", str(path))
    return path


def _replace(launcher: Path, script: str) -> None:
    fresh = launcher.with_name("fresh")
    fresh.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    fresh.chmod(0o755)
    fresh.rename(launcher)


def _lead_elsewhere(rig: SshRig, launcher: Path) -> str:
    """Have the launcher mean another agent, as another node does; return its state directory."""
    agentd = os.readlink(launcher)
    state_dir, runtime_dir = f"{rig.server.root}/s2", f"{rig.server.root}/r2"
    for path in (state_dir, runtime_dir):
        os.mkdir(path, 0o700)
    _replace(
        launcher,
        f'export AGENTD_STATE_DIR={state_dir} AGENTD_RUNTIME_DIR={runtime_dir}\nexec {agentd} "$@"',
    )
    return state_dir


@pytest.mark.parametrize("rig", [Variant(), FORBIDDEN], indirect=True, ids=["forward", "bridge"])
def test_another_agent_is_not_taken_for_the_first(
    rig: SshRig, launcher: Path, link: SshLink
) -> None:
    """Who has talked to one refuses the other, cold and warm; a new process may take it."""
    first = link_of(rig)
    path = first.connect(30)
    elsewhere = _lead_elsewhere(rig, launcher)
    os.kill(master_pid(first), signal.SIGKILL)
    first.broken(path)
    with pytest.raises(HostUnreachableError, match=r"is another agent now: .*/s2, it was .*/s;"):
        first.connect(30)

    assert state_dir_behind(link.connect(30)) == elsewhere
    with pytest.raises(HostUnreachableError, match="is another agent now"):
        first.connect(30)
    first.close()
    assert state_dir_behind(link.connect(30)) == elsewhere


def test_a_wait_does_not_end_with_the_status_of_another_agents_job(
    rig: SshRig, launcher: Path
) -> None:
    """Both have a job 1: what is said is that the machine is another one, with the code 69."""
    rig.know("gpu1")
    assert rig.client.cli("-H", "gpu1", "submit", "--", "sleep", "600").stdout.strip() == "1"
    waiting = rig.client.popen("-H", "gpu1", "wait", "1", stderr=subprocess.PIPE)
    following = rig.client.popen("-H", "gpu1", "logs", "-f", "1", stdout=subprocess.PIPE)
    wait_until(lambda: len(_connections(rig)) >= 2, what="both are connected")
    _lead_elsewhere(rig, launcher)
    rig.signal_ssh(signal.SIGKILL)
    job = ("submit", "--", "sh", "-c", "echo another; exit 3")
    other = rig.client.cli("-H", "gpu1", *job)
    _, said = waiting.communicate(timeout=30)
    out, _ = following.communicate(timeout=30)

    assert (other.returncode, other.stdout.strip()) == (0, "1"), other.stderr
    assert waiting.returncode == 69
    assert b"gpu1 is another agent now" in said
    assert following.returncode == 69
    assert out == b""


def _connections(rig: SshRig) -> list[str]:
    """Return the established connections to the client's sockets of its links."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        lines = [line.split() for line in file if f"{rig.client_runtime_dir}/" in line]
    # Flags, type, state (SS_CONNECTED is 3): unix(7), net/unix/af_unix.c.
    return [line[7] for line in lines if line[5] == "03" and line[7].endswith(".sock")]


@pytest.mark.parametrize("script", ["kill -9 $$", "exit 127"])
def test_a_session_that_was_killed_or_has_no_launcher_once_is_tried_again(
    rig: SshRig, launcher: Path, link: SshLink, script: str
) -> None:
    """Memory was short, or the home was mounted late: the host has answered before."""
    agentd = os.readlink(launcher)
    path = link.connect(30)
    _replace(launcher, script)
    os.kill(master_pid(link), signal.SIGKILL)
    link.broken(path)
    with pytest.raises(TryAgainError):
        link.connect(1)
    _replace(launcher, f'exec {agentd} "$@"')

    assert state_dir_behind(link.connect(30)) == rig.server.state_dir


def test_a_frozen_agent_costs_nobody_the_master(rig: SshRig, link: SshLink) -> None:
    """The link answers, the agent does not: that is said, and later it is there again."""
    path = link.connect(30)
    master = master_pid(link)
    server = rig.server.server_pid()
    os.kill(server, signal.SIGSTOP)
    try:
        link.broken(path)
        with pytest.raises(TryAgainError, match="agent on gpu1 does not answer, though the link"):
            link.connect(3)
        assert master_pid(link) == master
    finally:
        os.kill(server, signal.SIGCONT)

    assert link.connect(30) == path
    assert (master_pid(link), logins(rig)) == (master, 1)
    names = names_left(rig)
    assert [name for name in names if name.endswith(".sock")] == [os.path.basename(path)]


def _client(rig: SshRig) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLIENT, rig.destination, rig.agentd, *rig.ssh_command]
    return subprocess.Popen(
        command,
        env=rig.client.env | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _killed_in_login(rig: SshRig, number: signal.Signals) -> int:
    """Have a client log in at a server that stands still, and kill it; return its ssh."""
    os.kill(rig.sshd.listener_pid(), signal.SIGSTOP)
    client = _client(rig)
    wait_until(lambda: any(n.endswith(".login") for n in names_left(rig)), what="a login")
    client.send_signal(number)
    client.communicate(timeout=10)
    (left,) = rig.ssh_pids()
    return left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_login_whose_client_was_killed_serves_the_next(
    rig: SshRig, link: SshLink, number: signal.Signals
) -> None:
    """It is waited for and taken over: one login, one ssh, known to all."""
    left = _killed_in_login(rig, number)
    client = _client(rig)
    try:
        wait_until(lambda: _waits_for_login(rig, client.pid), what="the next one is there")
        os.kill(rig.sshd.listener_pid(), signal.SIGCONT)
        assert client.stdout is not None
        path = client.stdout.readline().strip()
    finally:
        client.communicate(timeout=30)

    assert state_dir_behind(path) == rig.server.state_dir
    assert link.connect(30) == path
    assert logins(rig) == 1
    wait_gone({left}, what="the ssh that logged in")
    assert rig.ssh_pids() == {master_pid(link)}


def _waits_for_login(rig: SshRig, pid: int) -> bool:
    """Say whether the process holds the lock under which logins are made."""
    locks = Path(f"{rig.client_runtime_dir}/agentctl").glob("*.lock")
    return any(path.read_text("ascii").split()[:1] == [str(pid)] for path in locks)


def test_a_login_that_comes_to_nothing_is_ended(rig: SshRig, link: SshLink) -> None:
    """After the patience of whoever waits for it: no ssh is left to nobody."""
    left = _killed_in_login(rig, signal.SIGKILL)
    try:
        with pytest.raises(TryAgainError):
            link.connect(1)
        wait_gone({left}, deadline_s=1, what="the ssh of the client that was killed")
        wait_until(lambda: not rig.ssh_pids(), what="no ssh left")
    finally:
        os.kill(rig.sshd.listener_pid(), signal.SIGCONT)

    assert state_dir_behind(link.connect(30)) == rig.server.state_dir


def test_an_end_takes_a_login_on_its_way_along(rig: SshRig, link: SshLink) -> None:
    """As `host rm` does it: also one that nobody waits for."""
    left = _killed_in_login(rig, signal.SIGKILL)
    link.master.end()
    wait_gone({left}, deadline_s=1, what="the ssh of the client that was killed")
    os.kill(rig.sshd.listener_pid(), signal.SIGCONT)

    assert logins(rig) == 0


@pytest.mark.parametrize("rig", [Variant(has_jump=True)], indirect=True)
def test_the_end_takes_the_jump_of_an_adopted_master_along(rig: SshRig, link: SshLink) -> None:
    """What a killed client started is written down: its helpers are known too."""
    link.connect(30)
    old = master_pid(link)
    directory, key = link.master.directory, link.master.key
    os.rename(f"{directory}/{key}.master", f"{directory}/{key}.login")
    link.connect(30)
    assert master_pid(link) == old
    assert len(rig.signal_ssh(signal.SIGSTOP)) == 2
    link.master.end()

    wait_until(lambda: not rig.ssh_pids(), what="no ssh left")


def test_who_is_stopped_in_a_repair_is_named(rig: SshRig, link: SshLink) -> None:
    """Ctrl-Z: no patience of others is enough, so they say whom to resume."""
    os.kill(rig.sshd.listener_pid(), signal.SIGSTOP)
    client = _client(rig)
    try:
        wait_until(lambda: any(n.endswith(".login") for n in names_left(rig)), what="a login")
        client.send_signal(signal.SIGSTOP)
        wait_until(lambda: (stat := read_stat(client.pid)) and stat.state == "T", what="it stands")
        with pytest.raises(TryAgainError, match=rf"pid {client.pid} is stopped: resume or kill"):
            link.connect(0.5)
    finally:
        os.kill(rig.sshd.listener_pid(), signal.SIGCONT)
        client.send_signal(signal.SIGCONT)
        client.communicate(timeout=30)


def test_a_command_that_prints_without_end_is_ended(rig: SshRig, link: SshLink) -> None:
    """A few MiB are kept and no more, and a person is told."""
    link.connect(30)
    with pytest.raises(HostUnreachableError, match=r"gpu1 printed more than 4 MiB"):
        link.master.run("yes")

    assert link.master.run("cat", b"x" * 1_000_000).stdout == b"x" * 1_000_000
    assert timed_connect(link)[1] < 1
