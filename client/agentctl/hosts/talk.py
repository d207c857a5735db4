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
from agentctl.hosts.wire import Limits, Wire
from agentctl.link.local import agent_environment
from agentctl.link.ssh.complaints import last_line
from agentctl.words import printable

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
_LONGEST_COMPLAINT_BYTES = 1 << 16
_LONGEST_WORDS = 500
_EVENTS = ("say", "beat", "need", "done", "error")
#: What a server may ask for, each once.
NEEDS = ("own", "dependencies")
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
        "{count} on {name} not over ({jobs}); stop what runs, or: agentctl host rm --force {name}",
    ),
    "start": (HostUnreachableError, "the agent on {name} does not start: {text}{back}"),
    "broken": (
        RefusedError,
        (
            "the installation on {name} does not run: {text}; mend it: "
            "agentctl host upgrade {name}, or remove it with --force"
        ),
    ),
    "newer": (
        RefusedError,
        (
            "{name} has agent {text}, newer than this client, which is {version}; upgrade agentctl "
            "here, or bring that one back to {version} with --force"
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

    def __init__(
        self, master: Master, python: str, supply: Supply, say: Say, limits: Limits | None = None
    ) -> None:
        """Use the running `master`, and the Python there."""
        self._master = master
        self._python = python
        self._supply = supply
        self._say = say
        self._limits = limits or Limits()
        self._brought: set[str] = set()

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
                bufsize=0,
                env=agent_environment(),
                cwd="/",
                # Ctrl-C ends the conversation, and not the link under it.
                start_new_session=True,
            )
            try:
                wire = Wire(child, complaint, self._master.name, self._limits)
                wire.send(source, json.dumps(question).encode() + b"\n")
                return self._converse(wire, mark.encode(), complaint)
            finally:
                _end(child, self._limits.end_s)

    def _converse(self, wire: Wire, mark: bytes, complaint: IO[bytes]) -> dict[str, Any]:
        other = b""
        while (line := wire.line()) is not None:
            start, _, rest = line.partition(b" ")
            if start != mark:
                other = line if line.strip() else other
                continue
            told = self._read(rest)
            match told["event"]:
                case "say":
                    text = _words(told.get("text"))
                    self._say(f"{self._master.name}: {text}")
                case "beat":
                    pass
                case "need":
                    self._bring(wire, told)
                case "done":
                    return told
                case _:
                    raise complaint_of(told, self._master.name)
        complaint.seek(0)
        said = last_line(
            (complaint.read(_LONGEST_COMPLAINT_BYTES) or other).decode("utf-8", "replace")
        )
        raise TryAgainError(
            f"the work on {self._master.name} was cut off ({said or 'no reason was given'}); "
            "run the same command again"
        )

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            raise not_understood(self._master.name, "no JSON") from None
        if not isinstance(told, dict) or told.get("event") not in _EVENTS:
            raise not_understood(self._master.name, "no known word")
        return told

    def _bring(self, wire: Wire, told: Mapping[str, Any]) -> None:
        what = told.get("what")
        if not isinstance(what, str) or what not in NEEDS:
            raise not_understood(self._master.name, "it wants something unknown")
        if what in self._brought:
            raise not_understood(self._master.name, "it wants the same again")
        self._brought.add(what)
        wheels = self._supply(what, _words(told.get("why")))
        listed = [{"name": w.name, "bytes": len(w.content), "sha256": w.digest} for w in wheels]
        wire.send(json.dumps({"wheels": listed}).encode() + b"\n", *(w.content for w in wheels))


def not_understood(name: str, why: str) -> HostUnreachableError:
    """Return the error for an answer that none of our programs gives. Pure."""
    return HostUnreachableError(
        f"{name} does not answer as its installer should ({why}); see what its login shell and "
        "its Python start, then run the same command again"
    )


def _words(value: object) -> str:
    """Return a server's words as no more than words, and not too many. Pure."""
    return printable(str(value)[:_LONGEST_WORDS])


def _end(child: subprocess.Popen[bytes], within_s: float) -> None:
    """Let the other side see that nobody asks any more, and come to its own end."""
    try:
        if child.stdin is not None:
            try:
                child.stdin.close()
            except BrokenPipeError:
                pass
        child.wait(within_s)
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
    listed = told.get("jobs")
    jobs = [str(job) for job in listed] if isinstance(listed, list) else []
    more = ", ..." if len(jobs) > _SHOWN_JOBS else ""
    line = message.format(
        name=name,
        text=_words(told.get("text")),
        version=_words(told.get("version")),
        back=f"; {_words(told['back'])} is back in its place" if told.get("back") else "",
        count=f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}",
        jobs=_words(", ".join(jobs[:_SHOWN_JOBS])) + more,
    )
    # A server's words must not reach the terminal as more than words.
    return kind(printable(line))
