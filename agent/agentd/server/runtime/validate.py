"""Checks a submit before anything is started: one line that names the field, or nothing.

What is looked up in the file system is looked up as the job will find it: with its own
environment and from its own directory. It may have changed by the time the job starts; then
the job's start fails with the errno and the path.
"""

from __future__ import annotations

import math
import os
import re
import resource
import stat
from collections.abc import Mapping

from agentd.core.guard.units import size_text
from agentd.core.job import FileOutput, TerminalOutput
from agentd.errors import InvalidSpecError
from agentd.server.runtime import hostmemory
from agentd.server.runtime.model import JobDraft
from agentd.server.runtime.programs import find_program

#: One argument or environment entry, its NUL included (MAX_ARG_STRLEN, execve(2)).
MAX_STRING_BYTES = 131_072
#: Arguments and environment together never get more, however large the stack limit (execve(2)).
MAX_TOTAL_BYTES = 6 << 20
MAX_SECONDS = 10 * 365 * 86_400
MAX_SIZE_BYTES = 1 << 60
#: An empty process needs this much (a static one less, an interpreter more).
MIN_MEM_LIMIT_BYTES = 4 << 20
MAX_REQUEUES = 100
MIN_RETENTION_BYTES = 1 << 20
MAX_TEXT_CHARACTERS = 200
MAX_LABELS = 64
MAX_TERMINAL_CELLS = 10_000
MAX_UMASK = 0o777
#: RLIM_INFINITY is above it.
MAX_LIMIT = (1 << 63) - 1
#: By setrlimit(2)'s names, as `JobSpec` has them. OFILE is BSD's name of NOFILE.
RESOURCE_LIMITS = frozenset(
    name.removeprefix("RLIMIT_").lower() for name in dir(resource) if name.startswith("RLIMIT_")
) - {"ofile"}

#: What path_resolution(7) follows at most.
_MAX_LINKS = 40
_OWN_STREAM = re.compile(
    r"/dev/(stdin|stdout|stderr|tty|fd(/.*)?)|/proc/[^/]+/(task/[^/]+/)?fd(/.*)?", re.DOTALL
)
#: The kernel counts every string with its NUL and a pointer to it (execve(2)).
_EXTRA_BYTES = 1 + 8


def validate(draft: JobDraft) -> None:
    """Check every field.

    Raises:
        InvalidSpecError: The first field that is wrong, and what it may hold.

    """
    total_bytes = _check_argv(draft) + _check_environment(draft)
    _check_names(draft)
    _check_numbers(draft)
    _check_resource_limits(draft.resource_limits)
    _check_exec_size(total_bytes, draft.resource_limits)
    _check_cwd(draft.cwd)
    find_program(draft)
    _check_stdin(draft)
    _check_output(draft)


def _refuse_nul(text: str, field: str) -> None:
    if "\0" in text:
        raise InvalidSpecError(f"{field} holds a NUL byte; no program can be given one")


def _check_argv(draft: JobDraft) -> int:
    """Return how much of the kernel's limit the arguments take."""
    if not draft.argv:
        raise InvalidSpecError("argv is empty; name a program to run")
    if not draft.argv[0]:
        raise InvalidSpecError("argv[0] is empty; name a program to run")
    total_bytes = 0
    for index, argument in enumerate(draft.argv):
        _refuse_nul(argument, f"argv[{index}]")
        size_bytes = len(os.fsencode(argument))
        _check_string(size_bytes, f"argv[{index}]")
        total_bytes += size_bytes + _EXTRA_BYTES
    return total_bytes


def _check_string(size_bytes: int, field: str) -> None:
    if size_bytes >= MAX_STRING_BYTES:
        raise InvalidSpecError(
            f"{field} is {size_bytes} bytes long; the kernel takes at most "
            f"{MAX_STRING_BYTES - 1} (put it into a file)"
        )


def _check_environment(draft: JobDraft) -> int:
    """Return how much of the kernel's limit the environment takes."""
    total_bytes = 0
    for name, value in draft.environment.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidSpecError(f"env: {name!r} is no name (not empty, no '=', no NUL)")
        _refuse_nul(value, f"env: the value of {name}")
        size_bytes = len(os.fsencode(name)) + 1 + len(os.fsencode(value))
        _check_string(size_bytes, f"env: {name}")
        total_bytes += size_bytes + _EXTRA_BYTES
    return total_bytes


def _check_exec_size(total_bytes: int, limits: Mapping[str, tuple[int, int]]) -> None:
    limit_bytes = exec_limit_bytes(limits)
    if total_bytes > limit_bytes:
        raise InvalidSpecError(
            f"argv and environment are {total_bytes} bytes together; the kernel takes at most "
            f"{limit_bytes} (put arguments into a file)"
        )


def exec_limit_bytes(limits: Mapping[str, tuple[int, int]]) -> int:
    """Return how much the kernel takes: a quarter of the stack limit, 6 MiB at most (execve(2)).

    The stack limit is the job's, or else the agent's.
    """
    own_soft, most = resource.getrlimit(resource.RLIMIT_STACK)
    soft = limits["stack"][0] if "stack" in limits else own_soft
    if soft == resource.RLIM_INFINITY or soft > most != resource.RLIM_INFINITY:
        soft = most
    if soft == resource.RLIM_INFINITY:
        return MAX_TOTAL_BYTES
    # However small the stack, the kernel takes as much as one string may be long.
    return max(MAX_STRING_BYTES, min(MAX_TOTAL_BYTES, soft // 4))


def _check_resource_limits(limits: Mapping[str, tuple[int, int]]) -> None:
    infinite = resource.RLIM_INFINITY
    for name, (soft, hard) in limits.items():
        if name not in RESOURCE_LIMITS:
            raise InvalidSpecError(f"resource_limits: this host knows no limit {name!r}")
        if max(soft, hard) > MAX_LIMIT:
            raise InvalidSpecError(f"resource_limits: {name} is above {MAX_LIMIT}")
        if hard != infinite and (soft == infinite or soft > hard):
            raise InvalidSpecError(
                f"resource_limits: the soft limit of {name} is above the hard one ({hard})"
            )


def _check_names(draft: JobDraft) -> None:
    if draft.name:
        _check_text(draft.name, "name")
        if draft.name.isdigit():
            raise InvalidSpecError(f"name {draft.name!r} is a number; it would be taken for an id")
    if len(draft.labels) > MAX_LABELS:
        raise InvalidSpecError(f"label: {len(draft.labels)} are given, at most {MAX_LABELS} kept")
    for key, value in draft.labels.items():
        if not key or "=" in key:
            raise InvalidSpecError(f"label: {key!r} is no key (not empty, no '=')")
        _check_text(key, "label: a key")
        _check_text(value, f"label: the value of {key}")
    _check_text(draft.idempotency_key, "idempotency_key")


def _check_text(text: str, field: str) -> None:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidSpecError(
            f"{field} is {len(text)} characters long; at most {MAX_TEXT_CHARACTERS} are kept"
        )
    if not text.isprintable():
        raise InvalidSpecError(f"{field} {text!r} holds a character that cannot be printed")


def _check_numbers(draft: JobDraft) -> None:
    if draft.timeout_s is not None:
        _check_seconds(draft.timeout_s, "timeout", zero_allowed=False)
    if draft.grace_s is not None:
        check_grace(draft.grace_s)
    _check_memory(draft)
    _check_size(draft.log_retention_bytes, "retain", MIN_RETENTION_BYTES)
    if draft.umask is not None and not 0 <= draft.umask <= MAX_UMASK:
        raise InvalidSpecError(f"umask {draft.umask:#o} is not between 0 and 0o777")
    if isinstance(draft.output, TerminalOutput):
        for field, cells in (("columns", draft.output.columns), ("rows", draft.output.rows)):
            if not 1 <= cells <= MAX_TERMINAL_CELLS:
                raise InvalidSpecError(f"{field} {cells} is not from 1 to {MAX_TERMINAL_CELLS}")


def _check_memory(draft: JobDraft) -> None:
    limit_bytes = draft.mem_limit_bytes
    if limit_bytes is None:
        if draft.mem_action is not None:
            raise InvalidSpecError("mem_action: there is no limit to act on; give mem as well")
    elif limit_bytes < MIN_MEM_LIMIT_BYTES:
        raise InvalidSpecError(
            f"mem: less than {size_text(MIN_MEM_LIMIT_BYTES)}, which an empty process needs; "
            "leave it out for no limit"
        )
    elif limit_bytes > (host_bytes := hostmemory.total_bytes()):
        raise InvalidSpecError(
            f"mem: {size_text(limit_bytes)} is more than this host has: {size_text(host_bytes)}"
        )
    if not 0 <= draft.requeue_limit <= MAX_REQUEUES:
        raise InvalidSpecError(
            f"requeue {draft.requeue_limit} is out of range; it must be from 0 to {MAX_REQUEUES}"
        )


def check_grace(grace_s: float) -> None:
    """Check a grace, zero included: SIGKILL at once.

    Raises:
        InvalidSpecError: It is negative, no number, or absurd.

    """
    _check_seconds(grace_s, "grace", zero_allowed=True)


def _check_seconds(seconds: float, field: str, *, zero_allowed: bool) -> None:
    sane = math.isfinite(seconds) and seconds < MAX_SECONDS
    if not sane or seconds < 0 or (seconds == 0 and not zero_allowed):
        least = "0 or more" if zero_allowed else "more than 0"
        raise InvalidSpecError(f"{field} of {seconds} s: it must be {least} and below 10 years")


def _check_size(size_bytes: int | None, field: str, least_bytes: int) -> None:
    if size_bytes is None:
        return
    if not least_bytes <= size_bytes <= MAX_SIZE_BYTES:
        raise InvalidSpecError(
            f"{field} of {size_bytes} bytes: it must be from {least_bytes} to {MAX_SIZE_BYTES}"
        )


def _check_cwd(cwd: str) -> None:
    _refuse_nul(cwd, "cwd")
    if not os.path.isabs(cwd):
        raise InvalidSpecError(f"cwd {cwd!r} is not an absolute path")
    status = _look(cwd, "cwd")
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidSpecError(f"cwd {cwd!r} is not a directory")
    if not os.access(cwd, os.X_OK, effective_ids=True):
        raise InvalidSpecError(f"cwd {cwd!r} may not be entered (permission denied)")


def _look(path: str, field: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise InvalidSpecError(f"{field} {path!r}: {_words(error)}") from error


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _check_stdin(draft: JobDraft) -> None:
    if draft.stdin_path is None:
        return
    path = _file_path(draft.stdin_path, "stdin")
    status = _look(path, "stdin")
    if stat.S_ISDIR(status.st_mode):
        raise InvalidSpecError(f"stdin {path!r} is a directory")
    if not os.access(path, os.R_OK, effective_ids=True):
        raise InvalidSpecError(f"stdin {path!r} may not be read (permission denied)")


def _file_path(path: str, field: str) -> str:
    _refuse_nul(path, field)
    if os.path.basename(path) == "-":
        # The client has made a relative path absolute.
        raise InvalidSpecError(f"{field} '-': a job has no stream of yours; name a file")
    if not os.path.isabs(path):
        raise InvalidSpecError(f"{field} {path!r} is not an absolute path")
    if _is_own_stream(path):
        raise InvalidSpecError(
            f"{field} {path!r}: it would be a stream of the agent's, not yours; name a file"
        )
    return path


def _is_own_stream(path: str) -> bool:
    """Whether the path, or a link on the way, means another file in each process (proc(5))."""
    for _ in range(_MAX_LINKS):
        path = os.path.normpath(path)
        if _OWN_STREAM.fullmatch(path):
            return True
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            return False
    return False


def _check_output(draft: JobDraft) -> None:
    if not isinstance(draft.output, FileOutput):
        return
    _check_output_file(draft.output.stdout_path, "output")
    if draft.output.stderr_path is not None:
        _check_output_file(draft.output.stderr_path, "error")


def _check_output_file(path: str, field: str) -> None:
    _file_path(path, field)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        directory = os.path.dirname(path)
        if not stat.S_ISDIR(_look(directory, f"{field}: the directory").st_mode):
            raise InvalidSpecError(f"{field}: {directory!r} is not a directory") from None
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise InvalidSpecError(
                f"{field}: no file can be made in {directory!r} (permission denied)"
            ) from None
        return
    except OSError as error:
        raise InvalidSpecError(f"{field} {path!r}: {_words(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InvalidSpecError(f"{field} {path!r} is a directory")
    if not os.access(path, os.W_OK, effective_ids=True):
        raise InvalidSpecError(f"{field} {path!r} may not be written (permission denied)")
