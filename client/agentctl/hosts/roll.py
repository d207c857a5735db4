"""Ask every host at once how it is, and remember when each was last seen."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agentctl.errors import AgentctlError, AgentNotRunningError, ApiLevelMismatchError
from agentctl.link.book import Host, cache_directory

_MODE = 0o600
_LONGEST_LINE = 200


@dataclass(frozen=True, slots=True)
class Up:
    """Its agent answered."""

    version: str
    #: Not over.
    jobs: int


@dataclass(frozen=True, slots=True)
class Down:
    """It is there, and no agent runs."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Its agent answered, and is of a version that this client does not understand."""

    why: str


@dataclass(frozen=True, slots=True)
class Away:
    """It could not be asked, or not in time."""

    why: str


State = Up | Down | Foreign | Away
STATE_WORDS = {Up: "up", Down: "no agent", Foreign: "upgrade", Away: "away"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What was known of a host when it answered last."""

    at: datetime
    version: str
    jobs: int


@dataclass(frozen=True, slots=True)
class Row:
    """One host, as `host ls` shows it."""

    host: Host
    state: State
    seen: Seen | None


def ask_all(hosts: Sequence[Host], within_s: float) -> list[Row]:
    """Ask all hosts at once; who has not answered in `within_s` seconds is away.

    What is still under way then goes on in threads that do not hold the process.
    """
    remembered = SeenFile.of_environment(os.environ)
    before = remembered.load()
    answers: dict[str, State] = {}
    threads = [threading.Thread(target=_ask, args=(host, answers), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    now = datetime.now(UTC)
    late = Away(f"no answer within {within_s:g} s")
    states = {host.name: answers.get(host.name, late) for host in hosts}
    fresh = {
        name: Seen(now, state.version, state.jobs)
        for name, state in states.items()
        if isinstance(state, Up)
    }
    remembered.store(before | fresh)
    return [Row(host, states[host.name], (before | fresh).get(host.name)) for host in hosts]


def _ask(host: Host, answers: dict[str, State]) -> None:
    answers[host.name] = ask(host)


def ask(host: Host) -> State:
    """Ask one host. Starts no agent."""
    from agentctl.api.client import Client

    try:
        with Client(host.name, start_agent=False) as client:
            info = client.agent_info()
    except AgentNotRunningError:
        return Down()
    except ApiLevelMismatchError as error:
        return Foreign(str(error)[:_LONGEST_LINE])
    except AgentctlError as error:
        return Away(str(error)[:_LONGEST_LINE])
    return Up(info.version, info.jobs)


class SeenFile:
    """When each host answered last: a small file in the cache, which may vanish at any time."""

    def __init__(self, path: str) -> None:
        """Use the file at `path`."""
        self.path = path

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> SeenFile:
        """Return that of this user."""
        return cls(f"{cache_directory(environ)}/seen.json")

    def load(self) -> dict[str, Seen]:
        """Return what is remembered, nothing where it cannot be read."""
        try:
            with open(self.path, "rb") as file:
                content = json.load(file)
            return {str(name): _seen(entry) for name, entry in content.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def store(self, seen: Mapping[str, Seen]) -> None:
        """Remember it, as far as that can be done: it is only a convenience."""
        content = {
            name: {"at": entry.at.isoformat(), "version": entry.version, "jobs": entry.jobs}
            for name, entry in seen.items()
        }
        scratch = f"{self.path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.rename(scratch, self.path)
        except OSError:
            pass

    def forget(self, name: str) -> None:
        """Forget one host."""
        seen = self.load()
        if seen.pop(name, None) is not None:
            self.store(seen)


def _seen(entry: Mapping[str, Any]) -> Seen:
    return Seen(datetime.fromisoformat(entry["at"]), str(entry["version"]), int(entry["jobs"]))
