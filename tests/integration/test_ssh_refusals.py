"""The link to a host over a real sshd: what is refused, said, asked and kept from others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentctl.errors import (
    AgentctlError,
    AgentNotRunningError,
    HostUnreachableError,
    TryAgainError,
    UnsafeDirectoryError,
)
from agentctl.link.ssh import SshLink, probe
from tests.helpers.hostlike import host_at
from tests.helpers.sshlinks import (
    CLIENT,
    FORBIDDEN,
    link_of,
    logins,
    state_dir_behind,
)
from tests.helpers.sshrig import SshRig

_OTHER_UID = 65534


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
    gone = _failure(link_of(rig, agentd="/nowhere/agentd"))
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

    assert state_dir_behind(link.connect(30)) == rig.server.state_dir
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
        link_of(rig).connect(10)
    assert logins(rig) == 0
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
    command = [sys.executable, "-c", CLIENT, rig.destination, rig.agentd, *rig.ssh_command]
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

    assert state_dir_behind(path) == rig.server.state_dir
    # At a terminal this is the end of its input.
    os.write(controller, b"\x04")
    assert client.wait(30) == 0
    client.stdout.close()
    os.close(controller)
    assert state_dir_behind(link.connect(30)) == rig.server.state_dir
    assert logins(rig) == 1


@pytest.mark.parametrize("rig", [FORBIDDEN], indirect=True)
def test_what_a_killed_client_listened_at_is_removed_by_the_next(
    rig: SshRig, link: SshLink
) -> None:
    """A bridge's socket belongs to one process; killed, it cannot take it along."""
    link.connect(30)
    command = [sys.executable, "-c", CLIENT, rig.destination, rig.agentd, *rig.ssh_command]
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
    other = link_of(rig)
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
