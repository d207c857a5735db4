"""Other people's programs, each in a private directory and proved gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.processes import children_of
from tests.helpers.wait import wait_gone, wait_until


def is_installed(command: str) -> bool:
    """Say whether the rival is on this machine."""
    return shutil.which(command) is not None


@dataclass(frozen=True, slots=True)
class TaskSpooler:
    """A private `tsp` server."""

    env: dict[str, str]

    def run(self, *arguments: str) -> str:
        """Run `tsp ARGUMENTS` to its end and return what it printed."""
        return subprocess.run(
            ["tsp", *arguments], env=self.env, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def processes(self) -> set[int]:
        """Return the server, the clients that wait for it, and the jobs."""
        mark = f"TS_SOCKET={self.env['TS_SOCKET']}".encode()
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))
        return {pid for pid in pids if mark in _environment(pid)}


@contextmanager
def task_spooler(directory: str, slots: int) -> Iterator[TaskSpooler]:
    """Yield a started tsp with `slots` slots."""
    env = {
        **os.environ,
        "TS_SOCKET": f"{directory}/tsp",
        "TMPDIR": directory,
        "TS_MAXFINISHED": "100000",
    }
    spooler = TaskSpooler(env)
    spooler.run("-S", str(slots))
    try:
        yield spooler
    finally:
        # `tsp -K` would end the server alone.
        left = spooler.processes()
        for pid in left:
            _kill(pid)
        wait_gone(left, what="tsp gone")


@contextmanager
def tmux(directory: str) -> Iterator[tuple[str, ...]]:
    """Yield the words that begin a command of a warm, private tmux server."""
    words = ("tmux", "-f", "/dev/null", "-S", f"{directory}/tmux")
    subprocess.run([*words, "new", "-d", "sleep 3600"], check=True)
    shown = subprocess.run([*words, "display", "-p", "#{pid}"], capture_output=True, check=True)
    try:
        yield words
    finally:
        subprocess.run([*words, "kill-server"], check=True)
        wait_gone({int(shown.stdout)}, what="tmux's server gone")


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A private supervisord."""

    pid: int
    config: str

    def status(self) -> None:
        """Run `supervisorctl status` to its end."""
        command = ["supervisorctl", "-c", self.config, "status"]
        # Its status is 3 when a program is not running.
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


@contextmanager
def supervisord(directory: str, jobs: int) -> Iterator[Supervisor]:
    """Yield a supervisord that runs `jobs` programs, all of them asleep."""
    config = f"{directory}/supervisord.conf"
    programs = "".join(
        f"[program:job{n}]\ncommand=/bin/sleep 3600\nstartsecs=0\n\n" for n in range(jobs)
    )
    Path(config).write_text(_SUPERVISORD.format(directory=directory) + programs, encoding="utf-8")
    with subprocess.Popen(["supervisord", "-n", "-c", config], stdout=subprocess.DEVNULL) as daemon:
        socket = f"{directory}/supervisor.sock"
        wait_until(lambda: os.path.exists(socket), what="supervisord's socket")
        wait_until(
            lambda: len(children_of(daemon.pid)) == jobs,
            deadline_s=60,
            what=f"{jobs} programs of supervisord",
        )
        try:
            yield Supervisor(daemon.pid, config)
        finally:
            children = set(children_of(daemon.pid))
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
            wait_gone(children, what="supervisord's programs gone")


_SUPERVISORD = """[supervisord]
nodaemon=true
user=root
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid
childlogdir={directory}
minfds=1024

[unix_http_server]
file={directory}/supervisor.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{directory}/supervisor.sock

"""

#: Stands in for runc: conmon wants a runtime that leaves a process and its pid behind.
_RUNTIME = """#!/bin/sh
while [ $# -gt 0 ]; do
    [ "$1" = --pid-file ] && pid_file=$2
    shift
done
sleep 3600 </dev/null &
echo $! > "$pid_file"
"""


@contextmanager
def conmons(directory: str, jobs: int) -> Iterator[Sequence[int]]:
    """Yield the pids of `jobs` conmons, each minding a sleeping process."""
    runtime = Path(directory) / "runtime"
    runtime.write_text(_RUNTIME, encoding="utf-8")
    runtime.chmod(0o700)
    for number in range(jobs):
        _start_conmon(f"{directory}/{number}", str(runtime), number)
    pidfiles = [Path(directory) / f"{number}/conmon.pid" for number in range(jobs)]
    wait_until(lambda: all(path.exists() for path in pidfiles), what="conmon's pidfiles")
    pids = [int(path.read_text(encoding="ascii")) for path in pidfiles]
    wait_until(lambda: all(map(children_of, pids)), what="a process below each conmon")
    try:
        yield pids
    finally:
        sleepers = {child for pid in pids for child in children_of(pid)}
        for pid in sleepers:
            _kill(pid)
        wait_gone(sleepers | set(pids), what="conmons gone")


def _start_conmon(directory: str, runtime: str, number: int) -> None:
    os.mkdir(directory)
    subprocess.run(
        [
            "conmon",
            "--cid",
            f"c{number}",
            "--cuuid",
            f"u{number}",
            "--name",
            f"n{number}",
            "--runtime",
            runtime,
            "--bundle",
            directory,
            "--persist-dir",
            directory,
            "--container-pidfile",
            f"{directory}/container.pid",
            "--conmon-pidfile",
            f"{directory}/conmon.pid",
            "--log-path",
            f"k8s-file:{directory}/log",
            "--exit-dir",
            directory,
            "--socket-dir-path",
            directory,
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
