"""What the tests of `agentctl host` share: a bare server, and what is on it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from agentctl import __version__
from agentctl.hosts.wheels import own_wheel
from tests.helpers.processes import arguments
from tests.helpers.sshd import Rules
from tests.helpers.sshrig import BARE_PATH, SshRig, Variant

BARE = Variant(path=BARE_PATH)
#: The client says where the server's data home is.
MOVABLE = Variant(path=BARE_PATH, rules=Rules(accepted_variables=("XDG_DATA_HOME",)))
#: What `.bashrc` sets holds for commands over ssh too.
BASH = Variant(path=BARE_PATH, rules=Rules(login_shell="bash"))


TICKING = (
    "echo begun; while [ ! -e go ]; do echo tick; sleep 0.02; done; echo ended by itself; exit 7"
)


def root_of(rig: SshRig) -> Path:
    """Return where the server's installations are."""
    return Path(rig.server.home) / ".local/share/agentd"


def host(rig: SshRig, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `agentctl host WORDS` on the client to its end."""
    return rig.client.cli("host", *words, timeout=150)


def add(rig: SshRig) -> None:
    """Set the server up."""
    done = host(rig, "add", "--offline", "gpu1")
    assert done.returncode == 0, done.stderr


def installations(root: Path) -> list[str]:
    """Return the names of the complete ones."""
    return sorted(path.parent.name for path in root.glob("*/install.json"))


def halves(root: Path) -> list[str]:
    """Return what a crash left."""
    return [str(path) for path in root.rglob(".new-*")] + [str(p) for p in root.rglob(".old-*")]


def agent_is_from(rig: SshRig) -> str:
    """Return the name of the installation that the running agent was started from."""
    program = arguments(rig.server.warden_pid())[0].decode()
    return Path(program).parent.parent.name


def installers(rig: SshRig) -> list[int]:
    """Return the processes that install on the server."""
    running = rig.server.processes()
    return [pid for pid in running if any(b"sys.stdin.buffer" in word for word in arguments(pid))]


def book(rig: SshRig) -> dict[str, dict[str, str]]:
    """Return the client's hosts by name."""
    path = Path(f"{rig.client.root}/xs/agentctl/hosts.json")
    if not path.exists():
        return {}
    hosts: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))["hosts"]
    return hosts


class OtherClient:
    """An agentctl of another version on the same laptop."""

    def __init__(self, rig: SshRig, version: str) -> None:
        self.root = Path(rig.client.root) / f"agentctl-{version}"
        self._rig = rig
        with zipfile.ZipFile(BytesIO(own_wheel().content)) as wheel:
            wheel.extractall(self.root)
        info = self.root / f"agentctl-{__version__}.dist-info"
        info.rename(self.root / f"agentctl-{version}.dist-info")
        for name in ("agentd/__init__.py", "agentctl/__init__.py"):
            self.edit(name, f'__version__ = "{__version__}"', f'__version__ = "{version}"')
        name = f"agentctl-{version}.dist-info/METADATA"
        self.edit(name, f"Version: {__version__}", f"Version: {version}")

    def edit(self, name: str, before: str, after: str) -> None:
        """Replace text in one of its files."""
        path = self.root / name
        text = path.read_text("utf-8")
        assert before in text
        path.write_text(text.replace(before, after), encoding="utf-8")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, said = process.communicate(timeout=150)
        return subprocess.CompletedProcess(words, process.returncode, out.decode(), said.decode())

    def popen(
        self, *words: str, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start it in the background; the caller ends and reaps it."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "agentctl", *words],
            env={**self._rig.client.env, "PYTHONPATH": str(self.root)},
            cwd=self._rig.client.home,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )


def hide_programs(rig: SshRig) -> Path:
    """Let commands over ssh find shells alone; return the directory in which they look."""
    tools = Path(rig.server.home) / "tools"
    tools.mkdir()
    for shell in ("sh", "bash"):
        (tools / shell).symlink_to(f"/bin/{shell}")
    Path(rig.server.home, ".bashrc").write_text(f"PATH={tools}\n", encoding="utf-8")
    return tools


def write_program(path: Path, script: str) -> None:
    """Write a shell script that can be executed."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def move_data_home(rig: SshRig) -> Path:
    """Let the server's data home be another directory; return that."""
    data = Path(rig.server.root) / "data"
    data.mkdir(mode=0o700)
    rig.add_to_config(f"Host gpu1\n  SetEnv XDG_DATA_HOME={data}\n")
    return data
