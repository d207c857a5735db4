"""Starts the leader: fork, a session of its own, a gate, exec.

The child waits at the gate until the shim has made the pidfile durable; a shim that dies
before that closes the gate, and the child ends without having run anything. What fails
before the program runs comes back through a close-on-exec pipe: a failed step as JSON,
nothing at all once exec(2) has succeeded.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import termios
from dataclasses import dataclass

from agentd.core.job import FileOutput, JobSpec
from agentd.system.files import keep_only
from agentd.system.prctl import reset_signals

#: Step reported when the shim died before it opened the gate: the program never ran.
NEVER_BEGAN = "gate"
_ABORTED = 125


@dataclass(frozen=True, slots=True)
class Origin:
    """What the agent was started with and a login shell would hand to a job."""

    umask: int
    #: Soft and hard RLIMIT_NOFILE; the warden raises its own.
    open_files: tuple[int, int]


@dataclass(frozen=True, slots=True)
class JobEnds:
    """The job's ends of its channels; -1 for one that is not used."""

    stdout: int
    stderr: int
    #: Slave side of the pseudo-terminal.
    terminal: int
    status: int


@dataclass(frozen=True, slots=True)
class StartError:
    """The step that failed, why, and on which path."""

    step: str
    errno: int
    path: str

    @property
    def reason(self) -> str:
        """One line for people."""
        return f"cannot {self.step} {self.path}: {os.strerror(self.errno)}"


class _StepError(Exception):
    def __init__(self, step: str, path: str, error: OSError) -> None:
        super().__init__(step)
        self.report = StartError(step, error.errno or 0, path)


def fork_leader(spec: JobSpec, ends: JobEnds, origin: Origin) -> tuple[int, int]:
    """Fork the leader up to the gate. Returns its pid and the gate to open with one byte."""
    gate_read, gate_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(gate_read)
        return pid, gate_write
    try:
        _become(spec, ends, origin, gate_read)
    except _StepError as failed:
        _report(ends.status, failed.report)
    except BaseException:  # noqa: BLE001  # a child of a fork must never return into the shim
        _report(ends.status, StartError("prepare", errno.EINVAL, spec.argv[0]))
    finally:
        os._exit(_ABORTED)
    raise AssertionError


def _become(spec: JobSpec, ends: JobEnds, origin: Origin, gate: int) -> None:
    os.setsid()
    reset_signals()
    keep_only((gate, ends.stdout, ends.stderr, ends.terminal, ends.status))
    if not os.read(gate, 1):
        raise _StepError(NEVER_BEGAN, "", OSError(errno.ECANCELED, ""))
    os.umask(origin.umask if spec.umask is None else spec.umask)
    try:
        os.chdir(spec.cwd)
    except OSError as error:
        raise _StepError("enter the directory", spec.cwd, error) from error
    _connect_streams(spec, ends)
    resource.setrlimit(resource.RLIMIT_NOFILE, origin.open_files)
    _execute(spec)


def _connect_streams(spec: JobSpec, ends: JobEnds) -> None:
    if ends.terminal >= 0:
        fcntl.ioctl(ends.terminal, termios.TIOCSCTTY, 0)
        stdout = stderr = ends.terminal
    elif isinstance(spec.output, FileOutput):
        stdout, stderr = _open_files(spec.output)
    else:
        stdout, stderr = ends.stdout, ends.stderr
    if spec.stdin_path is None and ends.terminal >= 0:
        stdin = ends.terminal
    else:
        stdin = _open("read", spec.stdin_path or os.devnull, os.O_RDONLY)
    # Not one of the three may be overwritten before it is duplicated.
    spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3) for descriptor in (stdin, stdout, stderr)]
    for target, descriptor in enumerate(spare):
        os.dup2(descriptor, target)


def _open_files(output: FileOutput) -> tuple[int, int]:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if output.append else os.O_TRUNC)
    stdout = _open("write", output.stdout_path, flags)
    if output.stderr_path is None or output.stderr_path == output.stdout_path:
        return stdout, stdout
    return stdout, _open("write", output.stderr_path, flags)


def _open(action: str, path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _StepError(action, path, error) from error


def _execute(spec: JobSpec) -> None:
    """Run the program as execvp(3) does: a script without "#!" goes to /bin/sh."""
    try:
        os.execvpe(spec.argv[0], spec.argv, dict(spec.environment))
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise _StepError("execute", spec.argv[0], error) from error
    script = spec.argv[0] if "/" in spec.argv[0] else _search(spec)
    try:
        os.execve("/bin/sh", ["sh", script, *spec.argv[1:]], dict(spec.environment))
    except OSError as error:
        raise _StepError("execute", script, error) from error


def _search(spec: JobSpec) -> str:
    for directory in os.get_exec_path(spec.environment):
        path = os.path.join(directory, spec.argv[0])
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return spec.argv[0]


def _report(status: int, error: StartError) -> None:
    body = {"step": error.step, "errno": error.errno, "path": error.path}
    os.write(status, json.dumps(body).encode())


def parse_report(data: bytes) -> StartError | None:
    """Return what the leader reported before it ended, or None: it was executed."""
    if not data:
        return None
    body = json.loads(data)
    return StartError(body["step"], body["errno"], body["path"])
