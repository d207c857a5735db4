"""A real sshd without privileges of its own: own keys, own port on 127.0.0.1, own end."""

from __future__ import annotations

import getpass
import os
import random
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.wait import is_alive, name_of, wait_gone, wait_until

_SSHD = "/usr/sbin/sshd"
#: Below the ports that the kernel gives to outgoing connections (ip(7), ip_local_port_range): a
#: daemon that is down for a while finds its own free again.
_PORTS = range(10_000, 32_000)


@dataclass(frozen=True, slots=True)
class Rules:
    """What one daemon allows, and what its sessions find."""

    #: False: `DisableForwarding yes`, neither TCP nor unix sockets nor agents.
    may_forward: bool = True
    #: The program that sessions run as login shell; None: the account's own.
    login_shell: str | None = None
    #: Unauthenticated connections at once, as sshd_config(5) writes it; its default.
    max_startups: str = "10:30:100"
    #: Variables that the client's `SetEnv` may give beside those of the daemon.
    accepted_variables: tuple[str, ...] = ()


class Sshd:
    """One daemon; it can be stopped and started again on the same port with the same host key."""

    def __init__(
        self,
        root: str,
        environment: Mapping[str, str],
        rules: Rules | None = None,
        *,
        address: str = "127.0.0.1",
        namespace: str | None = None,
    ) -> None:
        """Write keys and configuration below the directory `root`, which is made.

        Args:
            root: Absolute path; nothing may stand there.
            environment: What every session finds set, HOME and PATH included.
            rules: What is allowed; everything that sshd allows by default if None.
            address: Where it listens, of the network namespace it runs in.
            namespace: Name of a network namespace (ip-netns(8)) to run in.

        """
        os.mkdir(root, 0o700)
        self.root = root
        self.address = address
        self.port = _free_port(address if namespace is None else "127.0.0.1")
        self.user = getpass.getuser()
        self.user_key = f"{root}/user_key"
        self._rules = rules or Rules()
        self._prefix = [] if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}"]
        for path in (f"{root}/host_key", self.user_key):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path],
                check=True,
                stdin=subprocess.DEVNULL,
            )
        Path(f"{root}/authorized_keys").write_bytes(Path(f"{self.user_key}.pub").read_bytes())
        self._write_config(environment)

    def _write_config(self, environment: Mapping[str, str]) -> None:
        assert not any(set(' "\n') & set(value) for value in environment.values()), environment
        lines = [
            f"Port {self.port}",
            f"ListenAddress {self.address}",
            f"HostKey {self.root}/host_key",
            f"AuthorizedKeysFile {self.root}/authorized_keys",
            f"PidFile {self.root}/pid",
            # The directory above is /tmp, which others may write to; and no account but ours.
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            f"MaxStartups {self._rules.max_startups}",
            # One line: of several, sshd takes the first alone.
            "SetEnv " + " ".join(f"{name}={value}" for name, value in environment.items()),
        ]
        if self._rules.accepted_variables:
            lines.append("AcceptEnv " + " ".join(self._rules.accepted_variables))
        if not self._rules.may_forward:
            lines.append("DisableForwarding yes")
        if self._rules.login_shell is not None:
            lines.append(f"ForceCommand exec {self._login_script(self._rules.login_shell)}")
        Path(f"{self.root}/sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _login_script(self, shell: str) -> str:
        """Write what hands a session to `shell` as sshd hands it to the account's: `SHELL -c`."""
        path = Path(f"{self.root}/login")
        path.write_text(
            "#!/bin/sh\n"
            'cd "$HOME" || exit 1\n'
            f"SHELL=$(command -v {shell}) || exit 127\n"
            "export SHELL\n"
            '[ -z "$SSH_ORIGINAL_COMMAND" ] && exec "$SHELL" -l\n'
            'exec "$SHELL" -c "$SSH_ORIGINAL_COMMAND"\n',
            encoding="utf-8",
        )
        path.chmod(0o755)
        return str(path)

    @property
    def host_key(self) -> str:
        """The public host key: type and key, as known_hosts has them after the name."""
        return " ".join(Path(f"{self.root}/host_key.pub").read_text("utf-8").split()[:2])

    @property
    def log(self) -> str:
        """What the daemon and its sessions wrote so far."""
        path = Path(f"{self.root}/log")
        return path.read_text("utf-8", errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start to listen; returns when the port answers."""
        assert not self.listener_pid(), "the daemon runs already"
        if os.geteuid() == 0:
            # Where the daemon of a root jails its unprivileged half; a package's unit makes it.
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        # -E: every process of the daemon keeps the log open, and is known by that.
        command = [_SSHD, "-f", f"{self.root}/sshd_config", "-E", f"{self.root}/log"]
        subprocess.run(
            [*self._prefix, *command], check=True, stdin=subprocess.DEVNULL, timeout=10, cwd="/"
        )
        wait_until(self.listener_pid, what=f"sshd listens; its log: {self.log[-2000:]}")

    def stop(self, *, sessions_too: bool = True) -> None:
        """Stop to listen, at once and surely; a unit's restart leaves the sessions, a crash not."""
        pids = self.pids() if sessions_too else {self.listener_pid()} - {0}
        _kill(pids)
        if sessions_too:
            # One that was being accepted meanwhile.
            wait_until(lambda: not _kill(self.pids()), what="no sshd left")

    def end_sessions(self) -> None:
        """Kill every established connection on the server's side; the daemon goes on."""
        _kill(self.session_pids())

    def listener_pid(self) -> int:
        """Return the pid of the process that accepts connections, 0 if there is none."""
        try:
            pid = int(Path(f"{self.root}/pid").read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 0
        return pid if is_alive(pid) and self._is_ours(pid) else 0

    def session_pids(self) -> set[int]:
        """Return the processes that serve one connection each."""
        return self.pids() - {self.listener_pid()}

    def pids(self) -> set[int]:
        """Return all processes of the daemon, and nothing that they started."""
        return {int(name) for name in os.listdir("/proc") if name.isdigit() and self._is_ours(name)}

    def _is_ours(self, pid: str | int) -> bool:
        # By open files: a session is no child of a daemon that was restarted, and sshd writes
        # its title over its arguments and its environment.
        return name_of(int(pid)) == "sshd" and f"{self.root}/log" in open_files(int(pid))


def open_files(pid: int) -> set[str]:
    """Return the paths that a process has open, none if it is gone or not ours to look at."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return set()
    found = set()
    for descriptor in descriptors:
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except OSError:
            # Closed since it was listed.
            continue
    return found


def _kill(pids: set[int]) -> set[int]:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_gone(pids, what="processes of sshd gone")
    return pids


def _free_port(address: str) -> int:
    candidates = random.Random(os.urandom(8)).sample(_PORTS, 100)
    for port in candidates:
        with socket.socket() as probe:
            # Those that wait in TIME_WAIT do not hinder sshd, which sets the same.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port among {candidates}")
