"""The link to a host over a real sshd: how it comes, stays, breaks, heals and ends."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from agentapi.v1.agent_service_pb2 import GetAgentInfoRequest
from agentapi.v1.agent_service_pb2_grpc import AgentServiceStub
from agentctl.errors import (
    AgentctlError,
    AgentNotRunningError,
    HostUnreachableError,
    TryAgainError,
    UnsafeDirectoryError,
)
from agentctl.link.ssh import SshLink, argv, probe
from tests.helpers.hostlike import host_at
from tests.helpers.sshd import Rules
from tests.helpers.sshrig import SshRig, Variant
from tests.helpers.wait import is_alive, read_stat, wait_gone, wait_until

_FORBIDDEN = Variant(rules=Rules(may_forward=False))
_OTHER_UID = 65534

# Connects, says where to, and stays until its stdin ends.
_CLIENT = """
import os, sys
from agentctl.link.ssh import SshLink
from tests.helpers.hostlike import host_at
destination, agentd, *ssh = sys.argv[1:]
link = SshLink(host_at(destination, agentd), ssh)
print(link.connect(60), flush=True)
sys.stdin.read()
"""


def _link(rig: SshRig, **changes: str) -> SshLink:
    host = host_at(changes.get("destination", rig.destination), changes.get("agentd", rig.agentd))
    return SshLink(host, rig.ssh_command, environ=rig.client.env)


@pytest.fixture(name="link")
def _link_of(rig: SshRig) -> Iterator[SshLink]:
    """Yield a link that has not connected; its end is proved."""
    link = _link(rig)
    yield link
    link.close()
    link.master.end()
    left = [name for name in _names(rig) if not name.endswith(".lock")]
    assert left == []
    wait_until(lambda: not rig.ssh_pids(), what="no ssh left")


def _names(rig: SshRig) -> list[str]:
    directory = f"{rig.client_runtime_dir}/agentctl"
    return os.listdir(directory) if os.path.isdir(directory) else []


def _logins(rig: SshRig) -> int:
    return rig.sshd.log.count("Accepted publickey")


def _state_dir_behind(path: str) -> str:
    """Ask the agent behind the socket which it is."""
    options = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        answer = AgentServiceStub(channel).GetAgentInfo(
            GetAgentInfoRequest(), timeout=10, metadata=(("agentctl-api-level", "1"),)
        )
    return answer.state_dir


def _master_pid(link: SshLink) -> int:
    present = link.master.present()
    assert present is not None
    return present.pid


def _timed(link: SshLink, patience_s: float = 30) -> tuple[str, float]:
    began_s = time.monotonic()
    path = link.connect(patience_s)
    return path, time.monotonic() - began_s


@pytest.mark.parametrize(
    ("rig", "route"),
    [
        (Variant(), "forward"),
        (_FORBIDDEN, "bridge"),
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
    assert _state_dir_behind(path) == rig.server.state_dir
    assert _state_dir_behind(path) == rig.server.state_dir
    assert _logins(rig) == 1


@pytest.mark.parametrize("rig", [Variant(), _FORBIDDEN], indirect=True, ids=["forward", "bridge"])
def test_a_warm_connect_starts_nothing_and_takes_no_time(rig: SshRig, link: SshLink) -> None:
    """Below a millisecond, and no process: also for one that asks for the first time."""
    link.connect(30)
    other = _link(rig)
    try:
        first_s = _timed(other)[1]
        took_s = [_timed(other)[1] for _ in range(200)]
    finally:
        other.close()

    assert statistics.median(took_s) < 0.001
    assert first_s < 0.02
    assert _children() == set()
    assert _logins(rig) == 1


def _children() -> set[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(pid) for pid in path.read_text("ascii").split()}


@pytest.mark.parametrize("rig", [Variant(), _FORBIDDEN], indirect=True, ids=["forward", "bridge"])
def test_many_processes_at_once_log_in_once(rig: SshRig, link: SshLink) -> None:
    """Ten that find nothing share what the first one makes, and each is led to the agent."""
    command = [sys.executable, "-c", _CLIENT, rig.destination, rig.agentd, *rig.ssh_command]
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
        behind = {_state_dir_behind(path) for path in paths}
    finally:
        for client in clients:
            client.communicate(timeout=30)

    assert behind == {rig.server.state_dir}
    assert _logins(rig) == 1


@pytest.mark.parametrize("rig", [Variant(), _FORBIDDEN], indirect=True, ids=["forward", "bridge"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_master_that_is_gone_or_frozen_is_replaced(
    rig: SshRig, link: SshLink, number: signal.Signals
) -> None:
    """Back within two seconds, by one new login; nothing of the old one is left."""
    path = link.connect(30)
    old = _master_pid(link)
    os.kill(old, number)
    # A signal is sent, not yet received.
    wait_until(lambda: (stat := read_stat(old)) is None or stat.state in "TZ", what="it took it")
    link.broken(path)
    path, took_s = _timed(link)

    assert took_s < 2
    assert _state_dir_behind(path) == rig.server.state_dir
    assert _master_pid(link) != old
    assert _logins(rig) == 2
    wait_gone({old})


@pytest.mark.parametrize(
    "rig",
    [Variant(), _FORBIDDEN, Variant(has_jump=True)],
    indirect=True,
    ids=["forward", "bridge", "jump"],
)
def test_a_link_that_is_silent_is_replaced(rig: SshRig, link: SshLink) -> None:
    """The far end stands still, the master lives and says so: only the agent's silence tells."""
    path = link.connect(30)
    old = _master_pid(link)
    frozen = rig.sshd.session_pids()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    link.broken(path)
    path, took_s = _timed(link)

    assert took_s < 4
    assert _state_dir_behind(path) == rig.server.state_dir
    assert not is_alive(old)


def test_a_healthy_master_survives_a_suspicion(rig: SshRig, link: SshLink) -> None:
    """What failed was the caller's connection: others keep theirs."""
    path = link.connect(30)
    master = _master_pid(link)
    link.broken(path)

    assert link.connect(30) == path
    assert _master_pid(link) == master


@pytest.mark.parametrize("rig", [Variant(), _FORBIDDEN], indirect=True, ids=["forward", "bridge"])
def test_an_agent_that_is_gone_is_started_behind_the_same_master(
    rig: SshRig, link: SshLink
) -> None:
    """The link lives: nobody logs in again."""
    path = link.connect(30)
    rig.server.end_processes()
    link.broken(path)

    assert _state_dir_behind(link.connect(30)) == rig.server.state_dir
    assert _logins(rig) == 1


def test_several_links_repair_once(rig: SshRig, link: SshLink) -> None:
    """Whoever comes second finds what the first one made, though it suspects the same."""
    others = [_link(rig) for _ in range(3)]
    for each in (link, *others):
        each.broken(each.connect(30))
    os.kill(_master_pid(link), signal.SIGKILL)
    paths = {each.connect(30) for each in (link, *others)}

    assert len(paths) == 1
    assert _logins(rig) == 2


def test_sshd_that_comes_back_is_found(rig: SshRig, link: SshLink) -> None:
    """One that worked before goes on trying within its patience; then it says try again."""
    path = link.connect(30)
    rig.sshd.stop()
    link.broken(path)
    with pytest.raises(TryAgainError, match=r"cannot reach gpu1: .*refused"):
        link.connect(0.5)
    rig.sshd.start()

    assert _state_dir_behind(link.connect(30)) == rig.server.state_dir


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
    path, took_s = _timed(link)

    assert took_s < 5
    assert _state_dir_behind(path) == rig.server.state_dir


@pytest.mark.parametrize(
    "rig", [Variant(), Variant(has_jump=True)], indirect=True, ids=["direct", "jump"]
)
def test_a_client_without_a_master_never_logs_in(rig: SshRig, link: SshLink) -> None:
    """Also not through a jump host of the user's configuration; it fails within a second."""
    link.connect(30)
    os.kill(_master_pid(link), signal.SIGKILL)
    began_s = time.monotonic()
    with pytest.raises(TryAgainError, match="was lost"):
        link.master.run("true")

    assert time.monotonic() - began_s < 1
    assert _logins(rig) == 1
    assert rig.jump is None or rig.jump.log.count("Accepted publickey") == 1


def test_a_stale_control_socket_is_no_hindrance(rig: SshRig, link: SshLink) -> None:
    """Left by a master that was killed, or by one whose state was lost."""
    link.connect(30)
    old = _master_pid(link)
    os.unlink(f"{link.master.directory}/{link.master.key}.master")
    path = link.connect(30)

    assert _state_dir_behind(path) == rig.server.state_dir
    wait_gone({old}, what="the master nobody knew of any more")


def test_a_master_ends_by_itself_when_nobody_uses_it(
    rig: SshRig, link: SshLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection keeps it; without one it goes after its idle time, with its socket."""
    monkeypatch.setattr(argv, "IDLE_S", 1)
    path = link.connect(30)
    master = _master_pid(link)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        time_up_s = time.monotonic() + 2
        wait_until(lambda: time.monotonic() > time_up_s, what="twice its idle time")
        assert is_alive(master)
    wait_gone({master}, what="the idle master")

    assert not os.path.exists(link.master.control)
    assert _state_dir_behind(link.connect(30)) == rig.server.state_dir


@pytest.mark.parametrize("rig", [Variant(has_jump=True)], indirect=True)
def test_the_end_takes_a_frozen_master_and_its_jump_along(rig: SshRig, link: SshLink) -> None:
    """Every ssh of ours stands still: `end` leaves no process and no socket."""
    link.connect(30)
    assert len(rig.signal_ssh(signal.SIGSTOP)) == 2
    link.master.end()

    wait_until(lambda: not rig.ssh_pids(), what="no ssh left")
    assert [name for name in _names(rig) if not name.endswith(".lock")] == []


def test_an_end_of_nothing_is_none(rig: SshRig, link: SshLink) -> None:
    """It may be called for a host that was never reached, and twice."""
    link.master.end()
    link.connect(30)
    link.master.end()
    link.master.end()

    assert link.master.present() is None
    assert not link.master.is_alive()


def _failure(link: SshLink) -> AgentctlError:
    with pytest.raises(AgentctlError) as caught:
        link.connect(10)
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_a_person_has_to_mend_is_said_at_once(rig: SshRig, link: SshLink) -> None:
    """A host key that is not known or another, a login refused, a configuration with a fault."""
    known = Path(f"{rig.client.root}/known_hosts")
    right = known.read_text("utf-8")
    known.write_text("", encoding="utf-8")
    unknown = _failure(link)
    key = Path(f"{rig.sshd.user_key}.pub").read_text("utf-8").split()[1]
    known.write_text(f"gpu1 ssh-ed25519 {key}\n", encoding="utf-8")
    changed = _failure(link)
    known.write_text(right, encoding="utf-8")
    keys = Path(f"{rig.sshd.root}/authorized_keys")
    accepted = keys.read_text("utf-8")
    keys.write_text("", encoding="utf-8")
    refused = _failure(link)
    keys.write_text(accepted, encoding="utf-8")
    rig.add_to_config("Nonsense yes\n")
    misspelt = _failure(link)

    assert {type(e) for e in (unknown, changed, refused, misspelt)} == {HostUnreachableError}
    assert "host key is not known" in str(unknown)
    assert "host key has changed" in str(changed)
    assert "Permission denied" in str(refused)
    assert "onfiguration" in str(misspelt)
    assert f"ssh -F {rig.client_config} gpu1" in str(refused)


def test_an_agent_that_is_not_there_is_said(rig: SshRig, link: SshLink) -> None:
    """No launcher, none that may be started, and no ssh: each has its own next step."""
    gone = _failure(_link(rig, agentd="/nowhere/agentd"))
    stopped = _failure(
        SshLink(
            host_at(rig.destination, rig.agentd),
            rig.ssh_command,
            start_agent=False,
            environ=rig.client.env,
        )
    )
    no_ssh = _failure(
        SshLink(host_at("gpu1", rig.agentd), ("/nowhere/ssh",), environ=rig.client.env)
    )

    assert "host upgrade gpu1" in str(gone)
    assert isinstance(stopped, AgentNotRunningError)
    assert "cannot run /nowhere/ssh" in str(no_ssh)


def test_a_first_try_that_is_refused_does_not_wait(rig: SshRig, link: SshLink) -> None:
    """A host that was never reached: ssh's own reason, at once, and that it may pass."""
    rig.sshd.stop()
    began_s = time.monotonic()
    error = _failure(link)

    assert isinstance(error, TryAgainError)
    assert "refused" in str(error)
    assert time.monotonic() - began_s < 2


def test_the_users_own_session_settings_do_not_matter(rig: SshRig, link: SshLink) -> None:
    """Commands, forwards, terminals and masters of the configuration are for people."""
    rig.add_to_config(
        "Host gpu1\n"
        "  RemoteCommand echo mine; exec bash\n"
        "  RequestTTY force\n"
        f"  LocalForward {rig.client.root}/theirs.sock /nowhere\n"
        "  ControlMaster auto\n"
        f"  ControlPath {rig.client.root}/theirs.ctl\n"
        "  ControlPersist no\n"
        "  LogLevel QUIET\n"
    )

    assert _state_dir_behind(link.connect(30)) == rig.server.state_dir
    assert not list(Path(rig.client.root).glob("theirs*"))


def test_a_directory_open_to_others_is_refused(rig: SshRig, link: SshLink) -> None:
    """Cold and warm: nothing is sent to a socket that others could have put there."""
    link.connect(30)
    directory = Path(link.master.directory)
    directory.chmod(0o755)
    try:
        with pytest.raises(UnsafeDirectoryError, match="chmod 700"):
            link.connect(30)
    finally:
        directory.chmod(0o700)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["symlink", "other", "file"])
def test_a_directory_that_was_planted_is_refused(rig: SshRig, kind: str) -> None:
    """Somebody was faster with its name: no ssh is started."""
    directory = Path(f"{rig.client_runtime_dir}/agentctl")
    real = Path(f"{rig.client.root}/real")
    real.mkdir(mode=0o700)
    if kind == "symlink":
        directory.symlink_to(real)
    elif kind == "file":
        directory.touch(mode=0o600)
    else:
        directory.mkdir(mode=0o700)
        os.chown(directory, _OTHER_UID, _OTHER_UID)

    with pytest.raises(UnsafeDirectoryError):
        _link(rig).connect(10)
    assert _logins(rig) == 0
    assert os.listdir(real) == []


def test_sockets_are_for_us_alone(rig: SshRig, link: SshLink) -> None:
    """What ssh listens at has the mode 0600, and the directory 0700."""
    path = link.connect(30)

    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(link.master.control).st_mode & 0o077 == 0
    assert os.stat(link.master.directory).st_mode & 0o777 == 0o700


def test_a_person_is_asked_and_a_script_is_not(rig: SshRig, link: SshLink) -> None:
    """The key has a passphrase: at a terminal ssh asks for it, elsewhere the login is refused."""
    passphrase = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame"]
    subprocess.run([*passphrase, "-f", rig.sshd.user_key], check=True)
    assert "Permission denied" in str(_failure(link))
    controller, terminal = os.openpty()
    command = [sys.executable, "-c", _CLIENT, rig.destination, rig.agentd, *rig.ssh_command]
    client = subprocess.Popen(
        # Its own session, with this terminal to ask at.
        ["setsid", "--ctty", *command],
        env=rig.client.env | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    asked = b""
    while b"passphrase" not in asked:
        asked += os.read(controller, 4096)
    os.write(controller, b"open sesame\n")
    assert client.stdout is not None
    path = client.stdout.readline().decode().strip()

    assert _state_dir_behind(path) == rig.server.state_dir
    # At a terminal this is the end of its input.
    os.write(controller, b"\x04")
    assert client.wait(30) == 0
    client.stdout.close()
    os.close(controller)
    assert _state_dir_behind(link.connect(30)) == rig.server.state_dir
    assert _logins(rig) == 1


@pytest.mark.parametrize("rig", [_FORBIDDEN], indirect=True)
def test_what_a_killed_client_listened_at_is_removed_by_the_next(
    rig: SshRig, link: SshLink
) -> None:
    """A bridge's socket belongs to one process; killed, it cannot take it along."""
    link.connect(30)
    command = [sys.executable, "-c", _CLIENT, rig.destination, rig.agentd, *rig.ssh_command]
    root = str(Path(__file__).resolve().parents[2])
    client = subprocess.Popen(
        command,
        env=rig.client.env | {"PYTHONPATH": root},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    stale = client.stdout.readline().strip()
    client.kill()
    client.communicate()
    assert os.path.lexists(stale)
    other = _link(rig)
    other.connect(30)
    other.close()

    assert not os.path.lexists(stale)


def test_a_probe_tells_silence_from_refusal(rig: SshRig) -> None:
    """Nobody, one who hangs up, one who says nothing, and an agent."""
    directory = rig.client.root
    assert probe.ask(f"{directory}/none", 1) is probe.Answer.ABSENT
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/mute")
        listener.listen()
        assert probe.ask(f"{directory}/mute", 0.05) is probe.Answer.SILENT
    assert probe.ask(f"{directory}/mute", 1) is probe.Answer.ABSENT
    os.unlink(f"{directory}/mute")
    rig.server.start()
    assert probe.ask(f"{rig.server.runtime_dir}/agent.sock", 5) is probe.Answer.READY
