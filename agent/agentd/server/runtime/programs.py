"""Finds the file that a job's argv[0] stands for, as its leader will at the start (execvp(3))."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from agentd.errors import InvalidSpecError
from agentd.server.runtime.model import JobDraft

#: Where execvp(3) looks when there is no PATH.
DEFAULT_PATH = "/bin:/usr/bin"
#: What the kernel reads of a program to see how to run it (BINPRM_BUF_SIZE, execve(2)).
_HEAD_BYTES = 256


def find_program(draft: JobDraft) -> str:
    """Return the program's file.

    Raises:
        InvalidSpecError: There is none, or none that can be executed.

    """
    program = draft.argv[0]
    refused = ""
    for candidate in _candidates(program, draft):
        try:
            status = os.stat(candidate)
        except OSError:
            continue
        complaint = complaint_about(candidate, status, draft.cwd)
        if not complaint:
            return candidate
        refused = refused or complaint
    if refused:
        raise InvalidSpecError(f"argv[0]: {refused}")
    where = f"in {draft.cwd!r}" if "/" in program else "on the job's PATH"
    raise InvalidSpecError(f"argv[0]: there is no program {program!r} {where}")


def _candidates(program: str, draft: JobDraft) -> Iterator[str]:
    if "/" in program:
        yield os.path.join(draft.cwd, program)
        return
    for directory in draft.environment.get("PATH", DEFAULT_PATH).split(os.pathsep):
        # An empty entry is the current directory, the job's (execvp(3)).
        yield os.path.join(draft.cwd, directory, program)


def complaint_about(path: str, status: os.stat_result, cwd: str) -> str:
    """Return why the file cannot be executed; empty: it can, as far as one can tell."""
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK, effective_ids=True):
        return f"{path!r} is not an executable file"
    interpreter = _interpreter(path)
    if interpreter and not os.path.exists(os.path.join(cwd, interpreter)):
        return f"{path!r}: its interpreter {interpreter!r} does not exist"
    return ""


def _interpreter(path: str) -> str:
    """Return what stands after "#!"; empty: nothing, or what may not be read or is cut off."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        # A program need not be readable to be executed.
        return ""
    if not head.startswith(b"#!"):
        return ""
    line, newline, _ = head[2:].partition(b"\n")
    words = line.strip(b" \t").replace(b"\t", b" ").split(b" ")
    if len(words) == 1 and not newline and len(head) == _HEAD_BYTES:
        return ""
    return os.fsdecode(words[0])
