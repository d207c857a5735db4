"""Composition root of the server process.

A first `agentctl submit` waits for this process: what is slow to load and not needed to
answer (watchdog) is loaded after the socket is published.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from agentd.errors import AgentError, WardenGoneError
from agentd.paths import Paths
from agentd.server import log
from agentd.server.config import Config, ConfigFile
from agentd.server.edge.assembly import make_listener
from agentd.server.edge.interceptor import Gate
from agentd.server.edge.listener import Listener
from agentd.server.runtime.filewatch import FileWatches
from agentd.server.runtime.logfollow import LogService
from agentd.server.runtime.supervisor import Supervisor

#: RPCs under way get this long at a drain.
_DRAIN_S = 2.0
#: Between looks at what inotify cannot tell, or could not be asked.
_LOOK_S = 5.0

_log = log.get_logger()


def run(paths: Paths, warden_fd: int) -> int:
    """Serve until the warden drains us or is gone, or SIGTERM comes. Returns the exit status."""
    os.umask(0o077)
    log.configure(paths.log_dir, log.LogLevel.INFO, sys.stderr if sys.stderr.isatty() else None)
    config = ConfigFile(paths.config_file)
    log.set_level(config.current.agent.log_level)
    try:
        asyncio.run(_serve(paths, warden_fd, config))
    except AgentError as error:
        _log.error("server.failed", reason=error.reason, error=str(error))
        sys.stderr.write(f"agentd server: {error}\n")
        return 1
    return 0


async def _serve(paths: Paths, warden_fd: int, config: ConfigFile) -> None:
    terminated = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, terminated.set)
    current = config.current
    supervisor = await Supervisor.open(paths, warden_fd, current.defaults, current.hooks)
    watches = FileWatches()
    gate = Gate()
    logs = LogService(paths, supervisor, watches)
    listener = make_listener(paths, supervisor, logs, config, gate)
    try:
        if config.was_ever_good:
            # Else the warden's own last policy holds, which is better than the defaults.
            supervisor.set_guard(current.guard)
        await listener.publish()
        supervisor.announce_ready(paths.socket)
        _log.info("server.ready", socket=paths.socket, server_pid=os.getpid())
        config.on_change(lambda changed: _apply(changed, supervisor))
        looking = asyncio.create_task(_look_now_and_then(listener, config, watches))
        try:
            await _until_ended(supervisor, terminated)
        finally:
            looking.cancel()
    finally:
        gate.close()
        await listener.stop(_DRAIN_S)
        watches.close()
        await supervisor.close()
        _log.info("server.ended")


def _apply(config: Config, supervisor: Supervisor) -> None:
    log.set_level(config.agent.log_level)
    supervisor.set_defaults(config.defaults)
    supervisor.set_hooks(config.hooks)
    try:
        supervisor.set_guard(config.guard)
    except WardenGoneError:
        # The next server of the next warden reads the file again.
        _log.warning("guard.policy_not_told")


async def _until_ended(supervisor: Supervisor, terminated: asyncio.Event) -> None:
    """Return at Drain, at the warden's end or at SIGTERM. Raises what the supervisor raises."""
    running = asyncio.create_task(supervisor.run())
    signalled = asyncio.create_task(terminated.wait())
    await asyncio.wait({running, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if running.done():
        _log.info("server.draining", why=running.result().value)
        return
    _log.info("server.draining", why="signal")
    running.cancel()


async def _look_now_and_then(listener: Listener, config: ConfigFile, watches: FileWatches) -> None:
    while True:
        listener.watch(watches)
        config.watch(watches)
        await asyncio.sleep(_LOOK_S)
        await listener.look()
