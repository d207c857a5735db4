"""What a submit asks for, checked here and put into the wire's form.

A local job gets what `nohup` would give it: the caller's environment, directory, umask and
resource limits. One on another host gets what `ssh host command` would: the home, environment
and limits of a login there; nothing of the caller's leaves this machine unless it was asked for.
Whatever is refused here never reaches the agent; the agent checks again.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentapi.v1 import job_pb2
from agentctl.api.amounts import (
    MAX_REQUEUES,
    bytes_of,
    memory_of,
    seconds_of,
    text_pairs,
    to_ns,
    whole_of,
)
from agentctl.api.convert import mem_action_to_wire
from agentctl.errors import InvalidSpecError
from agentctl.model import MemAction

Text = str | bytes | os.PathLike[str]

#: MAX_ARG_STRLEN of Linux, the ending NUL included (execve(2)).
MAX_STRING_BYTES = 131_072
#: Linux never takes more for all arguments and the environment (three quarters of 8 MiB).
MAX_ARGUMENTS_BYTES = 6 << 20
#: The agent's own limits, refused here with the option's name.
MAX_NAME_CHARACTERS = 200
_DEFAULT_WINDOW = (80, 24)


@dataclass(frozen=True, slots=True)
class Draft:
    """Everything one can ask for. None: the agent's default, or nothing."""

    argv: Sequence[Text]
    name: str | None = None
    cwd: Text | None = None
    #: Added to the caller's environment.
    env: Mapping[str, str] | None = None
    mem: str | int | None = None
    #: With `mem`: kill, pause or warn.
    mem_action: str | None = None
    preemptible: bool = False
    #: How often it is submitted again, in all, after the guard has ended it.
    requeue: int = 0
    timeout: str | float | None = None
    grace: str | float | None = None
    labels: Mapping[str, str] | None = None
    tty: bool = False
    split_stderr: bool = False
    output: Text | None = None
    error: Text | None = None
    append: bool = False
    stdin: Text | None = None
    #: How much of each log is kept on disk.
    retain: str | int | None = None

    @property
    def stderr_is_apart(self) -> bool:
        """Whether stderr goes elsewhere than stdout: one file named twice is one file."""
        if self.output is None or self.error is None:
            return self.split_stderr
        return _real(self.output) != _real(self.error)


def to_wire(draft: Draft, *, is_remote: bool = False) -> job_pb2.JobSpec:
    """Return the wire's form; for an agent of this machine with what the caller has.

    Raises:
        InvalidSpecError: Something is not what it may be; the message names it.

    """
    path_of = _path_there if is_remote else _path
    spec = job_pb2.JobSpec(
        argv=_argv(draft.argv),
        name=_name(draft.name),
        labels=text_pairs("label", draft.labels),
        as_login=is_remote,
    )
    environment = _added(draft.env or {})
    if is_remote:
        spec.cwd = b"" if draft.cwd is None else path_of("cwd", draft.cwd)
        environment = _terminal_type(draft) | environment
    else:
        spec.cwd = _directory(draft.cwd)
        environment = _own_environment() | environment
        _add_process_limits(spec)
    for name, value in environment.items():
        spec.environment.add(name=name, value=value)
    _refuse_too_long(spec)
    _set_limits(spec, draft)
    _set_output(spec, draft, path_of)
    if draft.stdin is not None:
        spec.stdin_path = path_of("stdin", draft.stdin)
    return spec


def _set_limits(spec: job_pb2.JobSpec, draft: Draft) -> None:
    if draft.timeout is not None:
        timeout_s = seconds_of("timeout", draft.timeout)
        if timeout_s == 0:
            raise InvalidSpecError("timeout: must be more than 0; leave it out for none")
        spec.timeout.FromNanoseconds(to_ns(timeout_s))
    if draft.grace is not None:
        spec.grace.FromNanoseconds(to_ns(seconds_of("grace", draft.grace)))
    _set_memory(spec, draft)
    if draft.retain is not None:
        spec.log_retention_bytes = bytes_of("retain", draft.retain)


def _set_memory(spec: job_pb2.JobSpec, draft: Draft) -> None:
    if draft.mem is not None:
        spec.mem_limit_bytes = memory_of("mem", draft.mem)
    if draft.mem_action is not None:
        if draft.mem is None:
            raise InvalidSpecError("mem_action: there is no limit to act on; give mem as well")
        spec.mem_action = mem_action_to_wire(_mem_action(draft.mem_action))
    if not isinstance(draft.preemptible, bool):
        raise InvalidSpecError(f"preemptible: {draft.preemptible!r} is neither True nor False")
    spec.preemptible = draft.preemptible
    spec.requeue_limit = whole_of("requeue", draft.requeue, MAX_REQUEUES)


def _mem_action(word: str) -> MemAction:
    try:
        return MemAction(word)
    except ValueError:
        raise InvalidSpecError(
            f"mem_action: {word!r} is none of {', '.join(known.value for known in MemAction)}"
        ) from None


def _set_output(spec: job_pb2.JobSpec, draft: Draft, path_of: Callable[[str, Text], bytes]) -> None:
    ways = {
        "tty": draft.tty,
        "split_stderr": draft.split_stderr,
        "output": draft.output is not None,
    }
    chosen = [name for name, wanted in ways.items() if wanted]
    if len(chosen) > 1:
        raise InvalidSpecError(f"{' and '.join(chosen)} exclude each other; choose one")
    if draft.output is None and (draft.error is not None or draft.append):
        raise InvalidSpecError("error and append go with output: name the file for stdout too")
    if draft.tty:
        columns, rows = _window()
        spec.terminal.columns, spec.terminal.rows = columns, rows
    elif draft.split_stderr:
        spec.split.SetInParent()
    elif draft.output is not None:
        spec.files.stdout_path = path_of("output", draft.output)
        spec.files.append = draft.append
        if draft.error is not None and draft.stderr_is_apart:
            spec.files.stderr_path = path_of("error", draft.error)
    else:
        spec.merged.SetInParent()


def _argv(argv: Sequence[Text]) -> list[bytes]:
    if isinstance(argv, (str, bytes)) or not isinstance(argv, Iterable):
        raise InvalidSpecError(
            'argv: give a list such as ["python", "train.py"], not one string; '
            'for a shell line use ["sh", "-c", line]'
        )
    encoded = [_encoded(f"argument {index}", argument) for index, argument in enumerate(argv)]
    if not encoded or not encoded[0]:
        raise InvalidSpecError("argv: there is no command to run")
    return encoded


def _encoded(what: str, text: Text) -> bytes:
    if not isinstance(text, (str, bytes, os.PathLike)):
        raise InvalidSpecError(f"{what}: {text!r} is not text")
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidSpecError(f"{what}: cannot be encoded for the operating system") from None
    if b"\0" in data:
        raise InvalidSpecError(f"{what}: holds a NUL byte")
    if len(data) >= MAX_STRING_BYTES:
        raise InvalidSpecError(
            f"{what}: {len(data):,} bytes are too long; "
            f"Linux takes at most {MAX_STRING_BYTES - 1:,}; put it into a file"
        )
    return data


def _real(path: Text) -> bytes:
    return os.path.realpath(_encoded("output", path))


def _path(what: str, path: Text) -> bytes:
    data = _encoded(what, path)
    if not data:
        raise InvalidSpecError(f"{what}: the path is empty")
    return os.path.abspath(data)


def _path_there(what: str, path: Text) -> bytes:
    """Return a path of another machine: what it begins at is known there alone."""
    data = _encoded(what, path)
    if not data:
        raise InvalidSpecError(f"{what}: the path is empty")
    return data


def _directory(cwd: Text | None) -> bytes:
    try:
        return os.getcwdb() if cwd is None else _path("cwd", cwd)
    except FileNotFoundError:
        raise InvalidSpecError(
            "cwd: the current directory no longer exists; go elsewhere or use --cwd"
        ) from None


def _name(name: str | None) -> str:
    if name is None:
        return ""
    if not isinstance(name, str):
        raise InvalidSpecError(f"name: {name!r} is not text")
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise InvalidSpecError(
            f"name: must be 1 to {MAX_NAME_CHARACTERS} printable characters on one line"
        )
    if name.isdecimal():
        raise InvalidSpecError(f"name: {name!r} would be taken for a job id; add a letter")
    return name


def _own_environment() -> dict[bytes, bytes]:
    # A job that submits a job does not pass its own marks on.
    return {
        name: value for name, value in os.environb.items() if not name.startswith(b"AGENTCTL_JOB_")
    }


def _terminal_type(draft: Draft) -> dict[bytes, bytes]:
    """Return what ssh passes on for a terminal (RFC 4254, 6.2): the name of its type."""
    name = os.environb.get(b"TERM")
    return {b"TERM": name} if draft.tty and name else {}


def _added(added: Mapping[str, str]) -> dict[bytes, bytes]:
    if not isinstance(added, Mapping):
        raise InvalidSpecError(f"env: {added!r} is not a mapping such as {{'NAME': 'value'}}")
    checked = {}
    for name, value in added.items():
        key = _encoded("env", name)
        if not key or b"=" in key:
            raise InvalidSpecError(f"env: {name!r} is not a variable's name")
        # The value is a secret: it must not stand in a message.
        if not isinstance(value, (str, bytes, os.PathLike)):
            raise InvalidSpecError(f"env {name}: the value is not text")
        checked[key] = _encoded(f"env {name}", value)
    return checked


def _refuse_too_long(spec: job_pb2.JobSpec) -> None:
    total = sum(len(argument) + 1 for argument in spec.argv)
    total += sum(len(pair.name) + len(pair.value) + 2 for pair in spec.environment)
    if total > MAX_ARGUMENTS_BYTES:
        raise InvalidSpecError(
            f"argv: arguments and environment are {total:,} bytes together; "
            f"Linux takes at most {MAX_ARGUMENTS_BYTES:,}"
        )


def current_umask() -> int | None:
    """Return this process' umask without touching it (proc_pid_status(5)); None: unknown."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError):
        pass
    return None


def _add_process_limits(spec: job_pb2.JobSpec) -> None:
    """Add this process' umask and its limits, soft and hard (getrlimit(2))."""
    umask = current_umask()
    if umask is not None:
        spec.umask = umask
    for constant in dir(resource):
        # OFILE is BSD's name of NOFILE.
        if not constant.startswith("RLIMIT_") or constant == "RLIMIT_OFILE":
            continue
        soft, hard = resource.getrlimit(getattr(resource, constant))
        limit = spec.resource_limits.add(name=constant.removeprefix("RLIMIT_").lower())
        if soft != resource.RLIM_INFINITY:
            limit.soft = soft
        if hard != resource.RLIM_INFINITY:
            limit.hard = hard


def _window() -> tuple[int, int]:
    for descriptor in (1, 2, 0):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if size.columns and size.lines:
            return size.columns, size.lines
    return _DEFAULT_WINDOW
