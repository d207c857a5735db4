"""The agent of the server: found by its pidfile, greeted, ended. Jobs are left alone."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import struct
import subprocess
import time
from contextlib import suppress
from typing import Any

from agentctl.hosts.remote.peer import SetupError

START_WITHIN_S = 60.0
STOP_WITHIN_S = 40.0
_POLL_S = 0.05
_FLOCK = struct.Struct("hhqqi4x")


def run(argv: list[str], within_s: float, *, umask: int = -1) -> bytes:
    """Run a program to its end and return its stdout. Raises SetupError with its last line."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within_s,
            check=False,
            umask=umask,
        )
    except OSError as error:
        raise SetupError("command", f"{argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SetupError("command", f"it took longer than {within_s:.0f} s") from None
    if done.returncode:
        lines = [
            line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()
        ]
        said = lines[-1].strip() if lines else f"it ended with exit code {done.returncode}"
        raise SetupError("command", said)
    return done.stdout


class AgentHere:
    """The agent of this node, whoever installed it."""

    def __init__(self, python: str) -> None:
        """Ask an installation's Python where its agent keeps its things."""
        question = (
            "import json, os; from agentd.paths import default_paths as p; q = p(os.environ); "
            "print(json.dumps([q.state_dir, q.runtime_dir]))"
        )
        self.state_dir, self.runtime_dir = json.loads(run([python, "-I", "-c", question], 30))

    def pid(self) -> int:
        """Return the pid of the living warden, 0 if none lives."""
        path = f"{self.state_dir}/agent.pid"
        try:
            with open(path, encoding="utf-8") as file:
                pid = int(json.load(file)["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return pid if _is_held(path) else 0

    def python(self) -> str | None:
        """Return the interpreter that the living agent was started with."""
        pid = self.pid()
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return os.fsdecode(file.read().split(b"\0")[0]) or None
        except OSError:
            return None

    def stop(self) -> None:
        """End the agent; jobs go on. Raises SetupError."""
        pid = self.pid()
        if not pid:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_WITHIN_S
        while self.pid() == pid:
            if time.monotonic() > deadline_s:
                raise SetupError("stop", f"the agent (pid {pid}) does not end")
            time.sleep(_POLL_S)

    def jobs(self) -> list[str]:
        """Return the ids of the jobs whose shim or first process lives."""
        try:
            names = os.listdir(f"{self.state_dir}/live")
        except OSError:
            return []
        return sorted(name for name in names if _is_held(f"{self.state_dir}/jobs/{name}/pid"))


def _is_held(path: str) -> bool:
    """Say whether somebody holds the lock on a pidfile, without taking it (fcntl(2))."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind: int = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, lock))[0]
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return kind != fcntl.F_UNLCK


def start(command: list[str], users_umask: int) -> None:
    """Start the agent unless it runs, as the user would. Raises SetupError."""
    run([*command, "start"], START_WITHIN_S, umask=users_umask)


def hello(launcher: str, wanted: dict[str, Any], users_umask: int) -> dict[str, Any]:
    """Start the agent unless it runs, shake hands. Raises SetupError."""
    mark = secrets.token_hex(8)
    start([launcher], users_umask)
    bridge = [launcher, "bridge", "--hello", "--mark", mark]
    said = run(bridge, START_WITHIN_S, umask=users_umask)
    for line in said.decode("utf-8", "replace").splitlines():
        if line.startswith(f"{mark} "):
            hello: dict[str, Any] = json.loads(line.removeprefix(f"{mark} "))
            if hello.get("version") != wanted["version"]:
                raise SetupError("command", f"an agent {hello.get('version')} answers instead")
            return hello
    raise SetupError("command", "the agent's greeting is missing")
