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

from agentd.core.value import Value
from agentd.errors import AgentError
from agentd.shim import channels, plan, records, words
from agentd.shim.start import StartError, StartTalk
from agentd.system import cgroups, jobfiles, locks, oomscore, proc, seqpacket
from agentd.system.clock import boot_id, boot_ns, wall_ns
from agentd.system.crashpoint import reach
from agentd.system.signals import (
    SIG_DFL,
    SIGHUP,
    SIGINT,
    SIGPIPE,
    SIGQUIT,
    SIGTERM,
    SIGXFSZ,
    signal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as c_socket
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from agentd.shim.channels import JobEnds, ReadEnds

    #: Content of spec.json.
    Spec = Mapping[str, Any]

_ABORTED = 125
#: A core.guard.model.MemAction: with another the job may go over its limit.
_KILL = "kill"
#: What spawner and shims ignore: a terminal's or a logout's signals are none of their business,
#: and a full disk must not end them.
IGNORED = (SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGXFSZ)
_MEMORY_LIMITS = ("as", "data")
_WINSIZE = struct.Struct("HHHH")


class Origin(Value):
    """What the agent was started with and a login shell would hand to a job."""

    __slots__ = ("open_files", "umask")

    def __init__(self, umask: int, open_files: tuple[int, int]) -> None:
        """`open_files`: soft and hard RLIMIT_NOFILE; the warden raises its own."""
        self.umask = umask
        self.open_files = open_files


class Birth(Value):
    """What a leader is born with."""

    __slots__ = ("cgroup", "control", "ends", "kept", "lock", "origin", "shim_pid")

    def __init__(
        self,
        shim_pid: int,
        lock: int,
        control: c_socket,
        ends: JobEnds,
        kept: ReadEnds,
        origin: Origin,
        cgroup: str,
    ) -> None:
        """Hand over.

        Args:
            shim_pid: The parent.
            lock: The locked pidfile.
            control: The shim's line to the warden.
            ends: The leader's own.
            kept: The shim's: sent to the warden, which must be able to go on without the shim.
            origin: What the job inherits from the agent.
            cgroup: The delegated one below which the job gets its own; empty: none.

        """
        self.shim_pid = shim_pid
        self.lock = lock
        self.control = control
        self.ends = ends
        self.kept = kept
        self.origin = origin
        self.cgroup = cgroup


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
        talk.report(StartError(f"start, because {error};", errno.EIO, jobfiles.SPEC))
    except BaseException:  # noqa: BLE001  # a child of a fork must never return into the shim
        talk.report(StartError("prepare", errno.EINVAL, jobfiles.SPEC))
    finally:
        os._exit(_ABORTED)


def _become(birth: Birth, talk: StartTalk) -> None:
    os.setsid()
    # exec(2) hands on what is ignored; the rest is default already.
    for number in IGNORED:
        signal(number, SIG_DFL)
    spec = records.read(jobfiles.SPEC)
    if spec is None:
        raise AgentError("spec.json is missing")
    record = _record(birth, spec)
    _introduce(birth, spec, record)
    # While it waits at the gate, the end of the shim must be an end of file for everybody.
    birth.control.close()
    for descriptor in birth.kept.named().values():
        os.close(descriptor)
    reach("leader.introduced")
    try:
        jobfiles.write_pid(birth.lock, records.dump(record))
    except OSError as error:
        raise _StepError("write", jobfiles.PID, error) from error
    reach("leader.pid_written")
    # A rescue shim waits for the lock before it opens the gate.
    os.close(birth.lock)
    if not talk.propose(plan.make(spec, record, birth.shim_pid)):
        _take_back()
        return
    _volunteer()
    if record["cgroup"]:
        _enter_cgroup(spec, record["cgroup"])
    _prepare(spec, birth)
    _execute(spec)


def _take_back() -> None:
    """Shim and warden are gone: as if it had never been launched, unless a rescue shim is there."""
    lock = os.open(jobfiles.PID, os.O_RDWR | os.O_CLOEXEC)
    if locks.try_lock(lock):
        jobfiles.clear_pid(".")


def _record(birth: Birth, spec: Spec) -> dict[str, Any]:
    """Return the content of the pidfile: system.records.PidRecord."""
    me = os.getpid()
    started = proc.start_ticks(me)
    if started is None:
        raise AgentError("/proc is missing")
    out_base_bytes, err_base_bytes = _file_bases(spec)
    oom_kills = cgroups.host_oom_kills()
    return {
        "boot_id": boot_id(),
        "shim": {"pid": birth.shim_pid, "start_ticks": proc.start_ticks(birth.shim_pid) or 0},
        "leader": {"pid": me, "start_ticks": started},
        "started_at_ns": wall_ns(),
        "started_boot_ns": boot_ns(),
        "out_base_bytes": out_base_bytes,
        "err_base_bytes": err_base_bytes,
        "out_pipe_inode": channels.pipe_inode(birth.kept.out),
        "err_pipe_inode": channels.pipe_inode(birth.kept.err),
        "host_oom_kills": -1 if oom_kills is None else oom_kills,
        "cgroup": cgroups.job_path(birth.cgroup, spec["id"]) if birth.cgroup else "",
    }


def _volunteer() -> None:
    """See to it that the kernel's last resort is a job, and neither the agent nor sshd."""
    try:
        oomscore.volunteer()
    except OSError:
        # No such file to write to, as in some containers.
        return


def _enter_cgroup(spec: Spec, path: str) -> None:
    """Let the kernel stand behind the guard; what it refuses costs that layer, never the start."""
    is_deadly = spec.get("mem_action", _KILL) == _KILL
    limit_bytes = spec.get("mem_limit_bytes") if is_deadly else None
    try:
        cgroups.enter(path, limit_bytes or 0)
    except OSError:
        # The delegated cgroup went with its service, or it was not delegated after all.
        return


def _introduce(birth: Birth, spec: Spec, record: Mapping[str, Any]) -> None:
    view = words.view(
        job_id=spec["id"],
        phase="starting",
        started_at_ns=record["started_at_ns"],
        leader_pid=record["leader"]["pid"],
        leader_start_ticks=record["leader"]["start_ticks"],
        shim_pid=birth.shim_pid,
        cause="unknown",
    )
    named = birth.kept.named()
    seqpacket.send_bytes(birth.control, words.adopted(view, named), tuple(named.values()))


def _file_bases(spec: Spec) -> tuple[int, int]:
    """Return the sizes of the user's files before an append: byte 0 of the job's log."""
    output = spec["output"]
    if output["kind"] != channels.FILES or not output["append"]:
        return 0, 0
    return _size(spec, output["stdout_path"]), _size(spec, output["stderr_path"])


def _size(spec: Spec, path: str | None) -> int:
    try:
        return 0 if path is None else os.stat(os.path.join(spec["cwd"], path)).st_size
    except OSError:
        return 0


def _prepare(spec: Spec, birth: Birth) -> None:
    umask = spec.get("umask")
    os.umask(birth.origin.umask if umask is None else umask)
    try:
        os.chdir(spec["cwd"])
    except OSError as error:
        raise _StepError("enter the directory", spec["cwd"], error) from error
    _connect_streams(spec, birth.ends)
    limits = spec.get("resource_limits") or {}
    if "nofile" not in limits:
        resource.setrlimit(resource.RLIMIT_NOFILE, birth.origin.open_files)
    # The last steps before the exec need memory, too: its limits come last.
    for name in sorted(limits, key=_MEMORY_LIMITS.__contains__):
        _set_limit(name, *limits[name])


def _set_limit(name: str, soft: int, hard: int) -> None:
    """Set a limit of the caller's, as far as this process' own hard limit lets it (setrlimit(2)).

    -1 is unlimited.
    """
    number = getattr(resource, f"RLIMIT_{name.upper()}", None)
    if number is None:
        return
    most = resource.getrlimit(number)[1]
    hard = _lower(hard, most)
    try:
        resource.setrlimit(number, (_lower(soft, hard), hard))
    except (OSError, ValueError):
        # A container or a security module may keep a limit as it is: the job runs with that.
        return


def _lower(limit: int, other: int) -> int:
    if resource.RLIM_INFINITY in {limit, other}:
        return max(limit, other)
    return min(limit, other)


def _connect_streams(spec: Spec, ends: JobEnds) -> None:
    output = spec["output"]
    if output["kind"] == channels.TERMINAL:
        fcntl.ioctl(ends.terminal, termios.TIOCSCTTY, 0)
        size = _WINSIZE.pack(output["rows"], output["columns"], 0, 0)
        fcntl.ioctl(ends.terminal, termios.TIOCSWINSZ, size)
        stdout = stderr = ends.terminal
    elif output["kind"] == channels.FILES:
        stdout, stderr = _open_files(output)
    else:
        stdout = stderr = _open_for_both(ends.stdout)
        if ends.stderr != ends.stdout:
            stderr = _open_for_both(ends.stderr)
    stdin_path = spec.get("stdin_path")
    # The spawner holds 0, 1 and 2 open: none of these can be one of those. 0 is /dev/null.
    if stdin_path is not None:
        os.dup2(_open("read", stdin_path, os.O_RDONLY), 0)
    elif ends.terminal >= 0:
        os.dup2(ends.terminal, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)


def _open_for_both(pipe: int) -> int:
    """Open the job's end of a pipe for reading as well.

    Its own descriptor then counts as a reader: with shim and warden both killed the job gets
    no SIGPIPE, and what it wrote stays in the pipe for a rescue shim to find (pipe(7)).
    """
    return os.open(f"/proc/self/fd/{pipe}", os.O_RDWR | os.O_CLOEXEC)


def _open_files(output: Mapping[str, Any]) -> tuple[int, int]:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if output["append"] else os.O_TRUNC)
    stdout_path, stderr_path = output["stdout_path"], output["stderr_path"]
    stdout = _open("write", stdout_path, flags)
    if stderr_path is None or stderr_path == stdout_path:
        return stdout, stdout
    return stdout, _open("write", stderr_path, flags)


def _open(action: str, path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _StepError(action, path, error) from error


def _execute(spec: Spec) -> None:
    """Run the program as execvp(3) does: a script without "#!" goes to /bin/sh."""
    argv, environment = spec["argv"], spec["environment"]
    program = _search(argv[0], environment)
    try:
        try:
            os.execve(program, argv, environment)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # Perhaps a later directory of the PATH has one; if not, this knows the error.
            os.execvpe(argv[0], argv, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise _StepError("execute", argv[0], error) from error
    try:
        os.execve("/bin/sh", ["sh", program, *argv[1:]], environment)
    except OSError as error:
        raise _StepError("execute", program, error) from error


def _search(program: str, environment: Mapping[str, str]) -> str:
    """Return the first such program on the PATH; where there is none, what cannot be executed.

    One access(2) a directory, where os.execvpe tries an execve(2) with the whole environment.
    """
    if "/" in program:
        return program
    for directory in environment.get("PATH", os.defpath).split(":"):
        path = f"{directory or '.'}/{program}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return ""
