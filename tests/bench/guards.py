"""What the measurements of the guard share: agents with marks of their own, rivals, a ballast.

The marks are put far above any danger. A ballast in memory brings what is available near to
them; it belongs to no process, so that no guard can pick it.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.machine import cpu_ns, pss_bytes
from tests.bench.rivals import is_installed
from tests.bench.stage import cold_agent
from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until

if TYPE_CHECKING:
    from agentctl import Client

MIB = 1 << 20
GIB = 1 << 30
#: What is available fluctuates by so much.
_SETTLED_BYTES = 48 * MIB
_DECOYS = 20


def meminfo_bytes(name: str) -> int:
    """Return one line of /proc/meminfo (proc(5))."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


class Ballast:
    """Memory in a file of no process, as much as leaves the host what a measurement wants."""

    def __init__(self, descriptor: int, leave_bytes: int) -> None:
        """Take nothing yet."""
        self._descriptor = descriptor
        self._leave_bytes = leave_bytes
        self._size_bytes = 0

    def settle(self) -> None:
        """Bring what is available to what was asked for, as near as it fluctuates by itself.

        A virtual machine may lend freed pages to its host for a while: without that the next
        run would begin elsewhere than the last.
        """
        wait_until(self._is_settled, deadline_s=60, what="memory is as it is to be")

    def _is_settled(self) -> bool:
        spare_bytes = meminfo_bytes("MemAvailable") - self._leave_bytes
        if abs(spare_bytes) <= _SETTLED_BYTES:
            return True
        size_bytes = max(0, self._size_bytes + spare_bytes)
        if size_bytes > self._size_bytes:
            os.posix_fallocate(self._descriptor, self._size_bytes, size_bytes - self._size_bytes)
        else:
            os.truncate(self._descriptor, size_bytes)
        self._size_bytes = size_bytes
        return False


@contextmanager
def ballast(leave_bytes: int) -> Iterator[Ballast]:
    """Take memory until only `leave_bytes` are available, in a file of no process."""
    path = f"/dev/shm/ballast-{os.getpid()}-{secrets.token_hex(4)}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        held = Ballast(descriptor, leave_bytes)
        held.settle()
        yield held
    finally:
        os.close(descriptor)
        os.unlink(path)


@contextmanager
def guarded_agent(config: str) -> Iterator[tuple[Agent, Client]]:
    """Yield a started private agent with this config.toml, and a warm client of it."""
    with cold_agent() as agent:
        Path(agent.config_file).write_text(config, encoding="utf-8")
        agent.start()
        with agent.client() as client:
            client.list()
            yield agent, client


def marks(**mark_bytes: int) -> str:
    """Return the section [guard] with these marks in bytes, highest first; the others stay."""
    # The caps count: each percentage is above its own, and below the one before, as it must be.
    lines = (
        f'{name} = {{ percent = {90 - rank}, cap = "{size >> 20}MiB" }}'
        for rank, (name, size) in enumerate(mark_bytes.items())
    )
    return "\n".join(("[guard]", "enabled = true", *lines, ""))


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running rival."""

    pid: int
    log: Path

    @property
    def memory_bytes(self) -> int:
        """Its proportional set size."""
        return pss_bytes(self.pid)

    def acts(self) -> int:
        """Return how often it sent a signal, by its own words."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return len(re.findall(r"ending SIG\w+ to (?:process|the victim)", text))


#: Starts one with this mark of available memory, in bytes; 0: with the marks it comes with.
Rival = Callable[[str, int], AbstractContextManager[Daemon]]


@contextmanager
def earlyoom(directory: str, mark_bytes: int) -> Iterator[Daemon]:
    """Yield earlyoom, which ends the hog rather than anything else."""
    own = ("-M", f"{mark_bytes >> 10},{mark_bytes >> 11}") if mark_bytes else ()
    with _daemon(directory, ("earlyoom", "-r", "3600", *own), "") as daemon:
        # It measures the first time, dry-runs its way to a kill, and then says this.
        wait_until(lambda: "mem avail" in daemon.log.read_text(), what="earlyoom is ready")
        yield daemon


@contextmanager
def nohang(directory: str, mark_bytes: int) -> Iterator[Daemon]:
    """Yield nohang with its own configuration but for the mark."""
    text = Path("/etc/nohang/nohang.conf").read_text(encoding="utf-8")
    if mark_bytes:
        for key, size in (("soft", mark_bytes), ("warning", mark_bytes), ("hard", mark_bytes // 2)):
            text = _with(text, f"{key}_threshold_min_mem", f"{size >> 20} M")
    Path(f"{directory}/nohang.conf").write_text(text, encoding="utf-8")
    words = ("nohang", "--monitor", "--config", f"{directory}/nohang.conf")
    with _daemon(directory, words, "1") as daemon:
        wait_until(
            lambda: "Monitoring has started" in daemon.log.read_text(), what="nohang is ready"
        )
        yield daemon


RIVALS: dict[str, Rival] = {"earlyoom": earlyoom, "nohang": nohang}


def rivals() -> dict[str, Rival]:
    """Return those on this machine. Both need root, as their users give it to them."""
    return {name: start for name, start in RIVALS.items() if is_installed(name)}


@contextmanager
def _daemon(directory: str, words: Sequence[str], unbuffered: str) -> Iterator[Daemon]:
    log = Path(directory) / "log"
    with log.open("wb") as file:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        with subprocess.Popen(words, stdout=file, stderr=file, env=environment) as process:
            try:
                yield Daemon(process.pid, log)
            finally:
                process.terminate()


def _with(text: str, key: str, value: str) -> str:
    kept = (line for line in text.splitlines() if not line.startswith(key))
    return "\n".join((*kept, f"{key} = {value}", ""))


@contextmanager
def decoys() -> Iterator[None]:
    """Have processes there that a rival ends rather than anything else, should its hog be gone.

    With a mark so high what is available may be below it for other reasons.
    """
    with ExitStack() as stack:
        for _ in range(_DECOYS):
            decoy = stack.enter_context(subprocess.Popen(["sleep", "infinity"]))
            stack.callback(decoy.kill)
            prefer(decoy.pid)
        yield


def prefer(pid: int) -> None:
    """Make it the one that a guard picks: nobody else on this machine is to be at risk."""
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy with a process of ordinary priority."""
    spinners = [
        subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def cpu_percent(window_s: float, wait: Callable[[float], None], *pids: int) -> float:
    """Return how much of one core these processes used, over a window of this length."""
    before_ns = cpu_ns(pids)
    wait(window_s)
    return 100 * (cpu_ns(pids) - before_ns) / (window_s * 1e9)
