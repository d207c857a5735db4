"""What the test machine does, run there as root by rig.service: the plan, one JSON line a fact.

Imports what lies beside it on the rig's disk, and the standard library of Debian 12.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import pwd
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hogs import ProgressFile  # type: ignore[import-not-found]  # beside this file in the guest

_RIG = Path("/opt/rig")
_BYSTANDER = (
    "b = bytearray(40 << 20); b[::4096] = b'x' * len(b[::4096]); import time; time.sleep(1e6)"
)
#: In memory, and not in /dev/shm: logind empties that of a user whose last session has died.
_PROGRESS = Path("/run/hogs")
_POLL_S = 0.1
_TICK_S = 0.05
#: Longer than any command of ours needs on an emulated processor.
_COMMAND_S = 120.0


class Ticker:
    """A process beside the work that notices when it was not let run."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 4096)
        self._longest = ctypes.c_double.from_buffer(self._shared)
        self.pid = os.fork()
        if self.pid == 0:
            self._tick()

    def _tick(self) -> None:
        last_s = time.monotonic()
        while True:
            time.sleep(_TICK_S)
            now_s = time.monotonic()
            self._longest.value = max(self._longest.value, now_s - last_s)
            last_s = now_s

    def take_s(self) -> float:
        """Return the longest gap since the last call."""
        longest_s, self._longest.value = self._longest.value, 0.0
        return longest_s


class KernelLog:
    """What the kernel says of its own kills (Documentation/ABI/testing/dev-kmsg)."""

    def __init__(self) -> None:
        self._file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._file, 0, os.SEEK_END)

    def take_kills(self) -> tuple[list[str], list[str]]:
        """Return the kills in a job's own cgroup, and all others, since the last call."""
        inside: list[str] = []
        outside: list[str] = []
        while (line := self._next()) is not None:
            if "oom-kill:constraint=" in line:
                in_job = "CONSTRAINT_MEMCG" in line and "/job-" in line
                (inside if in_job else outside).append(line.partition(";")[2].strip())
        return inside, outside

    def _next(self) -> str | None:
        while True:
            try:
                return os.read(self._file, 8192).decode(errors="replace")
            except BlockingIOError:
                return None
            except BrokenPipeError:
                # Overwritten before it was read; the next read goes on with what is left.
                continue


@dataclass(frozen=True)
class User:
    """An account, and how its programs are started."""

    name: str
    has_manager: bool

    @property
    def environment(self) -> dict[str, str]:
        """What a login would have set."""
        entry = pwd.getpwnam(self.name)
        own = {
            "HOME": entry.pw_dir,
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "AGENTCTL_CONFIG": f"{entry.pw_dir}/config.toml",
        }
        if self.has_manager:
            own["XDG_RUNTIME_DIR"] = f"/run/user/{entry.pw_uid}"
            own["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path=/run/user/{entry.pw_uid}/bus"
        return own

    @property
    def state_directory(self) -> Path:
        """Where the user's agent keeps its jobs."""
        home = Path(self.environment["HOME"])
        return home / ".local/state/agentd" / socket.gethostname()

    def argv(self, *command: str, login: bool = False) -> list[str]:
        """Return the words that run a command as this user; `login`: in a session of its own."""
        words = ["env", "-i", *(f"{k}={v}" for k, v in self.environment.items()), *command]
        # What the witness has been given is not for them: the kernel would spare the hog as well.
        as_any = ("choom", "-n", "0", "--", "runuser")
        if login:
            return [*as_any, "-l", self.name, "-c", shlex.join(words)]
        return [*as_any, "-u", self.name, "--", *words]

    def run(self, *command: str, login: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.argv(*command, login=login),
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )

    def agentctl(self, *words: str, login: bool = False) -> str:
        """Run agentctl; return what it printed. Raises RuntimeError with what it said."""
        done = self.run("/usr/bin/python3", "-m", "agentctl", *words, login=login)
        if done.returncode:
            raise RuntimeError(f"agentctl {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout


class Machine:
    """The plan's steps, and where they report."""

    def __init__(self, console: str, plan: Mapping[str, Any]) -> None:
        self._console = os.open(console, os.O_WRONLY | os.O_NOCTTY)
        self._plan = plan
        self._user = User(plan["user"], plan["has_manager"])
        self._ticker = Ticker()
        self._kernel = KernelLog()

    def say(self, kind: str, **facts: object) -> None:
        """Put one line out, whole."""
        os.write(self._console, json.dumps({"kind": kind, **facts}).encode() + b"\n")

    def run(self) -> None:
        """Do all of the plan."""
        if self._user.has_manager:
            _until(lambda: Path(f"{self._user.environment['XDG_RUNTIME_DIR']}/bus").exists())
        _until(_ssh_answers)
        config = Path(self._user.environment["AGENTCTL_CONFIG"])
        config.write_text(self._plan["config"], encoding="utf-8")
        self.say("booted", uptime_s=time.monotonic(), available_bytes=_meminfo("MemAvailable"))
        for number, command in enumerate(self._plan["commands"]):
            done = self._user.run(*command, login=number == 0)
            self.say("command", rc=done.returncode, stdout=done.stdout, stderr=done.stderr)
        protector = self._plan["protector"]
        if protector not in {"guard", "nothing"}:
            subprocess.run(["systemctl", "start", protector], check=True)
        if protector == "guard" and self._plan["hogs"]:
            self._start_agent()
        bystander = self._start_bystander()
        for hog in self._plan["hogs"]:
            report = self._submitted(hog) if protector == "guard" else self._alone(hog)
            self.say("run", hog=hog["name"], bystander_lives=bystander.poll() is None, **report)
        self.say("log", text=self._log()[-8000:])

    def _log(self) -> str:
        """Return what the agent wrote of its own doings, for whoever has to find out."""
        files = sorted((self._user.state_directory / "log").glob("*"))
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    def _start_agent(self) -> None:
        self._user.agentctl("ls", login=True)
        if self._user.has_manager:
            with suppress(TimeoutError):
                # Asked of systemd once the agent serves.
                _until(_has_own_cgroup, 30)
        guard = json.loads(self._user.agentctl("guard", "--json"))
        self.say("agent", has_own_cgroup=_has_own_cgroup(), guard=guard)

    def _start_bystander(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._user.argv("/usr/bin/python3", "-c", _BYSTANDER))

    def _hog(self, hog: Mapping[str, Any], progress: ProgressFile) -> list[str]:
        options = [f"{name}={value}" for name, value in hog["options"].items()]
        return [str(_RIG / "hog"), hog["mode"], progress.path, str(hog["cap_bytes"]), *options]

    def _submitted(self, hog: Mapping[str, Any]) -> dict[str, object]:
        """Run a hog as a job; return what became of it and of everything else."""
        progress = ProgressFile(f"{_PROGRESS}/{time.monotonic_ns()}")
        before = self._witness()
        words = ["--mem", hog["mem"]] if hog["mem"] else []
        began_s = time.monotonic()
        job = self._user.agentctl("submit", *words, "--", *self._hog(hog, progress)).strip()
        record = self._user.state_directory / "jobs" / job / "exit.json"
        with suppress(TimeoutError):
            # Not `agentctl wait`: here each start of an interpreter takes seconds.
            _until(record.exists, self._plan["deadline_s"])
        took_s = time.monotonic() - began_s
        shown = json.loads(self._user.agentctl("show", job, "--json"))
        if not record.exists():
            self._user.agentctl("kill", job)
        after = self._witness()
        report = self._compare(before, after, progress, took_s)
        verdict = record.with_name("verdict.json")
        said = json.loads(verdict.read_text(encoding="utf-8")) if verdict.exists() else None
        return {**report, "job": shown, "verdict": said, "mem": hog["mem"]}

    def _alone(self, hog: Mapping[str, Any]) -> dict[str, object]:
        """Run a hog with nobody of ours about it."""
        progress = ProgressFile(f"{_PROGRESS}/{time.monotonic_ns()}")
        before = self._witness()
        scope = ("systemd-run", "--user", "--scope", "--quiet")
        began_s = time.monotonic()
        with subprocess.Popen(
            self._user.argv(*scope, *self._hog(hog, progress)),
            stderr=subprocess.DEVNULL,
        ) as process:
            over = _is_over(process)
            with suppress(TimeoutError):
                _until(over, self._plan["deadline_s"])
            took_s = time.monotonic() - began_s
            ended = over()
            _end_hogs()
        report = self._compare(before, self._witness(), progress, took_s)
        return {**report, "ended": ended, "mem": None}

    def _witness(self) -> dict[str, Any]:
        """Return who is there, and what happened since the last call."""
        pids = subprocess.run(
            ["systemctl", "show", "--value", "--property=MainPID", "ssh.service"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        inside, outside = self._kernel.take_kills()
        return {
            "sshd": pids,
            "agent": _agent_processes(),
            "oom_kill": _vmstat("oom_kill"),
            "longest_gap_s": self._ticker.take_s(),
            "kills_in_job": inside,
            "kills_outside": outside,
        }

    def _compare(
        self,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        progress: ProgressFile,
        took_s: float,
    ) -> dict[str, object]:
        seen = progress.read()
        Path(progress.path).unlink(missing_ok=True)
        return {
            "took_s": took_s,
            "taken_bytes": seen.taken_bytes,
            "processes": len(seen.pids),
            "same_sshd": before["sshd"] == after["sshd"] and _ssh_answers(),
            "same_agent": before["agent"] == after["agent"],
            "oom_kills": after["oom_kill"] - before["oom_kill"],
            **{name: after[name] for name in ("longest_gap_s", "kills_in_job", "kills_outside")},
            "available_bytes": _meminfo("MemAvailable"),
        }


def _is_over(process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    return lambda: process.poll() is not None and not _hogs()


def _hogs() -> list[int]:
    """Return every hog that is not a zombie with nothing behind it."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "exe").endswith("/hog"):
                found.append(int(entry.name))
    return found


def _has_own_cgroup() -> bool:
    """Say whether some agent has a delegated cgroup below its user's systemd."""
    managers = Path("/sys/fs/cgroup/user.slice").glob("user-*.slice/user@*.service")
    return any(found for manager in managers for found in manager.rglob("agent/cgroup.procs"))


def _agent_processes() -> list[int]:
    """Return warden and server, by their names: as `python -m agentd` and what it forks."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"agentd" in words and {b"start", b"run", b"server"} & set(words):
                found.append(int(entry.name))
    return sorted(found)


def _end_hogs() -> None:
    def none_left() -> bool:
        left = _hogs()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    _until(none_left)


def _until(probe: Callable[[], bool], deadline_s: float = 60.0) -> None:
    """Wait. Raises TimeoutError."""
    end_s = time.monotonic() + deadline_s
    while not probe():
        if time.monotonic() > end_s:
            raise TimeoutError(f"not within {deadline_s:g} s")
        time.sleep(_POLL_S)


def _ssh_answers() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", 22), timeout=10) as peer:
            return peer.recv(4) == b"SSH-"
    except OSError:
        return False


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _vmstat(name: str) -> int:
    lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def main(argv: Sequence[str]) -> int:
    """Run the plan; whatever goes wrong is a line too."""
    plan = json.loads((_RIG / "plan.json").read_text(encoding="utf-8"))
    _PROGRESS.mkdir()
    _PROGRESS.chmod(0o777)
    machine = Machine(argv[0], plan)
    try:
        machine.run()
    except Exception as error:  # noqa: BLE001  # the only way out of this machine is the console
        machine.say("failed", error=repr(error))
    machine.say("over")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
