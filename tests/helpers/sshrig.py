"""A laptop and a server on one machine: two private sides, and nothing but ssh between them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from tests.helpers.agent import Agent
from tests.helpers.netns import Cable, cable
from tests.helpers.processes import arguments, processes_of
from tests.helpers.rcfiles import write_noisy
from tests.helpers.sshd import Rules, Sshd, open_files
from tests.helpers.wait import is_alive, name_of, wait_until

if TYPE_CHECKING:
    from agentctl import Client

_BIN = Path(sys.executable).parent
#: Of a server nobody prepared: the system's programs alone.
BARE_PATH = "/usr/local/bin:/usr/bin:/bin"
#: What a session on the server must find set to reach its own agent and no other.
_SERVER_VARIABLES = (
    "HOME",
    "PATH",
    "AGENTD_STATE_DIR",
    "AGENTD_RUNTIME_DIR",
    "AGENTCTL_CONFIG",
    "AGENTD_CRASH_DIR",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """How the way to the server looks."""

    rules: Rules = field(default_factory=Rules)
    #: Start-up files of every shell write to stdout and stderr.
    is_noisy: bool = False
    #: The server is reached through a front-end node: `ProxyJump`, two daemons.
    has_jump: bool = False
    #: The server stands behind a cable of its own (a network namespace; root only).
    has_cable: bool = False
    #: PATH of the server's sessions; None: with agentd on it.
    path: str | None = None


class SshRig:
    """The two sides. `client` runs agentctl, `server` is the machine behind ssh.

    Both are private agents: own HOME, state, runtime directory and environment. Everything that
    a session of sshd starts has the server's. Nothing of agentctl runs until it is asked to.
    """

    #: The one word that ssh takes for the server, and a good name for it.
    destination = "gpu1"

    def __init__(self, variant: Variant, client: Agent, server: Agent, wire: Cable | None) -> None:
        """Prepare both sides and start the daemons."""
        self.variant = variant
        self.client = client
        self.server = server
        self.cable = wire
        # What a client may set, the daemon must not: its own would win.
        left_open = variant.rules.accepted_variables
        environment = {
            name: server.env[name]
            for name in _SERVER_VARIABLES
            if not any(fnmatchcase(name, pattern) for pattern in left_open)
        }
        if variant.path is not None:
            environment["PATH"] = variant.path
        if variant.is_noisy:
            write_noisy(server.home, variant.rules.login_shell)
        self.server_environment = environment
        self.sshd = Sshd(
            f"{server.root}/sshd",
            environment,
            variant.rules,
            address="127.0.0.1" if wire is None else wire.far_address,
            namespace=None if wire is None else wire.namespace,
        )
        self.jump = Sshd(f"{server.root}/jump", {"HOME": server.home}) if variant.has_jump else None
        self.client_config = f"{client.root}/ssh_config"
        self.ssh_command = ("ssh", "-F", self.client_config)
        self.client_runtime_dir = f"{client.root}/x"
        self._prepare_client()
        for daemon in self._daemons():
            daemon.start()

    def _daemons(self) -> list[Sshd]:
        return [self.sshd] if self.jump is None else [self.sshd, self.jump]

    def _prepare_client(self) -> None:
        root = self.client.root
        for name in ("x", "xs", "xc", "xd", "xf"):
            os.mkdir(f"{root}/{name}", 0o700)
        self.client.env |= {
            "XDG_RUNTIME_DIR": self.client_runtime_dir,
            "XDG_STATE_HOME": f"{root}/xs",
            "XDG_CACHE_HOME": f"{root}/xc",
            "XDG_DATA_HOME": f"{root}/xd",
            "XDG_CONFIG_HOME": f"{root}/xf",
            "AGENTCTL_SSH": shlex.join(self.ssh_command),
        }
        self.client.env.pop("SSH_AUTH_SOCK", None)
        jump = [] if self.jump is None else ["  ProxyJump jump"]
        blocks = [_block(self.destination, self.sshd, *jump)]
        if self.jump is not None:
            blocks.append(_block("jump", self.jump))
        common = (
            "Host *\n"
            "  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {root}/known_hosts\n"
            "  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n"
        )
        Path(self.client_config).write_text("".join([*blocks, common]), encoding="utf-8")
        names = zip((self.destination, "jump"), self._daemons(), strict=False)
        known = "".join(f"{name} {daemon.host_key}\n" for name, daemon in names)
        Path(f"{root}/known_hosts").write_text(known, encoding="utf-8")

    @property
    def agentd(self) -> str:
        """Absolute path of the agent's launcher on the server."""
        return str(_BIN / "agentd")

    def add_to_config(self, text: str) -> None:
        """Put lines before all others of the client's ssh configuration, where they win."""
        path = Path(self.client_config)
        path.write_text(text.rstrip("\n") + "\n" + path.read_text("utf-8"), encoding="utf-8")

    def ssh(self, *words: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run `ssh gpu1 WORDS` plainly, without any master, to its end."""
        return subprocess.run(
            [*self.ssh_command, "-o", "BatchMode=yes", "-T", self.destination, *words],
            env=self.client.env,
            cwd=self.client.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def know(
        self,
        name: str = destination,
        *,
        destination: str = destination,
        version: str | None = None,
    ) -> None:
        """Put the server into the client's book, as `agentctl host add` does at its end."""
        from agentctl import __version__  # noqa: PLC0415  # the rig alone needs no product

        program = (
            "import sys, datetime\n"
            "from agentctl.link.book import Host, HostBook\n"
            "name, destination, agentd, version = sys.argv[1:]\n"
            "at = datetime.datetime.now(datetime.UTC)\n"
            "HostBook.of_environment().put(Host(name, destination, agentd, version, at))\n"
        )
        words = [name, destination, self.agentd, version or __version__]
        command = [sys.executable, "-P", "-c", program, *words]
        subprocess.run(command, env=self.client.env, cwd=self.client.home, check=True, timeout=30)

    @contextmanager
    def sdk(self) -> Iterator[Client]:
        """Yield an SDK client of the server, in this process; see `Agent.client`."""
        from agentctl import Client  # noqa: PLC0415  # most tests need no SDK

        # This process has the client's environment from here on until `destroy`.
        self.client.client().close()
        with Client(self.destination) as client:
            yield client

    def ssh_pids(self) -> set[int]:
        """Return every ssh process of the client's side: masters, their hops, mux clients."""
        found = {pid for pid in _carrying(self.client.root) if name_of(pid) == "ssh"}
        return {pid for pid in found if is_alive(pid)}

    def master_pids(self) -> set[int]:
        """Return those that hold a connection for others."""
        return {pid for pid in self.ssh_pids() if _is_master(arguments(pid))}

    def signal_ssh(self, number: signal.Signals) -> set[int]:
        """Send a signal to every ssh process of the client's side, and return them."""
        pids = self.ssh_pids()
        for pid in pids:
            os.kill(pid, number)
        return pids

    def destroy(self) -> None:
        """End both sides and prove it: no ssh, sshd, agent, socket or directory is left.

        Raises:
            AssertionError: Something outlived its SIGKILL.

        """
        _end_all(self.client.root)
        for daemon in self._daemons():
            daemon.stop()
        self.server.end_processes()
        for root in (self.client.root, self.server.root):
            _end_all(root)


def _block(name: str, daemon: Sshd, *more: str) -> str:
    lines = [
        f"Host {name}",
        f"  HostName {daemon.address}",
        f"  HostKeyAlias {name}",
        f"  Port {daemon.port}",
        f"  User {daemon.user}",
        f"  IdentityFile {daemon.user_key}",
        *more,
    ]
    return "\n".join(lines) + "\n"


def _is_master(words: list[bytes]) -> bool:
    # The title is that of one which went into the background only after its first session.
    return b"-M" in words or words[0].endswith(b"[mux]")


def _carrying(root: str) -> set[int]:
    """Return the processes that name `root` in their arguments or have a file of it open.

    Beside those that processes_of finds: ssh and sshd write their titles over their environment.
    """
    found = set(processes_of(root))
    mark = f"{root}/"
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        named = any(mark.encode() in word for word in arguments(int(name)))
        if named or any(path.startswith(mark) for path in open_files(int(name))):
            found.add(int(name))
    return found


def _end(pids: set[int]) -> set[int]:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return pids


def _end_all(root: str) -> None:
    wait_until(lambda: not _end(_carrying(root)), deadline_s=20, what=f"no process left of {root}")


@contextmanager
def ssh_rig(variant: Variant | None = None) -> Iterator[SshRig]:
    """Yield a rig whose daemons listen, and destroy it."""
    variant = variant or Variant()
    with ExitStack() as stack:
        client = Agent(tempfile.mkdtemp(prefix="at-", dir="/tmp"))
        stack.callback(client.destroy)
        server = Agent(tempfile.mkdtemp(prefix="at-", dir="/tmp"))
        stack.callback(server.destroy)
        wire = stack.enter_context(cable()) if variant.has_cable else None
        rig = SshRig(variant, client, server, wire)
        stack.callback(rig.destroy)
        yield rig
