"""The warden: launches shims, takes over when one is killed, restarts the server.

It believes files and the kernel, not messages: what a message says is looked up where it
matters. It never waits for anybody; what takes longer is a duty with a time of its own. The
guard is the urgent one, looked at between any two others.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable

from agentd.core.contract import (
    Drain,
    Hello,
    Launch,
    Message,
    Pause,
    Ready,
    ReportGuard,
    Resume,
    SendSignal,
    SetGuard,
    Shutdown,
    SpawnerStarted,
    Stop,
    Sweep,
    UseCgroup,
)
from agentd.paths import Paths
from agentd.shim.leader import Origin
from agentd.system import process
from agentd.system.clock import boot_id, wall_ns
from agentd.system.complaint import complain
from agentd.system.crashpoint import reach
from agentd.warden.guard.duty import Guard
from agentd.warden.lines import LineChannel
from agentd.warden.loop import Loop
from agentd.warden.serverprocess import ServerProcess
from agentd.warden.shims import Shims

#: How long a new warden lets the adopted shims answer before it speaks for them.
_ANSWERS_WITHIN_S = 1.0
_DRAIN_S = 5.0
#: More reads than its line can hold.
_LAST_READS = 4


class Warden:
    """One agent's warden; `run` returns when it was told to end. The jobs go on."""

    def __init__(
        self,
        paths: Paths,
        origin: Origin,
        lock: int,
        on_ready: Callable[[], None],
        residency: str = "",
    ) -> None:
        """Prepare; see `run`.

        Args:
            paths: The agent's.
            origin: What a job inherits from the agent.
            lock: The locked pidfile.
            on_ready: Called whenever a server answers.
            residency: Whether this process stays in RAM, in words.

        """
        self._lock = lock
        self._on_ready = on_ready
        self._started_at_ns = wall_ns()
        self._loop = Loop()
        self._server = ServerProcess(f"{paths.log_dir}/stderr.log")
        self._shims = Shims(paths, origin, self._loop, self._tell)
        self._guard = Guard(paths, self._shims, self._tell, residency)
        self._answers_until_s = time.monotonic() + _ANSWERS_WITHIN_S
        self._drain_until_s: float | None = None
        self._owes_hello = False

    def run(self, wakeup: int) -> None:
        """Serve until SIGTERM or Shutdown. `wakeup` is readable after a signal."""
        self._loop.watch(wakeup, lambda _events: self._signalled(wakeup))
        self._shims.adopt_all()
        self._guard.take_up()
        self._guard.watch_pressure(self._loop)
        self._loop.add_urgent_duty(self._guard)
        self._loop.add_duty(_ServerDuty(self.server_due_s, self.mind_server))
        self._loop.add_duty(self._shims)
        self._loop.run()
        self._guard.let_go()

    def server_due_s(self) -> float | None:
        """Return when to start, greet or give up on the server."""
        if self._drain_until_s is not None:
            return self._drain_until_s
        if self._owes_hello:
            return self._answers_until_s if self._shims.is_waiting_for_answers else 0.0
        return self._server.due_s()

    def mind_server(self) -> None:
        """Do what is due: end one that does not drain, greet a new one, start one."""
        if self._drain_until_s is not None:
            self._server.kill()
            self._drain_until_s = time.monotonic() + _DRAIN_S
        elif self._owes_hello:
            self._owes_hello = False
            spawner = self._shims.spawner
            views = self._shims.views()
            me = os.getpid()
            self._tell(Hello(me, self._started_at_ns, views, spawner.pid, spawner.cgroup))
            self._guard.greet()
        else:
            channel = self._start_server()
            if channel is None:
                return
            self._loop.watch(channel.fileno(), self._serve_channel)
            self._owes_hello = True

    def _start_server(self) -> LineChannel | None:
        try:
            return self._server.spawn()
        except OSError:
            # Out of processes, memory or descriptors: later, and less and less often.
            complain(traceback.format_exc())
            self._server.ended()
            return None

    def _tell(self, message: Message) -> bool:
        """Pass a message to the server; False if there is none to take it."""
        # Before its Hello a server knows nothing that a message could add to.
        if self._owes_hello or self._server.channel is None:
            return False
        self._server.send(message)
        self._watch_backlog()
        return True

    def _watch_backlog(self) -> None:
        channel = self._server.channel
        if channel is None:
            return
        if channel.is_stuck:
            self._server.kill()
        wait = self._loop.wait_to_write if channel.has_backlog else self._loop.wait_to_read
        wait(channel.fileno())

    def _serve_channel(self, events: int) -> None:
        channel = self._server.channel
        if channel is None:
            return
        if events & select.EPOLLOUT:
            channel.flush()
            self._watch_backlog()
        if not events & ~select.EPOLLOUT:
            return
        for message in channel.receive():
            if message is None:
                self._close_channel()
                return
            self._obey(message)

    def _close_channel(self) -> None:
        channel, self._server.channel = self._server.channel, None
        if channel is not None:
            self._loop.forget(channel.fileno())
            channel.close()

    def _hear_out(self) -> None:
        """Obey what a server that is gone had still sent: some of it was promised to a user."""
        channel = self._server.channel
        for _ in range(_LAST_READS):
            for message in channel.receive() if channel is not None else ():
                if message is not None:
                    self._obey(message)
        self._close_channel()

    def _obey(self, message: Message) -> None:
        match message:
            case Launch():
                reach("warden.launch_received")
                self._shims.launch(message)
            case Pause() | Resume():
                self._guard.heed(message)
                self._shims.pass_on(message.job_id, message)
            case Stop() | SendSignal():
                self._shims.pass_on(message.job_id, message)
            case Sweep():
                self._shims.sweep(message)
            case Ready():
                write_pidfile(self._lock, message.socket)
                self._on_ready()
            case SetGuard():
                self._guard.set_policy(message)
            case ReportGuard():
                self._guard.answer(message)
            case UseCgroup(path=path, spawner_pid=spawner_pid):
                self._shims.spawner.use_cgroup(path, spawner_pid)
            case Shutdown():
                self._drain()
            case _:
                return

    def _drain(self) -> None:
        if self._drain_until_s is not None:
            return
        if self._owes_hello:
            # It waits for its first word: the end of the line is one too.
            self._close_channel()
        self._tell(Drain())
        self._server.give_up()
        self._drain_until_s = time.monotonic() + _DRAIN_S
        if self._server.pid is None:
            self._loop.stop()

    def _signalled(self, wakeup: int) -> None:
        numbers = os.read(wakeup, 4096)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._drain()
        if signal.SIGCHLD in numbers:
            self._reap()

    def _reap(self) -> None:
        """Reap every child that ended, but not a leader whose exit record is still to come."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, options)
            except ChildProcessError:
                return
            if ended is None:
                return
            if self._shims.leader_of(ended.si_pid):
                # It stays at the head of the line; look past it at each child there is.
                self._reap_others()
                return
            self._reap_one(ended.si_pid)

    def _reap_others(self) -> None:
        for pid in process.children(os.getpid()):
            if process.is_running(pid) or self._shims.leader_of(pid):
                continue
            self._reap_one(pid)

    def _reap_one(self, pid: int) -> None:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == self._shims.spawner.pid and self._drain_until_s is None:
            self._shims.spawner.restart()
            self._tell(SpawnerStarted(self._shims.spawner.pid))
        if pid == self._server.pid:
            self._hear_out()
            self._owes_hello = False
            self._server.ended()
            if self._drain_until_s is not None:
                self._loop.stop()


class _ServerDuty:
    """The warden's care for its server, as a duty."""

    def __init__(self, due_s: Callable[[], float | None], run: Callable[[], None]) -> None:
        self.due_s = due_s
        self.run = run


def write_pidfile(lock: int, socket_path: str) -> None:
    """Say who holds the lock and where its server answers; clients read it as a hint."""
    me = process.identify(os.getpid())
    body = {
        "version": 1,
        "pid": os.getpid(),
        "start_ticks": me.start_ticks if me else 0,
        "boot_id": boot_id(),
        "socket": socket_path,
    }
    data = json.dumps(body).encode() + b"\n"
    os.pwrite(lock, data, 0)
    os.ftruncate(lock, len(data))
