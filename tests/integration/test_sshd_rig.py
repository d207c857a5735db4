"""The rig of the remote tests is what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import pytest

from tests.helpers.otheruser import other_user
from tests.helpers.processes import listening_below
from tests.helpers.sshd import Rules
from tests.helpers.sshrig import BARE_PATH, SshRig, Variant, ssh_rig
from tests.helpers.wait import is_alive, wait_gone, wait_until

_NO_FORWARDING = Variant(rules=Rules(may_forward=False))
_VARIANTS = {
    "plain": Variant(),
    "noisy": Variant(is_noisy=True),
    "fish": Variant(rules=Rules(login_shell="fish")),
    "tcsh": Variant(rules=Rules(login_shell="tcsh")),
    "two hops": Variant(has_jump=True),
}


@pytest.mark.parametrize("rig", _VARIANTS.values(), ids=_VARIANTS, indirect=True)
def test_a_session_has_the_places_of_the_server_and_none_of_the_client(rig: SshRig) -> None:
    """What runs behind ssh finds the server's HOME and state; nothing of the client's leaks."""
    answer = rig.ssh("env").stdout
    assert f"HOME={rig.server.home}\n" in answer
    assert f"AGENTD_STATE_DIR={rig.server.state_dir}\n" in answer
    assert rig.client.root not in answer


@pytest.mark.parametrize("rig", [_VARIANTS["noisy"]], indirect=True)
def test_noise_comes_before_the_output_of_a_command(rig: SshRig) -> None:
    """What start-up files write is in front of what was asked for, without a line's end."""
    answer = rig.ssh("echo wanted")
    assert answer.returncode == 0
    assert answer.stdout.endswith("no newline at the endwanted\n")
    assert "module: command not found" in answer.stderr


@pytest.mark.parametrize("shell", ["fish", "tcsh"])
def test_a_login_shell_reads_its_own_files_and_the_command_as_its_own_language(shell: str) -> None:
    """The command goes through the shell of the variant, which has run its noisy files."""
    with ssh_rig(Variant(rules=Rules(login_shell=shell), is_noisy=True)) as rig:
        answer = rig.ssh("echo $SHELL")
        assert answer.stdout.endswith(f"at the end/usr/bin/{shell}\n")
        assert answer.stdout.startswith("Welcome to gpu1 from ")
        # Neither knows how sh keeps a variable.
        assert "kept" not in rig.ssh("X=kept; export X; echo $X").stdout


@pytest.mark.parametrize("rig", [Variant(path=BARE_PATH)], indirect=True)
def test_a_bare_server_has_no_agent_on_its_path(rig: SshRig) -> None:
    """A server nobody prepared knows the system's programs alone."""
    assert rig.ssh("command -v agentd").returncode != 0
    assert rig.ssh("command -v sh").returncode == 0


@pytest.mark.parametrize(
    "rig", [Variant(), _NO_FORWARDING], ids=["allowed", "refused"], indirect=True
)
def test_forwarding_is_refused_where_the_variant_says_so(rig: SshRig) -> None:
    """A forwarded unix socket reaches the agent or is closed, as the daemon's rules say."""
    rig.server.start()
    may_forward = rig.variant.rules.may_forward
    forwarded = f"{rig.client.root}/f"
    command = [
        *rig.ssh_command,
        "-N",
        "-T",
        "-L",
        f"{forwarded}:{rig.server.runtime_dir}/agent.sock",
    ]
    ssh = subprocess.Popen(
        [*command, rig.destination], stdin=subprocess.DEVNULL, env=rig.client.env
    )
    try:
        wait_until(lambda: os.path.exists(forwarded), what="the forwarded socket")
        got = _first_bytes(forwarded)
        assert bool(got) == may_forward
    finally:
        ssh.kill()
        ssh.wait()


def _first_bytes(path: str) -> bytes:
    """Return what the agent's server says first (its HTTP/2 settings), empty at an end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        try:
            return connection.recv(9)
        except ConnectionResetError:
            return b""


def test_a_daemon_comes_back_on_its_port_and_a_restart_spares_its_sessions(rig: SshRig) -> None:
    """Restarted as by its unit the sessions live on; stopped whole they end; the port stays."""
    session = subprocess.Popen(
        [*rig.ssh_command, "-T", rig.destination, "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=rig.client.env,
    )
    assert session.stdin is not None
    assert session.stdout is not None
    try:
        session.stdin.write(b"a")
        session.stdin.flush()
        assert session.stdout.read(1) == b"a"
        port = rig.sshd.port
        rig.sshd.stop(sessions_too=False)
        assert rig.ssh("true").returncode == 255
        rig.sshd.start()
        assert rig.sshd.port == port
        session.stdin.write(b"b")
        session.stdin.flush()
        assert session.stdout.read(1) == b"b"
        rig.sshd.stop()
        assert session.wait(timeout=10) == 255
        rig.sshd.start()
        assert rig.ssh("true").returncode == 0
    finally:
        session.kill()
        session.wait()
        session.stdin.close()
        session.stdout.close()


def test_two_hops_go_through_the_front_end() -> None:
    """With the front-end node down the server behind it is out of reach."""
    with ssh_rig(_VARIANTS["two hops"]) as far:
        assert far.ssh("true").returncode == 0
        assert far.jump is not None
        far.jump.stop()
        assert far.ssh("true").returncode == 255


@pytest.mark.root
def test_a_pulled_cable_freezes_a_connection_and_a_plugged_one_heals_it() -> None:
    """While the cable is out nothing arrives and nobody is told; afterwards all of it does."""
    with ssh_rig(Variant(has_cable=True)) as rig:
        assert rig.cable is not None
        session = subprocess.Popen(
            [*rig.ssh_command, "-T", rig.destination, "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=rig.client.env,
        )
        assert session.stdin is not None
        assert session.stdout is not None
        try:
            session.stdin.write(b"a")
            session.stdin.flush()
            assert session.stdout.read(1) == b"a"
            rig.cable.pull()
            session.stdin.write(b"b")
            session.stdin.flush()
            os.set_blocking(session.stdout.fileno(), False)
            with pytest.raises(subprocess.TimeoutExpired):
                session.wait(timeout=0.5)
            assert session.stdout.read(1) is None
            rig.cable.plug()
            os.set_blocking(session.stdout.fileno(), True)
            assert session.stdout.read(1) == b"b"
        finally:
            session.kill()
            session.wait()
            session.stdin.close()
            session.stdout.close()


def test_a_destroyed_rig_leaves_no_process_socket_or_directory() -> None:
    """Masters, frozen ones too, an agent with a job, daemons and sessions: all gone."""
    with ssh_rig() as rig:
        rig.server.start()
        control = f"{rig.client_runtime_dir}/m"
        options = ["-M", "-S", control, "-o", "ControlPersist=60", "-N", "-f"]
        master = [*rig.ssh_command, *options, rig.destination]
        subprocess.run(
            master, env=rig.client.env, check=True, timeout=20, stderr=subprocess.DEVNULL
        )
        assert rig.master_pids()
        rig.signal_ssh(signal.SIGSTOP)
        roots = (rig.client.root, rig.server.root)
        pids = rig.ssh_pids() | rig.sshd.pids() | set(rig.server.processes())
        assert len(pids) >= 4
    wait_gone(pids)
    assert not any(map(os.path.exists, roots))
    assert not any(map(listening_below, roots))


@pytest.mark.root
def test_a_second_user_reads_nothing_of_the_first() -> None:
    """He has another uid, no group of ours, and cannot enter the directories of the rig."""
    with ssh_rig() as rig, other_user() as thief:
        rig.server.start()
        assert thief.python("import os; print(os.getuid(), os.getgroups())").stdout.split() == [
            str(thief.uid),
            "[]",
        ]
        for root in (rig.client.root, rig.server.root):
            refused = thief.python("import os, sys; os.listdir(sys.argv[1])", root)
            assert "PermissionError" in refused.stderr
        sleeper = thief.popen("/bin/sleep", "1000")
        assert is_alive(sleeper.pid)
    assert sleeper.wait(timeout=10) == -signal.SIGKILL
    assert sleeper.stdout is not None
    sleeper.stdout.close()
