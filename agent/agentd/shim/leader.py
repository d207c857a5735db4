"""The leader's process from its fork to its exec.

It does all the work of starting, since exec(2) frees what that took. Its pidfile is durable
before it asks for the gate to be opened, and it runs nothing before the gate is open: a job
with an empty pidfile has not begun and may be launched (again), any other has.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
import termios
from _socket import socket as c_socket
from dataclasses import dataclass
from typing import NoReturn

from agentd.core.contract import Adopted, JobView
from agentd.core.job import FileOutput, JobSpec, ProcessId, TerminalOutput
from agentd.errors import AgentError
from agentd.shim import channels, plan
from agentd.shim.channels import JobEnds, ReadEnds
from agentd.shim.start import StartError, StartTalk
from agentd.system import jobdir, packets, process
from agentd.system.clock import boot_id, boot_ns, wall_ns
from agentd.system.crashpoint import reach
from agentd.system.files import keep_only
from agentd.system.prctl import reset_signals
from agentd.system.records import PidRecord

_ABORTED = 125
_WINSIZE = struct.Struct("HHHH")


@dataclass(frozen=True, slots=True)
class Origin:
    """What the agent was started with and a login shell would hand to a job."""

    umask: int
    #: Soft and hard RLIMIT_NOFILE; the warden raises its own.
    open_files: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Birth:
    """What a leader is born with."""

    shim_pid: int
    #: The locked pidfile.
    lock: int
    #: The shim's line to the warden.
    control: c_socket
    ends: JobEnds
    #: The shim's ends: sent to the warden, which must be able to go on without the shim.
    kept: ReadEnds
    origin: Origin


class _StepError(Exception):
    def __init__(self, step: str, path: str, error: OSError) -> None:
        super().__init__(step)
        self.report = StartError(step, error.errno or 0, path)


def become(birth: Birth) -> NoReturn:
    """Become the leader in the current directory, the job's. Never returns."""
    talk = StartTalk(birth.ends.start)
    try:
        _become(birth, talk)
    except _StepError as failed:
        talk.report(failed.report)
    except AgentError as error:
        talk.report(StartError(f"start, because {error};", errno.EIO, jobdir.SPEC))
    except BaseException:  # noqa: BLE001  # a child of a fork must never return into the shim
        talk.report(StartError("prepare", errno.EINVAL, jobdir.SPEC))
    finally:
        os._exit(_ABORTED)


def _become(birth: Birth, talk: StartTalk) -> None:
    os.setsid()
    reset_signals()
    spec = jobdir.read_spec(".")
    leader = process.identify(os.getpid())
    if spec is None or leader is None:
        raise AgentError("spec.json or /proc is missing")
    shim = process.identify(birth.shim_pid) or ProcessId(birth.shim_pid, 0)
    record = PidRecord(
        boot_id(),
        shim,
        leader,
        wall_ns(),
        boot_ns(),
        *_file_bases(spec),
        out_pipe_inode=channels.pipe_inode(birth.kept.out),
        err_pipe_inode=channels.pipe_inode(birth.kept.err),
    )
    _introduce(birth, spec, record)
    ends = birth.ends
    keep_only((birth.lock, ends.stdout, ends.stderr, ends.terminal, ends.start))
    reach("leader.introduced")
    try:
        jobdir.write_pid(birth.lock, record)
    except OSError as error:
        raise _StepError("write", jobdir.PID, error) from error
    reach("leader.pid_written")
    # A rescue shim waits for the lock before it opens the gate.
    os.close(birth.lock)
    if not talk.propose(plan.make(spec, record, birth.shim_pid)):
        # Shim and warden are gone: as if it had never been launched.
        jobdir.clear_pid(".")
        return
    _prepare(spec, birth)
    _execute(spec)


def _introduce(birth: Birth, spec: JobSpec, record: PidRecord) -> None:
    view = JobView(
        spec.id,
        "starting",
        record.started_at_ns,
        record.leader.pid,
        record.leader.start_ticks,
        birth.shim_pid,
    )
    named = birth.kept.named()
    packets.send(birth.control, Adopted(view, tuple(named)), tuple(named.values()))


def _file_bases(spec: JobSpec) -> tuple[int, int]:
    """Return the sizes of the user's files before an append: byte 0 of the job's log."""
    if not isinstance(spec.output, FileOutput) or not spec.output.append:
        return 0, 0
    return _size(spec, spec.output.stdout_path), _size(spec, spec.output.stderr_path)


def _size(spec: JobSpec, path: str | None) -> int:
    try:
        return 0 if path is None else os.stat(os.path.join(spec.cwd, path)).st_size
    except OSError:
        return 0


def _prepare(spec: JobSpec, birth: Birth) -> None:
    os.umask(birth.origin.umask if spec.umask is None else spec.umask)
    try:
        os.chdir(spec.cwd)
    except OSError as error:
        raise _StepError("enter the directory", spec.cwd, error) from error
    _connect_streams(spec, birth.ends)
    resource.setrlimit(resource.RLIMIT_NOFILE, birth.origin.open_files)


def _connect_streams(spec: JobSpec, ends: JobEnds) -> None:
    if isinstance(spec.output, TerminalOutput):
        fcntl.ioctl(ends.terminal, termios.TIOCSCTTY, 0)
        size = _WINSIZE.pack(spec.output.rows, spec.output.columns, 0, 0)
        fcntl.ioctl(ends.terminal, termios.TIOCSWINSZ, size)
        stdout = stderr = ends.terminal
    elif isinstance(spec.output, FileOutput):
        stdout, stderr = _open_files(spec.output)
    else:
        stdout, stderr = _open_for_both(ends.stdout), _open_for_both(ends.stderr)
    if spec.stdin_path is None and ends.terminal >= 0:
        stdin = ends.terminal
    else:
        stdin = _open("read", spec.stdin_path or os.devnull, os.O_RDONLY)
    # Not one of the three may be overwritten before it is duplicated.
    spare = [fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 3) for source in (stdin, stdout, stderr)]
    for target, descriptor in enumerate(spare):
        os.dup2(descriptor, target)


def _open_for_both(pipe: int) -> int:
    """Open the job's end of a pipe for reading as well.

    Its own descriptor then counts as a reader: with shim and warden both killed the job gets
    no SIGPIPE, and what it wrote stays in the pipe for a rescue shim to find (pipe(7)).
    """
    return os.open(f"/proc/self/fd/{pipe}", os.O_RDWR | os.O_CLOEXEC)


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
    environment = dict(spec.environment)
    try:
        os.execvpe(spec.argv[0], spec.argv, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise _StepError("execute", spec.argv[0], error) from error
    script = spec.argv[0] if "/" in spec.argv[0] else _search(spec)
    try:
        os.execve("/bin/sh", ["sh", script, *spec.argv[1:]], environment)
    except OSError as error:
        raise _StepError("execute", script, error) from error


def _search(spec: JobSpec) -> str:
    for directory in os.get_exec_path(spec.environment):
        path = os.path.join(directory, spec.argv[0])
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return spec.argv[0]
