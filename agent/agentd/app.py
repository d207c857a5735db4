"""agentd's command line: `start` in the background, `run` in the foreground, `bridge`, `log`.

Nothing of weight is loaded before it is known that it is needed: a bridge starts once a
connection, and has to be there in the time of a bare interpreter.
"""

from __future__ import annotations

import os
import select
import sys
import time

from agentd import __version__
from agentd.errors import AgentError, AlreadyRunningError
from agentd.paths import Paths, default_paths, prepare
from agentd.system.files import keep_only

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

_READY_WITHIN_S = 20.0
_POLL_S = 0.01
#: What stderr.log may hold when an agent starts; hardly anything is ever written there.
_STDERR_LOG_BYTES = 1 << 20
_REFUSED = 1
_TRY_AGAIN = 75
_INTERRUPTED = 130


def main() -> int:
    """Run the command; returns the exit status. Errors are one line on stderr."""
    if sys.argv[1:2] == ["bridge"]:
        from agentd import bridge  # noqa: PLC0415  # nobody else needs it

        return bridge.main(sys.argv[2:])
    arguments = _parse(sys.argv[1:])
    paths = default_paths(os.environ)
    try:
        match arguments.command:
            case "start":
                return _start(paths)
            case "run":
                return _run(paths)
            case "log":
                return _log(paths, arguments)
            case _:
                from agentd.server import main as server  # noqa: PLC0415  # warden and shims never import gRPC
                from agentd.system.prctl import die_with_parent  # noqa: PLC0415  # of the server alone

                # One that is frozen would keep socket and index from the next warden's server.
                die_with_parent()
                return server.run(paths, arguments.warden_fd)
    except AgentError as error:
        return _refuse(str(error))


def _refuse(line: str) -> int:
    print(f"agentd: {line}", file=sys.stderr)  # noqa: T201  # the command's own message
    return _REFUSED


def _parse(argv: list[str]) -> argparse.Namespace:
    import argparse  # noqa: PLC0415  # the bridge does without

    parser = argparse.ArgumentParser(prog="agentd", description="The agent of agentctl.")
    parser.add_argument("--version", action="version", version=f"agentd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("start", help="start in the background; return when ready")
    commands.add_parser("run", help="run in the foreground, for service managers")
    # Listed only: `main` does not come here with it.
    commands.add_parser("bridge", help="stdin and stdout to the agent's socket, for agentctl")
    log = commands.add_parser("log", help="print the end of the agent's own logs")
    log.add_argument("-n", dest="lines", type=int, default=50, metavar="N", help="of each file")
    log.add_argument("-f", dest="follow", action="store_true", help="go on with what is added")
    log.add_argument("--mark", default="", help="used by agentctl")
    server = commands.add_parser("server", help="used by the warden")
    server.add_argument("--warden-fd", type=int, required=True)
    return parser.parse_args(argv)


def _log(paths: Paths, arguments: argparse.Namespace) -> int:
    from agentd import ownlog  # noqa: PLC0415  # nobody else needs it

    lines = max(0, arguments.lines)
    try:
        shown = ownlog.show(paths.log_dir, lines, follow=arguments.follow, mark=arguments.mark)
    except BrokenPipeError:
        return _REFUSED  # Whoever read it has seen enough.
    except OSError as error:
        return _refuse(f"cannot write: {error.strerror}")
    except KeyboardInterrupt:
        return _INTERRUPTED
    if not shown:
        return _refuse(f"there is no log in {paths.log_dir}: no agent has run here yet")
    return 0


def _run(paths: Paths) -> int:
    from agentd.warden import main as warden  # noqa: PLC0415  # the server needs none of it

    prepare(paths)
    _forget_job()
    warden.run(paths, warden.take_locks(paths), lambda: None)
    return 0


def _forget_job() -> None:
    """Start over without the marks of a job: an agent that a job starts belongs to the user.

    Deleting them is not enough: /proc/PID/environ keeps what a process was executed with.
    """
    marks = [name for name in os.environ if name.startswith("AGENTCTL_JOB_")]
    if not marks:
        return
    for name in marks:
        del os.environ[name]
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _start(paths: Paths) -> int:
    from agentd.warden import main as warden  # noqa: PLC0415  # the server needs none of it

    # The agent outlives its caller, whose pipes and locks must not live on in it.
    keep_only(())
    prepare(paths)
    _forget_job()
    try:
        lock = warden.take_locks(paths)
    except AlreadyRunningError:
        # Two started at once: the other one won, and its server will answer soon.
        if _answers_soon(paths):
            return 0
        raise
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        _become_warden(paths, lock, ready_read, ready_write)
    os.close(ready_write)
    os.close(lock)
    if select.select([ready_read], [], [], _READY_WITHIN_S)[0] and os.read(ready_read, 1):
        return 0
    print(  # noqa: T201  # the command's own message
        f"agentd: the agent did not get ready; see {paths.log_dir}/stderr.log", file=sys.stderr
    )
    return _TRY_AGAIN


def _become_warden(paths: Paths, lock: int, ready_read: int, ready_write: int) -> NoReturn:
    from agentd.warden import main as warden  # noqa: PLC0415  # loaded by the parent already

    status = 70
    try:
        os.close(ready_read)
        os.setsid()
        if os.fork():
            os._exit(0)
        _detach(paths)
        announce = _Announcement(ready_write)
        warden.run(paths, lock, announce.ready)
        status = 0
    except BaseException:  # noqa: BLE001  # must not return into the caller's stack
        import traceback  # noqa: PLC0415  # only now needed

        traceback.print_exc()
    finally:
        os._exit(status)


class _Announcement:
    """Says "ready" once to whoever started us."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ready(self) -> None:
        """Write one byte the first time, nothing later."""
        if self._descriptor >= 0:
            try:
                os.write(self._descriptor, b"r")
            except BrokenPipeError:
                pass  # The starter was killed meanwhile.
            os.close(self._descriptor)
            self._descriptor = -1


def _detach(paths: Paths) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    path = f"{paths.log_dir}/stderr.log"
    if os.path.exists(path) and os.path.getsize(path) > _STDERR_LOG_BYTES:
        os.rename(path, f"{path}.1")
    log = os.open(path, flags, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)


def _answers_soon(paths: Paths) -> bool:
    """Wait until the agent that holds the lock has a server that takes connections."""
    import json  # noqa: PLC0415  # rare
    import socket  # noqa: PLC0415  # rare

    deadline_s = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            with open(paths.pidfile, encoding="utf-8") as file:
                path = json.loads(file.read())["socket"]
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path or paths.socket)
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(_POLL_S)
            continue
        return True
    return False
