"""The conversation with what runs on the server (see `remote`): sources, a question, wheels."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from agentctl.errors import (
    AgentctlError,
    DiskFullError,
    HostUnreachableError,
    RefusedError,
    TryAgainError,
)
from agentctl.link.local import agent_environment
from agentctl.link.ssh.complaints import last_line
from agentctl.render.table import printable

if TYPE_CHECKING:
    from agentctl.hosts.wheels import Wheel
    from agentctl.link.ssh.master import Master

#: In the order in which they are executed: each imports from those before it.
_MODULES = ("peer", "places", "agent", "building", "installing", "removing", "main")
_PACKAGE = "agentctl.hosts.remote"
_LOADER = """\
import sys, types
for name, source in {sources!r}:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
sys.modules[{main!r}].main({mark!r})
"""
#: What the other side gets to undo what it was doing.
_UNDONE_WITHIN_S = 20.0

#: Enough ids for one line.
_SHOWN_JOBS = 10
_AGAIN = "{name}: {text}; nothing was changed; run the same command again"
_UNKNOWN = (RefusedError, "{name} cannot be set up: {text}")
#: What the server tells, by its kind: the error and its words.
_COMPLAINTS: dict[str, tuple[type[AgentctlError], str]] = {
    "space": (
        DiskFullError,
        (
            "no room on {name}: {text}; nothing was left behind; free some space or quota, or set "
            "XDG_DATA_HOME there to a directory that has some"
        ),
    ),
    "denied": (
        RefusedError,
        (
            "cannot write on {name}: {text}; make it writable for you alone, or set XDG_DATA_HOME "
            "there to a directory that is"
        ),
    ),
    "jobs": (
        RefusedError,
        "{count} on {name} not over yet ({jobs}); stop them first, or --force kills them",
    ),
    "start": (HostUnreachableError, "the agent on {name} does not start: {text}{back}"),
    "broken": (
        RefusedError,
        (
            "the installation on {name} does not run: {text}; mend it: "
            "agentctl host upgrade {name}, or remove it with --force"
        ),
    ),
    "busy": (TryAgainError, _AGAIN),
    "interrupted": (TryAgainError, _AGAIN),
    "stop": (TryAgainError, _AGAIN),
}

#: Brings the wheels that are asked for: "own" or "dependencies", and why the latter.
Supply = Callable[[str, str], Sequence["Wheel"]]
Say = Callable[[str], None]


def program(mark: str) -> bytes:
    """Return the source that the server's Python executes. Pure but for reading it."""
    directory = f"{os.path.dirname(os.path.abspath(__file__))}/remote"
    sources = []
    for module in _MODULES:
        with open(f"{directory}/{module}.py", encoding="utf-8") as file:
            sources.append((f"{_PACKAGE}.{module}", file.read()))
    return _LOADER.format(sources=sources, main=f"{_PACKAGE}.main", mark=mark).encode()


def remote_command(python: str, size_bytes: int) -> str:
    """Return the command that executes so many bytes of stdin; the same in every shell. Pure."""
    return f"exec {python} -I -c 'import sys; exec(sys.stdin.buffer.read({size_bytes}))'"


class Talk:
    """One question to one server, and what it takes to have it answered."""

    def __init__(self, master: Master, python: str, supply: Supply, say: Say) -> None:
        """Use the running `master`, and the Python there."""
        self._master = master
        self._python = python
        self._supply = supply
        self._say = say

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return what "done" came with.

        Ctrl-C gives the server the time to undo what it was doing.

        Raises:
            AgentctlError: It was not done; nothing half is left behind.

        """
        mark = secrets.token_hex(16)
        source = program(mark)
        command = self._master.command(remote_command(self._python, len(source)))
        with tempfile.TemporaryFile() as complaint:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaint,
                env=agent_environment(),
                cwd="/",
                # Ctrl-C ends the conversation, and not the link under it.
                start_new_session=True,
            )
            try:
                return self._converse(child, mark, source, question, complaint)
            finally:
                _end(child)

    def _converse(
        self,
        child: subprocess.Popen[bytes],
        mark: str,
        source: bytes,
        question: Mapping[str, Any],
        complaint: IO[bytes],
    ) -> dict[str, Any]:
        if child.stdin is None or child.stdout is None:
            raise AssertionError("both are pipes")
        _send(child.stdin, source, json.dumps(question).encode() + b"\n")
        other = b""
        for line in child.stdout:
            start, _, rest = line.partition(b" ")
            if start != mark.encode():
                other = line if line.strip() else other
                continue
            told = json.loads(rest)
            match told["event"]:
                case "say":
                    self._say(f"{self._master.name}: {printable(str(told['text']))}")
                case "need":
                    self._bring(child.stdin, told["what"], told["why"])
                case "done":
                    return dict(told)
                case _:
                    raise complaint_of(told, self._master.name)
        complaint.seek(0)
        said = last_line((complaint.read() or other).decode("utf-8", "replace"))
        raise TryAgainError(
            f"the work on {self._master.name} was cut off ({said or 'no reason was given'}); "
            "run the same command again"
        )

    def _bring(self, stdin: IO[bytes], what: str, why: str) -> None:
        wheels = self._supply(what, why)
        listed = [{"name": w.name, "bytes": len(w.content), "sha256": w.digest} for w in wheels]
        _send(stdin, json.dumps({"wheels": listed}).encode() + b"\n", *(w.content for w in wheels))


def _send(stdin: IO[bytes], *parts: bytes) -> None:
    try:
        for part in parts:
            stdin.write(part)
        stdin.flush()
    except BrokenPipeError:
        # Its answer, or its end, says why.
        pass


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let the other side see that nobody asks any more, and come to its own end."""
    try:
        if child.stdin is not None:
            try:
                child.stdin.close()
            except BrokenPipeError:
                pass
        child.wait(_UNDONE_WITHIN_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def complaint_of(told: Mapping[str, Any], name: str) -> AgentctlError:
    """Return the error for one that the server told. Pure."""
    kind, message = _COMPLAINTS.get(str(told.get("kind")), _UNKNOWN)
    jobs = [str(job) for job in told.get("jobs", ())]
    more = ", ..." if len(jobs) > _SHOWN_JOBS else ""
    line = message.format(
        name=name,
        text=told.get("text"),
        back=f"; {told['back']} is back in its place" if told.get("back") else "",
        count=f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}",
        jobs=", ".join(jobs[:_SHOWN_JOBS]) + more,
    )
    # A server's words must not reach the terminal as more than words.
    return kind(printable(line))
