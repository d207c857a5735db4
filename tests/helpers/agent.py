"""A private agent for one test: its own directories, its own environment, its own end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.helpers.processes import (
    arguments,
    belongs,
    children_of,
    listening_below,
    processes_of,
)
from tests.helpers.wait import is_alive, wait_until

if TYPE_CHECKING:
    from agentctl import Client

_BIN = Path(sys.executable).parent
#: Variables of the caller that would lead a private agent to the caller's own places.
_PRIVATE_PREFIXES = ("AGENTCTL_", "AGENTD_", "XDG_")


class Agent:
    """One agent in directories of its own. Nothing runs until `start`, `cli` or `client`."""

    def __init__(self, root: str) -> None:
        """Prepare the places below `root`, which must exist and be short."""
        self.root = root
        self.state_dir = f"{root}/s"
        self.runtime_dir = f"{root}/r"
        self.config_file = f"{root}/config.toml"
        self.crash_dir = f"{root}/crash"
        self.home = f"{root}/home"
        for path in (self.state_dir, self.runtime_dir, self.crash_dir, self.home):
            os.mkdir(path, 0o700)
        self._outer_environment: dict[str, str] | None = None
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_PRIVATE_PREFIXES)}
        self.env: dict[str, str] = {
            **inherited,
            "PATH": f"{_BIN}:{os.environ.get('PATH', os.defpath)}",
            "HOME": self.home,
            "AGENTD_STATE_DIR": self.state_dir,
            "AGENTD_RUNTIME_DIR": self.runtime_dir,
            "AGENTCTL_CONFIG": self.config_file,
            "AGENTD_CRASH_DIR": self.crash_dir,
            "NO_COLOR": "1",
        }

    def cli(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002  # the word of subprocess.run
        timeout: float = 30,
        check: bool = False,
        cwd: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `agentctl ARGS` to its end, as text with surrogate escapes."""
        return subprocess.run(
            [str(_BIN / "agentctl"), *args],
            env=self.env,
            cwd=cwd or self.home,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            check=check,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def cli_bytes(self, *args: str, timeout: float = 60) -> bytes:
        """Run `agentctl ARGS`, demand success, and return stdout byte for byte."""
        return subprocess.run(
            [str(_BIN / "agentctl"), *args],
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=timeout,
            check=True,
        ).stdout

    def popen(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401  # those of Popen
        """Start `agentctl ARGS` in the background; the caller ends and reaps it."""
        options = {"cwd": self.home, "stdin": subprocess.DEVNULL, "env": self.env, **options}
        return subprocess.Popen([str(_BIN / "agentctl"), *args], **options)

    def show(self, job: int | str) -> dict[str, Any]:
        """Return `agentctl show JOB --json`."""
        shown = self.cli("show", str(job), "--json", check=True).stdout
        body: dict[str, Any] = json.loads(shown)
        return body

    def start(self) -> None:
        """Start the agent and wait until its server answers."""
        subprocess.run(
            [sys.executable, "-P", "-m", "agentd", "start"],
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=True,
        )
        wait_until(self.server_pid, deadline_s=20, what="a server below the warden")
        wait_until(
            lambda: os.path.exists(f"{self.runtime_dir}/agent.sock"), what="the agent's socket"
        )

    def warden_pid(self) -> int:
        """Return the pid of the living warden, 0 if there is none."""
        try:
            with open(f"{self.state_dir}/agent.pid", encoding="utf-8") as file:
                pid = int(json.loads(file.read())["pid"])
        except (FileNotFoundError, ValueError, KeyError):
            return 0
        return pid if is_alive(pid) and belongs(pid, self.root) else 0

    def server_pid(self) -> int:
        """Return the pid of the warden's living server, 0 if there is none."""
        warden = self.warden_pid()
        children = children_of(warden) if warden else []
        return next((child for child in children if b"server" in arguments(child)), 0)

    def shim_pid(self, job_id: int) -> int:
        """Return the pid of the job's shim as its pidfile names it, 0 before it is written."""
        return self._pid_of(job_id, "shim")

    def leader_pid(self, job_id: int) -> int:
        """Return the pid of the job's leader as the pidfile names it, 0 before it is written."""
        return self._pid_of(job_id, "leader")

    def _pid_of(self, job_id: int, whom: str) -> int:
        try:
            text = Path(f"{self.state_dir}/jobs/{job_id}/pid").read_text(encoding="utf-8")
            return int(json.loads(text)[whom]["pid"])
        except (FileNotFoundError, ValueError, KeyError):
            return 0

    def kill(self, *pids: int) -> None:
        """SIGKILL these processes of the agent and wait until they are gone."""
        for pid in pids:
            assert pid > 1, f"not a process of an agent: {pid}"
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)), what=f"pids {pids} gone")

    def crash_at(self, name: str, *other_pids: int) -> None:
        """Let the first process that reaches the crash point `name` die there.

        `other_pids` are killed just before it. See agentd.system.crashpoint.
        """
        scratch = f"{self.root}/crash.tmp"
        Path(scratch).write_text(" ".join(map(str, other_pids)), encoding="ascii")
        os.rename(scratch, f"{self.crash_dir}/{name}")

    def crashed(self, name: str) -> bool:
        """Say whether the crash point asked for was reached."""
        return not os.path.exists(f"{self.crash_dir}/{name}")

    def client(self) -> Client:
        """Return an SDK client of this agent; the caller closes it.

        The SDK reads this process' own environment, which is the agent's from here on until
        `destroy`.
        """
        from agentctl import Client  # noqa: PLC0415  # most tests need no SDK

        if self._outer_environment is None:
            self._outer_environment = dict(os.environ)
            _replace_environment(self.env)
        return Client()

    def log(self) -> str:
        """Return what the agent wrote to its own log so far."""
        files = sorted(Path(f"{self.state_dir}/log").glob("*"))
        return "".join(p.read_text(encoding="utf-8", errors="replace") for p in files)

    def processes(self) -> dict[int, str]:
        """Return every living process of this agent and its jobs: pid, command line."""
        return processes_of(self.root, self._job_uids())

    def _job_uids(self) -> frozenset[str]:
        uids = set()
        for path in Path(f"{self.state_dir}/jobs").glob("*/spec.json"):
            try:
                uids.add(str(json.loads(path.read_bytes())["uid"]))
            except (OSError, ValueError, KeyError):
                # A test may have torn it on purpose.
                continue
        return frozenset(uids)

    def end_processes(self) -> None:
        """SIGKILL whatever belongs to the agent and its jobs, until nothing is left.

        By force and not through the agent: a fixture must not trust what it tests.

        Raises:
            AssertionError: Something outlived its SIGKILL.

        """
        warden = self.warden_pid()
        killed: set[int] = set()

        def kill_all() -> bool:
            left = self.processes()
            killed.update(left)
            # The warden first, so that it starts nothing again.
            for pid in sorted(left, key=lambda pid: pid != warden):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            # One that is ending shows nothing any more by which it is known, and still is.
            return not left and not any(map(is_alive, killed))

        wait_until(kill_all, deadline_s=20, what=f"no process left of the agent in {self.root}")

    def destroy(self) -> None:
        """End whatever is left, and prove it: no process, no socket, no directory.

        Raises:
            AssertionError: Something outlived its SIGKILL.

        """
        if self._outer_environment is not None:
            _replace_environment(self._outer_environment)
            self._outer_environment = None
        self.end_processes()
        wait_until(lambda: not listening_below(self.root), what=f"no socket left below {self.root}")
        shutil.rmtree(self.root, onerror=_make_writable)
        assert not os.path.exists(self.root)


def _replace_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _make_writable(function: Callable[[str], object], path: str, _error: object) -> None:
    os.chmod(os.path.dirname(path), 0o700)
    function(path)


@contextmanager
def private_agent() -> Iterator[Agent]:
    """Yield an agent in a fresh directory directly below /tmp, and destroy it."""
    agent = Agent(tempfile.mkdtemp(prefix="at-", dir="/tmp"))
    try:
        yield agent
    finally:
        agent.destroy()
