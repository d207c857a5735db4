"""The link to a host over a real sshd: how it comes, stays, breaks, heals and ends."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentctl.errors import (
    TryAgainError,
)
from agentctl.link.ssh import SshLink, argv
from tests.helpers.sshd import Rules
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
from tests.helpers.wait import is_alive, read_stat, wait_gone, wait_until


@pytest.mark.parametrize(
    ("rig", "route"),
    [
        (Variant(), "forward"),
        (FORBIDDEN, "bridge"),
        (Variant(has_jump=True), "forward"),
        (Variant(has_jump=True, rules=Rules(may_forward=False)), "bridge"),
        (Variant(is_noisy=True), "forward"),
        (Variant(is_noisy=True, rules=Rules(may_forward=False)), "bridge"),
        (Variant(is_noisy=True, rules=Rules(login_shell="tcsh")), "forward"),
        (Variant(is_noisy=True, rules=Rules(login_shell="tcsh", may_forward=False)), "bridge"),
        (Variant(is_noisy=True, rules=Rules(login_shell="fish")), "forward"),
        (Variant(is_noisy=True, rules=Rules(login_shell="fish", may_forward=False)), "bridge"),
    ],
    indirect=["rig"],
    ids=str,
)
def test_every_way_leads_to_the_servers_agent(rig: SshRig, link: SshLink, route: str) -> None:
    """No agent runs yet; whatever sshd allows and shells print, one login is enough."""
    path = link.connect(30)

    assert link.route == route
    assert state_dir_behind(path) == rig.server.state_dir
    assert state_dir_behind(path) == rig.server.state_dir
    assert logins(rig) == 1


@pytest.mark.parametrize("rig", [Variant(), FORBIDDEN], indirect=True, ids=["forward", "bridge"])
def test_a_warm_connect_starts_nothing_and_takes_no_time(rig: SshRig, link: SshLink) -> None:
    """Below a millisecond, and no process: also for one that asks for the first time."""
    link.connect(30)
    other = link_of(rig)
    try:
        first_s = timed_connect(other)[1]
        took_s = [timed_connect(other)[1] for _ in range(200)]
    finally:
        other.close()

    assert statistics.median(took_s) < 0.001
    assert first_s < 0.02
    assert _children() == set()
    assert logins(rig) == 1


def _children() -> set[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(pid) for pid in path.read_text("ascii").split()}


@pytest.mark.parametrize("rig", [Variant(), FORBIDDEN], indirect=True, ids=["forward", "bridge"])
def test_many_processes_at_once_log_in_once(rig: SshRig, link: SshLink) -> None:
    """Ten that find nothing share what the first one makes, and each is led to the agent."""
    command = [sys.executable, "-c", CLIENT, rig.destination, rig.agentd, *rig.ssh_command]
    root = str(Path(__file__).resolve().parents[2])
    clients = [
        subprocess.Popen(
            command,
            env=rig.client.env | {"PYTHONPATH": root},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    try:
        paths = [client.stdout.readline().strip() for client in clients if client.stdout]
        behind = {state_dir_behind(path) for path in paths}
    finally:
        for client in clients:
            client.communicate(timeout=30)

    assert behind == {rig.server.state_dir}
    assert logins(rig) == 1


@pytest.mark.parametrize("rig", [Variant(), FORBIDDEN], indirect=True, ids=["forward", "bridge"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_master_that_is_gone_or_frozen_is_replaced(
    rig: SshRig, link: SshLink, number: signal.Signals
) -> None:
    """Back within two seconds, by one new login; nothing of the old one is left."""
    path = link.connect(30)
    old = master_pid(link)
    os.kill(old, number)
    # A signal is sent, not yet received.
    wait_until(lambda: (stat := read_stat(old)) is None or stat.state in "TZ", what="it took it")
    link.broken(path)
    path, took_s = timed_connect(link)

    assert took_s < 2
    assert state_dir_behind(path) == rig.server.state_dir
    assert master_pid(link) != old
    assert logins(rig) == 2
    wait_gone({old})


@pytest.mark.parametrize(
    "rig",
    [Variant(), FORBIDDEN, Variant(has_jump=True)],
    indirect=True,
    ids=["forward", "bridge", "jump"],
)
def test_a_link_that_is_silent_is_replaced(rig: SshRig, link: SshLink) -> None:
    """The far end stands still, the master lives and says so: only the agent's silence tells."""
    path = link.connect(30)
    old = master_pid(link)
    frozen = rig.sshd.session_pids()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    link.broken(path)
    path, took_s = timed_connect(link)

    assert took_s < 4
    assert state_dir_behind(path) == rig.server.state_dir
    assert not is_alive(old)


def test_a_healthy_master_survives_a_suspicion(rig: SshRig, link: SshLink) -> None:
    """What failed was the caller's connection: others keep theirs."""
    path = link.connect(30)
    master = master_pid(link)
    link.broken(path)

    assert link.connect(30) == path
    assert master_pid(link) == master


@pytest.mark.parametrize("rig", [Variant(), FORBIDDEN], indirect=True, ids=["forward", "bridge"])
def test_an_agent_that_is_gone_is_started_behind_the_same_master(
    rig: SshRig, link: SshLink
) -> None:
    """The link lives: nobody logs in again."""
    path = link.connect(30)
    rig.server.end_processes()
    link.broken(path)

    assert state_dir_behind(link.connect(30)) == rig.server.state_dir
    assert logins(rig) == 1


def test_several_links_repair_once(rig: SshRig, link: SshLink) -> None:
    """Whoever comes second finds what the first one made, though it suspects the same."""
    others = [link_of(rig) for _ in range(3)]
    for each in (link, *others):
        each.broken(each.connect(30))
    os.kill(master_pid(link), signal.SIGKILL)
    paths = {each.connect(30) for each in (link, *others)}

    assert len(paths) == 1
    assert logins(rig) == 2


def test_sshd_that_comes_back_is_found(rig: SshRig, link: SshLink) -> None:
    """One that worked before goes on trying within its patience; then it says try again."""
    path = link.connect(30)
    rig.sshd.stop()
    link.broken(path)
    with pytest.raises(TryAgainError, match=r"cannot reach gpu1: .*refused"):
        link.connect(0.5)
    rig.sshd.start()

    assert state_dir_behind(link.connect(30)) == rig.server.state_dir


@pytest.mark.root
@pytest.mark.parametrize("rig", [Variant(has_cable=True)], indirect=True)
def test_a_cable_that_was_pulled_is_noticed_and_survived(rig: SshRig, link: SshLink) -> None:
    """Nothing is refused, nothing arrives; plugged in again, it heals by itself."""
    assert rig.cable is not None
    path = link.connect(30)
    rig.cable.pull()
    link.broken(path)
    with pytest.raises(TryAgainError):
        link.connect(3)
    rig.cable.plug()
    path, took_s = timed_connect(link)

    assert took_s < 5
    assert state_dir_behind(path) == rig.server.state_dir


@pytest.mark.parametrize(
    "rig", [Variant(), Variant(has_jump=True)], indirect=True, ids=["direct", "jump"]
)
def test_a_client_without_a_master_never_logs_in(rig: SshRig, link: SshLink) -> None:
    """Also not through a jump host of the user's configuration; it fails within a second."""
    link.connect(30)
    os.kill(master_pid(link), signal.SIGKILL)
    began_s = time.monotonic()
    with pytest.raises(TryAgainError, match="was lost"):
        link.master.run("true")

    assert time.monotonic() - began_s < 1
    assert logins(rig) == 1
    assert rig.jump is None or rig.jump.log.count("Accepted publickey") == 1


def test_a_stale_control_socket_is_no_hindrance(rig: SshRig, link: SshLink) -> None:
    """Left by a master that was killed before anybody wrote down which it is."""
    link.connect(30)
    old = master_pid(link)
    os.unlink(f"{link.master.directory}/{link.master.key}.master")
    os.kill(old, signal.SIGKILL)
    wait_gone({old})

    assert state_dir_behind(link.connect(30)) == rig.server.state_dir
    assert logins(rig) == 2


def test_a_master_nobody_knows_of_is_adopted(rig: SshRig, link: SshLink) -> None:
    """Whoever started it was killed before it was written down; frozen, it is replaced."""
    link.connect(30)
    old = master_pid(link)
    os.unlink(f"{link.master.directory}/{link.master.key}.master")
    assert state_dir_behind(link.connect(30)) == rig.server.state_dir
    assert (master_pid(link), logins(rig)) == (old, 1)
    os.unlink(f"{link.master.directory}/{link.master.key}.master")
    os.kill(old, signal.SIGSTOP)

    assert state_dir_behind(link.connect(30)) == rig.server.state_dir
    wait_gone({old}, what="the master that was frozen")


def test_a_master_ends_by_itself_when_nobody_uses_it(
    rig: SshRig, link: SshLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection keeps it; without one it goes after its idle time, with its socket."""
    monkeypatch.setattr(argv, "IDLE_S", 4)
    path = link.connect(30)
    master = master_pid(link)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        time_up_s = time.monotonic() + 6
        wait_until(lambda: time.monotonic() > time_up_s, what="more than its idle time")
        assert is_alive(master)
    wait_gone({master}, what="the idle master")

    assert not os.path.exists(link.master.control)
    assert state_dir_behind(link.connect(30)) == rig.server.state_dir


@pytest.mark.parametrize("rig", [Variant(has_jump=True)], indirect=True)
def test_the_end_takes_a_frozen_master_and_its_jump_along(rig: SshRig, link: SshLink) -> None:
    """Every ssh of ours stands still: `end` leaves no process and no socket."""
    link.connect(30)
    assert len(rig.signal_ssh(signal.SIGSTOP)) == 2
    link.master.end()

    wait_until(lambda: not rig.ssh_pids(), what="no ssh left")
    assert [name for name in names_left(rig) if not name.endswith(".lock")] == []


def test_an_end_of_nothing_is_none(rig: SshRig, link: SshLink) -> None:
    """It may be called for a host that was never reached, and twice."""
    link.master.end()
    link.connect(30)
    link.master.end()
    link.master.end()

    assert link.master.present() is None
    assert not link.master.is_alive()
